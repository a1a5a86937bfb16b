"""`hwbench profile model.tflite`: options of TensorFlow Lite models, and what they exclude."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.options import Keeping, ModelSource, Protocol
from hwbench.errors import UsageError

if TYPE_CHECKING:
    from hwbench.measuring.callback import MeasuringCallback
    from hwbench.records.measurement import Measurement, Settings

_PANEL = "TensorFlow Lite"


@dataclass(frozen=True)
class Tflite:
    """How a TensorFlow Lite model is measured on a phone by `benchmark_model`."""

    benchmark_model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TensorFlow Lite's benchmark_model, built for the phone. It measures a .tflite"
            " model there; LiteRT does without it (android:SERIAL,runtime=litert).",
            rich_help_panel=_PANEL,
        ),
    ] = None
    tflite_flag: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A flag of benchmark_model, such as use_xnnpack=false. Repeatable.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    save_log: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Keep what benchmark_model printed in this folder. hwbench table import reads it.",
            rich_help_panel=_PANEL,
        ),
    ] = None

    def measures(self, model: str, device: str) -> bool:
        """Whether `model` is measured by TensorFlow Lite's own program.

        Raises:
            UsageError: It has to be, and the program is not given; or it is not, and an option here
                is.
        """
        if model.lower().endswith(".tflite"):
            if self.benchmark_model is not None:
                return True
            if device.partition(":")[0] == "android" and not _runs_tflite(device):
                raise UsageError(
                    f"{model}: ONNX Runtime, which runs networks on {device}, reads no .tflite; add"
                    " runtime=litert to the address (android:SERIAL,runtime=litert), or measure"
                    " with TensorFlow Lite's own program: --benchmark-model FILE, built for the"
                    " phone"
                )
            if self != Tflite():
                raise UsageError("--tflite-flag and --save-log need --benchmark-model FILE")
            return False
        if self != Tflite():
            raise UsageError(
                f"{model} is no .tflite file; --benchmark-model, --tflite-flag and --save-log are"
                " for those alone"
            )
        return False

    def profile(
        self,
        model: str,
        source: ModelSource,
        how: Protocol,
        *,
        keeping: Keeping,
        settings: Settings,
        callback: MeasuringCallback,
    ) -> Measurement:
        """Measure it.

        Raises:
            UsageError: An option was given that means nothing here.
        """
        from hwbench.workflows.profile_tflite import profile_tflite

        if source != ModelSource():
            raise UsageError(
                "--input, --batch, --dim, --precision, --arch, --main and --trust-pickle change a"
                " model that is read; a .tflite is fixed"
            )
        if how.tail:
            raise UsageError(
                "--tail: benchmark_model tells the mean of several inferences; leave it out"
            )
        if how.isolate:
            raise UsageError(
                "--isolate: every session of benchmark_model is a process of its own already; leave"
                " it out"
            )
        if self.benchmark_model is None:
            raise UsageError("--benchmark-model FILE is missing")
        return profile_tflite(
            model,
            self.benchmark_model,
            device=how.device,
            flags=_flags(self.tflite_flag or ()),
            settings=settings,
            save_log=self.save_log,
            callback=callback,
            **keeping.arguments(),
        )


def _runs_tflite(device: str) -> bool:
    from hwbench.devices import open_device
    from hwbench.network.workload import TFLITE

    return TFLITE in open_device(device).formats


def _flags(given: list[str] | tuple[()]) -> dict[str, str]:
    """`NAME=VALUE`, with or without leading dashes, by name."""
    flags: dict[str, str] = {}
    for text in given:
        name, equals, value = text.removeprefix("--").partition("=")
        if not name or not equals or name in flags:
            raise UsageError(
                f"--tflite-flag {text!r}: expected NAME=VALUE, each name once, as in"
                " use_xnnpack=false"
            )
        flags[name] = value
    return flags
