"""The commands of the page about phones are run, exactly as shown, against the Python phone."""

from __future__ import annotations

import os

import pytest

from tests.devices.android.phone_support import fake_in_a_process
from tests.devices.android.pyadbd_phone import needs_namespace
from tests.docs.pages import blocks
from tests.docs.shell import make_environment, run


@needs_namespace
@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.timeout(900)
def test_every_command_of_the_page_works(tmp_path):
    with fake_in_a_process() as address:
        # The key that the phone trusts is in that home; what is built for a phone costs minutes.
        kept = ("HOME", "XDG_CACHE_HOME", "ADB_SERVER_SOCKET")
        environment = make_environment(tmp_path) | {name: os.environ[name] for name in kept}
        environment["PHONE"] = f"android:{address},cluster=all"
        for command in blocks("phone.md", "shell"):
            done = run(command, tmp_path, environment)
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            assert "hwbench: error" not in done.stderr, f"{command}\n{done.stderr}"
