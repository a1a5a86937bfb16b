"""Reading logs of TensorFlow Lite's `benchmark_model`: text of any version, and CSV files.

CSV files are those of the program's flag `--profiling_output_csv_file`.

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
"""What stands in a log of `benchmark_model` and in no other format."""

_MS, _US = 1e3, 1e6  # milliseconds and microseconds per second
_PREFIX = re.compile(
    r"(?:\S+ \S+ +\d+ +\d+ [VDIWEF] [^:]*: |native : \S+ |(?:VERBOSE|INFO|WARN(?:ING)?|ERROR): )*"
)
_PARAMETER = re.compile(r"([#\w][^:\[\]]{0,80}?)\s*: \[(.*)\]")
_RUNS = re.compile(r"(Timings \(microseconds\): )?count=(\d+)((?: \w+=[-+.\w]+(?:\(all same\))?)+)")
_SUMMARY = re.compile(
    r"^\s*Inference timings in us: .*?Warmup \(avg\): ([^\s,]+), Inference \(avg\): (\S+)"
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
        mean_s: The mean latency in seconds.
        count: The number of inferences; None where the log has only the mean.
        first_s: The latency of the first inference in seconds; None where it is unknown, as below.
        min_s: The lowest latency in seconds.
        max_s: The highest latency in seconds.
        std_s: The standard deviation in seconds.
        median_s: The median in seconds; only versions since 2022 print it.
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
        kind: The operator (`CONV_2D`), or the delegate that replaced several.
        name: The tensors it writes, as the log names them, without brackets and number.
        mean_s: The mean latency of one call in seconds; None where it is below the log's resolution
            (printed as 0.000 ms).
        calls: The number of calls per inference.
    """

    kind: str
    name: str
    mean_s: float | None
    calls: int


@dataclass(frozen=True, slots=True)
class TfliteLog:
    """One execution of `benchmark_model`.

    Attributes:
        source: The name of what it was read from.
        parameters: The settings as (name, value), in the tool's words (`Num threads`, `Graph`).
        warm_up: The warm-up runs; None if there were none, or in a CSV file.
        timed: The timed runs, whose latency is that from end to end; None in a CSV file.
        profiled: The runs behind the operators' averages; None without a table.
        operators: The operators in execution order; empty if they were not profiled.
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
        if self.profiled is None or self.warm_up is None or self.timed is None:
            return False
        if self.warm_up.count is None or self.timed.count is None:
            return False
        return self.profiled.count == self.warm_up.count + self.timed.count


def parse(text: str, source: str = "the log") -> TfliteLog:
    """Read a log or CSV file of `benchmark_model`.

    Args:
        text: The whole output of one execution.
        source: The name of the log, for messages.

    Raises:
        OutputParseError: The log holds no timings or several executions, or is cut off or damaged.
    """
    lines = [_PREFIX.sub("", line, count=1) for line in text.splitlines()]
    if sum(line.strip() == "STARTING!" for line in lines) > 1:
        raise OutputParseError(
            f"{source} holds several executions of benchmark_model; put each into a file of its own"
        )
    run_lines = list(_skip_initialization(lines))
    tables = [index for index, line in enumerate(run_lines) if "Run Order =" in line]
    operators = _parse_operators(run_lines, tables[0], source) if tables else ()
    phases, profiled = _parse_phases(run_lines, source)
    warm_up, timed = _assign_phases(run_lines, phases, source)
    if timed is None and not operators:
        raise OutputParseError(
            f"{source} holds no timings of benchmark_model; was it written to its end?"
        )
    parameters = []
    unknown_flags = []
    for line in lines:
        parameter = _PARAMETER.fullmatch(line.strip())
        if parameter:
            parameters.append((parameter[1], parameter[2]))
        flag = _UNKNOWN.search(line)
        if flag:
            unknown_flags.append(flag[1])
    if not operators:
        profiled = None
    log = TfliteLog(source, tuple(parameters), warm_up, timed, profiled, operators)
    findings = (*_find_pitfalls(log, unknown_flags, len(tables)), *_find_delegates(lines))
    return replace(log, findings=findings)


def _skip_initialization(lines: Sequence[str]) -> Iterator[str]:
    """Leave out the table about the initialization, which stands before that of the runs."""
    in_initialization = False
    for line in lines:
        if "Profiling Info for" in line:
            in_initialization = "Initialization" in line
        if not in_initialization:
            yield line


def _parse_operators(lines: Sequence[str], start: int, source: str) -> tuple[Operator, ...]:
    """Parse the rows of the table whose title is line `start`."""
    labels, is_csv = _parse_header(lines, start + 1, source)
    rows = []
    for line in lines[start + 2 :]:
        if not line.strip() or "=====" in line:
            break
        # The name comes last and may hold what separates the cells.
        if is_csv:
            cells = line.split(",", len(labels) - 1)
        else:
            cells = re.split(r"\t\s*|\s{2,}", line.strip(), maxsplit=len(labels) - 1)
        if len(cells) != len(labels):
            raise OutputParseError(
                f"{source}: {quote(line.strip())} has {len(cells)} cells; its table has"
                f" {len(labels)} columns"
            )
        rows.append(dict(zip(labels, map(str.strip, cells), strict=True)))
    _check_complete(rows, lines[start:], source)
    return tuple(_parse_operator(row, source) for row in rows)


def _find_first(pattern: re.Pattern[str], lines: Sequence[str]) -> re.Match[str] | None:
    """Search lines for a pattern, and give the first match."""
    for line in lines:
        match = pattern.search(line)
        if match:
            return match
    return None


def _check_complete(rows: Sequence[dict[str, str]], lines: Sequence[str], source: str) -> None:
    """Refuse a table that is cut off.

    The number of nodes below it, and the running share in its last row, show whether it is.
    """
    observed = _find_first(_OBSERVED, lines)
    if not rows or (observed is not None and int(observed[1]) != len(rows)):
        expected = observed[1] if observed else "its"
        raise OutputParseError(
            f"{source} lists {len(rows)} of {expected} operators; is it cut off?"
        )
    share = rows[-1].get("cdf%", "100%")
    if re.fullmatch(r"(99\.9\d*|100(\.0\d*)?)%", share) is None:
        raise OutputParseError(
            f"{source}: operators up to {quote(rows[-1]['name'])} make up {share} of the whole; is"
            " it cut off?"
        )


def _parse_header(lines: Sequence[str], index: int, source: str) -> tuple[list[str], bool]:
    """Parse the labels of a table's columns, and tell whether commas separate them."""
    header = lines[index] if index < len(lines) else ""
    bracketed = re.findall(r"\[([^\[\]]{1,40})\]", header)
    labels = [label.strip().lower().replace("_", " ") for label in bracketed or header.split(",")]
    if not set(labels) >= _COLUMNS or labels[-1] != "name" or len(set(labels)) < len(labels):
        raise OutputParseError(
            f"{source}: {quote(header.strip())} under 'Run Order' is no header; expected"
            f" {sorted(_COLUMNS)}"
        )
    return labels, not bracketed


def _parse_operator(cells: dict[str, str], source: str) -> Operator:
    what = f"{source}: average of operator {quote(cells['name'])}"
    mean_s = parse_seconds_or_zero(cells["avg ms"], _MS, what)
    calls = parse_whole(
        cells["times called"], f"{source}: calls of operator {quote(cells['name'])}", least=0
    )
    name = re.sub(r"^\[(.*)\](?::\d+)?$", r"\1", cells["name"])
    return Operator(cells["node type"], name, mean_s or None, calls)


def _parse_phases(lines: Sequence[str], source: str) -> tuple[list[Runs], Runs | None]:
    """Parse the lines about phases (warm-up and timed runs), and that about the profiled runs."""
    phases: list[Runs] = []
    profiled = None
    for line in lines:
        match = _RUNS.match(line.strip())
        if match is None:
            continue
        if match[1] is None:
            phases.append(_parse_runs(match, source))
        elif profiled is None:
            profiled = _parse_runs(match, source)
    return phases, profiled


def _parse_runs(match: re.Match[str], source: str) -> Runs:
    what = f"{source}: {quote(match[0])}"
    values = dict(re.findall(r"(\w+)=([-+.\w]+)", match[3]))
    seconds: dict[str, float | None] = {}
    for name in ("first", "min", "max", "median"):
        if name in values:
            # Below a microsecond the tool prints 0, which says nothing.
            seconds[name] = parse_seconds_or_zero(values[name], _US, what) or None
    # The spread may really be 0.
    std_s = parse_seconds_or_zero(values["std"], _US, what) if "std" in values else None
    # Where all samples are equal only `curr` is printed.
    mean_s = parse_seconds(values.get("avg", values.get("curr")), _US, what)
    return Runs(
        mean_s,
        parse_whole(match[2], what),
        seconds.get("first"),
        seconds.get("min"),
        seconds.get("max"),
        std_s,
        seconds.get("median"),
    )


def _assign_phases(
    lines: Sequence[str], phases: list[Runs], source: str
) -> tuple[Runs | None, Runs | None]:
    """Tell which phases are the warm-up and the timed runs.

    Where the lines about the phases were not printed, the summary has their means.
    """
    if len(phases) > 2:
        raise OutputParseError(
            f"{source} sums up {len(phases)} phases; expected warm-up and timed runs of one"
            " execution"
        )
    summary = _find_first(_SUMMARY, lines)
    if not phases and summary is not None:
        what = f"{source}: {quote(summary[0])}"
        warm_up_s = parse_seconds_or_zero(summary[1], _US, what)
        timed_s = parse_seconds_or_zero(summary[2], _US, what)
        if timed_s == 0:
            raise OutputParseError(
                f"{source}: {quote(summary[0])} says that inference takes no time; the log is"
                " damaged"
            )
        return Runs(warm_up_s) if warm_up_s else None, Runs(timed_s)
    warm_up = phases[0] if len(phases) == 2 else None
    timed = phases[-1] if phases else None
    return warm_up, timed


def _find_pitfalls(log: TfliteLog, unknown_flags: Sequence[str], tables: int) -> Iterator[Finding]:
    """Find what to know before believing a log's numbers."""
    if unknown_flags:
        text = (
            f"benchmark_model did not know {', '.join(map(quote, unknown_flags))} and ran without;"
            " the setting meant was not in force"
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


def _find_delegates(lines: Sequence[str]) -> Iterator[Finding]:
    """Find out what really computed the network.

    A delegate that was asked for may take all operators, some, or none, and one may come unasked.
    """
    outcomes = {}
    for line in lines:
        match = _DELEGATE.search(line)
        if match:
            outcomes[match[1] or match[2]] = match[3].rstrip(". ")
    for name, outcome in outcomes.items():
        code = "partly_delegated"
        if "completely" in outcome:
            code = "delegate"
        elif outcome.startswith("not "):
            code = "not_delegated"
        yield Finding(code, f"the {name} delegate was asked for: the model graph will {outcome}")
    if "XNNPACK" not in outcomes and _find_first(_XNNPACK, lines) is not None:
        yield Finding(
            "xnnpack",
            "the runtime applied its XNNPACK delegate by itself; without it: use_xnnpack=false",
        )
    for line in lines:
        match = _REPLACED.search(line)
        if match and match[1] != match[2]:
            text = (
                f"{match[3]} took {match[1]} of {match[2]} operators; TensorFlow Lite's own kernels"
                " ran the rest"
            )
            yield Finding("partly_delegated", text)
