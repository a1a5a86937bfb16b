"""One network, several latencies: early exits against slimmable widths of MobileNet-V1.

    python -m runners.studies.one_network_many_latencies

Early exits: classifiers behind some of the blocks (Teerapittayanon et al., BranchyNet, 2016, arXiv
1709.01686). Slimmable: the first channels of every layer form a network of their own (Yu et al.,
Slimmable Neural Networks, 2018, arXiv 1812.08928).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.devices.ort.cpu import CpuOrt
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from runners.studies._groups import RATIOS, Row, by_name, measured, raw_of, rows_of, said
from runners.studies._pictures import COLOURS, figure, points
from runners.studies._results import save_study
from runners.studies._variants import exported

if TYPE_CHECKING:
    from torch import nn

NETWORK, SIDE = "mobilenet_v1", 224
EXITS = (4, 6, 10, 12)
"""Blocks behind which there is a classifier: of strides 8, 16, 16, 32."""
WIDTHS = (0.5, 0.75)
KINDS = {"exit ": "early exits", "width ": "slimmable widths"}
SETTINGS = Settings(budget_s=150, session_s=1.2, layers=False)


def main() -> None:
    """Measure all and write results/one_network_many_latencies/."""
    with CpuOrt() as device:
        found = measured(device, workloads(), SETTINGS)
    rows = rows_of(found)
    for row in rows:
        row["latency_over_macs"] = row["ratio"] / row["macs"]
    known = by_name(rows)
    early, half, all_exits = known[f"exit {EXITS[1]}"], known["width 0.5"], known["all exits"]
    save_study(
        "one_network_many_latencies",
        question=(
            "One network, several latencies: what do early exits and slimmable widths really give,"
            " against their MACs?"
        ),
        answer=(
            f"Leaving behind block {EXITS[1]} ({early['macs']:.2f} of the MACs) takes {said(early)}"
            f" of the latency, half the width ({half['macs']:.2f} of the MACs) {said(half)};"
            f" computing all {len(EXITS)} early classifiers on the way costs {said(all_exits)}."
        ),
        rows=rows,
        raw=raw_of(found),
        picture=draw(rows),
        command="make study NAME=one_network_many_latencies",
        notes=(
            f"{RATIOS} exit N: the graph up to a classifier behind block N, which is what an image"
            " that leaves there costs; all exits: one graph that computes all classifiers and the"
            " end. width W: the first channels of every layer. Each is a graph of its own here: an"
            " ONNX graph does not decide by itself where to stop, so an application runs the parts"
            " one after the other and pays for their calls. How many images leave early, and how"
            " accurate the narrow widths are, depends on training and is not part of this study."
        ),
    )


def workloads() -> dict[str, Workload]:
    """The whole network, its exits, all of them at once, and its widths."""
    from hwbench.network import zoo

    whole = zoo.build(NETWORK)
    made: dict[str, nn.Module] = {"whole": whole}
    made |= {f"exit {block}": with_exits(whole, [block], end=False) for block in EXITS}
    made["all exits"] = with_exits(whole, EXITS, end=True)
    made |= {f"width {width:g}": zoo.build(f"{NETWORK}@{width:g}") for width in WIDTHS}
    return {name: exported(module, 3, SIDE) for name, module in made.items()}


def with_exits(whole: Any, blocks: Sequence[int], *, end: bool) -> nn.Module:
    """A MobileNet-V1 that answers with one set of logits (n, classes) per block of `blocks`, and
    its own at the `end`.

    Blocks are numbered as in `features`, the first convolution being 0; nothing behind the last
    exit is computed without `end`.
    """
    import torch
    from torch import Tensor, nn

    class Exits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = whole.features if end else whole.features[: max(blocks) + 1]
            sizes = [whole.features[block].pointwise.conv.out_channels for block in blocks]
            self.heads = nn.ModuleList(
                nn.Linear(size, whole.classifier.out_features) for size in sizes
            )
            self.tail = whole.classifier if end else None

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            logits, heads = [], dict(zip(blocks, self.heads, strict=True))
            for number, block in enumerate(self.features):
                x = block(x)
                if number in heads:
                    logits.append(heads[number](x.mean((2, 3))))
            if self.tail is not None:
                logits.append(self.tail(x.mean((2, 3))))
            return tuple(logits)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Exits().eval()


def draw(rows: Sequence[Row]) -> Any:
    """Latency over MACs."""
    known = by_name(rows)
    title = f"Exit {EXITS[1]}: {{macs:.0%}} of the MACs, {{ratio:.0%}} of the latency. ".format(
        **known[f"exit {EXITS[1]}"]
    )
    title += "Half width: {macs:.0%}, {ratio:.0%}".format(**known["width 0.5"])
    drawn, axes = figure(
        title,
        xlabel="MACs, ratio to the whole network",
        ylabel="latency, ratio to the whole network",
    )
    for colour, kind in zip(COLOURS, KINDS, strict=False):
        some = sorted(
            (row for row in rows if row["name"].startswith(kind)),
            key=lambda row: float(row["macs"]),
        )
        some.append(known["whole"])
        points(axes, [row["macs"] for row in some], some, fmt="o-", color=colour, label=KINDS[kind])
        for row in some[:-1]:
            axes.annotate(
                row["name"],
                (row["macs"], row["ratio"]),
                xytext=(5, -10),
                textcoords="offset points",
                fontsize=8,
            )
    ends = np.array([0, 1])
    axes.plot(ends, ends, color="grey", lw=1, label="as the MACs say")
    axes.set_ylim(0, 1.2)
    axes.legend()
    return drawn


if __name__ == "__main__":
    main()
