"""A device as a `LatencySource`: pruned versions of one network measured when they are asked for, instead of looked up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from hwbench.devices.base import Device, Prepared
from hwbench.errors import MissingEntryError, UsageError
from hwbench.lookup_tables.making.networks import Quiet, paired_ratio, pruned_workload, turns_of
from hwbench.network.graph import load, name_nodes
from hwbench.network.structure import Structure
from hwbench.network.structure.surgery import with_widths
from hwbench.network.workload import Workload
from hwbench.records.layer_key import LayerKey
from hwbench.records.measurement import Settings
from hwbench.records.prediction import Prediction
from hwbench.stats import t_half_width

if TYPE_CHECKING:
    from types import TracebackType


class LiveLatency:
    """Latencies of the pruned versions of one network, each measured in fresh sessions beside the unpruned one, once.

    Use as a context manager: the unpruned network stays prepared meanwhile.

    Args:
        device: An opened device.
        workload: The unpruned network.
        settings: Threads, isolation and seed.
        sessions: Fresh sessions of each structure; at least 2, as the interval rests on their
            scatter.
        turns: Turns of a structure and the unpruned network in each session.

    Raises:
        UsageError: Fewer than 2 sessions.
    """

    def __init__(
        self,
        device: Device,
        workload: Workload,
        settings: Settings,
        *,
        sessions: int = 3,
        turns: int = 6,
    ) -> None:
        if sessions < 2:
            raise UsageError(f"an interval needs at least 2 sessions, not {sessions}")
        self.device, self.workload, self.settings = device, workload, settings
        self.sessions, self.turns = sessions, turns
        self._model = name_nodes(load(workload.onnx))
        self.structure = Structure.from_model(self._model)
        self._quiet = Quiet()
        self._anchor: Prepared | None = None
        self._level_s: list[float] = []
        self._logs: dict[tuple[int, ...], tuple[float, ...]] = {}

    def __enter__(self) -> Self:
        self._anchor = self.device.prepare(self.workload, self.settings)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._anchor is not None and self.device.usable:
            self.device.release(self._anchor)
        self._anchor = None

    def predict(self, keys: Sequence[LayerKey]) -> Prediction:
        """Latency of the pruned version that consists of the layers `keys`, in order, with its 95 % interval.

        Raises:
            MissingEntryError: No pruned version of the network has these layers.
            DeviceError: The device failed.
        """
        widths = self.structure.widths_of(keys)
        if widths is None:
            raise MissingEntryError(
                f"these {len(keys)} layers are no pruned version of {self.workload.name}; give it"
                " as the model"
            )
        logs = self._measured(widths)
        centre, half = float(np.mean(logs)), t_half_width(np.array(logs))
        level_s = float(np.median(self._level_s))
        low_s, middle_s, high_s = (
            level_s * np.exp([centre - half, centre, centre + half])
        ).tolist()
        return Prediction(middle_s, (low_s, high_s), measured=tuple(keys))

    def predict_widths(self, widths: NDArray[np.int64]) -> NDArray[np.float64]:
        """Latencies in seconds, shape (n,), of n structures given by widths of shape (n, groups).

        Raises:
            UsageError: A structure is impossible.
            DeviceError: The device failed; structures measured before it did are remembered.
        """
        self.structure.layer_widths(widths)  # says what is wrong
        centres = [
            float(np.mean(self._measured(tuple(row)))) for row in np.asarray(widths).tolist()
        ]
        return np.median(self._level_s) * np.exp(np.array(centres)) if centres else np.zeros(0)

    def _measured(self, widths: tuple[int, ...]) -> tuple[float, ...]:
        """Log of the latency of a structure over that of the unpruned network, one per session."""
        if widths not in self._logs:
            pruned = pruned_workload(self.workload, with_widths(self._model, widths))
            self._logs[widths] = tuple(
                self._session(pruned, number) for number in range(self.sessions)
            )
        return self._logs[widths]

    def _session(self, pruned: Workload, number: int) -> float:
        if self._anchor is None:
            raise UsageError("the live device is not in use; ask it inside a with block")
        prepared = self.device.prepare(pruned, self.settings)
        try:
            anchor_s, whole_s = turns_of(
                self.device, self._anchor, prepared, self.turns, quiet=self._quiet, seed=number
            )
        finally:
            if self.device.usable:
                self.device.release(prepared)
        self._level_s += anchor_s
        return float(np.log(paired_ratio(anchor_s, whole_s)))
