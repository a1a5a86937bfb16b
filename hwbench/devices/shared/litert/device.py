"""What all devices that run LiteRT on a CPU share.

Sessions live in engines (`hwbench.devices.shared.runner.device`); here layer times are joined to
the network.
"""

from __future__ import annotations

from statistics import median
from typing import ClassVar

from hwbench.devices.base import LayerSamples, Prepared
from hwbench.devices.shared.chains import (
    LONG_CHAIN,
    SHORT_CHAIN,
    ChainProfile,
    count_chain_runs,
    node_cost_s,
)
from hwbench.devices.shared.litert.layers import REST_CAUSE, join_profile
from hwbench.devices.shared.litert.library import DELEGATE
from hwbench.devices.shared.litert.profile import MICROSECOND_S, Row, limit_short_rows, read_profile
from hwbench.devices.shared.runner.device import EngineDevice, Handle
from hwbench.devices.shared.runner.engine import Engine
from hwbench.devices.shared.runner.process import RunnerProcess
from hwbench.devices.shared.runner.protocol import plan_line
from hwbench.devices.shared.turns import select_counted
from hwbench.errors import BuildError
from hwbench.network.tflite.writing import write_convolutions
from hwbench.network.workload import TFLITE, Workload

CHAIN_SIDE = 8
"""Height and width of the maps of the chains: some microseconds each, so that noise stays small."""


_OPEN_OUTPUTS = "Failed to set custom allocation for output"
"""What LiteRT says of a model whose outputs get their size while it runs."""


class LitertDevice(EngineDevice):
    """A CPU that runs LiteRT.

    A driver says what the target is and where its engines come from.

    Args:
        address: Address within the driver.
        kernels: XNNPACK's kernels where it has any, or TensorFlow Lite's own alone.
    """

    precisions: ClassVar[frozenset[str]] = frozenset({"fp32", "fp16", "int16", "int8"})
    formats: ClassVar[frozenset[str]] = frozenset({TFLITE})

    def __init__(self, address: str = "", kernels: str = DELEGATE) -> None:
        super().__init__(address)
        self._kernels = kernels
        self._node_cost_s: dict[int, float] = {}  # by threads

    def _choose_kernels(self, runner: RunnerProcess) -> None:
        """Let a runner use this device's kind of kernels for all models to come."""
        runner.command(plan_line("kernels", self._kernels), "set")

    def _close(self) -> None:
        """End all engines and forget what was learnt of the target."""
        super()._close()
        self._node_cost_s.clear()

    def _load(self, engine: Engine, workload: Workload, *, profile: bool = False) -> str:
        """Create a session in an engine and return its name."""
        try:
            return super()._load(engine, workload, profile=profile)
        except BuildError as error:
            if _OPEN_OUTPUTS not in error.message:
                raise
            raise BuildError(
                f"the outputs of {workload.name} get their size while it runs, and LiteRT's C API"
                " runs such a model only once; fix the shapes when you convert it"
            ) from error

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        """Time the layers of `runs` inferences in a profiled session of their own."""
        handle: Handle = prepared.handle
        threads = prepared.settings.threads
        reference_s, whole_s, profile = self._profile(handle, prepared.workload, runs)
        if threads not in self._node_cost_s:
            short, long = (
                self._profile_chain(handle.engine, length) for length in (SHORT_CHAIN, LONG_CHAIN)
            )
            self._node_cost_s[threads] = node_cost_s(short, long)
        profile = limit_short_rows(profile, median(reference_s))
        rows, findings = join_profile(profile, prepared.workload)
        return LayerSamples(
            rows,
            whole_s,
            reference_s,
            self._node_cost_s[threads],
            REST_CAUSE,
            grain_s=MICROSECOND_S,
            findings=findings,
        )

    def _profile(
        self, plain: Handle, workload: Workload, runs: int
    ) -> tuple[tuple[float, ...], tuple[float, ...], tuple[Row, ...]]:
        """Profile a workload in turns with unprofiled inferences.

        Returns:
            (seconds of the unprofiled inferences, of the profiled ones, the profile of these).
        """
        reference_s, whole_s, trace, count = self._profile_in_turns(plain, workload, runs)
        rows = []
        for row in read_profile(trace, count):
            counted_s = tuple(select_counted(row.samples_s, runs))
            rows.append(Row(row.tag, row.index, counted_s))
        return reference_s, whole_s, tuple(rows)

    def _profile_chain(self, engine: Engine, length: int) -> ChainProfile:
        chain = write_convolutions(f"chain of {length}", [16] * (length + 1), side=CHAIN_SIDE)
        handle = Handle(engine, self._load(engine, chain))
        run_s = engine.run([handle.name] * 2, 1)[1]
        reference_s, whole_s, rows = self._profile(handle, chain, count_chain_runs(run_s))
        engine.unload(handle.name)
        runs_s = zip(*(row.samples_s for row in rows), strict=True)
        sums_s = [sum(times_s) for times_s in runs_s]
        return ChainProfile(len(rows), sums_s, whole_s, reference_s)
