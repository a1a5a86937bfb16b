"""`hwbench selftest`: a model against itself (A/A): the noise floor and false verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

from hwbench.devices import open_device
from hwbench.errors import UsageError
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.comparing import compare_measured
from hwbench.measuring.sessions import measure_interleaved
from hwbench.network.intake import load_workload
from hwbench.records.comparison import Comparison
from hwbench.records.device import DeviceInfo
from hwbench.records.measurement import Settings
from hwbench.stats import Verdict
from hwbench.workflows.meter import in_format

DEFAULT_MODEL = "zoo:resnet20"
DEFAULT_RUNS = 5
DEFAULT_BUDGET_S = 10.0


@dataclass(frozen=True)
class SelfTest:
    """Outcome of several comparisons of one model with itself.

    Attributes:
        device: What was tested.
        comparisons: The single comparisons, records included.
    """

    device: DeviceInfo
    comparisons: tuple[Comparison, ...]

    def __repr__(self) -> str:
        false = f"{self.false_verdicts} false verdicts of {len(self.comparisons)}"
        return f"<SelfTest on {self.device.address}: {false}, noise floor {self.noise_floor:.2%}>"

    @property
    def false_verdicts(self) -> int:
        """Comparisons that claimed a difference where there is none."""
        return sum(
            comparison.verdict in {Verdict.FASTER, Verdict.SLOWER}
            for comparison in self.comparisons
        )

    @property
    def covered(self) -> int:
        """Comparisons whose 95 % interval holds the truth, a ratio of 1."""
        return sum(
            c.ratio is not None and c.ratio.ci[0] <= 1 <= c.ratio.ci[1] for c in self.comparisons
        )

    @property
    def noise_floor(self) -> float:
        """Smallest relative difference resolved here: median half-width of the 95 % intervals."""
        return median(c.ratio.half_width for c in self.comparisons if c.ratio is not None)


def selftest(
    *,
    device: str = "cpu",
    model: str = DEFAULT_MODEL,
    runs: int = DEFAULT_RUNS,
    settings: Settings | None = None,
    callback: MeasuringCallback | None = None,
    after_each: Callable[[int, Comparison], None] | None = None,
) -> SelfTest:
    """Compare a model with itself several times.

    Args:
        device: Address of the device.
        model: What `hwbench.profile` takes.
        runs: Comparisons.
        settings: How to measure; `budget_s` is for one comparison.
        callback: Called while a comparison is measured.
        after_each: Called with the number of comparisons done and the last one.

    Raises:
        HwbenchError: The model cannot be read, or the device cannot run it.
    """
    if runs < 1:
        raise UsageError(f"a self-test needs at least 1 run, not {runs}")
    settings = settings or Settings(budget_s=DEFAULT_BUDGET_S)
    workload = load_workload(model, seed=settings.seed)
    comparisons = []
    with open_device(device) as opened:
        info = opened.info()
        workload = in_format(workload, opened, settings)
        for number in range(runs):
            once = replace(settings, seed=settings.seed + number, layers=False)
            comparisons.append(
                compare_measured(*measure_interleaved(opened, [workload, workload], once, callback))
            )
            if after_each is not None:
                after_each(number + 1, comparisons[-1])
    return SelfTest(info, tuple(comparisons))
