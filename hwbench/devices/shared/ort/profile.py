"""Profiles of ONNX Runtime (`SessionOptions.enable_profiling`).

A profile is a list of Chrome trace events, with times in whole microseconds.

An inference is an event `model_run`; what it executed are the events of category `Node` within it
whose names end in `_kernel_time`. Nodes are those of the optimised graph, which is not the one the
runtime was given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hwbench.errors import OutputParseError
from hwbench.records.untrusted import parse_whole, quote

KERNEL = "_kernel_time"
_US = 1e6  # microseconds in a second


@dataclass(frozen=True, slots=True)
class ProfiledRuns:
    """Node times of the profiled inferences.

    Attributes:
        whole_s: Latency of each inference.
        nodes_s: For every executed node, by name, one time per inference; 0 is less than one
            microsecond.
        ops: Operator of every executed node, by name, where the profile says it.
    """

    whole_s: tuple[float, ...]
    nodes_s: Mapping[str, tuple[float, ...]]
    ops: Mapping[str, str] = field(default_factory=dict)

    def select_runs(self, runs: Sequence[int]) -> ProfiledRuns:
        """Select some of the inferences, by number."""
        nodes_s = {name: tuple(times[run] for run in runs) for name, times in self.nodes_s.items()}
        return ProfiledRuns(tuple(self.whole_s[run] for run in runs), nodes_s, self.ops)


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
        runs = _read_spans(run_events)
        kernels = _read_spans(kernel_events)
    except (KeyError, TypeError, AttributeError) as error:
        raise OutputParseError(f"not a profile of ONNX Runtime: {quote(repr(error))}") from error
    last = len(runs) if last is None else last
    # Events do not say to which inference they belong. Both lists are in order of time and
    # inferences follow each other, so one walk along both assigns each kernel to its inference.
    nodes_s: dict[str, list[float]] = {}
    position = 0
    for number, run in enumerate(runs):
        while position < len(kernels) and kernels[position].start <= run.start + run.length:
            node = kernels[position]
            position += 1
            if number >= len(runs) - last:
                nodes_s.setdefault(node.name.removesuffix(KERNEL), []).append(node.length / _US)
    whole_s: tuple[float, ...] = ()
    if last <= len(runs):
        whole_s = tuple(run.length / _US for run in runs[len(runs) - last :])
    if not whole_s or not nodes_s:
        raise OutputParseError(
            f"ONNX Runtime's profile holds {len(runs)} inferences, expected at least {last or 1}"
        )
    if not all(whole_s):
        raise OutputParseError(
            "ONNX Runtime's profile holds an inference of 0 microseconds, so it is damaged; profile"
            " again"
        )
    if any(len(times) != last for times in nodes_s.values()):
        raise OutputParseError(
            "the inferences in ONNX Runtime's profile differ in the nodes they executed"
        )
    ops = {kernel.name.removesuffix(KERNEL): kernel.op for kernel in kernels}
    return ProfiledRuns(
        whole_s,
        {name: tuple(times) for name, times in nodes_s.items()},
        {name: ops[name] for name in nodes_s},
    )


@dataclass(frozen=True, slots=True)
class _Span:
    """One event of a profile.

    Attributes:
        name: What it is.
        op: The operator, where the profile says it.
        start: When it started, in microseconds.
        length: How long it took, in microseconds.
    """

    name: str
    op: str
    start: int
    length: int


def _read_spans(events: Iterable[Mapping[str, Any]]) -> list[_Span]:
    """Read events, and sort them by time."""
    what = "a time in ONNX Runtime's profile"
    spans = [
        _Span(
            event["name"],
            _read_operator(event),
            parse_whole(event["ts"], what, least=0),
            parse_whole(event["dur"], what, least=0),
        )
        for event in events
    ]
    return sorted(spans, key=lambda span: span.start)


def _read_operator(event: Mapping[str, Any]) -> str:
    arguments = event.get("args")
    return str(arguments.get("op_name", "")) if isinstance(arguments, dict) else ""


def _check_events(events: object) -> list[dict[str, Any]]:
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise TypeError("the top level is not a list of events")
    return events
