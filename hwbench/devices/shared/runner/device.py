"""What all devices have in common whose sessions live in engines: processes of a native runner.

The sessions of all workloads of one block live in one engine; every new session of that kind begins
when the former ones are released, in a new process. With `isolate` each workload has a process of
its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

from hwbench.devices.base import Device, Prepared, Samples
from hwbench.devices.shared.runner.engine import Engine
from hwbench.devices.shared.runner.protocol import CLOCK
from hwbench.devices.shared.turns import select_counted, turn_order
from hwbench.errors import OutputParseError, WorkloadError
from hwbench.network.workload import Workload
from hwbench.records.findings import Finding
from hwbench.records.measurement import Settings


@dataclass(eq=False)
class Handle:
    """One session: its engine, and the session's name there."""

    engine: Engine
    name: str


class EngineDevice(Device):
    """A CPU that runs networks in engines.

    A driver says what the target is, where its engines come from, and what a profile tells.
    """

    def __init__(self, address: str = "") -> None:
        super().__init__(address)
        self._count = 0
        # Engines that live, each with the threads and seed of the sessions that may join it; None
        # if none may.
        self._engines: dict[Engine, tuple[int, int] | None] = {}
        self._findings: tuple[Finding, ...] = ()  # findings that hold for every session

    @abstractmethod
    def _engine(self, settings: Settings) -> Engine:
        """Start an engine for sessions with these threads and this seed.

        Raises:
            UsageError: The target has not as many cores as threads.
        """

    def _close(self) -> None:
        """End all engines."""
        for engine in list(self._engines):
            self._end_engine(engine)

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        engine = None
        sharing = None
        if not settings.isolate:
            sharing = (settings.threads, settings.seed)
            for live_engine, live_sharing in self._engines.items():
                if live_sharing == sharing:
                    engine = live_engine
                    break
        if engine is None:
            engine = self._engine(settings)
            self._engines[engine] = sharing
        name = self._load(engine, workload)
        load_s, first_run_s = engine.start_s(name)
        handle = Handle(engine, name)
        return Prepared(workload, settings, handle, self._findings, load_s, first_run_s)

    def _load(self, engine: Engine, workload: Workload, *, profile: bool = False) -> str:
        """Create a session in an engine and return its name."""
        self._count += 1
        name = f"session{self._count}"
        try:
            graph = engine.load(
                name, workload, profile=profile, graph=profile and self._needs_graph(workload)
            )
        except BaseException:  # the runner ends with the first model it cannot load
            self._end_engine(engine)
            raise
        if graph is not None:
            self._keep_graph(workload, graph)
        return name

    def _needs_graph(self, workload: Workload) -> bool:  # noqa: ARG002 - a driver may need it
        """Whether the graph that the runtime executes is to be fetched with a profiled session."""
        return False

    def _keep_graph(self, workload: Workload, graph: bytes) -> None:
        """Keep what the runtime executes for a workload; only where it was asked for."""

    def _release(self, prepared: Prepared) -> None:
        """Free a session, and with the last one its engine.

        The next session then has a new engine.
        """
        engine: Engine = prepared.handle.engine
        engine.unload(prepared.handle.name)
        if not self._sessions_in(engine):
            self._end_engine(engine)

    def _sessions_in(self, engine: Engine) -> set[Prepared]:
        return {prepared for prepared in self._live if prepared.handle.engine is engine}

    @contextmanager
    def _using(self, engine: Engine) -> Iterator[None]:
        """Have an engine run sessions; it is ended by a model that fails, as the runner is."""
        try:
            yield
        except WorkloadError:
            self._end_engine(engine)
            raise

    def _end_engine(self, engine: Engine) -> None:
        """End an engine, and with it the sessions that still live there; twice is fine."""
        self._live -= self._sessions_in(engine)
        self._engines.pop(engine, None)
        engine.close()

    def _run(self, order: Sequence[Prepared], loops: int) -> Samples:
        handles: list[Handle] = [prepared.handle for prepared in order]
        values_s: list[float] = []
        for engine, part in groupby(handles, key=lambda handle: handle.engine):
            with self._using(engine):
                values_s += engine.run([handle.name for handle in part], loops)
        return Samples(tuple(values_s), handles[0].engine.clock if handles else CLOCK)

    def _draw_inputs(self, prepared: Prepared, seed: int, exponent: int) -> None:
        handle: Handle = prepared.handle
        with self._using(handle.engine):
            handle.engine.draw_inputs(handle.name, seed, exponent)

    def measures_memory(self) -> bool:
        """Whether a session can have a process of its own."""
        return True

    def peak_memory_bytes(self, prepared: Prepared) -> int | None:
        """Read the peak resident memory of an isolated session, in bytes.

        Returns:
            The memory; None where sessions share a process.
        """
        if not prepared.settings.isolate:
            return None
        handle: Handle = prepared.handle
        return self._guard(handle.engine.memory)

    def _profile_in_turns(
        self, plain: Handle, workload: Workload, runs: int
    ) -> tuple[tuple[float, ...], tuple[float, ...], bytes, int]:
        """Profile a workload in turns with unprofiled inferences.

        Args:
            plain: The unprofiled session.
            workload: What it runs.
            runs: Inferences of each kind.

        Returns:
            (latencies in seconds of the unprofiled inferences that count, those of the profiled
            ones, what the runtime wrote, inferences that were profiled in all).
        """
        engine = plain.engine
        name = self._load(engine, workload, profile=True)
        order = turn_order(plain.name, name, runs)
        with self._using(engine):
            values_s = engine.run(order, 1)
            trace = engine.unload(name)
        if trace is None:
            raise OutputParseError("the runtime wrote no profile")
        reference_s: list[float] = []
        profiled_s: list[float] = []
        for value_s, session in zip(values_s, order, strict=True):
            if session == plain.name:
                reference_s.append(value_s)
            else:
                profiled_s.append(value_s)
        counted = [tuple(select_counted(part, runs)) for part in (reference_s, profiled_s)]
        return counted[0], counted[1], trace, len(profiled_s)
