"""The lab does what this computer does, under the same names and with the same arguments."""

from __future__ import annotations

import inspect

import pytest

import hwbench
from hwbench.lab.work import LabWorkplace
from hwbench.workflows.workplace import ThisComputer, Workplace


@pytest.mark.parametrize(
    "name", ["profile", "compare", "quantize", "build_table", "run_search", "run_front"]
)
def test_a_lab_takes_what_the_function_of_hwbench_takes(name):
    function = inspect.signature(getattr(hwbench, name)).parameters
    method = inspect.signature(getattr(LabWorkplace("host:1"), name)).parameters
    asked = inspect.signature(getattr(Workplace, name)).parameters
    for own in method.keys() - {"options"}:
        assert own in function
        assert function[own].default == method[own].default
    named = asked.keys() - {"self", "options"}
    assert named <= function.keys()
    assert "options" in method, "all else is handed on"


def test_this_computer_does_what_the_functions_do(tmp_path):
    from tests.support.models import conv_net

    (tmp_path / "net.onnx").write_bytes(conv_net((8,)))
    record = ThisComputer().profile(
        tmp_path / "net.onnx",
        device="virtual",
        settings=hwbench.Settings(budget_s=0.5),
        save=False,
    )
    assert record.median_s > 0
