"""From a workload in ONNX to one in the format of TensorFlow Lite, for devices that run no other.

The conversion is litert-torch's. It takes some 15 s and a library of 2 GB, so it runs in a process
of its own (`tflite_child`), and what it made is kept. Its outputs are compared with those of the
original before anything is measured.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import WorkloadError
from hwbench.network.intake.kept_models import keep, read_kept
from hwbench.network.ort import TELEMETRY_OFF
from hwbench.network.run_outputs import NetworkRunner
from hwbench.network.tflite import describe
from hwbench.network.workload import Workload
from hwbench.optional import install_command
from hwbench.records.findings import CONVERTED, Finding
from hwbench.records.scratch import scratch_folder
from hwbench.user_folders import cache_folder
from hwbench.version import __version__

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOG = logging.getLogger("hwbench")
CONVERTER = "litert-torch"
CONVERT_S, RUN_S = 900.0, 120.0
"""Seconds that a conversion may take, and running a network once."""
SAME_DB = 40.0
"""Signal-to-noise ratio that outputs must keep; float32 in another order keeps 80 dB and more."""
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from hwbench.network.intake import"
    " tflite_child; tflite_child.main(*sys.argv[2:])"
)


def convert_to_tflite(workload: Workload, seed: int = 0) -> Workload:
    """Convert a network; images, the first dimension behind the batch in ONNX, come last there.

    Args:
        workload: In ONNX.
        seed: Of the inputs that outputs are compared on.

    Raises:
        WorkloadError: litert-torch is not installed or cannot convert the network, or what it made
            computes something else.
    """
    if workload.precision != "fp32":
        raise WorkloadError(
            f"{workload.name} is in {workload.precision}, and only fp32 is converted to tflite;"
            " give the .tflite file itself"
        )
    number = _find_version(workload)
    key = sha256(f"{workload.sha256} {number} {__version__}".encode()).hexdigest()
    kept = cache_folder() / "tflite" / f"{key[:32]}.bin"
    data = read_kept(kept)
    is_new = data is None
    if data is None:
        LOG.info("converting %s to tflite by %s, once", workload.name, CONVERTER)
        data = _run_converter(workload)
    converted = describe(data, workload.name)
    values = {name: channels_last(value) for name, value in workload.values.items()}
    ratio_db = _compare(workload, converted, seed)
    if not ratio_db >= SAME_DB:
        raise WorkloadError(
            f"{CONVERTER} made something else of {workload.name}: its outputs keep a"
            f" signal-to-noise ratio of {ratio_db:.0f} dB, expected {SAME_DB:.0f}; convert it"
            " yourself, and give the .tflite file"
        )
    if is_new:
        keep(kept, data)
    text = (
        f"converted to tflite by {CONVERTER} {number}, images channels last; its outputs follow"
        f" those of the original with a signal-to-noise ratio of {ratio_db:.0f} dB"
    )
    findings = (*workload.findings, *converted.findings, Finding(CONVERTED, text))
    return replace(converted, findings=findings, values=values)


def channels_last(values: NDArray[Any]) -> NDArray[Any]:
    """Bring images from channels first to channels last; anything else stays as it is."""
    if values.ndim != 4:
        return values
    return np.ascontiguousarray(np.transpose(values, (0, 2, 3, 1)))


def _find_version(workload: Workload) -> str:
    try:
        return version(CONVERTER)
    except PackageNotFoundError as error:
        raise WorkloadError(
            f"{workload.name} has to be converted to tflite, which needs {CONVERTER} (2 GB), which"
            f" is not installed; try: {install_command(CONVERTER)}; or give a .tflite file"
        ) from error


def _run_converter(workload: Workload) -> bytes:
    """Convert in a process of its own."""
    paths = [entry or str(Path.cwd()) for entry in sys.path]
    with scratch_folder() as folder:
        source, target = folder / "model.onnx", folder / "model.tflite"
        source.write_bytes(workload.onnx)
        argv = [sys.executable, "-c", _CHILD, json.dumps(paths), str(source), str(target)]
        try:
            done = subprocess.run(
                argv,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=CONVERT_S,
                check=False,
                env=os.environ | TELEMETRY_OFF,
            )
        except subprocess.TimeoutExpired as error:
            raise WorkloadError(
                f"{CONVERTER} did not convert {workload.name} within {CONVERT_S:.0f} s; convert it"
                " yourself, and give the .tflite file"
            ) from error
        if done.returncode != 0 or not target.is_file():
            lines = done.stderr.decode("utf-8", "replace").split("\n")
            reason = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
            raise WorkloadError(
                f"{CONVERTER} cannot convert {workload.name}: {reason[:300]}; convert it yourself,"
                " and give the .tflite file"
            )
        return target.read_bytes()


def _compare(original: Workload, converted: Workload, seed: int) -> float:
    """Signal-to-noise ratio of the outputs on random inputs, in decibels; the worst output's."""
    random = np.random.default_rng(seed)
    inputs = []
    for spec in original.inputs:
        value = original.values.get(spec.name)
        if value is None:
            value = random.uniform(-1, 1, spec.shape).astype(spec.dtype)
        inputs.append(value)
    with scratch_folder() as folder, NetworkRunner(folder) as runner:
        before = runner.run(original, inputs, RUN_S)
        after = runner.run(converted, [channels_last(value) for value in inputs], RUN_S)
    return find_ratio_db(before, after)


def find_ratio_db(before: Sequence[NDArray[Any]], after: Sequence[NDArray[Any]]) -> float:
    """Signal-to-noise ratio of outputs in decibels, the worst output's.

    Returns:
        The ratio; minus infinity where numbers or shapes differ, infinity where all are equal.
    """
    if [output.shape for output in before] != [output.shape for output in after]:
        return -math.inf
    worst = math.inf
    for reference, other in zip(before, after, strict=True):
        signal = float(np.mean(np.square(reference.astype(np.float64))))
        noise = float(np.mean(np.square(reference.astype(np.float64) - other)))
        if noise > 0:
            ratio = 10 * math.log10(signal / noise) if signal > 0 else -math.inf
            worst = min(worst, ratio)
        elif math.isnan(noise):
            return -math.inf
    return worst
