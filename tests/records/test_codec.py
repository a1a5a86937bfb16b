"""The codec of records: documents stay what they were, and nothing that is none is believed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.errors import SchemaError
from hwbench.lab.tasks import Task
from hwbench.lookup_tables.exchange.foreign_network import ForeignNetwork
from hwbench.lookup_tables.making.networks import NetworkSample
from hwbench.lookup_tables.metadata import Metadata
from hwbench.records.codec import from_plain, to_plain
from hwbench.records.comparison import compare
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.findings import Finding
from hwbench.records.measurement import Measurement, Settings
from hwbench.records.series import Series, SeriesBuilder
from hwbench.render.documents import compare_document, profile_document
from hwbench.search.base import Candidate, Outcome, Trial
from tests.store.records import measurement

DOCUMENTS = json.loads((Path(__file__).parents[1] / "data" / "documents.json").read_text())
"""One document of each kind, as the codecs written by hand wrote it."""
KINDS: dict[str, Any] = {
    "measurement": Measurement,
    "table_metadata": Metadata,
    "network_sample": NetworkSample,
    "foreign_network": ForeignNetwork,
    "trial": Trial,
    "failed_trial": Trial,
    "task": Task,
}
OPTIONAL = {
    "measurement": {"threads", "isolate", "budget_s", "min_sessions", "max_sessions", "session_s"}
    | {"min_round_s", "target", "min_effect", "seed", "layers", "calls", "dtype", "details"}
    | {"frequency_hz", "governor", "temperature_c", "load_1m", "battery", "charging", "throttled"},
}
"""Fields that an older version did not have, or that a driver may not know: they have a default."""

TAILS = {f"p{share}{part}_s" for share in (50, 90, 95, 99) for part in ("", "_ci")}
TAILS |= {"worst_s", "tail"}
LOADS = {"sustain_s", "sustained", "slowdown", "steady_speedup", "steady_speedup_ci"}
CEILINGS = {"ceilings", "ceiling_share", "bound_by"}
LATER = {
    "measurement": {"stop_at_difference", "starts", "tail", "ci_s", "is_bound"},
    "task": {"stop_at_difference", "tail", "sustain_s"},
    "profile": {"stop_at_difference", "load_s", "load_ci_s", "first_run_s", "first_run_ci_s"}
    | {"peak_memory_ci_bytes", "ci_s", "is_bound", *TAILS, *LOADS, *CEILINGS},
    "comparison": {
        "stop_at_difference",
        "saved_margin_s",
        "accuracy_drop",
        "agreement",
        "outputs",
        "quality",
    }
    | {"start", "load_s", "load_ci_s", "first_run_s", "first_run_ci_s", "peak_memory_ci_bytes"}
    | TAILS
    | LOADS,
}
"""Fields that are written today and came after `DOCUMENTS` were."""


def without_later(kind: str, data: Any) -> Any:
    """A document without the fields that came later."""
    if isinstance(data, list):
        return [without_later(kind, value) for value in data]
    if isinstance(data, dict):
        kept = data.keys() - LATER.get(kind, set())
        return {name: without_later(kind, data[name]) for name in data if name in kept}
    return data


def parts(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything inside a document."""
    if path:
        yield path
    if isinstance(data, dict | list):
        for name, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from parts(value, (*path, name))


def at(data: Any, path: tuple[Any, ...]) -> Any:
    """What stands at a path of a document."""
    for name in path:
        data = data[name]
    return data


def changed(data: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy of a document, changed at a path."""
    data = copy.deepcopy(data)
    holder = data
    for name in path[:-1]:
        holder = holder[name]
    change(holder, path[-1])
    return data


@pytest.mark.parametrize("name", KINDS)
def test_documents_are_written_as_before(name):
    record = KINDS[name].from_dict(DOCUMENTS[name])
    written = json.loads(json.dumps(record.to_dict()))
    assert json.dumps(without_later(name, written)) == json.dumps(DOCUMENTS[name])
    assert KINDS[name].from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_what_commands_print_is_written_as_before():
    compared = compare(measurement(), measurement(id="4567def"))
    for name, document in (
        ("profile", profile_document(measurement())),
        ("comparison", compare_document(compared)),
    ):
        printed = without_later(name, json.loads(json.dumps(document)))
        for side in ("baseline", "candidate"):
            for later in ("address", "runtime"):  # names that other parts had before, too
                printed.get(side, {}).pop(later, None)
        before = copy.deepcopy(DOCUMENTS[name])
        for texts in (printed, before):
            texts.pop("findings")  # their words may change
        assert list(parts(printed)) == list(parts(before))
        for path in parts(before):
            value = at(before, path)
            if not isinstance(value, dict | list):
                assert at(printed, path) == (
                    pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
                )


@pytest.mark.parametrize("name", KINDS)
def test_a_value_of_another_kind_is_refused_wherever_it_stands(name):
    document = DOCUMENTS[name]
    for path in parts(document):
        if name == "task" and path[0] in {"workloads", "arguments"}:
            continue  # any plain data: whoever carries the task out reads them

        def spoil(holder: Any, key: Any) -> None:
            holder[key] = {"no": ["such"]} if not isinstance(holder[key], dict) else 3

        with pytest.raises(SchemaError):
            KINDS[name].from_dict(changed(document, path, spoil))


def test_a_missing_field_is_refused_wherever_it_stands():
    document = DOCUMENTS["measurement"]
    for path in parts(document):
        if isinstance(path[-1], int) or path[-1] in OPTIONAL["measurement"]:
            continue
        with pytest.raises(SchemaError):
            Measurement.from_dict(changed(document, path, lambda holder, key: holder.pop(key)))


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"network_sample"}))
def test_an_unknown_field_is_refused(name):
    with pytest.raises(SchemaError, match="surprise"):
        KINDS[name].from_dict(DOCUMENTS[name] | {"surprise": 1})


@pytest.mark.parametrize(
    ("kind", "data", "fault"),
    [
        (Settings, {"threads": "1"}, "'1' is no whole number @ record.threads"),
        (Settings, {"threads": True}, "True is no whole number"),
        (Settings, {"isolate": 1}, "1 is no true or false"),
        (Settings, {"target": "0.1"}, "'0.1' is no number"),
        (Settings, {"threads": 1.0}, "1.0 is no whole number"),
        (Finding, {"code": "x"}, "required field missing @ record.text"),
        (Finding, [], "damaged finding"),
        (Series, {"samples_s": "12", "session": [0, 0]}, "'12' is no list"),
        (Series, {"samples_s": [1.0], "session": []}, "differ in number"),
        (Candidate, {"number": 1, "dropped": "layer1"}, "'layer1' is no list"),
    ],
)
def test_faults_are_named_with_their_place(kind, data, fault):
    with pytest.raises(SchemaError, match="damaged") as caught:
        from_plain(kind, data, kind.__name__.lower())
    assert fault in str(caught.value)


def test_many_faults_are_not_all_named():
    with pytest.raises(SchemaError, match=r"; and \d+ more$"):
        from_plain(DeviceInfo, {}, "device")


RECORDS = st.one_of(
    st.builds(DeviceInfo),
    st.builds(Conditions),
    st.builds(Candidate),
    st.builds(Outcome, quality=st.floats(0, 1) | st.none(), latency_s=st.none()),
    st.builds(Finding),
)


@given(RECORDS)
def test_any_record_survives_json(record):
    try:
        text = json.dumps(to_plain(record), allow_nan=False)
    except ValueError:  # a record with NaN or infinity is not for JSON
        return
    assert from_plain(type(record), json.loads(text), "record") == record


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.floats(1e-6, 1.0), max_size=4))))
def test_a_series_grows_as_samples_arrive(parts_s):
    builder, blocks = SeriesBuilder(), 0
    for session, samples_s in parts_s:
        builder.add(session, samples_s, range(blocks, blocks + len(samples_s)))
        blocks += len(samples_s)
    series = builder.build()
    assert series.block == tuple(range(blocks))
    assert len(series) == blocks
    assert series.sessions == len({session for session, samples_s in parts_s if samples_s})
    for number in range(4):
        own = [value for session, samples_s in parts_s for value in samples_s if session == number]
        assert series.of_session(number).samples_s == tuple(own)


def test_the_session_in_progress_can_be_taken_back():
    builder = SeriesBuilder()
    builder.add(0, [1.0, 2.0], [0, 1])
    assert list(builder.take_session(1)) == []
    builder.add(1, [3.0], [2])
    assert list(builder.take_session(1)) == [3.0]
    assert builder.build() == Series((1.0, 2.0), (0, 0), (0, 1))
