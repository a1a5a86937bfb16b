"""Numbers and names as people read them: the only place where seconds become milliseconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from rich.cells import cell_len

if TYPE_CHECKING:
    from hwbench.records.layer_key import LayerKey

_TIME_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_BLOCKS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"


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
    return f"{_digits(value_s / scale, sign=sign)} {unit}"


def interval_s(ci_s: tuple[float, float], beside_s: float) -> str:
    """An interval in the unit that `seconds` gives the value beside it: `11.11 to 11.59`."""
    if not all(map(math.isfinite, ci_s)):
        return "unknown"
    scale, _ = _time_unit(beside_s)
    decimals = len(_digits(beside_s / scale).partition(".")[2])
    return " to ".join(f"{end_s / scale:.{decimals}f}" for end_s in ci_s)


def _time_unit(value_s: float) -> tuple[float, str]:
    size = abs(value_s)
    return next((unit for unit in _TIME_UNITS if size >= 0.99995 * unit[0]), _TIME_UNITS[-1])


def _digits(value: float, *, sign: bool = False) -> str:
    """Four significant digits below 1000, all whole digits above, without an exponent."""
    size = abs(value)
    decimals = 0 if size >= 999.95 else 1 if size >= 99.995 else 2 if size >= 9.9995 else 3
    return f"{value:+.{decimals}f}" if sign else f"{value:.{decimals}f}"


def count(value: float) -> str:
    """A large count in thousands, millions or billions: `568.7 M`."""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * scale:
            short = value / scale
            return f"{short:.{1 if short >= 99.95 else 2}f} {unit}"
    return f"{value:.0f}"


def size(value_bytes: int) -> str:
    """Bytes in decimal units: `16.94 MB`."""
    return f"{count(value_bytes)}B" if value_bytes >= 1000 else f"{value_bytes} B"


def percent(share: float | None, *, sign: bool = False) -> str:
    """A share: `12.3 %`."""
    if share is None:
        return "-"
    if not math.isfinite(share):
        return "unknown"
    return f"{100 * share:+.1f} %" if sign else f"{100 * share:.1f} %"


def times(ratio: float | None) -> str:
    """A ratio of two numbers: `1.52x`.

    With a third decimal near 1, where small differences matter.
    """
    if ratio is None:
        return "-"
    return f"{ratio:.{_ratio_decimals(ratio)}f}x" if math.isfinite(ratio) else "unknown"


def interval(ci: tuple[float, float], beside: float) -> str:
    """An interval with the decimals that `times` gives the ratio beside it: `1.49 to 1.55`."""
    if not all(map(math.isfinite, ci)):
        return "unknown"
    return " to ".join(f"{end:.{_ratio_decimals(beside)}f}" for end in ci)


def _ratio_decimals(ratio: float) -> int:
    return 3 if abs(ratio - 1) < 0.095 else 2


def frequency(value_hz: float) -> str:
    """`2.40 GHz`."""
    return f"{count(value_hz)}Hz"


def plural(number: int, noun: str) -> str:
    """`1 session`, `14 sessions`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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

    Without channels where it stands for all of them.

    It leaves out what seldom tells two layers of a network apart; the key itself is in the JSON.
    """
    reads, *_ = key.inputs or (key.output,)
    axis = -1 if key.op == "Linear" or len(reads) == 3 else 1
    group, stride = key.attr("group", "1"), key.attr("strides").partition("x")[0]
    channels = (reads[axis], key.output[axis]) if min(len(reads), len(key.output)) > 1 else (0, 0)
    depthwise = group not in {"1", ""} and group in {"each", str(channels[0])}
    window = key.attr("kernel") + (f"/{stride}" if stride not in {"", "1"} else "")
    maps = f"at {shape(key.output[2:])}" if len(key.output) > 2 else ""
    words = " ".join(filter(None, ("Depthwise" if depthwise else key.op, window, maps)))
    kept = depthwise or (channels[0] == channels[1] and key.op not in {"Conv", "Linear"})
    counts = (
        "" if 0 in channels else str(channels[1]) if kept else f"{channels[0]} to {channels[1]}"
    )
    return ", ".join(
        filter(None, (words, counts, key.attr("act"), "Add" if key.attr("add") else ""))
    )


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
    if high - low <= 1e-9 * max(
        abs(low), abs(high)
    ):  # nothing to draw, and no bins narrower than that can be told apart
        return low, _LEVELS[-1], high
    counts, _ = np.histogram(values, bins=width, range=(low, high))
    steps = np.ceil(counts / counts.max() * (len(_LEVELS) - 1)).astype(int)
    return low, "".join(_LEVELS[step] for step in steps), high


def shorten(text: str, width: int) -> str:
    """Cut `text` in the middle to `width` (>= 1) columns: the ends of a path tell most.

    Columns are those of a terminal, on which Chinese characters take two and combining ones none.
    """
    if cell_len(text) <= width:
        return text
    head = _fitting(text, (width - 1) // 2)
    tail = _fitting(reversed(text), width - 1 - cell_len(head))[::-1]
    return f"{head}…{tail}"


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
