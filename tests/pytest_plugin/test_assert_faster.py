"""`assert_faster` and `hw_compare`: planted differences are found, equal networks pass, and noise
decides nothing.
"""

from __future__ import annotations

import math

import pytest

from hwbench.errors import UsageError
from hwbench.pytest_plugin.verdicts import Question
from hwbench.stats import Ratio
from tests.pytest_plugin.support import ADDED_LAYER, true_s

pytest_plugins = ("pytester",)
SEEDS = (1, 2, 3)
NO_LOSS = """
def test_no_loss(assert_faster):
    assert_faster("net.onnx", "{candidate}.onnx", at_least=1)
"""
TOO_SHORT = ("--hwbench-budget", "0.01")
"""Seconds of virtual time that allow two sessions, from which no verdict can follow."""


def test_the_planted_regression_is_ten_percent():
    assert true_s("slower") / true_s("net") == pytest.approx(1.1, abs=0.005)
    assert true_s("twin") == true_s("net")


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_regression_fails(suite, seed):
    suite.tests(NO_LOSS.format(candidate="slower"))
    result = suite.run(device=f"virtual:seed={seed}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            '*assert_faster("net.onnx", "slower.onnx", at_least=1)',
            (
                "E *slower.onnx is not at least 1x as fast as net.onnx: 1.*x slower (95 % interval"
                " 1.* to 1.*)"
            ),
            "E *layer to blame*",
            f"E *{ADDED_LAYER}*",
            "*- hwbench on virtual*",
            "test_latency.py::test_no_loss",
            "  slower.onnx against net.onnx: SLOWER, 1.*at least 1x as fast: NO; records *",
        ]
    )
    result.stdout.no_fnmatch_line("*fixtures.py*")


@pytest.mark.parametrize("seed", SEEDS)
def test_no_regression_passes(suite, seed):
    suite.tests(NO_LOSS.format(candidate="twin"))
    result = suite.run(device=f"virtual:seed={seed}")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["  twin.onnx against net.onnx: SAME, *; at least 1x as fast: yes; records *"]
    )


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [
        ('"slower.onnx", "net.onnx"', "passed"),
        ('"slower.onnx", "net.onnx", at_least=1.05', "passed"),
        ('"slower.onnx", "net.onnx", 1.2', "failed"),
        ('"net.onnx", "twin.onnx"', "failed"),
        ('"net.onnx", "twin.onnx", at_least=0.9', "passed"),
        ('"net.onnx", "slower.onnx", at_least=0.8', "passed"),
        ('"net.onnx", "slower.onnx"', "failed"),
    ],
)
def test_the_gain_asked_for_decides(suite, arguments, outcome):
    suite.tests(f"def test(assert_faster): assert_faster({arguments})")
    suite.run().assert_outcomes(**{outcome: 1})


@pytest.mark.parametrize(
    ("options", "ini", "outcome"),
    [
        ((), (), "xfailed"),
        (("--hwbench-unresolved", "xfail"), ("hwbench_unresolved = fail",), "xfailed"),
        (("--hwbench-unresolved", "fail"), (), "failed"),
        ((), ("hwbench_unresolved = fail",), "failed"),
        (("--runxfail",), (), "failed"),
    ],
)
def test_noise_neither_passes_nor_fails(suite, options, ini, outcome):
    suite.ini(*ini)
    suite.tests(NO_LOSS.format(candidate="slower"))
    result = suite.run(*TOO_SHORT, "-rxf", *options)
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines(
        [
            (
                "*UNRESOLVED: cannot tell from 2 sessions whether slower.onnx is at least 1x as fast as"
                " net.onnx*"
            )
        ]
    )
    result.stdout.fnmatch_lines(
        [
            (
                "  slower.onnx against net.onnx: UNRESOLVED, *; at least 1x as fast: UNRESOLVED;"
                " records *"
            )
        ]
    )


@pytest.mark.parametrize("outcome", ["xfail", "fail"])
def test_the_summary_says_how_many_comparisons_noise_left_open(suite, outcome):
    suite.tests(
        NO_LOSS.format(candidate="slower")
        + """
def test_by_hand(hw_compare):
    hw_compare("net.onnx", "slower.onnx")

def test_settled(hw_compare):
    import hwbench
    hw_compare("slower.onnx", "net.onnx", settings=hwbench.Settings(layers=False))
"""
    )
    lines = suite.run(*TOO_SHORT, "--hwbench-unresolved", outcome).stdout.str()
    assert "2 of 3 comparisons UNRESOLVED: " in lines
    assert ("they let nothing fail" in lines) is (outcome == "xfail")


def test_a_summary_without_open_comparisons_says_nothing_of_them(suite):
    suite.tests(NO_LOSS.format(candidate="twin"))
    assert "comparisons UNRESOLVED" not in suite.run().stdout.str()


def test_compare_returns_the_comparison(suite):
    suite.tests(f"""
        import hwbench

        def test(hw_compare):
            found = hw_compare("slower.onnx", "net.onnx")
            assert isinstance(found, hwbench.Comparison)
            assert found.verdict is hwbench.Verdict.FASTER
            assert found.speedup_ci[0] <= found.speedup <= found.speedup_ci[1]
            assert [layer.name for layer in found.layers if layer.candidate_s is None] == [{ADDED_LAYER!r}]
        """)
    result = suite.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["  net.onnx against slower.onnx: FASTER, 1.*x faster (95 % interval *); records *"]
    )
    assert len(suite.kept()) == 2


def test_networks_with_other_inputs_are_refused_before_measuring(suite):
    from tests.support.models import conv_net

    (suite.folder / "small.onnx").write_bytes(conv_net((16,), size=8))
    suite.tests('def test(hw_compare): hw_compare("net.onnx", "small.onnx")')
    result = suite.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            (
                "*IncomparableError: net.onnx takes inputs *x* float32 but small.onnx takes *x3x8x8"
                " float32*"
            )
        ]
    )
    assert not suite.kept()


def narrow(ratio: float) -> Ratio:
    return Ratio(ratio, (ratio * 0.998, ratio * 1.002), (ratio * 0.996, ratio * 1.004), 20)


@pytest.mark.parametrize(
    ("at_least", "speedup", "answer"),
    [
        (1.3, 1.4, True),
        (1.3, 1.3, True),  # within the smallest effect
        (1.3, 1.2, False),
        (1.3, 1.3 / 1.0095, None),  # the interval reaches over the edge of what matters
        (1.0, 1.0, True),
        (1.0, 0.9, False),
        (0.5, 0.6, True),
        (None, 1.2, True),
        (None, 1.0, False),
        (None, 0.9, False),
        (None, 1.0095, None),
    ],
)
def test_answers(at_least, speedup, answer):
    assert Question(at_least).answer(narrow(1 / speedup), min_effect=0.01) is answer


@pytest.mark.parametrize("at_least", [0, -1.3, math.nan, math.inf])
def test_a_speedup_that_is_none_is_refused(at_least):
    with pytest.raises(UsageError, match="is no speed-up"):
        Question(at_least)


IMAGES = """
import numpy as np, onnxruntime, torch

class Images(torch.utils.data.Dataset):
    def __init__(self):
        images = np.random.default_rng(0).standard_normal((40, 3, 16, 16)).astype(np.float32)
        session = onnxruntime.InferenceSession("net.onnx")
        self.images = images
        self.targets = [int(session.run(None, {"x": one[None]})[0].argmax()) for one in images]
    def __len__(self):
        return 40
    def __getitem__(self, number):
        return torch.from_numpy(self.images[number]), self.targets[number]
"""
KEEPS_ACCURACY = """
def test_keeps_accuracy(assert_faster):
    assert_faster("net.onnx", "{candidate}.onnx", at_least=1, accuracy_drop=0.01{data})
"""


@pytest.mark.parametrize(("candidate", "passes"), [("copy", True), ("twin", False)])
def test_fast_but_wrong_fails_the_same_test(suite, candidate, passes):
    suite.put("net", "copy")
    suite.tests(
        KEEPS_ACCURACY.format(candidate=candidate, data=', data="kept_images:Images"'),
        kept_images=IMAGES,
    )
    result = suite.run()
    result.assert_outcomes(passed=int(passes), failed=int(not passes))
    if not passes:
        result.stdout.fnmatch_lines(
            [
                "E *twin.onnx loses more than 1.0 % of accuracy. On 8 samples of kept_images:Images*",
                "E *different_outputs*",
            ]
        )


def test_accuracy_is_not_asked_for_without_images(suite):
    suite.tests(KEEPS_ACCURACY.format(candidate="twin", data=""))
    result = suite.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*whether accuracy is kept needs labelled images*"])


@pytest.mark.parametrize("drop", [-0.1, 1.5])
def test_a_drop_that_is_no_share_is_refused(drop):
    with pytest.raises(UsageError, match="accuracy_drop"):
        Question(1.0, drop)
