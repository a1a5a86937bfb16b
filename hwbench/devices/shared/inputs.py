"""Random values for the inputs of a model.

They are of ordinary size, so that no kernel takes a short cut or a detour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import UnsupportedLayerError
from hwbench.network.workload import Workload
from hwbench.records.tensors import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


def input_values(workload: Workload, position: int, seed: int) -> NDArray[Any]:
    """Give the values for one input of a model: those it came with, else random ones.

    Args:
        workload: The model.
        position: The input among its inputs.
        seed: Seed of random values.

    Raises:
        UnsupportedLayerError: NumPy has no such element type.
    """
    spec = workload.inputs[position]
    if spec.name in workload.values:
        return workload.values[spec.name]
    return random_input(spec, seed)


def inputs_as_bytes(workload: Workload, seed: int = 0) -> bytes:
    """Give the values of all inputs of a model, one after the other, in the order of its inputs."""
    parts = [input_values(workload, at, seed).tobytes() for at in range(len(workload.inputs))]
    return b"".join(parts)


def random_input(spec: TensorSpec, seed: int, exponent: int = 0) -> NDArray[Any]:
    """Draw the values for one input.

    Floats are uniform in [-1, 1); those of two bytes keep away from 0, where they would often be
    denormal, which some processors compute slowly. Whole numbers are 0 or 1, which are valid as
    index, token and mask alike.

    Args:
        spec: The input. `bfloat16`, which NumPy does not have, comes as `uint16` of the same bits.
        seed: Seed of the values.
        exponent: Floats are multiplied by 2 to the power of this; those of two bytes stay normal.

    Raises:
        UnsupportedLayerError: NumPy has no such element type.
    """
    random = np.random.default_rng(seed)
    if spec.dtype == "bfloat16":
        values = _draw_away_from_zero(random, spec.shape, exponent).astype(np.float32)
        # A bfloat16 is the upper half of the float32 with the same value.
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    try:
        kind = np.dtype(spec.dtype)
    except TypeError as error:
        raise UnsupportedLayerError(
            f"input {spec.name!r} holds {spec.dtype}, of which no values can be made; cast it in"
            " the model"
        ) from error
    if kind.kind != "f":
        return random.integers(0, 2, spec.shape).astype(kind)
    if kind.itemsize <= 2:
        exponent = min(max(exponent, -13), 15)
        return _draw_away_from_zero(random, spec.shape, exponent).astype(kind)
    return np.asarray(random.uniform(-1, 1, spec.shape) * 2.0**exponent).astype(kind)


def _draw_away_from_zero(
    random: np.random.Generator, shape: tuple[int, ...], exponent: int
) -> NDArray[Any]:
    """Draw values of either sign, from 0.5 to 1 in size, times 2 to the power of `exponent`."""
    values = random.choice([-1.0, 1.0], shape) * random.uniform(0.5, 1, shape)
    return np.asarray(values * 2.0**exponent)
