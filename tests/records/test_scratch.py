"""Temporary folders: gone with their owners, and never while those live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from hwbench.records import scratch
from hwbench.records.scratch import PREFIX, remove_abandoned, scratch_folder

HOLD = (
    "import sys, time, pathlib; from hwbench.records.scratch import scratch_folder\n"
    "with scratch_folder(pathlib.Path(sys.argv[1])) as folder:\n"
    "    (folder / 'file').write_text('x'); print(folder, flush=True); time.sleep(600)"
)


def test_it_is_empty_private_and_gone_after_the_block(tmp_path):
    with scratch_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        assert not list(folder.iterdir())
        (folder / "sub").mkdir()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("way", ["the next one", "the next command"])
def test_what_a_killed_process_left_is_removed_and_what_a_live_one_holds_is_not(way, tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    folder = type(tmp_path)(owner.stdout.readline().strip())
    remove_abandoned(tmp_path)
    assert (folder / "file").exists()
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert (folder / "file").exists()
    if way == "the next one":
        with scratch_folder(tmp_path) as own:
            assert list(tmp_path.iterdir()) == [own]
    else:
        remove_abandoned(tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """Another process may take it for abandoned between its making and its locking."""
    lock, raced = scratch._lock, []

    def race(folder, *, wait):
        if len(raced) < 2:
            raced.append(folder)
            if len(raced) == 1:
                folder.rmdir()
                return lock(folder, wait=wait)
            descriptor = lock(folder, wait=wait)
            folder.rmdir()
            return descriptor
        return lock(folder, wait=wait)

    monkeypatch.setattr(scratch, "_lock", race)
    with scratch_folder(tmp_path) as folder:
        assert folder not in raced
        assert folder.is_dir()


def test_links_files_and_names_of_others_stay(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(precious)
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / "other-abc").mkdir()
    before = sorted(tmp_path.rglob("*"))
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folders_of_other_users_stay(tmp_path):
    folder = tmp_path / f"{PREFIX}other"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    remove_abandoned(tmp_path)
    assert folder.exists()


def test_a_place_without_locks_still_gives_folders(tmp_path, monkeypatch):
    def refuse(folder, *, wait):
        raise OSError("no locks on this file system")

    monkeypatch.setattr(scratch, "_lock", refuse)
    with scratch_folder(tmp_path) as folder:
        assert folder.is_dir()
    assert not list(tmp_path.iterdir())
