"""Results show themselves in a line, as a notebook prints them; errors in Python speak of Python."""

from __future__ import annotations

import re

import pytest

import hwbench
from hwbench.errors import HwbenchError
from hwbench.workflows.build_table import BuiltTable
from hwbench.workflows.search.front import Front
from tests.support import table_support
from tests.support.models import conv_net
from tests.support.render_support import found

SETTINGS = hwbench.Settings(budget_s=2)


@pytest.fixture(autouse=True)
def _in_a_folder_with_two_networks(monkeypatch, tmp_path):
    monkeypatch.setenv("HWBENCH_STORE", str(tmp_path / "store.db"))
    monkeypatch.chdir(tmp_path)
    for name, width in (("big", 64), ("small", 32)):
        (tmp_path / f"{name}.onnx").write_bytes(conv_net((width, width)))


def measure_all():
    """One result of each kind."""
    search = found("net")
    with hwbench.meter("virtual", baseline="big.onnx") as meter:
        ranking = meter.rank(["small.onnx", "big.onnx"], budget_s=2)
    return [
        hwbench.profile("big.onnx", device="virtual", settings=SETTINGS),
        hwbench.compare("big.onnx", "small.onnx", device="virtual", settings=SETTINGS),
        hwbench.selftest(model="big.onnx", device="virtual", runs=1, settings=SETTINGS),
        hwbench.measure_matrix(
            ["big.onnx", "small.onnx", "absent.onnx"],
            devices=["virtual"],
            threads=[1, 2, 4],
            settings=SETTINGS,
        ),
        hwbench.read_history("big.onnx"),
        ranking,
        BuiltTable("3f9c1a", table_support.built(quiet=True).table, None, None),
        search,
        Front((search,)),
    ]


def test_the_repr_of_a_result_is_a_short_line():
    for result in measure_all():
        text = repr(result)
        assert len(text) < 200, text
        assert "\n" not in text
        assert text.startswith(f"<{type(result).__name__} ")


def get_unknown_record():
    with hwbench.open_store() as store:
        store.get("abcdef")


@pytest.mark.parametrize(
    "call",
    [
        lambda: hwbench.profile("big.onnx", device="vrtual"),
        lambda: hwbench.profile("absent.onnx"),
        lambda: hwbench.profile("zoo:resnt20", device="virtual"),
        lambda: hwbench.profile("math:sqrt", device="virtual"),
        lambda: hwbench.predict("big.onnx", table="pixl1"),
        lambda: hwbench.predict("big.onnx", table="pixel1"),
        lambda: hwbench.read_history("absent"),
        get_unknown_record,
    ],
)
def test_errors_in_python_name_no_command_and_no_option(call):
    with pytest.raises(HwbenchError) as caught:
        call()
    assert not re.search(r"\bhwbench [a-z]|(?<!\w)--[a-z]", str(caught.value)), str(caught.value)
