"""The language of the native runner (`runners/native/README.md`).

Pure functions from values to plan lines, and from bytes to checked events. The time of a round is
only read if the whole event that it came in is as the protocol says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NoReturn

from hwbench.errors import (
    BuildError,
    DeviceLostError,
    DeviceTimeoutError,
    DeviceUnavailableError,
    HwbenchError,
    OutputParseError,
    UsageError,
)
from hwbench.records.tensors import TensorSpec

PROTOCOL = 2
"""Version of the protocol of this module; the runner's first event has the runner's own."""
CLOCK = "CLOCK_MONOTONIC"
"""The runner's clock: a sample is the difference of two readings on the target."""
MAX_ROUNDS = 100_000
"""Rounds in one plan line; the runner's own limit."""
MAX_EVENT_BYTES = 1 << 22
"""Length of the longest event."""
MAX_FILE_BYTES = 1 << 26
"""Size from which the runner sends no file, and the size that it then announces."""


def plan_line(command: str, *values: str | int | PurePath) -> bytes:
    """Write one line of a plan.

    Only the last value may contain spaces: it is the rest of the line.

    Raises:
        UsageError: A value cannot be written: it has a line break, a NUL or, before the last value,
            a space, or it is empty.
    """
    words = [command, *map(str, values)]
    if any("\n" in word or "\0" in word for word in words):
        raise UsageError(
            f"the native runner cannot take a line break or NUL in {words!r}; rename the file"
        )
    if not all(words) or any(" " in word for word in words[:-1]):
        raise UsageError(
            f"the native runner cannot take {words!r}: only the last may have spaces, and none may"
            " be empty"
        )
    try:
        return os.fsencode(" ".join(words) + "\n")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the native runner cannot take {words!r} ({error}); rename the file"
        ) from error


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_positive(value: object) -> bool:
    return _is_size(value) and value != 0


def _is_samples(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_positive, value))


def _is_tensors(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_tensor, value))


def _is_tensor(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {"name", "type", "shape"}:
        return False
    shape = value["shape"]
    sizes = isinstance(shape, list) and all(map(_is_size, shape))
    return sizes and _is_text(value["name"]) and _is_text(value["type"])


_EVENTS: Mapping[str, Mapping[str, Callable[[object], bool]]] = {
    "hello": {
        "protocol": _is_positive,
        "pid": _is_positive,
        "machine": _is_text,
        "kernel": _is_text,
    },
    "library": {"version": _is_text},
    "set": {"name": _is_text},
    "loaded": {
        "name": _is_text,
        "inputs": _is_tensors,
        "load_ns": _is_positive,
        "first_run_ns": _is_positive,
    },
    "samples": {"clock": _is_text, "loops": _is_positive, "ns": _is_samples},
    "drawn": {"name": _is_text, "inputs": _is_tensors},
    "dumped": {"name": _is_text, "outputs": _is_tensors},
    "unloaded": {"name": _is_text, "profile": _is_text},
    "file": {"bytes": _is_size},
    "bye": {},
    "error": {"code": _is_positive, "where": _is_text, "message": _is_text},
}
_ERRORS: Mapping[int, type[HwbenchError]] = {
    2: UsageError,
    3: DeviceUnavailableError,
    4: BuildError,
    5: DeviceTimeoutError,
}


def parse_event(line: bytes) -> dict[str, Any]:
    """Read one event and check it.

    It must have exactly the fields of its kind, each of its type and in its range.

    Raises:
        OutputParseError: It is anything else.
    """
    try:
        event = json.loads(
            line.decode("utf-8", "replace"),
            parse_constant=_refuse_constant,
            object_pairs_hook=_read_unique_fields,
        )
    except (ValueError, RecursionError) as error:
        raise OutputParseError(
            f"the native runner printed {_excerpt(line)}, which is not an event ({error})"
        ) from error
    kind = event.pop("event", None) if isinstance(event, dict) else None
    fields = _EVENTS.get(kind) if isinstance(kind, str) else None
    if (
        fields is None
        or event.keys() != fields.keys()
        or not all(valid(event[key]) for key, valid in fields.items())
    ):
        raise OutputParseError(
            f"the native runner printed {_excerpt(line)}, which is no event of protocol {PROTOCOL}"
        )
    return {"event": kind, **event}


def expect(event: Mapping[str, Any], kind: str) -> None:
    """Check that an event is of the kind that answers the line just sent.

    Raises:
        OutputParseError: It answers another line.
        UsageError: The runner refused the plan.
        DeviceUnavailableError: It lacks its library, a CPU or a file.
        BuildError: ONNX Runtime refused the model.
        DeviceTimeoutError: The runner's own time limit has passed.
    """
    if event["event"] == "error":
        kind_of_error = _ERRORS.get(event["code"], DeviceLostError)
        raise kind_of_error(f"native runner, {event['where']!r}: {one_line(event['message'])}")
    if event["event"] != kind:
        raise OutputParseError(
            f"the native runner answered {event['event']!r} where {kind!r} was expected"
        )


def latencies(event: Mapping[str, Any], rounds: int, loops: int) -> tuple[float, ...]:
    """Compute the seconds of one inference in each round of a `samples` event.

    Args:
        event: The event.
        rounds: Rounds that were asked for.
        loops: Inferences in each round that were asked for.

    Raises:
        OutputParseError: It holds another number of rounds, or is of other loops or another clock.
    """
    if (len(event["ns"]), event["loops"], event["clock"]) != (rounds, loops, CLOCK):
        answer = f"{len(event['ns'])} samples of {event['loops']} loops on {event['clock']!r}"
        raise OutputParseError(
            f"the native runner returned {answer}; expected {rounds} of {loops} on {CLOCK!r}"
        )
    return tuple(ns / (loops * 1e9) for ns in event["ns"])


def tensor_specs(tensors: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    """Read the tensors of a `loaded` or `dumped` event."""
    return tuple(
        TensorSpec(tensor["name"], tuple(tensor["shape"]), tensor["type"]) for tensor in tensors
    )


def one_line(text: str) -> str:
    """Join the lines of a text with single spaces."""
    return " ".join(text.split())


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _read_unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field occurs twice")
    return fields


def _excerpt(line: bytes) -> str:
    return repr(line[:160])
