"""Run the study of a GPU in a process that has torch, numpy, scipy and onnx and none of hwbench's
other libraries, on a fake GPU.

python -m tests.devices.nvidia.bare_machine FOLDER
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

ABSENT = frozenset(
    {
        "pandas",
        "sqlalchemy",
        "psutil",
        "platformdirs",
        "onnxruntime",
        "onnxscript",
        "onnx_ir",
        "yaml",
        "rich",
        "typer",
    }
    | {"matplotlib", "adbutils", "adb_shell", "tensorrt", "cuda"}
)


class Hiding:
    """Finds what the other finders find, but for these libraries."""

    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            return None
        return next(
            filter(None, (finder.find_spec(name, path, target) for finder in self.finders)), None
        )


def main(folder: Path) -> None:
    sys.meta_path[:] = [Hiding(sys.meta_path[:])]
    import pytest

    from runners.studies import h200
    from tests.devices.nvidia import fake_torch

    fake_torch.install(pytest.MonkeyPatch())
    h200.NETWORKS, h200.BATCHES, h200.PRECISIONS = (
        ("resnet20@0.5", "plain20@0.5"),
        (1,),
        ("fp32", "fp16"),
    )
    h200.AA_MODEL = h200.TABLE_MODEL = "resnet20@0.5"
    h200.LOOPS, h200.TURNS, h200.CHAIN, h200.TRAIN, h200.HELD_OUT = 2, 2, 4, 2, 1
    h200.SECONDS = dict.fromkeys(h200.SECONDS, 2)
    for name in ("SETTINGS", "QUICK", "SENSITIVE"):
        quick = replace(
            getattr(h200, name), budget_s=0.5, min_sessions=2, max_sessions=2, session_s=0.02
        )
        setattr(h200, name, quick)
    h200.main("0", folder)
    assert not ABSENT & {name.partition(".")[0] for name in sys.modules}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
