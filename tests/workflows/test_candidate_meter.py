"""Candidates of a loop: measured beside one baseline, known again, and never the end of a loop."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import hwbench
from hwbench.devices.base import Prepared
from hwbench.devices.virtual.device import Virtual
from hwbench.errors import (
    BuildError,
    DeviceLostError,
    DeviceUnavailableError,
    IncomparableError,
    SchemaError,
    UsageError,
)
from hwbench.network.workload import Workload
from hwbench.records.measurement import Measurement, Settings
from hwbench.stats import Verdict
from hwbench.workflows import meter as devices
from hwbench.workflows.meter import DeviceMeter
from tests.support.models import conv_net

ADDRESS = "virtual:step=1"
WIDTHS = (16, 32, 48, 64)


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A folder with a baseline and candidates that compute less and less."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWBENCH_STORE", str(tmp_path / "store.db"))
    (tmp_path / "base.onnx").write_bytes(conv_net((64, 64)))
    for width in WIDTHS:
        (tmp_path / f"net{width}.onnx").write_bytes(conv_net((64, width), seed=width))
    (tmp_path / "other.onnx").write_bytes(conv_net((64, 64), size=8))
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    return tmp_path


class Counting(DeviceMeter):
    """A device that counts what it measures."""

    def __init__(self, device: Virtual) -> None:
        super().__init__(device, ADDRESS)
        self.measured: list[tuple[list[str], float]] = []

    def measure(
        self, workloads: Sequence[Workload], settings: Settings, callback: object
    ) -> tuple[Measurement, ...]:
        self.measured.append(([workload.name for workload in workloads], settings.budget_s))
        return super().measure(workloads, settings, callback)


class Fragile(Virtual):
    """A device that one model breaks and another cannot be built on; counts how often it opens."""

    opened = 0

    def _open(self) -> None:
        Fragile.opened += 1
        super()._open()

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        if workload.name == "net32.onnx":
            raise DeviceLostError("the runner was killed")
        if workload.name == "net48.onnx":
            raise BuildError("no kernel for this")
        return super()._prepare(workload, settings)


@pytest.fixture
def fragile(monkeypatch):
    Fragile.opened = 0
    monkeypatch.setattr(devices, "open_device", lambda address: Fragile("step=1"))


def test_a_candidate_is_compared_with_the_baseline(nets):
    with hwbench.meter(ADDRESS, baseline="base.onnx", save=False) as meter:
        reading = meter("net32.onnx", budget_s=5)
    assert reading.error is None
    assert reading.verdict is Verdict.FASTER
    assert reading.ci[0] < reading.ratio < reading.ci[1] < 1
    assert reading.verdict_ci[0] < reading.ci[0]
    assert reading.speedup == pytest.approx(1 / reading.ratio)
    whole = hwbench.compare("base.onnx", "net32.onnx", device=ADDRESS, save=False)
    assert reading.ratio == pytest.approx(whole.ratio.ratio, rel=0.02)
    assert reading.latency_s == pytest.approx(whole.candidate.median_s, rel=0.02)


def test_a_candidate_is_known_again_by_its_content(nets):
    (nets / "same.onnx").write_bytes((nets / "net32.onnx").read_bytes())
    with Virtual("step=1") as device:
        counting = Counting(device)
        with hwbench.meter(counting, baseline="base.onnx", save=False) as meter:
            first = meter("net32.onnx", budget_s=1)
            before = list(counting.measured)
            assert meter("same.onnx", budget_s=1) == first
            assert counting.measured == before
            assert len(meter.readings) == 1


def test_a_larger_budget_adds_to_what_is_known(nets):
    with Virtual("step=1") as device:
        counting = Counting(device)
        with hwbench.meter(counting, baseline="base.onnx", save=False) as meter:
            short = meter("net64.onnx", budget_s=0.5)
            longer = meter("net64.onnx", budget_s=2.0)
    assert short.verdict is Verdict.UNRESOLVED
    assert longer.sessions > short.sessions
    assert [budget_s for _, budget_s in counting.measured[1:]] == [0.5, 1.5]


def test_what_cannot_be_read_or_compared_is_an_outcome(nets):
    with hwbench.meter(ADDRESS, baseline="base.onnx", save=False) as meter:
        readings = [meter(name) for name in ("other.onnx", "broken.onnx", "absent.onnx")]
        assert meter("net16.onnx").error is None
    kinds = [type(reading.error) for reading in readings]
    assert kinds == [IncomparableError, SchemaError, UsageError]
    assert {reading.verdict for reading in readings} == {Verdict.INCOMPARABLE}
    assert [reading.ratio for reading in readings] == [None] * 3


def test_a_device_that_a_candidate_broke_is_opened_anew(nets, fragile):
    with hwbench.meter("fragile", baseline="base.onnx", save=False) as meter:
        assert Fragile.opened == 1
        assert isinstance(meter("net32.onnx").error, DeviceLostError)
        assert meter("net16.onnx").error is None
        assert Fragile.opened == 2
        assert isinstance(meter("net48.onnx").error, BuildError)
        assert meter("net16.onnx", budget_s=9).error is None
        assert Fragile.opened == 2


def test_a_device_that_is_gone_ends_the_loop(nets, fragile, monkeypatch):
    def fail(self: Fragile) -> None:
        raise DeviceUnavailableError("unplugged")

    with hwbench.meter("fragile", baseline="base.onnx", save=False) as meter:
        meter("net32.onnx")
        monkeypatch.setattr(Fragile, "_open", fail)
        for _ in range(2):
            with pytest.raises(DeviceUnavailableError, match="unplugged"):
                meter("net16.onnx")


def test_a_baseline_that_cannot_run_is_an_error_at_once(nets, fragile):
    with (
        pytest.raises(BuildError),
        hwbench.meter("fragile", baseline="net48.onnx", save=False),
    ):
        pass


def test_the_fastest_is_ranked_first_and_measured_afresh(nets):
    names = [f"net{width}.onnx" for width in reversed(WIDTHS)]
    with Virtual("step=1") as device:
        counting = Counting(device)
        with hwbench.meter(counting, baseline="base.onnx", save=False) as meter:
            ranking = meter.rank([*names, "broken.onnx"], budget_s=40)
            assert meter("net16.onnx") == ranking.best
    assert [reading.model for reading in ranking.order] == [*reversed(names), "broken.onnx"]
    assert ranking.best.model == "net16.onnx"
    assert ranking.proven
    assert ranking.best.ratio != ranking.order[0].ratio
    heats = counting.measured[1:]
    assert heats[0][0] == ["base.onnx", *names]
    assert heats[-1] == (["base.onnx", "net16.onnx"], 10.0)


def test_who_cannot_run_does_not_keep_the_others_from_racing(nets, fragile):
    names = [f"net{width}.onnx" for width in WIDTHS]
    with hwbench.meter("fragile", baseline="base.onnx", save=False) as meter:
        ranking = meter.rank(names, budget_s=16)
        assert ranking.best.model == "net16.onnx"
        assert [reading.model for reading in ranking.order[:2]] == ["net16.onnx", "net64.onnx"]
        assert {reading.model for reading in ranking.order[2:]} == {"net32.onnx", "net48.onnx"}
        nothing = meter.rank(["net48.onnx", "broken.onnx"])
        assert nothing.best is None
        assert not nothing.proven
        with pytest.raises(UsageError, match="nothing to rank"):
            meter.rank([])


def test_everything_is_kept(nets):
    with hwbench.meter(ADDRESS, baseline="base.onnx") as meter:
        meter("net32.onnx")
    with hwbench.open_store() as store:
        assert {one.model for one in store.list()} == {"base.onnx", "net32.onnx"}
        assert len(store.records("comparison")) == 1
