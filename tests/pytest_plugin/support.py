"""A suite of latency tests in a folder of its own, with networks whose true latencies on the
virtual device are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from hwbench.devices.virtual.device import LAW
from hwbench.network.graph import layers, load
from hwbench.store import open_store
from tests.support.models import conv_net

LAYERS = 11
NETS = {
    "net": conv_net((64,) * LAYERS),
    "twin": conv_net((64,) * LAYERS, seed=1),
    "slower": conv_net((64,) * (LAYERS + 1)),
}
"""`twin` is `net` with other weights; `slower` has one layer more."""
ADDED_LAYER = f"features.{LAYERS}.conv"


def true_s(net: str) -> float:
    """Latency of a network by the law of the virtual device, seconds."""
    return LAW.network_s([layer.key for layer in layers(load(NETS[net]))])


class Suite:
    """Networks as NAME.onnx, tests, a store, and runs of pytest over them on a virtual device with
    a given seed.
    """

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester, self.folder = pytester, pytester.path
        for name in NETS:
            self.put(name)
        self.ini()
        monkeypatch.setenv("HWBENCH_STORE", str(self.store))
        monkeypatch.setenv("COLUMNS", "120")
        for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
            monkeypatch.delenv(name, raising=False)

    @property
    def store(self) -> Path:
        return self.folder / "store.db"

    def put(self, net: str, name: str | None = None) -> None:
        """Write a network, under another's name if given."""
        (self.folder / f"{name or net}.onnx").write_bytes(NETS[net])

    def ini(self, *lines: str) -> None:
        self.pytester.makeini(
            "\n".join(
                (
                    "[pytest]",
                    "addopts = --strict-markers --strict-config",
                    "filterwarnings = error",
                    *lines,
                )
            )
        )

    def tests(self, source: str, **files: str) -> None:
        self.pytester.makepyfile(test_latency=source, **files)

    def run(
        self, *words: str, device: str | None = "virtual:seed=1", apart: bool = False
    ) -> pytest.RunResult:
        """Run the tests; in a process of its own if they are to be `apart`."""
        named = () if device is None else ("--hwbench-device", device)
        words = ("-p", "no:cacheprovider", *named, *words)
        if apart:
            return self.pytester.runpytest_subprocess(*words, timeout=240)
        return self.pytester.runpytest_inprocess(*words)

    def kept(self) -> Sequence[str]:
        """Ids of the records in the store, newest first."""
        if not self.store.exists():
            return ()
        with open_store(str(self.store)) as opened:
            return [summary.id for summary in opened.list()]
