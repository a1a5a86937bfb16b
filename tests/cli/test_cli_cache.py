"""`hwbench cache`: what is kept is shown and removed, but never what a running command holds."""

from __future__ import annotations

import pytest

from hwbench.devices.shared.lock import DeviceLock
from hwbench.records.scratch import scratch_folder
from tests.support.cli_support import hwb

__all__ = ["hwb"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "hwbench"
    (folder / "onnx" / "deep").mkdir(parents=True)
    (folder / "onnx" / "deep" / "net.bin").write_bytes(b"0" * 2000)
    (folder / "runner").write_bytes(b"0" * 500)
    return folder


def test_the_cache_is_shown_and_removed(hwb, cache):
    shown = hwb("cache", "show")
    assert (shown.code, shown.err) == (0, "")
    assert [line.split()[-1] for line in shown.out.splitlines()] == ["onnx", "runner", str(cache)]
    cleaned = hwb("cache", "clean")
    assert f"2.50 kB  removed from {cache}" in cleaned.out
    assert list(cache.iterdir()) == []
    assert hwb("cache", "clean").code == 0


def test_what_a_running_command_holds_stays(hwb, cache):
    with DeviceLock("device") as lock, scratch_folder(cache) as scratch:
        assert hwb("cache", "clean").code == 0
        assert lock.path.exists()
        assert scratch.exists()


def test_a_link_is_removed_and_not_followed(hwb, cache, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"1")
    (cache / "link").symlink_to(outside)
    assert hwb("cache", "clean").code == 0
    assert (outside / "precious").exists()


def test_a_folder_that_is_not_there_is_empty(hwb, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nowhere"))
    assert hwb("cache", "show").code == 0
