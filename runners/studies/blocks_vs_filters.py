"""At equal latency: is it better to drop whole blocks or to narrow all layers?

    python -m runners.studies.blocks_vs_filters

Wang and Wu, Practical Network Acceleration with Tiny Sets (2022, arXiv 2202.07861), say: blocks,
with few images to tune on. Here it is ResNet-20 on scikit-learn's digits: small networks, an easy
task, the same few images and steps for both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench import stats
from hwbench.devices.ort.cpu import CpuOrt
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from runners.studies._groups import RATIOS, Row, by_name, measured, raw_of, rows_of, said
from runners.studies._pictures import COLOURS, figure
from runners.studies._results import save_study
from runners.studies._variants import exported

if TYPE_CHECKING:
    from torch import nn

    from hwbench.pruning import Prunable
    from hwbench.search.data import Data

NETWORK, SIDE = "resnet20,classes=10", 16
SEEDS = range(5)
"""Of training, of the few images, and of tuning."""
STEPS, RATE, BATCH = 120, 0.1, 32
FEW, TUNING = 100, 40
"""Images and steps to recover with, for both ways alike."""
DROPPED = (1, 3, 5)
WIDTHS = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25)
STEP = 4
KINDS = {"dropped": "blocks dropped", "width": "narrower layers", "whole": "whole network"}
EQUAL = 0.05
"""Largest relative difference at which two latencies count as equal."""
SETTINGS = Settings(budget_s=60, session_s=1.0, layers=False)


def main() -> None:
    """Train, measure, match, tune, and write results/blocks_vs_filters/."""
    import torch

    from hwbench.pruning import Prunable
    from hwbench.search.data import load_data

    torch.set_num_threads(1)
    data = load_data("digits", (3, SIDE, SIDE))
    networks = [
        Prunable(trained(data, seed), (data.train.first(1),), name=NETWORK) for seed in SEEDS
    ]
    order = least_harmful(networks[0], data)
    variants = {f"{count} dropped": order[:count] for count in DROPPED}
    workloads = workloads_of(networks[0], variants)
    with CpuOrt() as device:
        found = measured(device, workloads, SETTINGS)
    rows = rows_of(found)
    known = by_name(rows)
    narrow = [row for row in rows if row["name"].startswith("width")]
    fastest = str(min(narrow, key=lambda row: float(row["ratio"]))["name"])
    matches = {name: match for name in variants if (match := nearest(known[name], narrow))}
    right = {
        name: [
            recovered(prunable, name, variants, data, seed)
            for seed, prunable in zip(SEEDS, networks, strict=True)
        ]
        for name in dict.fromkeys([*variants, *matches.values(), fastest])
    }
    right["whole"] = [accuracy_of(prunable.module, data) for prunable in networks]
    for row in rows:
        row["accuracy"] = float(np.mean(right[row["name"]])) if row["name"] in right else ""
    pairs = [compared(name, other, known, right) for name, other in matches.items()]
    save_study(
        "blocks_vs_filters",
        question=(
            "At equal latency, is it better to drop blocks or to narrow layers? ResNet-20 on"
            " scikit-learn's digits."
        ),
        answer="; ".join(
            [
                *map(in_words, pairs),
                *(unmatched(known[name]) for name in variants if name not in matches),
            ]
        )
        + ".",
        rows=rows,
        raw={"samples": raw_of(found), "accuracy": right, "pairs": pairs, "dropped": variants},
        picture=draw(rows, right, pairs),
        command="make study NAME=blocks_vs_filters",
        notes=(
            f"{RATIOS} accuracy: mean over {len(SEEDS)} trained networks, on {len(data.test)}"
            " images that none has seen. dropped: the blocks whose loss moved the last features"
            f" least, in this order: {', '.join(order)}. width W: all groups times W in multiples"
            f" of {STEP}, the channels of largest L1 norm kept, layers behind them re-fitted on the"
            f" same images. Both then learn {TUNING} steps from the original's answers on {FEW}"
            " images. A pair is the dropped network and the width nearest to it in latency, at"
            f" most {EQUAL:.0%} away. Digits are easy and 5 networks are few: where an interval of"
            " the difference holds 0, this study does not tell which is better."
        ),
    )


def trained(data: Data, seed: int) -> nn.Module:
    """A network trained on all images of the training set."""
    from hwbench.network import zoo
    from hwbench.search.training import Schedule, cross_entropy, tune

    module = zoo.build(NETWORK, seed)
    tune(module, data.train, cross_entropy, Schedule(STEPS, RATE, BATCH, shift=2, seed=seed))
    return module.eval()


def least_harmful(prunable: Prunable, data: Data) -> list[str]:
    """Droppable blocks by how far the last features move without each, least first."""
    from hwbench.search.training import FeatureDistance, distance, feature_layer

    loss = FeatureDistance(prunable.module, feature_layer(prunable.module, data.train.first(1)))
    images = data.train.few(FEW, 0)
    moved = {
        block.name: distance(prunable.without([block.name]).module, images, loss)
        for block in prunable.structure.blocks
    }
    return sorted(moved, key=lambda name: moved[name])


def widths_at(prunable: Prunable, share: float) -> list[int]:
    """All widths times `share`, to the nearest multiple of `STEP`.

    Groups that cannot be cut stay.
    """
    groups = prunable.structure.groups
    return [
        g.width if g.name in prunable.fixed else max(STEP, round(share * g.width / STEP) * STEP)
        for g in groups
    ]


def workloads_of(prunable: Prunable, variants: Mapping[str, Sequence[str]]) -> dict[str, Workload]:
    """The network, with blocks dropped, and narrower."""
    modules = {"whole": prunable.module}
    modules |= {name: prunable.without(blocks).module for name, blocks in variants.items()}
    modules |= {
        f"width {share:g}": prunable.slim(widths_at(prunable, share)).module for share in WIDTHS
    }
    return {name: exported(module, 3, SIDE) for name, module in modules.items()}


def nearest(row: Row, others: Sequence[Row]) -> str:
    """Name of the network whose latency is nearest to that of `row`; empty if none is equal."""
    near = min(others, key=lambda other: abs(np.log(other["ratio"] / row["ratio"])))
    return str(near["name"]) if abs(near["ratio"] / row["ratio"] - 1) <= EQUAL else ""


def recovered(
    prunable: Prunable, name: str, variants: Mapping[str, Sequence[str]], data: Data, seed: int
) -> float:
    """Accuracy of a pruned version after tuning on few images."""
    from hwbench.search.training import Distillation, Schedule, tune

    few = data.train.few(FEW, seed)
    if name in variants:
        module = prunable.without(variants[name]).module
    else:
        widths = widths_at(prunable, float(name.removeprefix("width ")))
        module = prunable.slim(widths, calibration=[few.first(FEW)]).module
    tune(
        module,
        few,
        Distillation(prunable.module),
        Schedule(TUNING, batch=BATCH, shift=2, seed=seed),
    )
    return accuracy_of(module, data)


def accuracy_of(module: nn.Module, data: Data) -> float:
    """Share of the test images that are answered rightly."""
    from hwbench.search.training import accuracy

    return accuracy(module, data.test)


def compared(
    name: str, other: str, known: Mapping[str, Row], right: Mapping[str, Sequence[float]]
) -> Row:
    """A dropped network and the narrow one of nearest latency: difference in accuracy with its 95 %
    interval over networks.
    """
    gains = np.array(right[name]) - np.array(right[other])
    half = stats.t_half_width(gains)
    pair = {
        "dropped": name,
        "narrowed": other,
        "dropped_row": known[name],
        "narrowed_row": known[other],
    }
    return pair | {
        "gain": float(gains.mean()),
        "low": float(gains.mean() - half),
        "high": float(gains.mean() + half),
    }


def in_words(pair: Row) -> str:
    """One pair as part of a sentence."""
    told = "" if pair["low"] > 0 or pair["high"] < 0 else ", unresolved"
    return (
        f"{pair['dropped']} (latency {said(pair['dropped_row'])}) against {pair['narrowed']}"
        f" ({said(pair['narrowed_row'])}): {100 * pair['gain']:+.1f} points of accuracy"
        f" ({100 * pair['low']:+.1f} to {100 * pair['high']:+.1f}{told})"
    )


def unmatched(row: Row) -> str:
    """A dropped network that no width is as fast as, as part of a sentence."""
    return f"no width is as fast as {row['name']} ({said(row)}), within {EQUAL:.0%}"


def draw(rows: Sequence[Row], right: Mapping[str, Sequence[float]], pairs: Sequence[Row]) -> Any:
    """Accuracy over latency of the networks that were tuned, with 95 % intervals over trained
    networks.
    """
    clear = sum(pair["low"] > 0 for pair in pairs)
    title = (
        f"Dropping blocks beats narrowing for certain in {clear} of {len(pairs)} pairs of equal"
        " latency"
    )
    drawn, axes = figure(
        title, xlabel="latency, ratio to the whole network", ylabel="accuracy on digits (%)"
    )
    for colour, (kind, label) in zip(COLOURS, KINDS.items(), strict=False):
        some = [row for row in rows if kind in row["name"] and row["name"] in right]
        shares = [np.array(right[row["name"]]) for row in some]
        errors = [100 * stats.t_half_width(share) for share in shares]
        x, y = [row["ratio"] for row in some], [100 * float(share.mean()) for share in shares]
        axes.errorbar(x, y, yerr=errors, fmt="o", capsize=3, color=colour, label=label)
        for row, place, height in zip(some, x, y, strict=True):
            side = (
                {"xytext": (-6, -14), "ha": "right"} if kind == "dropped" else {"xytext": (6, -14)}
            )
            axes.annotate(
                row["name"], (place, height), textcoords="offset points", fontsize=8, **side
            )
    axes.margins(x=0.15)
    axes.legend(loc="lower right")
    return drawn


if __name__ == "__main__":
    main()
