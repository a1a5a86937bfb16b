"""The suite under test."""

from __future__ import annotations

import pytest

import hwbench
from hwbench.pytest_plugin import bench, verdicts  # noqa: F401 - loaded here once
from tests.pytest_plugin.support import NETS, Suite


@pytest.fixture(scope="session")
def _loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import all that a measurement imports.

    What is imported by a pytest inside this process is thrown away at its end, and libraries in C
    cannot be loaded twice.
    """
    folder = tmp_path_factory.mktemp("loaded")
    (folder / "net.onnx").write_bytes(NETS["net"])
    hwbench.profile(folder / "net.onnx", device="virtual", store=str(folder / "store.db"))
    with hwbench.open_store(str(folder / "store.db")) as store:
        store.list()


@pytest.fixture
def suite(_loaded: None, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    return Suite(pytester, monkeypatch)
