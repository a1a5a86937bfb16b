"""What holds for all tests."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from hypothesis import HealthCheck, settings

from tests.needs import markers_of, missing

COSTLY = {"browser", "database", "qemu", "ray", "slow"}
"""Markers of tests that run first, so that no long one is left to the end."""
TOGETHER = {"report", "store"}
"""Folders whose tests share a browser or a database server."""

# Small layers on several threads wait for each other more than they compute: on two busy cores
# tests took ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says nothing on a busy machine.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


SHARED_CACHES = ("bundles", "onnx", "rig", "tests-nvidia")
"""Folders in hwbench's cache that are slow to fill; whatever lies there is kept under its hash."""


def pytest_configure(config: pytest.Config) -> None:
    """Give this process locks of devices of its own; the rest of the cache stays the user's.

    Another worker, and another run of the tests, may use this computer's CPU meanwhile.
    """
    controls_others = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if controls_others:
        return
    users, own = (
        Path(platformdirs.user_cache_dir()),
        Path(tempfile.mkdtemp(prefix="hwbench-cache-")),
    )
    config.add_cleanup(lambda: shutil.rmtree(own, ignore_errors=True))
    (own / "hwbench").mkdir()
    for name in SHARED_CACHES:
        (users / "hwbench" / name).mkdir(parents=True, exist_ok=True)
        (own / "hwbench" / name).symlink_to(users / "hwbench" / name)
    for path in users.iterdir():
        if path.name != "hwbench":
            (own / path.name).symlink_to(path)
    os.environ["XDG_CACHE_HOME"] = str(own)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what tests cost, and begin with the groups of the costly ones."""
    for item in items:
        for marker in markers_of(item):
            item.add_marker(marker)
    costly = {
        group_of(item.nodeid)
        for item in items
        if COSTLY & {mark.name for mark in item.iter_markers()}
    }
    items.sort(key=lambda item: group_of(item.nodeid) not in costly)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand whole groups of tests to the workers, in the order of above.

    So a module's fixtures and caches are made once, and so is what exists once on a computer. (The
    marks `xdist_group` do nothing since pytest 9.2, without a word.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        """Tests of a group run one after the other, in one process."""

        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False  # or groups of many tests would begin
    return GroupScheduling(config, log)


def group_of(nodeid: str) -> str:
    """The group of a test: its file, or a folder whose tests belong together."""
    path = nodeid.partition("::")[0]
    folder = path.split("/")[1]
    if folder in TOGETHER:
        return folder
    return path


@pytest.fixture
def heard_signals():
    """Programs hear SIGINT and SIGHUP, which they inherit as ignored where the tests themselves run in
    the background of a shell or under nohup.
    """
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, by name, what this computer cannot run."""
    for mark in item.iter_markers():
        if reason := missing(mark.name):
            pytest.skip(reason)
