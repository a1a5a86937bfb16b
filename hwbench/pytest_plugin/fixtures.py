"""The fixtures `hw_device`, `hw_compare` and `assert_faster`.

`hw_benchmark` depends on pytest-benchmark and has two files, `with_benchmark` and
`without_benchmark`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from hwbench.pytest_plugin.options import OPTIONS

if TYPE_CHECKING:
    from torch import nn

    from hwbench.devices.base import Device
    from hwbench.records.comparison import Comparison


def _device_scope(
    fixture_name: str,  # noqa: ARG001 - pytest passes both by name
    config: pytest.Config,
) -> Literal["function", "session"]:
    """Decide how long the device stays open.

    Workers of xdist share it, and give it back after each test.
    """
    return "function" if hasattr(config, "workerinput") else "session"


@pytest.fixture(scope=_device_scope)
def hw_device(pytestconfig: pytest.Config) -> Iterator[Device]:
    """The device of `--hwbench-device`, opened once for all tests.

    Where it cannot be opened, the tests fail with an error that says what is missing. Another run
    of pytest on this computer that measures on it is waited for (`--hwbench-wait`).
    """
    from hwbench.devices import open_device
    from hwbench.devices.shared.lock import DeviceLock
    from hwbench.errors import HwbenchError

    options = pytestconfig.stash[OPTIONS]
    with ExitStack() as stack:
        try:
            stack.enter_context(DeviceLock(f"{options.device} (pytest)", options.wait_s))
            device = stack.enter_context(open_device(options.device))
        except HwbenchError as error:
            pytest.fail(f"no device to measure on: {error}", pytrace=False)
        yield device


@pytest.fixture
def hw_compare(request: pytest.FixtureRequest, hw_device: Device) -> Callable[..., Comparison]:
    """Compare two models: `hw_compare(baseline, candidate)` gives their Comparison.

    It takes the arguments of `hwbench.compare`.
    """
    from hwbench.pytest_plugin.bench import FixtureMeter
    from hwbench.pytest_plugin.summary import comparison_line
    from hwbench.stats import Verdict

    meter = FixtureMeter(request.node, hw_device)

    def compare(
        baseline: str | Path | nn.Module, candidate: str | Path | nn.Module, **options: Any
    ) -> Comparison:
        comparison = meter.compare(baseline, candidate, **options)
        resolved = comparison.verdict is not Verdict.UNRESOLVED
        meter.note_comparison(comparison_line(comparison), resolved=resolved)
        return comparison

    return compare


@pytest.fixture
def assert_faster(request: pytest.FixtureRequest, hw_device: Device) -> Callable[..., Comparison]:
    """Fail a test unless the candidate is faster.

    `assert_faster(baseline, candidate, at_least=1.3)` asks for a speed-up of 1.3. Without
    `at_least` any gain beyond the smallest effect that matters will do. A speed-up that falls short
    by less than that effect passes, so that `at_least=1` asks for no loss. Where the samples do not
    answer, the test neither passes nor fails: it ends as `--hwbench-unresolved` says. With
    `accuracy_drop=0.01, data="images/"` the candidate may also lose no more than one percent of
    accuracy. Further arguments are those of `hwbench.compare`; the Comparison is returned.
    """
    from hwbench.pytest_plugin.bench import FixtureMeter
    from hwbench.pytest_plugin.summary import comparison_line
    from hwbench.pytest_plugin.verdicts import Question

    meter = FixtureMeter(request.node, hw_device)
    unresolved = request.config.stash[OPTIONS].unresolved

    def check(
        baseline: str | Path | nn.Module,
        candidate: str | Path | nn.Module,
        at_least: float | None = None,
        accuracy_drop: float | None = None,
        **options: Any,
    ) -> Comparison:
        __tracebackhide__ = True  # a failure is shown at the line of the test
        question = Question(at_least, accuracy_drop)
        if options.get("data") is None and options.get("evaluate") is None:
            question.require_no_data()
        comparison = meter.compare(baseline, candidate, narrow=at_least is not None, **options)
        question.require_evidence(comparison)
        answer = question.answer(comparison.ratio, comparison.baseline.settings.min_effect)
        line = comparison_line(comparison, question.answer_text(answer))
        meter.note_comparison(line, resolved=answer is not None)
        if question.loses_accuracy(comparison):
            pytest.fail(question.loss_text(comparison))
        if answer is None:
            # Raised by hand, since --runxfail turns a call of pytest.xfail into nothing.
            outcome = pytest.xfail.Exception if unresolved == "xfail" else pytest.fail.Exception
            raise outcome(question.unresolved_text(comparison))
        if not answer:
            pytest.fail(question.failure_text(comparison))
        return comparison

    return check
