"""What the fixtures take: everything that `hwbench profile` takes, and torch modules.

And a real CPU.
"""

from __future__ import annotations

import pytest

pytest_plugins = ("pytester",)
NETS = """
from torch import nn

def wide(): return nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))
def slim(): return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
"""


def test_names_files_factories_and_modules(suite):
    suite.tests(
        """
        from pathlib import Path

        import pytest
        import torch

        import nets

        IMAGE = {"inputs": ["1x3x24x24"]}

        @pytest.mark.parametrize(
            ("model", "options"),
            [
                ("net.onnx", {}),
                (Path("net.onnx"), {}),
                ("zoo:plain20", {}),
                ("nets:wide", IMAGE),
                (nets.wide(), IMAGE),
                (nets.wide(), {"example_inputs": torch.zeros(1, 3, 24, 24)}),
            ],
        )
        def test_benchmark(hw_benchmark, model, options):
            assert hw_benchmark(model, **options).median_s > 0

        def test_faster(assert_faster):
            assert_faster(nets.wide(), nets.slim(), 1.3, **IMAGE)

        def test_compare(hw_compare):
            found = hw_compare("nets:wide", "nets:wide", candidate_precision="fp16", **IMAGE)
            assert (found.baseline.precision, found.candidate.precision) == ("fp32", "fp16")
        """,
        nets=NETS,
    )
    suite.run("-W", "default", apart=True).assert_outcomes(passed=8)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ('"nothing.onnx"', "*nothing.onnx*"),
        (
            '"nets:none"',
            "*UsageError: nets:none, which would be imported and called, does not say*",
        ),
        (
            "7",
            (
                "*UsageError: cannot load a int; expected a path, zoo:NAME, package.module:factory"
                " or an nn.Module"
            ),
        ),
    ],
)
def test_what_is_no_model_fails_with_the_line_of_hwbench(suite, model, message):
    suite.tests(f"def test(hw_benchmark): hw_benchmark({model})", nets=NETS)
    result = suite.run("-W", "default", apart=True)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([message])


@pytest.mark.slow
def test_on_the_real_cpu(suite):
    suite.tests(
        """
        import pytest
        import torch

        import nets

        INPUTS = torch.zeros(1, 3, 64, 64)

        def test_wide(hw_benchmark):
            record = hw_benchmark(nets.wide(), example_inputs=INPUTS)
            assert record.device.address == "cpu"
            assert record.profile.layers

        def test_slim(assert_faster):
            assert_faster(nets.wide(), nets.slim(), at_least=1.2, example_inputs=INPUTS)
        """,
        nets=NETS,
    )
    result = suite.run("--hwbench-budget", "6", device="cpu", apart=True)
    assert result.parseoutcomes().keys() <= {
        "passed",
        "xfailed",
    }  # a busy machine may leave the second one open
    result.stdout.fnmatch_lines(
        [
            "*- hwbench on cpu*",
            "test_latency.py::test_wide",
            "  Sequential: *",
            "test_latency.py::test_slim",
        ]
    )
    assert len(suite.kept()) == 3
