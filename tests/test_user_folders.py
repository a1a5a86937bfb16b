"""Where a user's files lie, and what takes the place of a home that cannot be used."""

from __future__ import annotations

import logging
import os

import pytest

from hwbench.errors import UsageError
from hwbench.user_folders import cache_folder, home_folder

NOWHERE = "/proc/nowhere"
"""A folder that nobody can make."""


@pytest.fixture(autouse=True)
def _temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_a_home_is_used(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder().is_relative_to(tmp_path / "home")
    assert cache_folder().is_dir()
    assert not caplog.text


def test_a_place_that_was_named_is_left_to_whoever_uses_it(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", NOWHERE)
    assert str(cache_folder()).startswith(NOWHERE)


def test_without_a_home_there_is_a_folder_of_this_user_alone(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", NOWHERE)
    caplog.set_level(logging.WARNING)
    own = tmp_path / f"hwbench-{os.getuid()}"
    assert cache_folder() == own
    assert own.stat().st_mode & 0o777 == 0o700
    assert NOWHERE in caplog.text
    assert "set XDG_CACHE_HOME" in caplog.text
    caplog.clear()
    assert cache_folder(quiet=True) == own
    assert not caplog.text


@pytest.mark.parametrize("kind", ["link", "file", "open to others"])
def test_a_folder_that_others_could_change_is_never_used(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HOME", NOWHERE)
    own = tmp_path / f"hwbench-{os.getuid()}"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        own.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        own.touch()
    else:
        own.mkdir()
        own.chmod(0o777)
    with pytest.raises(UsageError, match="set XDG_CACHE_HOME"):
        cache_folder()


def test_without_a_home_what_is_kept_needs_a_place(monkeypatch):
    def homeless(_):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("platformdirs.user_data_path", homeless)
    with pytest.raises(UsageError, match="no home folder; set THIS, or HOME"):
        home_folder("user_data_path", "set THIS")
