from __future__ import annotations

import pytest

from hwbench.devices.shared.lock import DeviceLock
from hwbench.devices.virtual.device import Fault, Throttling
from hwbench.errors import DeviceUnavailableError, UsageError
from hwbench.lab.nodes import TOKEN, TOKEN_FILE, make_token, ray_environment
from hwbench.lab.pool import Pool
from hwbench.lab.records import Lease, MemberState
from hwbench.lab.serving import BACK_S, Service
from hwbench.lab.tasks import Task, TaskKind, describe_workload
from runners.studies._lab_simulation import Specimen
from tests.lab.lab_support import LAW, SETTINGS, Clock
from tests.support.models import conv_workload

NET = conv_workload((16, 24, 32))


class EndError(Exception):
    """Ends a service, which never ends by itself."""


class Office:
    """The pool in this process.

    It ends the service when there is no more work, and notes what it is told.
    """

    def __init__(self, tasks: int) -> None:
        self.pool, self.told = Pool(Clock()), []
        arguments = {"widths": [8, 12, 16], "effort": {"turns": 3, "runs": 4}, "anchor_every": 4}
        every = [
            Task(
                str(n),
                TaskKind.NETWORK,
                (describe_workload(NET),),
                SETTINGS,
                60.0,
                {**arguments, "number": n},
            )
            for n in range(tasks)
        ]
        self.pool.submit("job", every, title="job", client="ann", wanted="*")

    def join(self, name, info) -> int:
        return self.pool.join(name, info)

    def lease(self, name, incarnation, *, hot, wait_s) -> Lease:
        lease = self.pool.lease(name, incarnation, hot=hot)
        self.told.append(
            "hot" if hot else "work" if lease.tasks else "expelled" if lease.expelled else "idle"
        )
        if self.told[-1] == "idle":
            raise EndError
        return lease

    def report(self, name, incarnation, task_id, outcome) -> bool:
        return self.pool.report(name, incarnation, task_id, outcome)

    def fail(self, name, incarnation, reason) -> None:
        self.told.append("failed")
        self.pool.fail(name, incarnation, reason)

    def model(self, sha256) -> bytes:
        self.told.append("model")
        return NET.onnx


@pytest.fixture(autouse=True)
def _own_locks(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def serve(office, make, sleep=lambda _: None) -> None:
    with pytest.raises(EndError):
        Service("virtual:seed=1", "virtual:seed=1@x", office, sleep, make).run()


def test_a_device_works_until_nothing_is_left_and_fetches_a_model_once():
    office = Office(3)
    serve(office, lambda _: Specimen(law=LAW))
    results = office.pool.collect("job", "ann")
    assert set(results) == {"0", "1", "2"}
    assert all("result" in outcome for outcome in results.values())
    assert office.told.count("model") == 1


def test_a_device_that_fails_says_so_rests_and_comes_back():
    office, lives, rests = Office(3), iter([[Fault("lost", 40)], []]), []
    serve(office, lambda _: Specimen(law=LAW, faults=next(lives)), rests.append)
    assert office.told.count("failed") == 1
    assert rests == [BACK_S]
    assert office.pool.members["virtual:seed=1@x"].incarnation == 2
    assert set(office.pool.collect("job", "ann")) == {"0", "1", "2"}


def test_one_that_does_not_open_is_tried_less_and_less_often():
    rests = []

    def make(_):
        if len(rests) == 8:
            raise EndError
        return Specimen(law=LAW, faults=[Fault("open")])

    serve(Office(1), make, rests.append)
    assert rests[:4] == [5, 10, 20, 40]
    assert rests[-1] == 300


def test_a_hot_device_rests_and_its_work_is_free_for_others():
    office = Office(4)
    serve(
        office,
        lambda _: Specimen(law=LAW, noise=[Throttling(after_s=1.0, factor=1.0, recovery_s=3)]),
    )
    assert "hot" in office.told
    assert set(office.pool.collect("job", "ann")) == {"0", "1", "2", "3"}


def test_work_that_heats_every_device_is_given_up():
    office = Office(1)
    serve(
        office,
        lambda _: Specimen(law=LAW, noise=[Throttling(after_s=0.01, factor=1.0, recovery_s=3)]),
    )
    assert "slowed itself down" in office.pool.collect("job", "ann")["0"]["text"]


def test_one_that_was_expelled_joins_anew():
    office = Office(2)
    lease, count = office.lease, iter(range(100))

    def interrupted(name, incarnation, **given):
        if next(count) == 1:
            office.pool.fail(name, incarnation, "was not heard of")
        return lease(name, incarnation, **given)

    office.lease = interrupted
    serve(office, lambda _: Specimen(law=LAW))
    assert "expelled" in office.told
    assert office.pool.members["virtual:seed=1@x"].state is MemberState.FREE
    assert set(office.pool.collect("job", "ann")) == {"0", "1"}


def test_a_device_is_offered_once_on_a_host():
    service = Service(
        "virtual:seed=1", "virtual:seed=1@x", Office(1), open_=lambda _: Specimen(law=LAW)
    )
    with (
        DeviceLock("lab virtual:seed=1"),
        pytest.raises(DeviceUnavailableError, match="is in use by process"),
    ):
        service.serve_once()


def test_an_address_that_names_no_device_ends_the_service():
    with pytest.raises(UsageError, match="unknown option"):
        Service("virtual:nothing=1", "n@x", Office(1), lambda _: None).run()


def test_a_token_is_made_once_and_kept_secret(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "token"
    monkeypatch.setenv(TOKEN_FILE, str(path))
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(UsageError, match="no token: copy"):
        ray_environment()
    assert make_token() == path
    token = ray_environment()["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    assert path.stat().st_mode & 0o077 == 0
    make_token()
    assert ray_environment()["RAY_AUTH_TOKEN"] == token
    path.chmod(0o644)
    with pytest.raises(UsageError, match="others can read the token"):
        ray_environment()
    monkeypatch.setenv(TOKEN, "short")
    with pytest.raises(UsageError, match="has 5 characters"):
        ray_environment()


def test_ray_is_told_to_be_quiet_and_to_ask_for_the_token(monkeypatch):
    monkeypatch.setenv(TOKEN, "0" * 32)
    found = ray_environment()
    assert (found["RAY_AUTH_MODE"], found["RAY_USAGE_STATS_ENABLED"]) == ("token", "0")
