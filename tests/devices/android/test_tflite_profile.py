"""A TensorFlow Lite model from its file to the record, on Google's adbd and on the Python one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from hwbench.errors import DeviceError, DeviceTimeoutError, OutputParseError, UsageError
from hwbench.lookup_tables.exchange import foreign_files
from hwbench.lookup_tables.exchange.foreign_files import TfliteLog
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.stopping import COOL_DOWN_S
from hwbench.records.measurement import Measurement, Settings
from hwbench.store import open_store
from hwbench.workflows import profile_tflite as room
from hwbench.workflows.profile_tflite import profile_tflite
from hwbench.workflows.table_files import import_table
from tests.devices.android.phone_support import fake, on, rig
from tests.devices.android.pyadbd_phone import needs_namespace
from tests.devices.android.rig import Rig
from tests.devices.android.tflite_support import SLEEP_S, model, stand_in
from tests.support.models import conv_net

QUICK = Settings(budget_s=8.0, session_s=0.1, min_sessions=8, max_sessions=8)
ONCE = replace(QUICK, max_sessions=2, layers=False)
KINDS = pytest.mark.parametrize("kind", ["amd64", pytest.param("python", marks=needs_namespace)])


@pytest.fixture(scope="module")
def places() -> Iterator[Callable[[str], str]]:
    """Addresses of phones that start when they are first asked for."""
    with ExitStack() as stack:
        found: dict[str, str] = {}

        def place(kind: str) -> str:
            if kind not in found:
                found[kind] = stack.enter_context(fake() if kind == "python" else rig(kind)).address
            return f"android:{on(found[kind])}"

        yield place


@pytest.fixture
def phone() -> Iterator[Rig]:
    with rig("amd64") as running:
        yield running


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.tflite"
    path.write_bytes(model())
    return path


def codes(record: Measurement) -> dict[str, str]:
    return {finding.code: finding.text for finding in record.findings}


@KINDS
@pytest.mark.parametrize("form", [2019, 2024])
def test_a_record_of_fresh_processes(
    places: Callable[[str], str], kind: str, form: int, net: Path, tmp_path: Path
) -> None:
    store = str(tmp_path / "store.sqlite")
    record = profile_tflite(
        net,
        stand_in(form),
        device=places(kind),
        settings=QUICK,
        store=store,
        save_log=tmp_path / "logs",
    )
    assert record.complete
    assert record.series.session == record.series.block == tuple(range(8))
    assert all(SLEEP_S < sample_s < 5 * SLEEP_S for sample_s in record.series.samples_s)
    assert len(record.warm_up.samples_s) == 8
    assert (record.model, record.macs, record.inputs[0].shape) == (str(net), 55296, (1, 16, 16, 3))
    assert record.device.address == places(kind)
    assert record.device.runtime.startswith("TensorFlow Lite benchmark_model ")
    assert record.before.battery is not None
    assert record.after.frequency_hz
    assert ("xnnpack" in codes(record)) == (form == 2024)
    _check_layers(record)
    _check_logs(tmp_path / "logs", record)
    with open_store(store) as kept:
        assert kept.get(record.id) == record


def _check_layers(record: Measurement) -> None:
    assert record.profile is not None
    assert [row.op for row in record.profile.layers] == [
        "CONV_2D",
        "AVERAGE_POOL_2D",
        "FULLY_CONNECTED",
        "SOFTMAX",
    ]
    assert "net/flat" in codes(record)["below_resolution"], (
        "what takes no time that the log can tell has no latency"
    )
    assert record.profile.layers[0].median_s == pytest.approx(record.median_s / 2, rel=0.3)
    assert record.closure == pytest.approx(1, abs=0.3)


def _check_logs(folder: Path, record: Measurement) -> None:
    """Every execution's log is one that the reader of such logs takes, with the numbers of the
    record.
    """
    logs = {path.stem: foreign_files.read(path) for path in folder.iterdir()}
    assert set(logs) == {"look", "layers", *(f"session-{number:02d}" for number in range(1, 9))}
    means_s = [
        log.timed.mean_s
        for name, log in sorted(logs.items())
        if isinstance(log, TfliteLog) and "session" in name
    ]
    assert means_s == list(record.series.samples_s)
    assert all(log.timed.count == record.loops for name, log in logs.items() if name != "look")


def test_the_log_of_the_layers_imports_into_a_table(
    places: Callable[[str], str], net: Path, tmp_path: Path
) -> None:
    store, settings = str(tmp_path / "store.sqlite"), replace(QUICK, max_sessions=2)
    profile_tflite(
        net,
        stand_in(2024),
        device=places("amd64"),
        settings=settings,
        save=False,
        save_log=tmp_path / "logs",
    )
    (tmp_path / "net.onnx").write_bytes(conv_net((8,)))
    log = tmp_path / "logs" / "layers.log"
    found = import_table(
        [log], format="tflite-log", model=tmp_path / "net.onnx", name="rig", store=store
    )
    assert found.table.provenance.threads == 1
    assert found.id is not None


@pytest.mark.qemu
def test_it_runs_on_64_bit_arm(places: Callable[[str], str], net: Path) -> None:
    """Under emulation: evidence of behaviour, never of a latency."""
    record = profile_tflite(
        net,
        stand_in(2024, "aarch64"),
        device=places("arm64"),
        settings=replace(ONCE, budget_s=60),
        save=False,
    )
    assert record.series.session == (0, 1)
    assert min(record.series.samples_s) > SLEEP_S
    assert "rig_arm64" in dict(record.device.details)["build"]


def test_delegates_that_take_some_or_nothing_are_findings(
    places: Callable[[str], str], net: Path
) -> None:
    flags = {"use_gpu": "true", "use_nnapi": "true", "use_xnnpack": "false"}
    record = profile_tflite(
        net, stand_in(2024), device=places("amd64"), flags=flags, settings=ONCE, save=False
    )
    told = codes(record)
    assert "GPU" in told["partly_delegated"]
    assert "NNAPI" in told["not_delegated"]
    assert "xnnpack" not in told
    assert record.profile is None
    assert (
        dict(record.device.details)["flags"]
        == "--use_gpu=true --use_nnapi=true --use_xnnpack=false"
    )


def test_sessions_that_do_not_fit_the_budget_are_missed(
    places: Callable[[str], str], net: Path
) -> None:
    settings = replace(QUICK, budget_s=0.5, max_sessions=100, layers=False)
    record = profile_tflite(
        net, stand_in(2024), device=places("amd64"), settings=settings, save=False
    )
    assert len(record.series.samples_s) == 2
    assert "2 of at least 8 sessions" in codes(record)["too_few_samples"]


class _Heat(MeasuringCallback):
    """The phone gets hot in its second session."""

    def __init__(self, phone: Rig) -> None:
        self.phone, self.warm_ups = phone, 0

    def sampled(
        self,
        record: int,
        session: int,
        samples_s: Sequence[float],
        blocks: Sequence[int],
        *,
        warm_up: bool,
    ) -> None:
        self.warm_ups += warm_up
        if self.warm_ups == 2:
            self.phone.set_thermal_status(3)


def test_a_throttled_session_is_repeated_when_the_phone_has_cooled(
    phone: Rig, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        phone.set_thermal_status(0)

    monkeypatch.setattr(room.time, "sleep", sleep)
    settings = replace(QUICK, budget_s=20, max_sessions=3, layers=False)
    record = profile_tflite(
        net,
        stand_in(2024),
        device=f"android:{on(phone.address)}",
        settings=settings,
        save=False,
        callback=_Heat(phone),
    )
    assert waits == [COOL_DOWN_S]
    assert "waited 5 s" in codes(record)["throttled"]
    assert record.series.session == (0, 1, 2)
    assert record.warm_up.session == (0, 1, 1, 1, 2), "the hot session's sample counts as warm-up"


def test_what_was_measured_before_a_failure_is_kept(
    phone: Rig, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unplugs(MeasuringCallback):
        def session_ended(self, sessions: int, elapsed_s: float, so_far: object) -> None:
            if sessions == 3:
                phone.kill()

    monkeypatch.setattr(room, "START_S", 2.0)
    store, device = str(tmp_path / "store.sqlite"), f"android:{on(phone.address)}"
    with pytest.raises(DeviceError):
        profile_tflite(
            net, stand_in(2024), device=device, settings=QUICK, store=store, callback=Unplugs()
        )
    with open_store(store) as kept:
        record = kept.get(kept.list()[0].id)
    assert not record.complete
    assert record.series.session == (0, 1, 2)


def test_a_program_that_hangs_is_ended(
    places: Callable[[str], str], net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOOK_S", 2.0)
    with pytest.raises(DeviceTimeoutError):
        profile_tflite(
            net,
            stand_in(2024),
            device=places("amd64"),
            flags={"benchmark_name": "hang"},
            settings=ONCE,
            save=False,
        )


@pytest.mark.parametrize("form", [2019, 2024])
def test_fewer_inferences_than_asked_for_are_no_measurement(
    places: Callable[[str], str], net: Path, form: int
) -> None:
    with pytest.raises(OutputParseError, match="timed 2 inferences where 3"):
        profile_tflite(
            net,
            stand_in(form),
            device=places("amd64"),
            flags={"benchmark_name": "fewer"},
            settings=ONCE,
            save=False,
        )


def test_requests_that_cannot_be_met_are_refused_before_a_phone_is_looked_for(
    net: Path, tmp_path: Path
) -> None:
    program = stand_in(2024)
    with pytest.raises(UsageError, match=r"measures on phones, not on .*; pass device='android'"):
        profile_tflite(net, program, device="cpu")
    with pytest.raises(UsageError, match="budget"):
        profile_tflite(net, program, settings=replace(QUICK, budget_s=0))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot make the folder"):
        profile_tflite(net, program, save_log=tmp_path / "file" / "logs")
