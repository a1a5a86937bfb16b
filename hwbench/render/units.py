"""Numbers and names as people read them: the only place where seconds become milliseconds."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from rich.cells import cell_len

from hwbench.stats import is_telling, relative_half_width

if TYPE_CHECKING:
    from hwbench.records.layer_key import LayerKey

_TIME_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_BLOCKS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"
TOO_EARLY = "too early to say"
"""What stands in place of a 95 % interval of so few sessions that it tells nothing."""


def seconds(value_s: float | None, *, sign: bool = False) -> str:
    """A latency to four digits, in the unit that leaves one to three before the point: `11.35 ms`.

    Args:
        value_s: Seconds; None gives a dash.
        sign: Write the sign of a positive value too.
    """
    if value_s is None:
        return "-"
    if not math.isfinite(value_s):
        return "unknown"
    scale, unit = _time_unit(value_s)
    value = value_s / scale
    plus = "+" if sign else ""
    return f"{value:{plus}.{_decimals(value)}f} {unit}"


def interval_s(ci_s: tuple[float, float], value_s: float) -> str:
    """An interval in the unit that `seconds` gives its value: `11.11 to 11.59`."""
    scale, _ = _time_unit(value_s)
    low, high = ci_s
    return _join_ends((low / scale, high / scale), _decimals(value_s / scale))


def confidence_s(ci_s: tuple[float, float], value_s: float) -> str:
    """The 95 % interval of a latency in words: `95 % interval 11.11 to 11.59`."""
    return _confidence(ci_s, interval_s(ci_s, value_s))


def confidence(ci: tuple[float, float], ratio: float) -> str:
    """The 95 % interval of a ratio in words: `95 % interval 1.49 to 1.55`."""
    return _confidence(ci, interval(ci, ratio))


def _confidence(ci: tuple[float, float], text: str) -> str:
    return f"95 % interval {text}" if is_telling(ci) else f"{TOO_EARLY} how sure that is"


def ends_or_early(ci: tuple[float, float], text: str) -> str:
    """An interval for a cell of a table: its ends as `text` has them, or that it is too early."""
    return text if is_telling(ci) else TOO_EARLY


def _time_unit(value_s: float) -> tuple[float, str]:
    for scale, unit in _TIME_UNITS:
        if abs(value_s) >= 0.99995 * scale:
            return scale, unit
    return _TIME_UNITS[-1]


def _decimals(value: float) -> int:
    """Decimals that make four significant digits; none from 1000, and three below 10."""
    # Each limit lies where rounding to the decimals above it would add a digit.
    for decimals, limit in enumerate((999.95, 99.995, 9.9995)):
        if abs(value) >= limit:
            return decimals
    return 3


def _join_ends(ends: tuple[float, float], decimals: int) -> str:
    """Both ends of an interval, or `unknown` where one of them is not finite."""
    if not all(map(math.isfinite, ends)):
        return "unknown"
    return " to ".join(f"{end:.{decimals}f}" for end in ends)


def count(value: float | None) -> str:
    """A large count in thousands, millions or billions: `568.7 M`; a dash for None."""
    if value is None:
        return "-"
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * scale:
            short = value / scale
            decimals = 1 if short >= 99.95 else 2
            return f"{short:.{decimals}f} {unit}"
    return f"{value:.0f}"


def macs(value: int | None) -> str:
    """Multiply-accumulates: a large count, or `unknown` where they cannot be counted."""
    return "unknown" if value is None else count(value)


def size(value_bytes: int | None) -> str:
    """Bytes in decimal units: `16.94 MB`; a dash for None."""
    if value_bytes is None:
        return "-"
    return f"{count(value_bytes)}B" if value_bytes >= 1000 else f"{value_bytes} B"


def percent(share: float | None, *, sign: bool = False) -> str:
    """A share: `12.3 %`."""
    if share is None:
        return "-"
    if not math.isfinite(share):
        return "unknown"
    plus = "+" if sign else ""
    return f"{100 * share:{plus}.1f} %"


def times(ratio: float | None) -> str:
    """A ratio of two numbers: `1.52x`.

    With a third decimal near 1, where small differences matter.
    """
    if ratio is None:
        return "-"
    return f"{ratio:.{_ratio_decimals(ratio)}f}x" if math.isfinite(ratio) else "unknown"


def interval(ci: tuple[float, float], ratio: float) -> str:
    """An interval with the decimals that `times` gives its ratio: `1.49 to 1.55`."""
    return _join_ends(ci, _ratio_decimals(ratio))


def _ratio_decimals(ratio: float) -> int:
    return 3 if abs(ratio - 1) < 0.095 else 2


def with_margin(text: str, ci: tuple[float, float]) -> str:
    """A value with the relative half-width of its 95 % interval: `20.10 ms ±1.9 %`.

    Without one where it is too early for an interval.
    """
    return f"{text} ±{percent(relative_half_width(ci))}" if is_telling(ci) else text


def decibels(value_db: float | None) -> str:
    """`34.2 dB`; of equal outputs, which have no noise, in words."""
    if value_db is None:
        return "-"
    return f"{value_db:.1f} dB" if math.isfinite(value_db) else "without end, as they are equal"


def frequency(value_hz: float) -> str:
    """`2.40 GHz`."""
    return f"{count(value_hz)}Hz"


def plural(number: int, noun: str) -> str:
    """`1 session`, `14 sessions`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def minute(iso: str) -> str:
    """An ISO 8601 time to the minute, without its zone: `2026-03-01 09:15`."""
    return moment(iso)[:16]


def moment(iso: str) -> str:
    """An ISO 8601 time in UTC to the second: `2026-03-01 09:15:02 UTC`.

    Other text stays as it is.
    """
    try:
        return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M:%S UTC")
    except ValueError:
        return iso


def shape(dimensions: Sequence[int]) -> str:
    """`1x3x224x224`, as shapes of inputs are given."""
    return "x".join(map(str, dimensions)) or "scalar"


def layer(key: LayerKey) -> str:
    """A layer key in short, `Conv 3x3/2 at 56x56, 64 to 128, Relu`.

    The channels are left out where the key stands for all numbers of them, and so is what seldom
    tells two layers of a network apart; the key itself is in the JSON.
    """
    read, *_ = key.inputs or (key.output,)
    axis = -1 if key.op == "Linear" or len(read) == 3 else 1
    cin, cout = 0, 0
    if min(len(read), len(key.output)) > 1:
        cin, cout = read[axis], key.output[axis]
    group = key.attr("group", "1")
    depthwise = group not in {"1", ""} and group in {"each", str(cin)}
    operator = "Depthwise" if depthwise else key.op
    window = key.attr("kernel")
    stride = key.attr("strides").partition("x")[0]
    if stride not in {"", "1"}:
        window += f"/{stride}"
    maps = f"at {shape(key.output[2:])}" if len(key.output) > 2 else ""
    channels = f"{cin} to {cout}"
    if 0 in {cin, cout}:
        channels = ""
    elif depthwise or (cin == cout and key.op not in {"Conv", "Linear"}):
        channels = str(cout)
    added = "Add" if key.attr("add") else ""
    words = " ".join(filter(None, (operator, window, maps)))
    return ", ".join(filter(None, (words, channels, key.attr("act"), added)))


def bar(share: float, width: int = 10) -> str:
    """A bar for a share from 0 to 1, in eighths of a character, at most `width` characters long."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    return _BLOCKS[8] * (eighths // 8) + _BLOCKS[eighths % 8].strip()


def sparkline(values: Sequence[float], width: int = 24) -> tuple[float, str, float]:
    """Distribution of `values` (n >= 1) between their 5th and 95th percentile.

    Returns:
        (5th percentile, histogram of `width` characters, 95th percentile).
    """
    low, high = (float(end) for end in np.quantile(values, [0.05, 0.95], method="inverted_cdf"))
    # Nothing to draw, and no bins narrower than that can be told apart.
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return low, _LEVELS[-1], high
    counts, _ = np.histogram(values, bins=width, range=(low, high))
    steps = np.ceil(counts / counts.max() * (len(_LEVELS) - 1)).astype(int)
    return low, "".join(_LEVELS[step] for step in steps), high


def trace(values: Sequence[float]) -> str:
    """`values` (n >= 1) in order, one character each, from the least to the largest."""
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return _LEVELS[0] * len(values)
    top = len(_LEVELS) - 1
    return "".join(_LEVELS[round((value - low) / (high - low) * top)] for value in values)


def shorten(text: str, width: int) -> str:
    """Cut `text` in the middle to `width` (>= 1) columns: the ends of a path tell most.

    Columns are those of a terminal, on which Chinese characters take two and combining ones none.
    """
    if cell_len(text) <= width:
        return text
    head = _fitting(text, (width - 1) // 2)
    tail = _fitting(reversed(text), width - 1 - cell_len(head))[::-1]
    return f"{head}…{tail}"


def shorten_apart(texts: Iterable[str], width: int) -> dict[str, str]:
    """Cut texts as `shorten` does, but so that no two look the same where that can be.

    Long names of one network begin and end alike: where they would look the same, what they have in
    common at the beginning is left out.

    Returns:
        The short texts by the long ones.
    """
    apart = {text: shorten(text, width) for text in texts}
    for alike in _group_by_value(apart):
        common = os.path.commonprefix(alike)  # noqa: RUF071 - characters are meant
        begin = max(common.rfind(separator) for separator in "./:") + 1
        cut = {text: f"…{shorten(text[begin:], width - 1)}" for text in alike}
        if begin and width > 1 and len(set(cut.values())) > 1:
            apart |= cut
    return apart


def _group_by_value(texts: Mapping[str, str]) -> list[list[str]]:
    """Group the keys that have one value; those that have theirs alone are left out."""
    groups: dict[str, list[str]] = {}
    for key, value in texts.items():
        groups.setdefault(value, []).append(key)
    return [group for group in groups.values() if len(group) > 1]


def _fitting(characters: Iterable[str], width: int) -> str:
    """The first characters, as many as `width` columns take."""
    taken, used = "", 0
    for character in characters:
        used += cell_len(character)
        if used > width:
            break
        taken += character
    return taken


def printable(text: str) -> str:
    """`text` on one line without control characters: a terminal would obey those of a file."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for character in " ".join(text.split())
    )
