"""Where the sessions of a runtime live.

The interface, and the native runner on this computer or on a target far away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Protocol

from hwbench.devices.shared.inputs import inputs_as_bytes
from hwbench.devices.shared.runner.process import RunnerProcess
from hwbench.devices.shared.runner.protocol import CLOCK
from hwbench.errors import BuildError, OutputTooLargeError
from hwbench.network.workload import Workload

PATIENCE_S, PATIENCE = 60.0, 10.0
"""A request may take this many seconds and, beyond them, this many times what it should take."""
LOAD_S, WEIGHTS_BYTES_PER_S = 120.0, 20_000_000
"""Seconds that loading a model may take, and the rate at which large weights add to them."""
LEASE_S = 600.0
"""Seconds after its last request after which a runner that cannot be reached ends itself."""


class Engine(Protocol):
    """Where the sessions of a runtime live, by name."""

    clock: str

    def load(
        self, name: str, workload: Workload, *, profile: bool = False, graph: bool = False
    ) -> bytes | None:
        """Create a session and run it once.

        Returns:
            The graph that is executed, if asked for; larger weights may be missing.

        Raises:
            BuildError: The runtime refuses the model.
        """
        ...

    def start_s(self, name: str) -> tuple[float, float]:
        """Seconds that it took to create a session, and seconds of its first inference."""
        ...

    def run(self, order: Sequence[str], loops: int) -> tuple[float, ...]:
        """Time one round of `loops` for each name, in that order, in seconds per inference."""
        ...

    def draw_inputs(self, name: str, seed: int, exponent: int) -> None:
        """Give a session other random inputs; see `DrawsInputs`."""
        ...

    def unload(self, name: str) -> bytes | None:
        """Free a session, and return its profile if it was profiled.

        Raises:
            OutputTooLargeError: The profile is too large to be read; the session is free.
        """
        ...

    def memory(self) -> int | None:
        """Read the peak resident memory of the process in bytes.

        Returns:
            The memory; None if the process holds more than the sessions.
        """
        ...

    def close(self) -> None:
        """Free everything."""
        ...


class NativeEngine:
    """Sessions in one process of the native runner, here or far away.

    All that passes between the runner and hwbench is their conversation.

    Args:
        runner: The process, with its library open. This object ends it.
        place: Puts a model file where the runner can read it, and returns its path there.
        folder: Folder where the runner may write temporary files.
        cores: Logical cores, one for each thread; none if threads are not to be pinned.
        threads: Threads of each session.
        seed: Seed of the random inputs.
        clock: Name of the clock.
        leased: Whether the runner ends itself after some time without a request. It must where the
            connection to it may break.
    """

    def __init__(
        self,
        runner: RunnerProcess,
        place: Callable[[RunnerProcess, Workload], PurePath],
        folder: PurePath,
        *,
        cores: Sequence[int],
        threads: int,
        seed: int,
        clock: str = f"{CLOCK} in the native runner",
        leased: bool = False,
    ) -> None:
        self.clock = clock
        self._runner, self._place, self._folder, self._leased = runner, place, folder, leased
        self._slowest_s = 0.0  # seconds of the slowest first inference so far
        self._start_s: dict[str, tuple[float, float]] = {}
        self._lease_end_s = 0.0  # when the lease ends, by the monotonic clock
        try:
            self._runner.configure(threads=threads, cpus=cores, seed=seed)
        except BaseException:
            self.close()
            raise

    def load(
        self, name: str, workload: Workload, *, profile: bool = False, graph: bool = False
    ) -> bytes | None:
        """See `Engine`."""
        self._renew_lease(PATIENCE_S)
        path, written = self._place(self._runner, workload), self._folder / "graph.onnx"
        values = None
        if workload.values:
            values = self._folder / "hwbench.inputs"
            self._runner.put(inputs_as_bytes(workload), values)
        weights, timeout_s = None, LOAD_S
        if workload.weights is not None:
            workload.weights.require_unchanged(workload.name)
            weights = Path(workload.weights.folder)
            timeout_s += workload.weights.size_bytes / WEIGHTS_BYTES_PER_S
        try:
            loaded = self._runner.load(
                name,
                path,
                self._folder / "profile" if profile else None,
                written if graph else None,
                timeout_s,
                inputs=values,
                weights=weights,
            )
        except BuildError as error:
            # The runtime names the copy that it was given; the user knows the model by its name.
            text = error.message.replace(str(path), workload.name)
            raise BuildError(text.replace(str(self._folder), "a temporary folder")) from error
        if values is not None:
            self._runner.delete(values)
        self._slowest_s = max(self._slowest_s, loaded.first_run_s)
        self._start_s[name] = (loaded.load_s, loaded.first_run_s)
        if not graph:
            return None
        self._runner.delete(self._folder / "hwbench.weights")
        return self._fetch(written)

    def start_s(self, name: str) -> tuple[float, float]:
        """See `Engine`."""
        return self._start_s[name]

    def run(self, order: Sequence[str], loops: int) -> tuple[float, ...]:
        """See `Engine`."""
        timeout_s = PATIENCE_S + PATIENCE * self._slowest_s * len(order) * loops
        self._renew_lease(timeout_s)
        return self._runner.run(order, loops, timeout_s).values_s

    def draw_inputs(self, name: str, seed: int, exponent: int) -> None:
        """See `Engine`."""
        self._runner.draw(name, seed, exponent)

    def unload(self, name: str) -> bytes | None:
        """See `Engine`."""
        profile = self._runner.unload(name)
        return None if profile is None else self._fetch(profile)

    def memory(self) -> int | None:
        """See `Engine`."""
        return self._runner.memory()

    def close(self) -> None:
        """End the process."""
        self._runner.close()

    def _fetch(self, path: PurePath) -> bytes:
        """Fetch a file that the runner wrote, and delete it there."""
        try:
            data = self._runner.get(path)
        except OutputTooLargeError:
            self._runner.delete(path)
            raise
        self._runner.delete(path)
        return data

    def _renew_lease(self, timeout_s: float) -> None:
        """Make sure that the lease outlives a request of `timeout_s`."""
        if self._leased and time.monotonic() + timeout_s > self._lease_end_s:
            lease_s = math.ceil(timeout_s + LEASE_S)
            self._runner.limit(lease_s)
            self._lease_end_s = time.monotonic() + lease_s - 1
