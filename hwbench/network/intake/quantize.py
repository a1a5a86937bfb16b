"""Static int8 quantisation through ONNX Runtime's quantiser."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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

Feed = Mapping[str, "NDArray[Any]"]
"""Values of all inputs of one inference, by name."""
Ranges = Any
"""The smallest and largest value of each activation, as ONNX Runtime's calibrator gives them."""


def quantize(
    model: ModelProto, inputs: Sequence[TensorSpec], name: str, seed: int = 0
) -> ModelProto:
    """Quantise a model statically to int8, with ranges of a few random inputs.

    Args:
        model: See `quantize_calibrated`.
        inputs: The inputs of the model.
        name: The name of the model, for messages.
        seed: The seed of the random calibration inputs.

    Raises:
        WorkloadError: The quantiser refuses the model.
    """
    return quantize_calibrated(model, calibrate(model, _draw_feeds(inputs, seed), name), name)


def calibrate(model: ModelProto, feeds: Iterable[Feed], name: str) -> Ranges:
    """Find the smallest and the largest value that each activation takes.

    Args:
        model: An fp32 model with batch normalization folded and input shapes fixed.
        feeds: What it is run on.
        name: The name of the model, for messages.

    Raises:
        WorkloadError: The model does not run, or has nothing to quantise.
    """
    import onnx

    onnxruntime()  # sets its environment before the import below
    from onnxruntime.quantization import CalibrationDataReader, create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self._feeds, None)

    with _explain_refusal(name), scratch_folder() as folder:
        source = folder / "fp32.onnx"
        onnx.save(model, source)
        calibrator = create_calibrator(
            source,
            _quantised_operators(),
            augmented_model_path=str(folder / "augmented.onnx"),
        )
        calibrator.collect_data(Reader())
        return calibrator.compute_data()


def quantize_calibrated(
    model: ModelProto, ranges: Ranges, name: str, left: Collection[str] = ()
) -> ModelProto:
    """Quantise a model statically to int8: unsigned activations, signed weights per channel.

    The result is in the Q/DQ form (U8S8). With signed activations ONNX Runtime 1.32 leaves every
    convolution that a ReLU follows in fp32 on x86 (10 of ResNet-20's 19): a range that starts at
    zero lets the quantiser drop the ReLU. Nodes keep their names. See
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.

    Args:
        model: An fp32 model with batch normalization folded and input shapes fixed; it stays as it
            is.
        ranges: What `calibrate` found for it.
        name: The name of the model, for messages.
        left: Names of nodes that stay in fp32.

    Raises:
        WorkloadError: The quantiser refuses the model.
    """
    import onnx

    onnxruntime()  # sets its environment before the import below
    from onnxruntime.quantization import QDQQuantizer, QuantType

    with _explain_refusal(name):
        quantizer = QDQQuantizer(
            onnx.shape_inference.infer_shapes(model),  # a copy, which the quantiser changes
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(left),
            op_types_to_quantize=_quantised_operators(),
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()  # new nodes were added at the end
        quantized: ModelProto = quantizer.model.model
        return quantized


def _quantised_operators() -> list[str]:
    """The operators that ONNX Runtime quantises by default."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


@contextmanager
def _explain_refusal(name: str) -> Iterator[None]:
    """Turn the quantiser's errors into one of the model, and keep its advice off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise WorkloadError(
            f"{name} cannot be quantised to int8 by ONNX Runtime: {str(error).splitlines()[:1]}"
        ) from error
    finally:
        logging.disable(before)


def _draw_feeds(inputs: Sequence[TensorSpec], seed: int) -> Iterator[Feed]:
    random = np.random.default_rng(seed)
    for _ in range(CALIBRATION_SAMPLES):
        yield {spec.name: random_input(spec, random) for spec in inputs}
