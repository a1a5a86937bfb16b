"""The only door to onnxruntime.

ONNX Runtime 1.29 and later, on Linux, starts a telemetry thread at load, writes a device id and a
database under the home folder, and uploads; `ORT_DISABLE_TELEMETRY=1` in the environment before the
import stops it.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

from hwbench.errors import DeviceUnavailableError

TELEMETRY_OFF = {"ORT_DISABLE_TELEMETRY": "1"}
"""Environment for every process that loads ONNX Runtime."""


def onnxruntime() -> ModuleType:
    """Import onnxruntime with its telemetry switched off.

    Raises:
        DeviceUnavailableError: It is not installed.
    """
    if "onnxruntime" not in sys.modules:
        os.environ.update(TELEMETRY_OFF)
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceUnavailableError(
            f"onnxruntime does not import ({error}); pip install onnxruntime"
        ) from error
    module: ModuleType = onnxruntime
    return module


def model_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises about a model; its errors have no common base of their own."""
    errors = onnxruntime().capi.onnxruntime_pybind11_state
    return (
        RuntimeError,
        ValueError,
        errors.EPFail,
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.InvalidProtobuf,
        errors.NotImplemented,
        errors.RuntimeException,
    )
