"""The ways in which people save a torch network: how many tries `hwbench compare` takes for each.

Every way is a baseline and a narrower network, in a folder with the scripts that made them. The
first try names the two files and nothing else; each further one is the command that the error
gives, pasted as it is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from runners.studies._results import save_study
from runners.studies._tries import TIMEOUT_S, try_command

SCRIPT = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.dw = nn.Conv2d(width, width, 3, 1, 1, groups=width)
        self.pw = nn.Conv2d(width, 2 * width, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.pw(torch.relu(self.dw(x))))
        return self.fc(torch.flatten(self.pool(x), 1))


if __name__ == "__main__":
    torch.save(Net(32), "baseline.pt")
    torch.save(Net(12), "pruned.pt")
"""


def _prefixed(prefix: str, weights: Any) -> Any:
    return OrderedDict((prefix + name, tensor) for name, tensor in weights.items())


def _halved(net: Any) -> Any:
    return {"model": net.half().state_dict()}


def _masked(net: Any) -> Any:
    from torch.nn.utils import prune

    prune.l1_unstructured(net.pw, "weight", 0.5)  # type: ignore[no-untyped-call]
    return net.state_dict()


def _normed(net: Any) -> Any:
    from torch.nn.utils.parametrizations import spectral_norm, weight_norm

    weight_norm(net.pw)
    spectral_norm(net.fc)
    return net.state_dict()


def _in_lightning(net: Any) -> Any:
    return {
        "state_dict": _prefixed("model.", net.state_dict()),
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": argparse.Namespace(lr=0.1),
    }


def _in_parallel(net: Any) -> Any:
    import torch

    return torch.nn.DataParallel(net)


def _compiled(net: Any) -> Any:
    import torch

    return torch.compile(net)


WAYS: dict[str, Callable[[Any], Any] | None] = {
    "torch.save(model) in a script": None,
    "whole module in a dictionary": lambda net: {"model": net, "ema": None, "epoch": 3},
    "nn.DataParallel, whole": _in_parallel,
    "torch.compile, whole": _compiled,
    "state_dict": lambda net: net.state_dict(),
    "state_dict of DataParallel": lambda net: {"net": _prefixed("module.", net.state_dict())},
    "state_dict of a compiled module": lambda net: _prefixed("_orig_mod.", net.state_dict()),
    "Lightning checkpoint": _in_lightning,
    "average of the weights alone": lambda net: {"ema": _prefixed("module.", net.state_dict())},
    "nested in a training state": lambda net: {"state": {"network": {"w": net.state_dict()}}},
    "masks of nn.utils.prune": _masked,
    "weight and spectral norm": _normed,
    "half precision": _halved,
    "safetensors": lambda net: net.state_dict(),
    "the format before torch 1.6": lambda net: net.state_dict(),
}
"""What is saved in each way; None for what the script itself saves."""


def write_pair(folder: Path, way: str) -> list[str]:
    """Write baseline and candidate in one way, and give their names."""
    (folder / "train.py").write_text(SCRIPT)
    make = WAYS[way]
    if make is None:
        subprocess.run([sys.executable, "train.py"], cwd=folder, check=True, timeout=TIMEOUT_S)
        return ["baseline.pt", "pruned.pt"]
    ending = "safetensors" if way == "safetensors" else "pt"
    names = [f"baseline.{ending}", f"pruned.{ending}"]
    for name, width in zip(names, (32, 12), strict=True):
        save = f"""
import sys, torch, train, warnings
from runners.studies.intake import WAYS
warnings.simplefilter("ignore")
torch.manual_seed(0)
content = WAYS[{way!r}](train.Net({width}).eval())
if {ending == "safetensors"}:
    from safetensors.torch import save_file
    save_file(content, {name!r})
else:
    legacy = {way == "the format before torch 1.6"}
    torch.save(content, {name!r}, _use_new_zipfile_serialization=not legacy)
"""
        paths = [str(folder), str(Path(__file__).parents[2])]
        code = f"import sys; sys.path[:0] = {paths!r}\n{save}"
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=TIMEOUT_S)
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="5", help="seconds of each comparison")
    budget = parser.parse_args().budget
    rows = []
    for way in WAYS:
        with TemporaryDirectory() as name:
            folder = Path(name)
            words = ["compare", *write_pair(folder, way), "--budget", budget]
            tries, answer = try_command(folder, words)
        outcome = answer if isinstance(answer, str) else str(answer["verdict"])
        rows.append({"way": way, "tries": tries or "none", "outcome": outcome})
        print(rows[-1], flush=True)
    answered = sum(row["tries"] != "none" for row in rows)
    pasted_once = sum(row["tries"] in {1, 2} for row in rows)
    save_study(
        "intake",
        question="How many tries does `hwbench compare` take for a network and a narrower one,"
        " however they were saved?",
        rows=rows,
        command=f"python -m runners.studies.intake --budget {budget}",
        answer=f"{answered} of {len(rows)} ways are read and measured, {pasted_once} at the first"
        " try or by pasting the command that the error gives.",
        notes="The first try is `hwbench compare BASELINE CANDIDATE` with nothing else; each later"
        " one is the command of the error, as it is. What counts here is that both networks are"
        " read and measured: seconds give few sessions, and on a machine under load no verdict.",
    )


if __name__ == "__main__":
    main()
