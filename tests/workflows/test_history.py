"""The history of a model: one timeline for each way of measuring, its changes and their causes."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

import hwbench
from hwbench.devices.virtual.device import Virtual
from hwbench.errors import UsageError
from hwbench.measuring.sessions import measure
from hwbench.records.measurement import Measurement, Settings
from hwbench.version import commit_here
from tests.support.models import told

START = datetime(2026, 3, 1, tzinfo=UTC)
SLOWER_FROM = 7
COMMITS = 12


def point(number: int, **changes: object) -> Measurement:
    """What was measured at one commit; from the eighth on, 3 % slower and with another runtime."""
    workload = told("net")
    slower = number >= SLOWER_FROM
    truth = {workload.sha256: 1.03e-3 if slower else 1e-3}
    with Virtual(latencies_s=truth, seed=number) as device:
        settings = Settings(budget_s=1, layers=False, seed=number)
        record = measure(device, workload, settings)
    runtime = "runtime 1.1" if slower else "runtime 1.0"
    details = (("kernel", "6.2" if slower else "6.1"), ("isa", "avx2"))
    return replace(
        record,
        started_utc=(START + timedelta(days=number)).isoformat(),
        source_commit=f"{number:x}" * 40,
        device=replace(record.device, runtime=runtime, details=details),
        **changes,
    )


@pytest.fixture(scope="module")
def points() -> list[Measurement]:
    return [point(number) for number in range(COMMITS)]


@pytest.fixture
def store(tmp_path, points):
    """A store with the points, in no order."""
    address = str(tmp_path / "store.db")
    with hwbench.open_store(address) as opened:
        for record in reversed(points):
            opened.save(record)
    return address


def test_the_slower_commit_is_named_with_what_changed(store, points):
    history = hwbench.read_history("net", store=store)
    (timeline,) = history.timelines
    assert timeline.points == tuple(points)
    (change,) = timeline.changes
    assert change.step.index == SLOWER_FROM
    assert change.step.ratio == pytest.approx(1.03, rel=0.01)
    facts = {name: (before, after) for name, before, after in change.facts}
    assert facts["runtime"] == ("runtime 1.0", "runtime 1.1")
    assert facts["device: kernel"] == ("6.1", "6.2")
    assert facts["commit"] == ("6" * 12, "7" * 12)
    assert "device: isa" not in facts
    assert "model" not in facts
    assert [len(segment) for segment in timeline.segments] == [SLOWER_FROM, COMMITS - SLOWER_FROM]


def test_a_change_that_does_not_matter_is_none(store):
    (timeline,) = hwbench.read_history("net", min_effect=0.05, store=store).timelines
    assert timeline.changes == ()
    assert len(timeline.segments) == 1


def test_what_was_measured_otherwise_is_a_timeline_of_its_own(store, points):
    with hwbench.open_store(store) as opened:
        other = replace(points[0], id="other", settings=replace(points[0].settings, threads=2))
        opened.save(replace(other, started_utc="2026-06-01T00:00:00+00:00"))
        opened.save(replace(points[1], id="killed", complete=False))
    history = hwbench.read_history("net", store=store)
    assert [len(timeline.points) for timeline in history.timelines] == [1, COMMITS]
    assert len(hwbench.read_history("net", device="virtual", store=store).timelines) == 2


def test_what_is_not_stored_has_no_history(store):
    with pytest.raises(UsageError, match="no measurement of 'absent'"):
        hwbench.read_history("absent", store=store)
    with pytest.raises(UsageError, match="on cpu"):
        hwbench.read_history("net", device="cpu", store=store)


def test_a_measurement_knows_the_commit_of_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commit_here() is None
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    for words in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "one"],
    ):
        subprocess.run(["git", *words], check=True, timeout=60)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()
    workload = told("net")
    with Virtual(latencies_s={workload.sha256: 1e-3}) as device:
        record = measure(device, workload, Settings(budget_s=1, layers=False))
    assert record.source_commit == head
    assert Measurement.from_dict(record.to_dict()) == record
    earlier = {name: value for name, value in record.to_dict().items() if name != "source_commit"}
    assert Measurement.from_dict(earlier).source_commit is None
