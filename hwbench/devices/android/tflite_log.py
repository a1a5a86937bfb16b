"""Reading logs of TensorFlow Lite's `benchmark_model`: text of any version, and CSV files.

CSV files are those of the program's flag `--profiling_output_csv_file`. The summaries that LiteRT's
C API and TensorFlow Lite in a browser print have the same tables.

Every version prints, in microseconds, one `count=.. first=.. avg=..` line after the warm-up and one
after the timed runs, and, where operators were profiled, a table in milliseconds headed `Run
Order`. Columns came and went (`[start]` left in 2021), so a row is read by its header. What else
differs:

* until 2019 the profiler ran during warm-up too, so the operators' averages include it; later only
  the timed runs are profiled;
* later versions profile the initialization as well, in a table of its own, which is not of the
  network;
* a delegate is one row of the table, and a table of its own lists what it executed; LiteRT lists
  its operators in the table itself. Their names (`Convolution (NHWC, F32) IGEMM`) hold commas,
  which separate the cells of a CSV file too;
* LiteRT and the browser sum all inferences up as if they were one: each operator is called as often
  as the network was run;
* Android's logcat, the logger of the time and continuous integration put something before every
  line.

Layout after tensorflow/lite/tools/benchmark and tensorflow/core/util/stats_calculator.cc
(Apache-2.0), read, not copied.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hwbench.devices.shared.log_lines import strip_prefixes
from hwbench.errors import OutputParseError
from hwbench.records.findings import Finding
from hwbench.records.untrusted import parse_seconds, parse_seconds_or_zero, parse_whole, quote

SIGNS = re.compile(
    r"Run Order =|Inference timings in us:|Average inference timings in us:|\bcount=\d+"
    r" (?:first|curr)="
)
"""What stands in a log of `benchmark_model` and in no other format."""

_MS, _US = 1e3, 1e6  # milliseconds and microseconds per second
_ANCHORS = re.compile(
    r"={5,} Run Order =|STARTING!|Log parameter values|(?:Min num|Num) (?:runs|threads): \["
    r"|(?:Timings \(microseconds\): |Memory \(bytes\): )?count=\d+ (?:first|curr)="
    r"|(?:Average inference|Inference) timings in us:"
)
"""How lines begin that nothing else prints."""
_PREFIX = re.compile(
    r"\s*(?:\S+ \S+ +\d+ +\d+ [VDIWEF] [^:]*: |native : \S+ "
    r"|(?:VERBOSE|INFO|WARN(?:ING)?|ERROR): )*"
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
_PLAIN_NUMBER = re.compile(r"[-+.\d]+")
_NUMBER, _SHARE = r"[-+.\w]+", r"[^\s,%]+%"
_INTERNAL = "delegate internal"
"""How the title of the table begins that lists what delegates executed."""
_INVOKED = "DelegateOpInvoke"
"""What the operators of that table are called; which they are is in their names."""
_OF_DELEGATE = "Delegate/"


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
        kind: The operator (`CONV_2D`), that of XNNPACK (`Convolution (NHWC, F32) IGEMM`), or the
            delegate that replaced several.
        name: The tensors it writes, as the log names them, without brackets and number; empty where
            it does not.
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
    lines = [_PREFIX.sub("", line, count=1) for line in strip_prefixes(text, _ANCHORS)]
    if sum(line.strip() == "STARTING!" for line in lines) > 1:
        raise OutputParseError(
            f"{source} holds several executions of benchmark_model; put each into a file of its own"
        )
    run_lines = list(_skip_initialization(lines))
    operators, findings = _parse_tables(run_lines, source)
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
    runs = _count_summed_runs(operators, profiled, timed)
    if runs > 1:
        operators, profiled = _divide_by_runs(operators, profiled, runs)
        text = (
            f"the log counts calls and time of all {runs} inferences; calls are divided by them,"
            " averages are of one call as they stand"
        )
        findings = (*findings, Finding("summed_runs", text))
    log = TfliteLog(source, tuple(parameters), warm_up, timed, profiled, operators)
    findings = (*_find_pitfalls(log, unknown_flags), *findings, *_find_delegates(lines))
    return replace(log, findings=findings)


def _skip_initialization(lines: Sequence[str]) -> Iterator[str]:
    """Leave out the table about the initialization, which stands before that of the runs."""
    in_initialization = False
    for line in lines:
        if "Profiling Info for" in line:
            in_initialization = "Initialization" in line
        if not in_initialization:
            yield line


def _parse_tables(
    lines: Sequence[str], source: str
) -> tuple[tuple[Operator, ...], tuple[Finding, ...]]:
    """Parse the table of the network, and put what a delegate executed in the delegate's place.

    Where several delegates share one table, nothing tells whose rows are whose, so they stay apart.

    Returns:
        The operators, and what was left out.
    """
    tables = []
    title = ""
    for index, line in enumerate(lines):
        if "Run Order =" in line:
            tables.append((title.lower(), index))
            title = ""
        elif line.strip():
            title = line.strip()
    if not tables:
        return (), ()
    operators = tuple(operator for _, operator in _parse_rows(lines, tables[0][1], source))
    delegates = [row for row in operators if _is_delegate(row)]
    internal = [index for title, index in tables[1:] if title.startswith(_INTERNAL)]
    unread = len(tables) - 1
    findings = []
    if len(delegates) == len(internal) == 1 and delegates[0].calls > 0:
        numbered = _parse_rows(lines, internal[0], source)
        numbers = [number for number, _ in numbered]
        if sorted(numbers) == list(range(len(numbers))):
            # They are printed in any order: the profiler does not know when they began.
            inner = [row for _, row in sorted(numbered, key=lambda pair: pair[0])]
            place = operators.index(delegates[0])
            operators = (*operators[:place], *inner, *operators[place + 1 :])
            unread -= 1
            text = f"the operators of {delegates[0].kind} are those of its own table: {len(inner)}"
            findings.append(Finding("delegate_rows", text))
    if unread:
        text = (
            f"the log holds {len(tables)} tables of operators; the first is the network,"
            f" {unread} of the others were not read"
        )
        findings.append(Finding("more_tables", text))
    return operators, tuple(findings)


def _is_delegate(row: Operator) -> bool:
    """Tell whether a row stands for all that a delegate executed."""
    return "delegate" in row.kind.lower()


def _parse_rows(lines: Sequence[str], start: int, source: str) -> list[tuple[int, Operator]]:
    """Parse the rows of the table whose title is line `start`.

    Returns:
        The number behind the name of each, -1 where there is none, and its operator.
    """
    labels, is_csv = _parse_header(lines, start + 1, source)
    pattern = _row_pattern(labels, is_csv=is_csv)
    rows = []
    for line in lines[start + 2 :]:
        if not line.strip() or "=====" in line:
            break
        cells = _split_row(line, pattern, is_csv=is_csv)
        if len(cells) != len(labels):
            raise OutputParseError(
                f"{source}: {quote(line.strip())} has {len(cells)} cells; its table has"
                f" {len(labels)} columns"
            )
        rows.append(dict(zip(labels, map(str.strip, cells), strict=True)))
    _check_complete(rows, lines[start:], source)
    return [_parse_operator(row, source) for row in rows]


def _row_pattern(labels: Sequence[str], *, is_csv: bool) -> re.Pattern[str]:
    """Make the pattern of a row: the numbers of the known columns between two texts.

    Both texts, the type and the name of an operator, may hold what separates the cells.
    """
    mark = ", " if is_csv else " "
    numbers = [f"({_SHARE if label.endswith('%') else _NUMBER})" for label in labels[1:-1]]
    return re.compile(f"(.+?){mark}{mark.join(numbers)}(?:{mark}(.*))?")


def _split_row(line: str, pattern: re.Pattern[str], *, is_csv: bool) -> Sequence[str]:
    """Split a row of a table into cells; one with other cells than its table has is damaged."""
    if is_csv:
        parts = list(map(str.strip, line.split(",")))
        match = pattern.fullmatch(", ".join(parts))
        # A number that is left over means that others hold commas.
        if match and not any(_PLAIN_NUMBER.fullmatch(part) for part in match[1].split(", ")):
            return [cell or "" for cell in match.groups()]
        return parts
    match = pattern.fullmatch(" ".join(line.split()))
    if match:
        return [cell or "" for cell in match.groups()]
    return re.split(r"\t\s*|\s{2,}", line.strip(), maxsplit=pattern.groups - 1)


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


def _parse_operator(cells: dict[str, str], source: str) -> tuple[int, Operator]:
    what = f"{source}: average of operator {quote(cells['name'])}"
    mean_s = parse_seconds_or_zero(cells["avg ms"], _MS, what)
    calls = parse_whole(
        cells["times called"], f"{source}: calls of operator {quote(cells['name'])}", least=0
    )
    numbered = re.fullmatch(r"(.*?)(?::(\d{1,9}))?", cells["name"], re.DOTALL)
    name = numbered[1] if numbered else ""
    number = int(numbered[2]) if numbered and numbered[2] else -1
    name = re.sub(r"^\[(.*)\]$", r"\1", name)
    kind = cells["node type"]
    if kind == _INVOKED:
        kind = name
    if name.startswith(_OF_DELEGATE) or name in {"Delegate", "Builtin"}:
        name = ""  # of no tensor
    return number, Operator(kind.removeprefix(_OF_DELEGATE), name, mean_s or None, calls)


def _count_summed_runs(
    operators: Sequence[Operator], profiled: Runs | None, timed: Runs | None
) -> int:
    """Count the inferences that a table sums up as if they were one.

    Returns:
        As often as most operators were called; 1 if the table tells inferences apart, which the
        spread of their latencies shows, or agrees with those that were timed.
    """
    if not operators or (profiled is not None and profiled.min_s is not None):
        return 1
    runs = Counter(row.calls for row in operators).most_common(1)[0][0]
    if runs <= 1:
        return 1
    sum_s = sum(row.mean_s * row.calls for row in operators if row.mean_s is not None)
    if timed is not None and sum_s < timed.mean_s * runs**0.5:
        return 1
    return runs


def _divide_by_runs(
    operators: Sequence[Operator], profiled: Runs | None, runs: int
) -> tuple[tuple[Operator, ...], Runs | None]:
    """Divide calls, and the latency of the whole, by the inferences that a table sums up.

    An operator whose calls are no multiple of them, as one that ran in the first inference alone,
    keeps its time of all inferences.
    """
    divided = []
    for row in operators:
        calls = max(1, round(row.calls / runs))
        mean_s = row.mean_s
        if mean_s is not None:
            mean_s *= row.calls / (runs * calls)
        divided.append(replace(row, calls=calls, mean_s=mean_s))
    if profiled is not None:
        profiled = Runs(profiled.mean_s / runs, runs)
    return tuple(divided), profiled


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
    pairs = re.findall(r"(\w+)=([-+.\w]+)", match[3])
    values = dict(pairs)
    if len(values) < len(pairs):
        raise OutputParseError(f"{what} says one thing several times, so {source} is damaged")
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


def _find_pitfalls(log: TfliteLog, unknown_flags: Sequence[str]) -> Iterator[Finding]:
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
    delegates = [row.kind for row in log.operators if _is_delegate(row)]
    if delegates:
        yield Finding(
            "delegated",
            f"rows that are delegates, each standing for several layers: {len(delegates)},"
            f" {quote(delegates[0])} first",
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
