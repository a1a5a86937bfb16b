"""When do fewer channels not make a network faster? Every width of a layer, and whole networks one
channel narrower.

python -m runners.studies.odd_widths
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hwbench.devices.ort.cpu import CpuOrt
from hwbench.lookup_tables.exchange.shipped import PIXEL1, PIXEL1_TARGET, pixel1_networks
from hwbench.network.intake import load_workload
from hwbench.network.workload import Workload
from hwbench.records.comparison import Comparison
from hwbench.records.measurement import Settings
from runners.studies._groups import RATIOS, Row, by_name, measured, raw_of, rows_of, said
from runners.studies._pictures import COLOURS, figure, points
from runners.studies._results import save_study
from runners.studies._variants import exported, narrowed

WIDTHS = range(64, 31, -1)
SIDE = 14
NETWORKS = ("resnet18", "mobilenet_v1")
CHANGES = {
    "whole": lambda w: w,
    "less 1": lambda w: w - 1,
    "less 4": lambda w: w - 4,
    "x 3/4": lambda w: w * 3 // 4,
    "x 3/4 less 1": lambda w: w * 3 // 4 - 1,
}
"""How every prunable width of a network is changed."""
SWEEP = Settings(budget_s=90, session_s=1.2)
SETTINGS = Settings(budget_s=45, layers=False)


def main() -> None:
    """Measure the sweep and the networks, add what the Pixel 1's logs say, write
    results/odd_widths/.
    """
    rows, raw = [], {}
    with CpuOrt() as device:
        found = measured(device, sweep(), SWEEP)
        layouts = layout_of(found)
        rows = [
            row | {"layout": layouts[row["name"]]}
            for row in rows_of(found, network="64 -> C -> 64", device="this CPU")
        ]
        raw["sweep"] = raw_of(found)
        picture = draw(rows)
        for network in NETWORKS:
            whole = load_workload(f"zoo:{network}")
            found = measured(
                device,
                {name: narrowed(whole, change) for name, change in CHANGES.items()},
                SETTINGS,
            )
            rows += rows_of(found, network=network, device="this CPU")
            raw[network] = raw_of(found)
        found = measured(
            device, {name: load_workload(model) for model, name in PIXEL1.items()}, SETTINGS
        )
        rows += rows_of(found, network="Pixel 1's", device="this CPU")
        raw["pixel1"] = raw_of(found)
    rows += phone_rows(by_name(rows))
    for row in rows:
        row.setdefault("layout", "")
    known = by_name([row for row in rows if row["network"] == "64 -> C -> 64"])
    odd, step, less = (
        known["63"],
        known["60"],
        by_name([row for row in rows if row["network"] == "mobilenet_v1"])["less 1"],
    )
    save_study(
        "odd_widths",
        question=(
            "When do fewer channels, and fewer multiply-accumulates (MACs), not make a network"
            " faster?"
        ),
        answer=(
            f"63 channels instead of 64 between two 3x3 convolutions take {said(odd)} of the"
            f" latency, 60 take {said(step)}, 48 take {said(known['48'])}; MobileNet-V1 with every"
            f" width one narrower has {less['macs']:.3f} of the MACs and takes {said(less)} of the"
            " latency."
        ),
        rows=rows,
        raw=raw,
        picture=picture,
        command="make study NAME=odd_widths",
        notes=(
            f"{RATIOS} 64 -> C -> 64: two 3x3 convolutions on {SIDE} x {SIDE}, by the channels C"
            " between them. layout: `blocked` where ONNX Runtime ran both in its layout of blocks"
            " of channels, as its own profile says, `plain` where one of them fell out of it. The"
            f" rows of {PIXEL1_TARGET} were not measured here: they are end-to-end medians of"
            " published logs of TensorFlow Lite (see `results/pixel1/`), without intervals. All"
            " widths in those logs are multiples of 8, so what an odd width costs on that phone is"
            " not known. Any network that is pruned channel by channel meets this; hwbench says"
            " `fell_off_layout` when it does."
        ),
    )


def sweep() -> dict[str, Workload]:
    """Two convolutions with each number of channels between them."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    widest = WIDTHS[0]
    convolutions = (
        nn.Conv2d(64, widest, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(widest, 64, 3, padding=1),
    )
    whole = exported(nn.Sequential(*convolutions), 64, SIDE)
    return {str(width): narrowed(whole, always(width)) for width in WIDTHS}


def always(width: int) -> Callable[[int], int]:
    """The change of widths that makes all of them `width`."""
    return lambda _: width


def layout_of(found: Mapping[str, Comparison]) -> dict[str, str]:
    """For each network whether all its convolutions ran in the blocked layout."""
    layouts = {}
    for name, comparison in found.items():
        profile = comparison.candidate.profile
        if profile is None:
            raise RuntimeError(f"no layers for {name}")
        ran = [layer.implementation for layer in profile.layers if layer.op == "Conv"]
        layouts[name] = "blocked" if all(how.startswith("nchwc") for how in ran) else "plain"
    return layouts


def phone_rows(here: Mapping[str, Row]) -> list[Row]:
    """The networks that were logged on a Pixel 1, against the first of them."""
    networks = dict(zip(PIXEL1.values(), pixel1_networks(), strict=True))
    seconds = {
        name: network.whole_s for name, network in networks.items() if network.whole_s is not None
    }
    first_s = next(iter(seconds.values()))
    empty = {"low": "", "high": "", "verdict": "logged", "sessions": ""}
    return [
        {
            **here[name],
            "device": f"{PIXEL1_TARGET}, not measured here",
            "latency_ms": value_s * 1e3,
            "ratio": value_s / first_s,
        }
        | empty
        for name, value_s in seconds.items()
    ]


def draw(rows: Sequence[Row]) -> Any:
    """Latency over channels, by layout."""
    drawn, axes = figure(
        f"63 channels take {by_name(rows)['63']['ratio']:.2f} times the latency of 64: it follows"
        " the layout, not the MACs",
        xlabel="channels C between two 3x3 convolutions (64 -> C -> 64)",
        ylabel="ratio to C = 64",
    )
    for colour, layout in zip(COLOURS, ("blocked", "plain"), strict=False):
        some = [row for row in rows if row["layout"] == layout]
        points(
            axes,
            [int(row["name"]) for row in some],
            some,
            color=colour,
            label=f"latency, {layout} layout",
        )
    axes.plot(
        [int(row["name"]) for row in rows],
        [row["macs"] for row in rows],
        color="grey",
        lw=1,
        label="MACs",
    )
    axes.set_ylim(0, 1.2 * max(row["ratio"] for row in rows))
    axes.set_xticks(range(min(WIDTHS), max(WIDTHS) + 1, 4))
    axes.legend()
    return drawn


if __name__ == "__main__":
    main()
