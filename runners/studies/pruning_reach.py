"""Which networks of other packages can be pruned and searched, and how far, beside Torch-Pruning?

    python -m runners.studies.pruning_reach            # all networks, each in a process of its own
    python -m runners.studies.pruning_reach NAME       # one of them, as JSON

It needs timm, torchvision, segmentation-models-pytorch, ultralytics and torch-pruning beside the
project's own libraries. What was stopped goes on from `results/pruning_reach/rows.jsonl`; without
that file it begins anew. Weights are random: what counts is which channels can go.
"""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hwbench import run_search
from hwbench.network.intake.failures import FAILURES
from hwbench.pruning import Prunable
from hwbench.pruning.probing import outputs_of
from hwbench.search.budget import channel_choices
from hwbench.search.limit import Limit
from hwbench.workflows.search.plan import Plan
from runners.studies._journal import append_to_journal, journal_of, read_journal
from runners.studies._results import save_study

STUDY = "pruning_reach"
SHARE = 0.5
"""Share of every width that is kept."""
STEP = 8
TRIALS = 4
LIMIT_S = 900
"""Seconds that one network may take."""
SIDE = 64

_TORCHVISION = [
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "regnet_y_400mf",
    "regnet_x_400mf",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "mnasnet1_0",
    "vgg11_bn",
    "alexnet",
    "convnext_tiny",
    "googlenet",
]
_TIMM = [
    "dla34",
    "hrnet_w18_small",
    "cspdarknet53",
    "ghostnet_100",
    "seresnet18",
    "eca_nfnet_l0",
    "resnetv2_50",
    "tf_efficientnet_b0",
    "mobilenetv4_conv_small",
    "repvgg_a0",
    "selecsls42",
    "ese_vovnet19b_dw",
    "xception41",
    "darknet53",
    "gernet_s",
    "mobileone_s0",
    "hardcorenas_a",
    "legacy_seresnext26_32x4d",
]
_SEGMENTATION = ["Unet", "UnetPlusPlus", "FPN", "DeepLabV3Plus", "Linknet"]
_ULTRALYTICS = ["yolov5n", "yolov8n", "yolov3-tiny"]


def networks() -> dict[str, Callable[[], nn.Module]]:
    """Factories of all networks, by name."""
    made: dict[str, Callable[[], nn.Module]] = {}
    for name in _TORCHVISION:
        made[f"torchvision {name}"] = partial(_torchvision, name)
    for name in _TIMM:
        made[f"timm {name}"] = partial(_timm, name)
    for name in _SEGMENTATION:
        made[f"segmentation-models {name}"] = partial(_segmentation, name)
    for name in _ULTRALYTICS:
        made[f"ultralytics {name}"] = partial(_ultralytics, name)
    return made


def _timm(name: str) -> nn.Module:
    network: nn.Module = importlib.import_module("timm").create_model(name)
    return network


def _torchvision(name: str) -> nn.Module:
    models = importlib.import_module("torchvision").models
    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    network: nn.Module = models.get_model(name, weights=None, **extra)
    return network


def _segmentation(name: str) -> nn.Module:
    package = importlib.import_module("segmentation_models_pytorch")
    network: nn.Module = getattr(package, name)("resnet18", encoder_weights=None)
    return network


def _ultralytics(name: str) -> nn.Module:
    network: nn.Module = importlib.import_module("ultralytics").YOLO(f"{name}.yaml").model
    return network


def flops(module: nn.Module, x: Tensor) -> int:
    """Operations of one inference, counted by torch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(x)
    total: int = counter.get_total_flops()
    return total


def left_by_torch_pruning(module: nn.Module, x: Tensor) -> float:
    """Share of the operations that Torch-Pruning leaves, layers that make outputs kept."""
    torch_pruning = importlib.import_module("torch_pruning")
    own = copy.deepcopy(module).requires_grad_()
    sizes = {size for output in outputs_of(own, (x,)) for size in output.shape[1:]}
    kept = []
    for part in own.modules():
        width = getattr(part, "out_features", None) or getattr(part, "out_channels", 0)
        if width in sizes and (isinstance(part, nn.Linear) or width == 1):
            kept.append(part)
        if type(part).__name__ in {"Detect", "SegmentationHead"}:
            kept.append(part)
    importance = torch_pruning.importance.MagnitudeImportance()
    pruner = torch_pruning.pruner.MagnitudePruner(
        own, x, importance, pruning_ratio=1 - SHARE, round_to=STEP, ignored_layers=kept
    )
    pruner.step()
    return flops(own, x) / flops(module, x)


def left_by_hwbench(module: nn.Module, x: Tensor) -> float:
    """Share of the operations that is left once every group is cut to the same share."""
    prunable = Prunable(module, (x,))
    structure = prunable.structure
    choices = channel_choices(structure.widths, STEP, units=structure.units)
    widths = []
    for group, allowed in zip(structure.groups, choices, strict=True):
        wide = allowed[allowed >= SHARE * group.width]
        widths.append(group.width if group.name in prunable.fixed else int(wide[0]))
    return flops(prunable.slim(widths).module, x) / flops(module, x)


def search(module: nn.Module, x: Tensor) -> float:
    """Share of the operations of the network that a short search finds, run as it was written."""
    plan = Plan.of("abcpruner", Limit("macs", share=0.6), trials=TRIALS)
    with tempfile.TemporaryDirectory() as folder:
        run_search(module, plan, out=folder, save=False, example_inputs=(x,), device="virtual")
        program = torch.export.load(next(Path(folder).rglob("network.pt2")))
    return flops_of_program(program, x) / flops(module, x)


def flops_of_program(program: Any, x: Tensor) -> int:
    """Operations of an exported program."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        program.module()(x)
    total: int = counter.get_total_flops()
    return total


def study_one(name: str) -> dict[str, object]:
    """All that is found out about one network."""
    torch.manual_seed(0)
    module = networks()[name]().eval()
    x = torch.randn(1, 3, SIDE, SIDE)
    row: dict[str, object] = {"network": name}
    tries = {
        "Torch-Pruning": left_by_torch_pruning,
        "hwbench": left_by_hwbench,
        "searched": search,
    }
    for column, attempt in tries.items():
        try:
            row[column] = round(attempt(module, x), 3)
        except (*FAILURES, Exception) as error:  # noqa: BLE001 - any failure is a result here
            row[column] = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return row


def study_apart(name: str) -> dict[str, object]:
    """The same in a process of its own, which may take too long or end for good."""
    command = [sys.executable, "-m", "runners.studies.pruning_reach", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
        row: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        reason = f"{type(error).__name__}"
        return {"network": name, "Torch-Pruning": reason, "hwbench": reason, "searched": reason}
    return row


def answer(rows: Sequence[Mapping[str, object]]) -> str:
    """What the table says."""
    theirs = [row for row in rows if isinstance(row["Torch-Pruning"], float)]
    searched = [row for row in theirs if isinstance(row["searched"], float)]
    both = [row for row in theirs if isinstance(row["hwbench"], float)]
    as_far = [row for row in both if row["hwbench"] <= row["Torch-Pruning"] + 0.02]  # type: ignore[operator]
    return (
        f"Of {len(rows)} convolutional networks Torch-Pruning prunes {len(theirs)}; of these"
        f" {len(searched)} ({len(searched) / max(len(theirs), 1):.0%}) are searched and their"
        f" result runs, and in {len(as_far)} hwbench leaves no more than 0.02 above what"
        f" Torch-Pruning leaves of the operations."
    )


def main() -> None:
    """Study one network, or all that are not in the journal, and write results/pruning_reach/."""
    if len(sys.argv) > 1:
        print(json.dumps(study_one(sys.argv[1])))
        return
    journal = journal_of(STUDY)
    rows: dict[str, dict[str, Any]] = {row["network"]: row for row in read_journal(journal)}
    for name in networks():
        if name not in rows:
            rows[name] = study_apart(name)
            append_to_journal(journal, rows[name])
            print(rows[name], file=sys.stderr, flush=True)
    ordered = [rows[name] for name in networks()]
    save_study(
        STUDY,
        question="Which convolutional networks can be pruned and searched, and how far?",
        rows=ordered,
        command="python -m runners.studies.pruning_reach",
        answer=answer(ordered),
        notes=(
            f"Shares of the operations that are left, counted by torch. All widths are halved to"
            f" multiples of {STEP}; the search is ABCPruner's, {TRIALS} networks, at most 60 % of"
            f" the MACs, and its result is loaded from `network.pt2` and run. Weights are random,"
            f" inputs 1x3x{SIDE}x{SIDE}."
        ),
    )


if __name__ == "__main__":
    main()
