"""What the fixtures do: measure on the opened device, and keep the records.

They measure as `hwbench profile` and `hwbench compare` do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import pytest

from hwbench.errors import UsageError
from hwbench.measuring.comparing import compare_measured
from hwbench.measuring.sessions import measure, measure_interleaved
from hwbench.network.intake import ModelOptions, load_workload
from hwbench.pytest_plugin.options import OPTIONS
from hwbench.pytest_plugin.summary import PROPERTY, QUESTION, measurement_line, question_text
from hwbench.records.comparison import Comparison
from hwbench.records.measurement import Measurement, Settings
from hwbench.workflows.compare import load_pair
from hwbench.workflows.likeness import find_likeness
from hwbench.workflows.profile import DEFAULT_SETTINGS
from hwbench.workflows.recording import recording

if TYPE_CHECKING:
    from torch import nn

    from hwbench.devices.base import Device


class FixtureMeter:
    """Measures on one device for one test, and notes each result for the summary.

    Args:
        item: The test.
        device: The device, opened; it is opened again where it failed in an earlier test.
    """

    def __init__(self, item: pytest.Item, device: Device) -> None:
        self._item, self._device = item, device
        self._options = item.config.stash[OPTIONS]
        self._profiled = ""

    def profile(
        self,
        model: str | Path | nn.Module,
        *,
        settings: Settings | None = None,
        quick: bool = False,
        **options: Unpack[ModelOptions],
    ) -> Measurement:
        """Measure the one workload of a test.

        Args:
            model: The model, as `hwbench.profile` takes it.
            settings: How to measure; None for the defaults and the options of the run.
            quick: Whether it is only seen that the model runs: as few samples as make a record are
                taken, no layers are measured, and nothing is kept.
            options: How the model is read, see `load_workload`.

        Raises:
            UsageError: The test has measured a workload before.
            HwbenchError: The model cannot be read, or the device cannot run it.
        """
        if self._profiled:
            raise UsageError(
                f"hw_benchmark has measured {self._profiled} in this test already; give every"
                " workload a test of its own (pytest.mark.parametrize)"
            )
        settings = settings or self._options.settings(DEFAULT_SETTINGS)
        if quick:
            settings = replace(
                settings, min_sessions=2, max_sessions=2, session_s=0.0, layers=False
            )
        workload = load_workload(model, seed=settings.seed, **options)
        self._profiled = workload.name
        with recording(self._options.store, save=not quick, callback=None) as recorder:
            record = measure(self._usable_device(), workload, settings, recorder)
        self.note(measurement_line(record, saved=not quick))
        return record

    def compare(
        self,
        baseline: str | Path | nn.Module,
        candidate: str | Path | nn.Module,
        *,
        candidate_precision: str | None = None,
        candidate_arch: str | None = None,
        data: str | Path | None = None,
        evaluate: str | Callable[[nn.Module], Any] | None = None,
        settings: Settings | None = None,
        narrow: bool = False,
        **options: Unpack[ModelOptions],
    ) -> Comparison:
        """Compare two models interleaved; arguments as in `hwbench.compare`.

        Measuring stops when it is known whether the candidate is faster at all. Whether it is by a
        given factor is nearly always known, too, once the interval is half as wide as the smallest
        effect: that is what `narrow` aims at.

        Raises:
            IncomparableError: The models take inputs of different shapes.
            HwbenchError: A model cannot be read, or the device cannot run it.
        """
        settings = settings or self._options.settings(Settings())
        if narrow:
            target = min(settings.target, settings.min_effect / 2)
            settings = replace(settings, target=target, stop_at_difference=False)
        pair = load_pair(
            baseline, candidate, candidate_precision, candidate_arch, seed=settings.seed, **options
        )
        likeness = find_likeness(*pair, settings, data, evaluate)
        with recording(
            self._options.store, save=True, callback=None, likeness=likeness
        ) as recorder:
            records = measure_interleaved(self._usable_device(), pair, settings, recorder)
        return compare_measured(*records, likeness=likeness)

    def note(self, line: str) -> None:
        """Add a line to the summary."""
        self._item.user_properties.append((PROPERTY, line))

    def note_comparison(self, line: str, *, resolved: bool) -> None:
        """Add a comparison to the summary.

        Args:
            line: What it says there.
            resolved: Whether the samples told what was asked.
        """
        self.note(line)
        self._item.user_properties.append((QUESTION, question_text(resolved=resolved)))

    def _usable_device(self) -> Device:
        """Open the device again if it failed in an earlier test."""
        if not self._device.usable:
            self._device.close()
            self._device.open()
        return self._device
