"""How good a table is.

Random pruned networks that it has not seen are predicted, then measured beside the unpruned one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwbench.devices.base import Device
from hwbench.errors import UsageError
from hwbench.lookup_tables.making.networks import Quiet, measure_turns, paired_ratio
from hwbench.lookup_tables.making.proposals import Grid
from hwbench.lookup_tables.metadata import Grade, Source
from hwbench.lookup_tables.table import LookupTable
from hwbench.network.prunable import PrunableNetwork
from hwbench.network.structure import Structure
from hwbench.network.widths import DEFAULT_LOWER, DEFAULT_STEP
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from hwbench.records.prediction import Prediction

DRAWS = 100
"""Structures that are drawn in place of one for which a table has no answer."""
HELD_OUT = 1 << 20
"""Joins the seed, so that no network of a build is drawn again."""


@dataclass(frozen=True, slots=True)
class HeldOutTrial:
    """One held-out network.

    Attributes:
        widths: One per group.
        prediction: What the table says.
        sessions_s: Its latency in each session, seconds: the ratio to the unpruned network times
            that one's latency.
    """

    widths: tuple[int, ...]
    prediction: Prediction
    sessions_s: tuple[float, ...]

    @property
    def measured_s(self) -> float:
        """Median over sessions, seconds: a disturbed session only ever takes longer."""
        return float(np.median(self.sessions_s))

    @property
    def error(self) -> float:
        """Predicted over measured latency, minus 1."""
        return self.prediction.latency_s / self.measured_s - 1

    @property
    def covered(self) -> bool:
        """Whether the measured latency lies in the predicted interval."""
        low_s, high_s = self.prediction.ci_s
        return low_s <= self.measured_s <= high_s


@dataclass(frozen=True)
class Validation:
    """Outcome of a validation.

    Attributes:
        model: Whose pruned versions were measured.
        structure: Groups and layers of that model.
        trials: The networks.
        drift: Latency of the unpruned network now over that when the table was made.
    """

    model: str
    structure: Structure
    trials: tuple[HeldOutTrial, ...]
    drift: float

    @property
    def grade(self) -> Grade:
        """The numbers."""
        from scipy.stats import rankdata

        errors = np.array([trial.error for trial in self.trials])
        ranks = [
            rankdata([t.prediction.latency_s for t in self.trials]),
            rankdata([t.measured_s for t in self.trials]),
        ]
        rank = (
            float(np.corrcoef(*ranks)[0, 1])
            if len(errors) > 1 and min(map(np.ptp, ranks)) > 0
            else 1.0
        )
        return Grade(
            model=self.model,
            networks=len(errors),
            bias=float(errors.mean()),
            mean_error=float(np.abs(errors).mean()),
            p95_error=float(np.quantile(np.abs(errors), 0.95)),
            rmspe=float(np.sqrt((errors**2).mean())),
            within_5=float((np.abs(errors) <= 0.05).mean()),
            within_10=float((np.abs(errors) <= 0.1).mean()),
            rank=rank,
            coverage=float(np.mean([trial.covered for trial in self.trials])),
            noise=self.noise,
        )

    @property
    def noise(self) -> float:
        """Mean absolute relative difference of two sessions of one network."""
        logs = np.log([trial.sessions_s for trial in self.trials])
        return float(np.abs(np.diff(logs, axis=1)).mean()) if logs.shape[1] > 1 else 0.0


def validate(
    device: Device,
    table: LookupTable,
    workload: Workload,
    settings: Settings,
    *,
    networks: int,
    sessions: int = 2,
    turns: int = 6,
    quiet: Quiet | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> Validation:
    """Predict random pruned networks and measure them.

    Args:
        device: The opened device of the table.
        table: The table.
        workload: The unpruned model.
        settings: Threads, isolation and seed.
        networks: Pruned networks.
        sessions: Fresh sessions of each, and of the unpruned one beside it.
        turns: Of a network and the unpruned one in a session.
        quiet: What the unpruned network takes while nothing disturbs the device, if that is known
            already.
        callback: Called with the number of measurements done and the number of all.

    Raises:
        MissingEntryError: The table cannot answer for the model.
        UsageError: Fewer than 1 network or session.
        DeviceError: The device failed.
    """
    if networks < 1 or sessions < 1:
        raise UsageError(
            f"nothing to validate with {networks} networks in {sessions} sessions; give at least 1"
            " of each"
        )
    network = PrunableNetwork(workload)
    structure = network.structure
    source = next(
        (s for s in table.provenance.sources if s.architecture == structure.architecture), None
    )
    chosen = draw_held_out(structure, source, networks, settings.seed, table)
    predictions = [table.predict(network.keys(widths)) for widths in chosen]
    pruned = [network.version(widths) for widths in chosen]
    order = np.random.default_rng([settings.seed, HELD_OUT, 1])
    quiet = quiet or Quiet()
    ratios, levels_s = np.zeros((networks, sessions)), np.zeros(sessions)
    for session in range(sessions):
        for done, (index, ratio, level_s) in enumerate(
            _measure_session(
                device, workload, pruned, settings, turns=turns, quiet=quiet, order=order
            ),
            1,
        ):
            ratios[index, session] = ratio
            levels_s[session] += math.log(level_s) / networks
            if callback is not None:
                callback(session * networks + done, networks * sessions)
    now_s = math.exp(float(levels_s.mean()))
    table_s = now_s if source is None else source.latency_s
    trials = tuple(
        HeldOutTrial(widths, prediction, tuple((row * table_s).tolist()))
        for widths, prediction, row in zip(chosen, predictions, ratios, strict=True)
    )
    return Validation(workload.name, structure, trials, now_s / table_s)


def add_grade(table: LookupTable, validation: Validation) -> LookupTable:
    """The table with this grade.

    Its intervals are widened if the held-out networks were further off than those it was made of.
    """
    calibration = replace(
        table.calibration, shared_sd=max(table.calibration.shared_sd, validation.grade.rmspe)
    )
    return replace(table, metadata=replace(table.metadata, calibration=calibration)).graded(
        validation.grade
    )


def draw_held_out(
    structure: Structure,
    source: Source | None,
    networks: int,
    seed: int,
    table: LookupTable | None = None,
) -> list[tuple[int, ...]]:
    """Random structures on the grid of a table that it was not made with.

    Args:
        structure: Groups and layers of the model.
        source: What the table holds of it; None for nothing.
        networks: The number of structures.
        seed: Seed of the draws.
        table: What must be able to answer for them, as far as such structures are found; None for
            any.
    """
    step, lower = DEFAULT_STEP, DEFAULT_LOWER
    if source is not None:
        step, lower = source.step, source.lower
    grid = Grid(structure.widths, step, lower, structure.units)
    rng = np.random.default_rng([seed, HELD_OUT])
    drawn = [grid.random(rng) for _ in range(networks)]
    for place, widths in enumerate(drawn):
        # Where a width is part of a layer's family, a table knows those alone that it was made of.
        tried, found = 0, widths
        while table is not None and tried < DRAWS and not _is_known(table, structure, found):
            tried, found = tried + 1, grid.random(rng)
        drawn[place] = found
    return drawn


def _is_known(table: LookupTable, structure: Structure, widths: tuple[int, ...]) -> bool:
    """Whether a table knows the families of all layers of a structure."""
    return all(table.knows(key) for key in structure.keys(widths))


def _measure_session(
    device: Device,
    workload: Workload,
    pruned: Sequence[Workload],
    settings: Settings,
    *,
    turns: int,
    quiet: Quiet,
    order: np.random.Generator,
) -> Iterator[tuple[int, float, float]]:
    """One fresh session of every network in random order beside one of the unpruned one.

    Yields:
        (index of the network, its latency over that of the unpruned one, latency of that one in
        seconds).
    """
    anchor = device.prepare(workload, settings)
    try:
        for index in order.permutation(len(pruned)).tolist():
            prepared = device.prepare(pruned[index], settings)
            try:
                anchor_s, whole_s = measure_turns(
                    device, anchor, prepared, turns, quiet=quiet, seed=index
                )
            finally:
                if device.usable:
                    device.release(prepared)
            yield index, paired_ratio(anchor_s, whole_s), float(np.median(anchor_s))
    finally:
        if device.usable:
            device.release(anchor)
