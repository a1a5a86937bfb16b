from __future__ import annotations

from dataclasses import replace

import pytest

from hwbench.errors import DeviceLostError, UsageError
from hwbench.lab.records import MemberState, Rules
from hwbench.lab.tasks import task_result
from tests.lab.lab_support import PIXEL, Lab


def ids(lease) -> list[str]:
    return [task.id for task in lease.tasks]


def test_a_task_goes_to_one_device_and_its_result_to_the_client():
    lab = Lab()
    one, two = lab.join("android:A1@x", "android:A2@y")
    lab.submit("t")
    assert ids(lab.pool.lease("android:A1@x", one)) == ["t"]
    assert ids(lab.pool.lease("android:A2@y", two)) == []
    assert lab.done("android:A1@x", one, "t")
    assert lab.pool.collect("job", "ann")["t"]["by"] == "android:A1@x"
    assert lab.pool.collect("job", "ann", ["t"]) == {}
    assert lab.pool.status()["jobs"][0]["done"] == 1


def test_what_a_lost_device_holds_goes_elsewhere_and_what_it_still_says_is_not_believed():
    lab = Lab()
    one, two = lab.join("android:A1@x", "android:A2@y")
    lab.submit("t")
    lab.pool.lease("android:A1@x", one)
    lab.pool.fail("android:A1@x", one, "its host went away")
    assert ids(lab.pool.lease("android:A2@y", two)) == ["t"]
    assert not lab.done("android:A1@x", one, "t")
    assert lab.pool.lease("android:A1@x", one).expelled
    assert lab.done("android:A2@y", two, "t")
    assert not lab.done("android:A2@y", two, "t")
    assert lab.pool.collect("job", "ann")["t"]["by"] == "android:A2@y"


def test_a_device_that_joins_anew_gives_back_what_it_held_before():
    lab = Lab()
    (one,) = lab.join("android:A1@x")
    lab.submit("t")
    lab.pool.lease("android:A1@x", one)
    (again,) = lab.join("android:A1@x")
    assert again != one
    assert ids(lab.pool.lease("android:A1@x", again)) == ["t"]
    lab.pool.fail("android:A1@x", one, "the old process ended")  # which Ray may tell late
    assert lab.done("android:A1@x", again, "t")


def test_a_device_that_hangs_is_expelled_when_its_task_has_taken_too_long():
    lab = Lab()
    one, two = lab.join("android:A1@x", "android:A2@y")
    lab.submit("t")
    lab.pool.lease("android:A1@x", one)
    lab.clock.now_s += 59
    lab.pool.lease("android:A2@y", two)
    assert lab.pool.tick() == []
    lab.clock.now_s += 2
    assert lab.pool.tick() == [("android:A1@x", one)]
    assert "within 60 s" in lab.pool.members["android:A1@x"].reason
    lab.pool.collect("job", "ann")
    assert ids(lab.pool.lease("android:A2@y", two)) == ["t"]


def test_the_time_of_each_task_of_a_batch_counts_by_itself():
    lab = Lab()
    (one,) = lab.join("android:A1@x")
    lab.submit(*"abcdefgh")
    assert ids(lab.pool.lease("android:A1@x", one)) == ["a"]
    lab.clock.now_s += 0.3
    lab.done("android:A1@x", one, "a")
    assert ids(lab.pool.lease("android:A1@x", one)) == [
        "b",
        "c",
        "d",
    ]  # a second's worth, now that it is known
    for name in "bcd":
        lab.clock.now_s += 50
        assert lab.pool.tick() == []
        assert lab.done("android:A1@x", one, name)


def test_a_silent_device_is_expelled():
    lab = Lab()
    (one,) = lab.join("android:A1@x")
    lab.clock.now_s += lab.rules.silent_s - 1
    lab.pool.lease("android:A1@x", one)
    lab.clock.now_s += lab.rules.silent_s - 1
    assert lab.pool.tick() == []
    lab.clock.now_s += 2
    assert lab.pool.tick() == [("android:A1@x", one)]


def test_a_hot_device_gives_back_what_it_has_and_gets_nothing_until_it_is_cool():
    lab = Lab()
    one, two = lab.join("android:A1@x", "android:A2@y")
    lab.submit("t")
    lab.pool.lease("android:A1@x", one)
    assert ids(lab.pool.lease("android:A1@x", one, hot=True)) == []
    assert lab.pool.members["android:A1@x"].state is MemberState.HOT
    assert not lab.done("android:A1@x", one, "t")
    lab.pool.fail("android:A2@y", two, "unplugged")
    assert ids(lab.pool.lease("android:A1@x", one)) == ["t"]


def test_a_task_that_fails_everywhere_is_given_up_and_may_be_asked_for_again():
    lab = Lab(Rules(attempts=2))
    lab.submit("bad")
    for count in range(2):
        (incarnation,) = lab.join("android:A1@x")
        assert ids(lab.pool.lease("android:A1@x", incarnation)) == ["bad"]
        lab.pool.fail("android:A1@x", incarnation, f"crash {count}")
    with pytest.raises(
        DeviceLostError, match="2 devices failed at one task, the last, android:A1@x: crash 1"
    ):
        task_result(lab.pool.collect("job", "ann")["bad"])
    lab.submit("bad")
    (incarnation,) = lab.join("android:A1@x")
    assert ids(lab.pool.lease("android:A1@x", incarnation)) == ["bad"]


def test_a_killed_client_finds_what_was_done_meanwhile_and_nothing_is_begun_for_it():
    lab = Lab()
    (one,) = lab.join("android:A1@x")
    lab.submit("a", "b")
    lab.pool.lease("android:A1@x", one)
    lab.clock.now_s += lab.rules.unheard_s + 1
    lab.done("android:A1@x", one, "a")
    assert ids(lab.pool.lease("android:A1@x", one)) == []
    lab.submit("a", "b", client="ann again")
    assert list(lab.pool.collect("job", "ann again")) == ["a"]
    assert ids(lab.pool.lease("android:A1@x", one)) == ["b"]


def test_the_same_work_is_not_done_for_two_clients_at_once():
    lab = Lab()
    lab.submit("a")
    with pytest.raises(UsageError, match="is being done for ann already"):
        lab.submit("a", client="bob")
    lab.pool.release("job", "ann")
    lab.submit("a", client="bob")
    with pytest.raises(UsageError, match="taken over by bob"):
        lab.pool.collect("job", "ann")


def test_clients_get_equal_shares():
    lab = Lab()
    lab.submit(*(f"a{index}" for index in range(8)), job="first")
    lab.submit(*(f"b{index}" for index in range(8)), job="second", client="bob")
    names = [f"android:A{index}@x" for index in range(6)]
    got = [
        ids(lab.pool.lease(name, incarnation))[0][0]
        for name, incarnation in zip(names, lab.join(*names), strict=True)
    ]
    assert got == ["a", "b"] * 3


def test_work_for_one_kind_is_given_to_no_other():
    lab = Lab()
    (one,) = lab.join("android:A1@x")
    (two,) = lab.join("android:B1@x", info=replace(PIXEL, target="Pixel 7"))
    lab.submit("t", kind=lab.pool.members["android:A1@x"].kind)
    assert ids(lab.pool.lease("android:B1@x", two)) == []
    assert ids(lab.pool.lease("android:A1@x", one)) == ["t"]


def test_results_outlive_a_job_that_the_client_left_and_end_with_one_it_closed():
    lab = Lab()
    (one,) = lab.join("android:A1@x")
    lab.submit("t")
    lab.pool.lease("android:A1@x", one)
    lab.pool.release("job", "ann")
    assert lab.done("android:A1@x", one, "t")
    lab.submit("t", client="ann later")
    assert list(lab.pool.collect("job", "ann later")) == ["t"]
    lab.pool.close("job", "ann later")
    assert lab.pool.collect("job", "ann later") is None


def test_what_nobody_comes_for_is_forgotten():
    lab = Lab()
    (one,) = lab.join("android:A1@x")
    lab.pool.fail("android:A1@x", one, "unplugged")
    lab.submit("t")
    lab.clock.now_s += lab.rules.kept_s + 1
    lab.pool.tick()
    assert (lab.pool.members, lab.pool.jobs) == ({}, {})


def test_a_device_that_leaves_is_gone_and_its_work_goes_elsewhere():
    lab = Lab()
    one, two = lab.join("android:A1@x", "android:A2@y")
    lab.submit("t")
    lab.pool.lease("android:A1@x", one)
    lab.pool.leave("android:A1@x")
    assert list(lab.pool.members) == ["android:A2@y"]
    assert ids(lab.pool.lease("android:A2@y", two)) == ["t"]


def test_the_status_says_who_holds_what():
    lab = Lab()
    (one,) = lab.join("android:A1@x")
    lab.submit("t", "u")
    lab.pool.lease("android:A1@x", one)
    lab.clock.now_s += 7
    status = lab.pool.status()
    (device,), (job,) = status["devices"], status["jobs"]
    assert (
        device["state"],
        device["holds"],
        device["job"],
        device["client"],
        device["since_s"],
    ) == (
        "busy",
        ["t"],
        "job",
        "ann",
        7,
    )
    assert (job["waiting"], job["running"], job["devices"], job["listening"]) == (1, 1, 1, True)
