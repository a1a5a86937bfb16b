"""Bounds on what a lookup table can hold, checked wherever one is read from a file or a store.

A number that no device and no network has would be found only later, where a curve is fitted or a
report is drawn, and there nobody can say any more where it came from. The bounds are wide enough
for everything that exists, and narrow enough that products and squares of what passes stay within
what a float holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any, get_args, get_origin, get_type_hints

from hwbench.errors import SchemaError
from hwbench.lookup_tables.metadata import Calibration, Entry, Grade, Metadata, Source
from hwbench.records.layer_key import LayerKey
from hwbench.records.tensors import Shape
from hwbench.records.untrusted import MAX_SECONDS, MIN_SECONDS, quote

MAX_CHANNELS, MAX_RANK = 1 << 24, 8
MAX_ELEMENTS = 1 << 48
"""Largest tensor, elements."""
MAX_WORK = 1 << 90
"""Most multiply-accumulates, or weights, of one layer."""
MAX_COUNT = 10**9
"""Most samples, networks, layers or threads."""
MAX_RELATIVE = 1e6
"""Largest relative deviation or error."""
MAX_SHARED = 10.0
"""Largest relative deviation that layers share."""
MAX_SPAN = 10.0
"""Networks e**10 times smaller or larger than others of one table do not exist.

With it no curve leaves what a float can hold.
"""


def is_latency(value: float) -> bool:
    """Whether a layer can take so many seconds; 0 where it is computed inside a neighbour."""
    return value == 0 or MIN_SECONDS <= value <= MAX_SECONDS


def check_entry(key: LayerKey, entry: Entry) -> None:
    """Refuse an entry whose numbers no measurement gives.

    Raises:
        SchemaError: A number is of the wrong type, or out of bounds.
    """
    sound = (
        conforms(entry, Entry)
        and is_latency(entry.latency_s)
        and 0 <= entry.sd <= MAX_RELATIVE
        and 1 <= entry.samples <= MAX_COUNT
    )
    if not sound:
        numbers = ", ".join(
            f"{field.name}={quote(getattr(entry, field.name))}" for field in fields(entry)
        )
        raise SchemaError(
            f"entry of {key} holds Entry({numbers}); expected 0 or {MIN_SECONDS:g} to"
            f" {MAX_SECONDS:g} seconds, a deviation, and samples"
        )


def check_key(key: LayerKey) -> None:
    """Refuse a key that describes no possible layer.

    Raises:
        SchemaError: A shape has too many or too large sizes, or the layer more work than any.
    """
    shapes: tuple[Shape, ...] = (*key.inputs, key.output)
    sound = all(_is_shape(shape) for shape in shapes) and key.groups <= MAX_CHANNELS
    if not (sound and key.weights <= MAX_WORK and key.macs <= MAX_WORK):
        raise SchemaError(
            f"entry of {quote(str(key))}: no possible layer, as its sizes are out of bounds"
        )


def _is_shape(shape: Shape) -> bool:
    if len(shape) > MAX_RANK or not all(0 < size <= MAX_CHANNELS for size in shape):
        return False
    return math.prod(shape) <= MAX_ELEMENTS


def check_read_table(entries: Mapping[LayerKey, Entry], metadata: Metadata) -> None:
    """Refuse a table from a file or a store that holds what no table can.

    Raises:
        SchemaError: A key, a number or a time is of the wrong type, or out of bounds.
    """
    for key, entry in entries.items():
        check_key(key)
        check_entry(key, entry)
    provenance = metadata.provenance
    sound = (
        conforms(metadata, Metadata)
        and _is_calibration(metadata.calibration)
        and all(_is_grade(grade) for grade in metadata.grades)
        and all(is_source(source) for source in provenance.sources)
        and 1 <= provenance.threads <= MAX_COUNT
        and _is_time(provenance.created_utc)
    )
    if not sound:
        raise SchemaError("values of the metadata are of the wrong type or impossible")


def _is_calibration(calibration: Calibration) -> bool:
    low, high = calibration.span
    return (
        MIN_SECONDS <= calibration.reference_s <= MAX_SECONDS
        and 0 <= calibration.per_layer_s <= MAX_SECONDS
        and -1 < calibration.context <= 1
        and -1 < calibration.bend <= 1
        and -MAX_SPAN <= low <= high <= MAX_SPAN
        # Larger networks take longer.
        and all(1 + calibration.context + 2 * calibration.bend * end > 0 for end in (low, high))
        and 0 <= calibration.shared_sd <= MAX_SHARED
        and 0 <= calibration.networks <= MAX_COUNT
    )


def _is_grade(grade: Grade) -> bool:
    errors = (grade.mean_error, grade.p95_error, grade.rmspe, grade.noise)
    shares = (grade.within_5, grade.within_10, grade.coverage)
    return (
        0 <= grade.networks <= MAX_COUNT
        and all(0 <= error <= MAX_RELATIVE for error in errors)
        and all(0 <= share <= 1 for share in shares)
        and -MAX_RELATIVE <= grade.bias <= MAX_RELATIVE
        and -1.001 <= grade.rank <= 1.001  # a correlation, rounded
    )


def is_source(source: Source) -> bool:
    """Whether the numbers of a source can be those of a model that was measured."""
    counts = (source.layers, source.networks, source.disturbed)
    return (
        is_latency(source.latency_s)
        and all(0 <= count <= MAX_COUNT for count in counts)
        and 1 <= source.step <= MAX_CHANNELS
        and 0 <= source.lower <= 1
    )


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def conforms(value: Any, hint: Any) -> bool:
    """Whether a value, and all in it, is what the type says; numbers are finite."""
    if is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        return isinstance(value, hint) and all(
            conforms(getattr(value, one.name), hints[one.name]) for one in fields(hint)
        )
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        kinds = kinds[:1] * len(value) if Ellipsis in kinds else kinds
        return (
            isinstance(value, tuple)
            and len(value) == len(kinds)
            and all(map(conforms, value, kinds))
        )
    if hint is float:
        # Compared, not converted: a whole number may be larger than any float.
        return type(value) in {int, float} and -math.inf < value < math.inf
    return type(value) is hint
