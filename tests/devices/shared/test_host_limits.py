"""What control groups and affinities leave to this process, and what a dead runner died of."""

from __future__ import annotations

import os

import pytest

from hwbench.devices.shared import host
from hwbench.devices.shared.host import cpu_quota
from hwbench.devices.shared.runner.process import describe_exit


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({}, None),
        ({"a/b": "max 100000"}, None),
        ({"a/b": "150000 100000"}, 1.5),
        ({"a/b": "max 100000", "a": "50000 100000"}, 0.5),
        ({"a/b": "50000 100000", "a": "200000 100000"}, 0.5),
        ({"a/b": "damaged"}, None),
        ({"a/b": "1 0"}, None),
    ],
)
def test_the_smallest_quota_of_all_groups_counts(tmp_path, limits, cores):
    (tmp_path / "own").write_text("12:cpuset:/x\n0::/a/b\n")
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    for group, text in limits.items():
        (tmp_path / "root" / group / "cpu.max").write_text(text)
    assert cpu_quota(tmp_path / "root", tmp_path / "own") == cores


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(
    ("limits", "cores"),
    [({"a": 150000}, 1.5), ({"a": -1, ".": 50000}, 0.5), ({"a": -1}, None), ({}, None)],
)
def test_quotas_of_the_first_version_count_too(tmp_path, mount, limits, cores):
    (tmp_path / "own").write_text("12:cpuset:/x\n4:cpu,cpuacct:/a\n1:name=systemd:/a\nnothing\n")
    for group, quota in limits.items():
        folder = tmp_path / "root" / mount / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(tmp_path / "root", tmp_path / "own") == cores


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path, tmp_path / "none") is None


def test_doctor_names_a_quota_a_narrow_affinity_and_stolen_time(monkeypatch):
    monkeypatch.setattr(host, "cpu_quota", lambda: 0.5)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(host, "core_count", lambda: 32)
    advice = {item.code: item for item in host.doctor([0], threads=2)}
    assert not advice["quota"].ok
    assert "0.5 of 64" in advice["quota"].text
    assert not advice["affinity"].ok
    assert "1 of 32 physical cores" in advice["affinity"].text
    assert "2 threads" in advice["affinity"].text
    assert {item.code: item for item in host.doctor([0], threads=1)}["affinity"].ok
    assert advice["quota"].remedy
    assert advice["affinity"].remedy
    assert "stolen" in advice["stolen_time"].text


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, "exit status 0"),
        (7, "exit status 7"),
        (-9, "SIGKILL (usual cause: the system, when memory ran out"),
        (-4, "SIGILL (usual cause: an instruction"),
        (-11, "SIGSEGV"),
        (-12, "exit status -12 = SIGUSR2"),
        (-99, "exit status -99"),
    ],
)
def test_a_dead_runner_says_by_which_signal(code, said):
    assert said in describe_exit(code)
