"""int8 against fp32: by kind of layer, and whole networks, with what `--precision int8` makes of
them.

python -m runners.studies.int8
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hwbench.devices.ort.cpu import CpuOrt
from hwbench.network.intake import load_workload
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from runners.studies._groups import RATIOS, Row, measured, raw_of, rows_of, said
from runners.studies._pictures import COLOURS, figure
from runners.studies._results import save_study

if TYPE_CHECKING:
    from torch import nn

DEPTH = 6
"""Layers of one kind in a row, so that the conversions at both ends weigh little."""
NETWORKS = ("mobilenet_v1", "mobilenet_v2", "resnet18", "resnet20", "plain20")
SETTINGS = Settings(budget_s=18, layers=False)


def main() -> None:
    """Measure every pair and write results/int8/."""
    import torch

    torch.manual_seed(0)
    rows: list[Row] = []
    raw = {}
    with CpuOrt() as device:
        pairs = {
            name: ("layers", pair(module, shape)) for name, (module, shape) in chains().items()
        }
        pairs |= {name: ("network", pair(f"zoo:{name}")) for name in NETWORKS}
        for name, (kind, workloads) in pairs.items():
            found = measured(device, workloads, SETTINGS)
            row = rows_of(found, kind=kind)[1]
            sizes = [workload.file_bytes for workload in workloads.values()]
            rows.append(
                {
                    **row,
                    "name": name,
                    "fp32_ms": found["fp32"].candidate.median_s * 1e3,
                    "file": sizes[1] / sizes[0],
                }
            )
            raw[name] = raw_of(found)
        isa = dict(device.info().details)["isa"]
    for row in rows:
        del row["macs"], row["params"]
    networks = [row for row in rows if row["kind"] == "network"]
    save_study(
        "int8",
        question=(
            "How much faster is int8 than fp32 on this CPU, by kind of layer and for whole"
            " networks?"
        ),
        answer=(
            "int8 over fp32 latency: "
            + "; ".join(f"{row['name']} {said(row)}" for row in networks)
            + f"; of layers alone from {extreme(rows, min)} to {extreme(rows, max)}."
        ),
        rows=rows,
        raw=raw,
        picture=draw(rows),
        command="make study NAME=int8",
        notes=(
            f"{RATIOS} ratio: int8 over fp32; latency_ms is int8's; file: bytes of the int8 model"
            f" over those of the fp32 one. layers: {DEPTH} of a kind in a row, each with a ReLU."
            " int8 is hwbench's own `--precision int8`: static, unsigned activations and signed"
            " weights per channel, in Q/DQ form, ranges from random inputs, so that latency is"
            " meaningful and accuracy is not. Where a layer has no int8 kernel the runtime"
            f" converts to fp32 and back. Instruction sets: {isa}."
        ),
    )


def chains() -> dict[str, tuple[nn.Module, str]]:
    """Layers of one kind in a row, and their input."""
    from torch import nn

    def chain(make: Any) -> nn.Module:
        return nn.Sequential(*(part for _ in range(DEPTH) for part in (make(), nn.ReLU())))

    return {
        "3x3, 64 channels, 28x28": (chain(lambda: nn.Conv2d(64, 64, 3, padding=1)), "1x64x28x28"),
        "3x3, 256 channels, 14x14": (
            chain(lambda: nn.Conv2d(256, 256, 3, padding=1)),
            "1x256x14x14",
        ),
        "1x1, 256 channels, 14x14": (chain(lambda: nn.Conv2d(256, 256, 1)), "1x256x14x14"),
        "depth-wise 3x3, 256 channels, 14x14": (
            chain(lambda: nn.Conv2d(256, 256, 3, padding=1, groups=256)),
            "1x256x14x14",
        ),
        "linear, 1024": (chain(lambda: nn.Linear(1024, 1024)), "1x1024"),
    }


def pair(model: str | nn.Module, shape: str = "") -> dict[str, Workload]:
    """The model in both precisions."""
    inputs = (shape,) if shape else ()
    return {
        precision: load_workload(model, inputs=inputs, precision=precision)
        for precision in ("fp32", "int8")
    }


def extreme(rows: Sequence[Row], choose: Any) -> str:
    """The kind of layer that gains most or least, in words."""
    row = choose((row for row in rows if row["kind"] == "layers"), key=lambda row: row["ratio"])
    return f"{said(row)} ({row['name']})"


def draw(rows: Sequence[Row]) -> Any:
    """Speed-up of every pair with its interval."""
    slower = sum(row["low"] > 1 for row in rows)
    most = max(1 / row["ratio"] for row in rows)
    title = f"int8 is up to {most:.1f} times faster; {slower} of {len(rows)} became slower"
    drawn, axes = figure(title, xlabel="speed-up of int8 over fp32", ylabel="")
    for colour, kind in zip(COLOURS, ("network", "layers"), strict=False):
        some = [(place, row) for place, row in enumerate(rows) if row["kind"] == kind]
        speedups = [1 / row["ratio"] for _, row in some]
        errors = [
            [1 / row["ratio"] - 1 / row["high"] for _, row in some],
            [1 / row["low"] - 1 / row["ratio"] for _, row in some],
        ]
        axes.barh(
            [place for place, _ in some], speedups, xerr=errors, color=colour, alpha=0.8, capsize=2
        )
    axes.set_xlim(0, 1.3 * most)
    axes.axvline(1, color="black", lw=0.8)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    return drawn


if __name__ == "__main__":
    main()
