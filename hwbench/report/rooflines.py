"""The roofline: layers by their work for each byte, below what the device can do at most."""

from __future__ import annotations

from hwbench.records.ceilings import Ceiling, Ceilings
from hwbench.records.measurement import LayerProfile
from hwbench.render.units import count, moment, percent, size
from hwbench.report.nouns import Cell, Chart, Column, Figure, Number, Source, Table
from hwbench.report.numbers import seconds_number, share_number


def roofline_figure(profile: LayerProfile, ceilings: Ceilings, source: Source) -> list[Figure]:
    """How far the layers of a network are from the ceilings of its device.

    Args:
        profile: The layers.
        ceilings: The most that the device can do.
        source: Where the layers came from.

    Returns:
        One figure; none where no layer has a ceiling.
    """
    rows: list[tuple[Cell, ...]] = []
    precisions: dict[str, None] = {}
    points = []
    for layer in profile.layers:
        bound = ceilings.bound(layer)
        if bound is None or layer.key is None:
            continue
        precisions[layer.key.precision] = None
        rate = f"{count(round(bound.macs_per_s))}/s"
        rows.append(
            (
                layer.name,
                layer.key.precision,
                seconds_number(layer.median_s),
                Number(bound.macs_per_byte, f"{bound.macs_per_byte:.3g}"),
                Number(bound.macs_per_s, rate),
                share_number(bound.share),
                bound.binds,
            )
        )
        if bound.macs_per_s > 0:
            said = f"{layer.name}\n{rate}, {percent(bound.share)} of its ceiling ({bound.binds})"
            points.append({"x": bound.macs_per_byte, "y": bound.macs_per_s, "text": said})
    if not rows:
        return []
    roofs = [
        _draw_roof(ceiling) for ceiling in ceilings.ceilings if ceiling.precision in precisions
    ]
    columns = (
        Column("layer"),
        Column("precision", minor=True),
        Column("latency", numeric=True),
        Column("MACs for each byte", numeric=True, minor=True),
        Column("MACs", numeric=True),
        Column("of the ceiling", numeric=True),
        Column("bound by"),
    )
    text = (
        "A layer can be no higher than the roof over it: the slanted part is the bytes that the"
        " device moves a second (solid for what fits into caches, dashed for the most bytes that"
        " were tried), the flat part its multiply-accumulates a second. Layers without"
        " multiply-accumulates are in the table alone. Ceilings measured"
        f" {moment(ceilings.created_utc)} by hwbench doctor --ceilings."
    )
    charts: tuple[Chart, ...] = ()
    if points:
        charts = ({"kind": "roofline", "points": points, "roofs": roofs},)
    return [Figure("Roofline", text, Table(columns, tuple(rows)), charts, source)]


def _draw_roof(ceiling: Ceiling) -> Chart:
    """A roof for the picture: its flat part, and its slopes in and out of caches."""
    last = ceiling.bandwidths[-1].bytes_per_s
    said = (
        f"{ceiling.precision}: {count(round(ceiling.macs_per_s))} MACs/s,"
        f" {size(round(ceiling.bytes_per_s))}/s, {size(round(last))}/s for the most bytes"
    )
    return {
        "name": ceiling.precision,
        "peak": ceiling.macs_per_s,
        "slopes": [ceiling.bytes_per_s, last],
        "text": said,
    }
