"""Logs of TensorFlow Lite's `benchmark_model`: text of any version, and the file of `--profiling_output_csv_file`.

Every version prints, in microseconds, one `count=.. first=.. avg=..` line after the warm-up and one
after the timed runs, and, where operators were profiled, a table in milliseconds headed `Run
Order`. Columns came and went (`[start]` left in 2021), so a row is read by its header. What else
differs:

* until 2019 the profiler ran during warm-up too, so the operators' averages include it; later only
  the timed runs are profiled;
* later versions profile the initialization as well, in a table of its own, which is not of the
  network;
* Android's logcat, and the logger of the time, put something before every line.

Layout after tensorflow/lite/tools/benchmark and tensorflow/core/util/stats_calculator.cc
(Apache-2.0), read, not copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hwbench.errors import OutputParseError
from hwbench.records.findings import Finding
from hwbench.records.untrusted import parse_seconds, parse_seconds_or_zero, parse_whole, quote

SIGNS = re.compile(
    r"Run Order =|Inference timings in us:|Average inference timings in us:|\bcount=\d+"
    r" (?:first|curr)="
)
"""What a log of `benchmark_model` shows and no other format does."""

_MS, _US = 1e3, 1e6  # of which make a second
_PREFIX = re.compile(
    r"(?:\S+ \S+ +\d+ +\d+ [VDIWEF] [^:]*: |native : \S+ |(?:VERBOSE|INFO|WARN(?:ING)?|ERROR): )*"
)
_PARAMETER = re.compile(r"([#\w][^:\[\]]{0,80}?)\s*: \[(.*)\]")
_RUNS = re.compile(r"(Timings \(microseconds\): )?count=(\d+)((?: \w+=[-+.\w]+(?:\(all same\))?)+)")
_SUMMARY = re.compile(
    r"Inference timings in us: .*?Warmup \(avg\): ([^\s,]+), Inference \(avg\): (\S+)"
)
_UNKNOWN = re.compile(
    r"(?:Unconsumed|Un(?:known|recogni[sz]ed)) (?:cmdline|command ?line)? ?(?:flags?|arguments?):"
    r" *(.*\S)",
    re.IGNORECASE,
)
_DELEGATE = re.compile(
    r"(?:Explicitly applied (.{1,60}?) delegate, and|Though (.{1,60}?) delegate is explicitly"
    r" applied,)"
    r" the model graph will (.{1,120})"
)
_XNNPACK = re.compile(r"Created TensorFlow Lite XNNPACK delegate for CPU")
_REPLACED = re.compile(
    r"Replacing (\d{1,9}) out of (\d{1,9}) node\(s\) with delegate \(([^()]{1,60})\)"
)
_OBSERVED = re.compile(r"(\d{1,9}) nodes observed")
_COLUMNS = {"node type", "avg ms", "times called", "name"}


@dataclass(frozen=True, slots=True)
class Runs:
    """Whole inferences of one phase, as the tool sums them up.

    Attributes:
        mean_s: Mean latency in seconds.
        count: Inferences; None where the log only tells the mean.
        first_s: The first.
        min_s: The fastest.
        max_s: The slowest.
        std_s: Standard deviation.
        median_s: Median; only versions since 2022 tell.
    """

    mean_s: float
    count: int | None = None
    first_s: float | None = None
    min_s: float | None = None
    max_s: float | None = None
    std_s: float | None = None
    median_s: float | None = None


@dataclass(frozen=True, slots=True)
class Operator:
    """One row of the table, in execution order.

    Attributes:
        kind: Operator (`CONV_2D`), or the delegate that replaced several.
        name: Tensors it writes, as the log says it, brackets and number taken off.
        mean_s: Mean latency of one call in seconds; None where it is below the log's resolution
            (printed as 0.000 ms).
        calls: Calls per inference.
    """

    kind: str
    name: str
    mean_s: float | None
    calls: int


@dataclass(frozen=True, slots=True)
class TfliteLog:
    """One execution of `benchmark_model`.

    Attributes:
        source: Where it was read from.
        parameters: Settings as (name, value), in the tool's words (`Num threads`, `Graph`).
        warm_up: The warm-up runs; None if there were none, or in a CSV file.
        timed: The timed runs: the end-to-end latency; None in a CSV file.
        profiled: The runs behind the operators' averages; None without a table.
        operators: Rows in execution order; empty if operators were not profiled.
        findings: What to know before believing the numbers.
    """

    source: str
    parameters: tuple[tuple[str, str], ...]
    warm_up: Runs | None
    timed: Runs | None
    profiled: Runs | None
    operators: tuple[Operator, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def includes_warm_up(self) -> bool:
        """Whether the operators' averages are over the warm-up runs too."""
        counts = [
            None if runs is None else runs.count
            for runs in (self.profiled, self.warm_up, self.timed)
        ]
        profiled, warm_up, timed = counts
        return None not in counts and profiled == (warm_up or 0) + (timed or 0)


def parse(text: str, source: str = "the log") -> TfliteLog:
    """Read a log or CSV file of `benchmark_model`.

    Args:
        text: All of it, and of one execution only.
        source: Name for messages.

    Raises:
        OutputParseError: It holds no timings, several executions, or is cut off or damaged.
    """
    lines = [_PREFIX.sub("", line, count=1) for line in text.splitlines()]
    if sum(line.strip() == "STARTING!" for line in lines) > 1:
        raise OutputParseError(
            f"{source} holds several executions of benchmark_model; put each into a file of its own"
        )
    regular = list(_without_initialization(lines))
    tables = [index for index, line in enumerate(regular) if "Run Order =" in line]
    operators = _operators(regular, tables[0], source) if tables else ()
    phases, profiled = _phases(regular, source)
    warm_up, timed = _ends(regular, phases, source)
    if timed is None and not operators:
        raise OutputParseError(
            f"{source} holds no timings of benchmark_model; was it written to its end?"
        )
    parameters = tuple(
        (match[1], match[2]) for match in map(_PARAMETER.fullmatch, map(str.strip, lines)) if match
    )
    flags = tuple(match[1] for match in map(_UNKNOWN.search, lines) if match)
    log = TfliteLog(source, parameters, warm_up, timed, profiled if operators else None, operators)
    return replace(log, findings=(*_findings(log, flags, len(tables)), *_delegates(lines)))


def _without_initialization(lines: Sequence[str]) -> Iterator[str]:
    """The lines but for the table about the initialization, which stands before that of the runs."""
    initialization = False
    for line in lines:
        if "Profiling Info for" in line:
            initialization = "Initialization" in line
        if not initialization:
            yield line


def _operators(lines: Sequence[str], start: int, source: str) -> tuple[Operator, ...]:
    """Rows of the table whose title is line `start`."""
    labels, comma = _header(lines, start + 1, source)
    rows = []
    for line in lines[start + 2 :]:
        if not line.strip() or "=====" in line:
            break
        cells = (
            line.split(",", len(labels) - 1)
            if comma
            else re.split(r"\t\s*|\s{2,}", line.strip(), maxsplit=len(labels) - 1)
        )
        if len(cells) != len(labels):
            raise OutputParseError(
                f"{source}: {quote(line.strip())} has {len(cells)} cells; its table has"
                f" {len(labels)} columns"
            )
        rows.append(dict(zip(labels, map(str.strip, cells), strict=True)))
    _check_whole(rows, lines[start:], source)
    return tuple(_operator(row, source) for row in rows)


def _check_whole(rows: Sequence[dict[str, str]], lines: Sequence[str], source: str) -> None:
    """Refuse a table that is cut off: by the number of nodes said below it, and by the running share in its last row."""
    observed = next(filter(None, map(_OBSERVED.search, lines)), None)
    if not rows or (observed is not None and int(observed[1]) != len(rows)):
        raise OutputParseError(
            f"{source} lists {len(rows)} of {observed[1] if observed else 'its'} operators; is it"
            " cut off?"
        )
    share = rows[-1].get("cdf%", "100%")
    if re.fullmatch(r"(99\.9\d*|100(\.0\d*)?)%", share) is None:
        raise OutputParseError(
            f"{source}: operators up to {quote(rows[-1]['name'])} make up {share} of the whole; is"
            " it cut off?"
        )


def _header(lines: Sequence[str], index: int, source: str) -> tuple[list[str], bool]:
    """Labels of a table's columns, and whether commas part them."""
    header = lines[index] if index < len(lines) else ""
    bracketed = re.findall(r"\[([^\[\]]{1,40})\]", header)
    labels = [label.strip().lower().replace("_", " ") for label in bracketed or header.split(",")]
    if not set(labels) >= _COLUMNS or labels[-1] != "name" or len(set(labels)) < len(labels):
        raise OutputParseError(
            f"{source}: {quote(header.strip())} under 'Run Order' is no header; expected"
            f" {sorted(_COLUMNS)}"
        )
    return labels, not bracketed


def _operator(cells: dict[str, str], source: str) -> Operator:
    what = f"{source}: average of operator {quote(cells['name'])}"
    mean_s = parse_seconds_or_zero(cells["avg ms"], _MS, what)
    calls = parse_whole(
        cells["times called"], f"{source}: calls of operator {quote(cells['name'])}", least=0
    )
    name = re.sub(r"^\[(.*)\](?::\d+)?$", r"\1", cells["name"])
    return Operator(cells["node type"], name, mean_s or None, calls)


def _phases(lines: Sequence[str], source: str) -> tuple[list[Runs], Runs | None]:
    """Warm-up and timed runs as far as there are lines about them, and the profiled runs."""
    phases: list[Runs] = []
    profiled = None
    for match in filter(None, map(_RUNS.match, map(str.strip, lines))):
        if match[1] is None:
            phases.append(_runs(match, source))
        elif profiled is None:
            profiled = _runs(match, source)
    return phases, profiled


def _runs(match: re.Match[str], source: str) -> Runs:
    what = f"{source}: {quote(match[0])}"
    values = dict(re.findall(r"(\w+)=([-+.\w]+)", match[3]))
    known = {
        name: parse_seconds_or_zero(values[name], _US, what) or None
        for name in ("first", "min", "max", "median")
        if name in values
    }
    std_s = parse_seconds_or_zero(values["std"], _US, what) if "std" in values else None
    mean_s = parse_seconds(
        values.get("avg", values.get("curr")), _US, what
    )  # all samples equal: only `curr` is printed
    return Runs(
        mean_s,
        parse_whole(match[2], what),
        known.get("first"),
        known.get("min"),
        known.get("max"),
        std_s,
        known.get("median"),
    )


def _ends(lines: Sequence[str], phases: list[Runs], source: str) -> tuple[Runs | None, Runs | None]:
    """Warm-up and timed runs.

    From the summary alone where the lines about the phases were not printed.
    """
    if len(phases) > 2:
        raise OutputParseError(
            f"{source} sums up {len(phases)} phases; expected warm-up and timed runs of one"
            " execution"
        )
    summary = next(filter(None, map(_SUMMARY.match, map(str.strip, lines))), None)
    if not phases and summary is not None:
        warm_up_s, timed_s = (
            parse_seconds_or_zero(text, _US, f"{source}: {quote(summary[0])}")
            for text in summary.groups()
        )
        if timed_s == 0:
            raise OutputParseError(
                f"{source}: {quote(summary[0])} says that inference takes no time; the log is"
                " damaged"
            )
        return Runs(warm_up_s) if warm_up_s else None, Runs(timed_s)
    return (phases[0] if len(phases) == 2 else None), (phases[-1] if phases else None)


def _findings(log: TfliteLog, flags: Sequence[str], tables: int) -> Iterator[Finding]:
    if flags:
        text = (
            f"benchmark_model did not know {', '.join(map(quote, flags))} and ran without; the"
            " setting meant was not in force"
        )
        yield Finding("unknown_flags", text)
    if log.includes_warm_up and log.warm_up is not None:
        text = (
            f"the operators' averages include {log.warm_up.count} warm-up runs; the end-to-end"
            " latency does not"
        )
        yield Finding("averages_include_warm_up", text)
    tiny = [row.name or row.kind for row in log.operators if row.mean_s is None]
    if tiny:
        yield Finding(
            "below_resolution",
            f"operators below the log's resolution: {len(tiny)}, {quote(tiny[0])} first",
        )
    delegates = [row.kind for row in log.operators if "delegate" in row.kind.lower()]
    if delegates:
        yield Finding(
            "delegated",
            f"rows that are delegates, each standing for several layers: {len(delegates)},"
            f" {quote(delegates[0])} first",
        )
    if tables > 1:
        yield Finding(
            "more_tables",
            f"the log holds {tables} tables of operators; the first is the network, the others were"
            " not read",
        )


def _delegates(lines: Sequence[str]) -> Iterator[Finding]:
    """Who really computed: a delegate that was asked for may take all operators, some, or none, and one may come unasked."""
    asked = {}
    for match in filter(None, map(_DELEGATE.search, lines)):
        asked[match[1] or match[2]] = match[3].rstrip(". ")
    for name, fate in asked.items():
        code = (
            "delegate"
            if "completely" in fate
            else "not_delegated"
            if fate.startswith("not ")
            else "partly_delegated"
        )
        yield Finding(code, f"the {name} delegate was asked for: the model graph will {fate}")
    if "XNNPACK" not in asked and any(map(_XNNPACK.search, lines)):
        yield Finding(
            "xnnpack",
            "the runtime applied its XNNPACK delegate by itself; without it: use_xnnpack=false",
        )
    for match in filter(None, map(_REPLACED.search, lines)):
        if match[1] != match[2]:
            text = (
                f"{match[3]} took {match[1]} of {match[2]} operators; TensorFlow Lite's own kernels"
                " ran the rest"
            )
            yield Finding("partly_delegated", text)
