"""Static int8 quantisation through ONNX Runtime's quantiser."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import WorkloadError
from hwbench.network.intake.onnx_files import random_input
from hwbench.network.ort import onnxruntime
from hwbench.records.findings import Finding
from hwbench.records.scratch import scratch_folder
from hwbench.records.tensors import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

CALIBRATION_SAMPLES = 4
"""Random inputs that the ranges of activations are taken from."""

RANDOM_CALIBRATION = Finding(
    "random_calibration",
    f"int8 ranges were calibrated on {CALIBRATION_SAMPLES} random inputs: latency is meaningful,"
    " accuracy is not",
)


def quantize(
    model: ModelProto, inputs: Sequence[TensorSpec], name: str, seed: int = 0
) -> ModelProto:
    """Quantise a model statically to int8: unsigned activations, signed weights per channel.

    The result is in the Q/DQ form (U8S8). With signed activations ONNX Runtime 1.32 leaves every
    convolution that a ReLU follows in fp32 on x86 (10 of ResNet-20's 19): a range that starts at
    zero lets the quantiser drop the ReLU. Nodes keep their names. See
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.

    Args:
        model: An fp32 model with batch normalization folded and input shapes fixed.
        inputs: The inputs of the model.
        name: The name of the model, for messages.
        seed: The seed of the random calibration inputs.

    Raises:
        WorkloadError: The quantiser refuses the model.
    """
    import onnx

    onnxruntime()  # sets its environment before the import below
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class RandomReader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = _draw_batches(inputs, seed)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self._batches, None)

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with scratch_folder() as folder:
            target = folder / "int8.onnx"
            quantize_static(
                model,
                str(target),
                RandomReader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            return onnx.load(target)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise WorkloadError(
            f"{name} cannot be quantised to int8 by ONNX Runtime: {str(error).splitlines()[:1]}"
        ) from error
    finally:
        logging.disable(before)


def _draw_batches(inputs: Sequence[TensorSpec], seed: int) -> Iterator[dict[str, NDArray[Any]]]:
    random = np.random.default_rng(seed)
    for _ in range(CALIBRATION_SAMPLES):
        yield {spec.name: random_input(spec, random) for spec in inputs}
