"""Profiles of ONNX Runtime (`SessionOptions.enable_profiling`).

A profile is a list of Chrome trace events, with times in whole microseconds.

An inference is an event `model_run`; what it executed are the events of category `Node` within it
whose names end in `_kernel_time`. Nodes are those of the optimised graph, which is not the one the
runtime was given.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hwbench.errors import OutputParseError
from hwbench.records.untrusted import parse_whole, quote

KERNEL = "_kernel_time"
_US = 1e6  # microseconds in a second
_WITH_BODIES = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Operators that run graphs of their own."""


@dataclass(frozen=True, slots=True)
class ProfiledRuns:
    """Node times of the profiled inferences.

    Attributes:
        whole_s: Latency of each inference.
        nodes_s: For every executed node, by name, one time per inference, in the order of
            execution; 0 is less than one microsecond. Nodes that share a name are numbered:
            `name`, `name (2)`. The time of a branch or loop contains that of its body, whose nodes
            are not listed.
        ops: Operator of every executed node, by name, where the profile says it.
        entries: Entries of the profile inside the time of a node, by name, itself included; only
            where there are several.
        providers: The execution provider that ran each node, by name, where the profile says it.
    """

    whole_s: tuple[float, ...]
    nodes_s: Mapping[str, tuple[float, ...]]
    ops: Mapping[str, str] = field(default_factory=dict)
    entries: Mapping[str, int] = field(default_factory=dict)
    providers: Mapping[str, str] = field(default_factory=dict)

    @property
    def entries_count(self) -> int:
        """Entries of the profile in one inference."""
        return sum(self.entries.get(name, 1) for name in self.nodes_s)

    def take_off_bodies(self, entry_cost_s: float) -> ProfiledRuns:
        """Take the profiler's cost of nodes in bodies off the node around them.

        It lies within that node's time as a whole, between the nodes of the body too.

        Args:
            entry_cost_s: What an entry of the profile costs in all, seconds.
        """
        nodes_s = dict(self.nodes_s)
        for name, entries in self.entries.items():
            cost_s = (entries - 1) * entry_cost_s
            nodes_s[name] = tuple(max(0.0, time_s - cost_s) for time_s in nodes_s[name])
        return replace(self, nodes_s=nodes_s, entries={})

    def select_runs(self, runs: Sequence[int]) -> ProfiledRuns:
        """Select some of the inferences, by number."""
        nodes_s = {name: tuple(times[run] for run in runs) for name, times in self.nodes_s.items()}
        whole_s = tuple(self.whole_s[run] for run in runs)
        return replace(self, whole_s=whole_s, nodes_s=nodes_s)


def read_trace(profile: bytes, runs: int) -> ProfiledRuns:
    """Read the last `runs` inferences of a profile file that ONNX Runtime wrote.

    Raises:
        OutputParseError: It is not such a profile, or holds fewer inferences.
    """
    try:
        events = json.loads(profile)
    except ValueError as error:
        raise OutputParseError(f"ONNX Runtime's profile cannot be read: {error}") from error
    return read_profile(events, last=runs)


def read_profile(events: object, last: int | None = None) -> ProfiledRuns:
    """Read the JSON of ONNX Runtime's profiler.

    Args:
        events: The parsed JSON.
        last: How many inferences at the end count; those before are warm-up. None for all, the cold
            first one included.

    Raises:
        OutputParseError: It is not such a profile, or inferences differ in the nodes they executed.
    """
    try:
        run_events = []
        kernel_events = []
        for event in _check_events(events):
            if event["name"] == "model_run":
                run_events.append(event)
            if event["cat"] == "Node" and event["name"].endswith(KERNEL):
                kernel_events.append(event)
        runs = _sort_by_time(_read_spans(run_events))
        kernels = _sort_by_time(_drop_bodies(_read_spans(kernel_events)))
    except (KeyError, TypeError, AttributeError) as error:
        raise OutputParseError(f"not a profile of ONNX Runtime: {quote(repr(error))}") from error
    last = len(runs) if last is None else last
    found = _assign_kernels(runs, kernels, last)
    if not found.whole_s or not found.nodes_s:
        raise OutputParseError(
            f"ONNX Runtime's profile holds {len(runs)} inferences, expected at least {last or 1}"
        )
    if not all(found.whole_s):
        raise OutputParseError(
            "ONNX Runtime's profile holds an inference of 0 microseconds, so it is damaged; profile"
            " again"
        )
    if any(len(times) != last for times in found.nodes_s.values()):
        raise OutputParseError(
            "the inferences in ONNX Runtime's profile differ in the nodes they executed"
        )
    return found


def _assign_kernels(runs: Sequence[_Span], kernels: Sequence[_Span], last: int) -> ProfiledRuns:
    """Assign kernels to the last inferences.

    Events do not say to which inference they belong. Both lists are in order of time and inferences
    follow each other, so one walk along both assigns each kernel to its inference.
    """
    nodes_s: dict[str, list[float]] = {}
    ops: dict[str, str] = {}
    entries: dict[str, int] = {}
    providers: dict[str, str] = {}
    position = 0
    for number, run in enumerate(runs):
        names: Counter[str] = Counter()
        while position < len(kernels) and kernels[position].start <= run.start + run.length:
            node = kernels[position]
            position += 1
            if number < len(runs) - last:
                continue
            name = node.name.removesuffix(KERNEL)
            names[name] += 1
            if names[name] > 1:
                name = f"{name} ({names[name]})"
            nodes_s.setdefault(name, []).append(node.length / _US)
            ops[name] = node.op
            if node.provider:
                providers[name] = node.provider
            if node.entries > 1:
                entries[name] = node.entries
    whole_s: tuple[float, ...] = ()
    if last <= len(runs):
        whole_s = tuple(run.length / _US for run in runs[len(runs) - last :])
    return ProfiledRuns(
        whole_s,
        {name: tuple(times) for name, times in nodes_s.items()},
        ops,
        entries,
        providers,
    )


@dataclass(frozen=True, slots=True)
class _Span:
    """One event of a profile.

    Attributes:
        name: What it is.
        op: The operator, where the profile says it.
        provider: The execution provider that ran it, where the profile says it.
        start: When it started, in microseconds.
        length: How long it took, in microseconds.
        entries: Entries of the profile within it, itself included.
    """

    name: str
    op: str
    provider: str
    start: int
    length: int
    entries: int = 1


def _read_spans(events: Iterable[Mapping[str, Any]]) -> list[_Span]:
    what = "a time in ONNX Runtime's profile"
    return [
        _Span(
            event["name"],
            _read_argument(event, "op_name"),
            _read_argument(event, "provider"),
            parse_whole(event["ts"], what, least=0),
            parse_whole(event["dur"], what, least=0),
        )
        for event in events
    ]


def _sort_by_time(spans: Iterable[_Span]) -> list[_Span]:
    return sorted(spans, key=lambda span: span.start)


def _drop_bodies(spans: Iterable[_Span]) -> list[_Span]:
    """Drop the nodes of the bodies of branches and loops, and count them at the node around them.

    The runtime writes an entry when a node ends, so those of a body come before that of the node
    around them, and begin after it.
    """
    kept: list[_Span] = []
    for span in spans:
        entries = 1
        if span.op in _WITH_BODIES:
            while kept and kept[-1].start >= span.start:
                entries += kept.pop().entries
        kept.append(replace(span, entries=entries))
    return kept


def _read_argument(event: Mapping[str, Any], name: str) -> str:
    arguments = event.get("args")
    return str(arguments.get(name, "")) if isinstance(arguments, dict) else ""


def _check_events(events: object) -> list[dict[str, Any]]:
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise TypeError("the top level is not a list of events")
    return events
