"""Random inputs: of the right kind, of ordinary size, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from hwbench.devices.shared.inputs import random_input
from hwbench.errors import UnsupportedLayerError
from hwbench.records.tensors import TensorSpec


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_are_of_ordinary_size(dtype):
    values = random_input(TensorSpec("x", (50, 40), dtype), 3)
    assert values.shape == (50, 40)
    assert values.dtype == dtype
    assert values.min() < -0.9
    assert 0.9 < values.max() <= 1
    if dtype == "float16":
        assert abs(values).min() >= 0.5


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool"])
def test_whole_numbers_are_valid_as_indices(dtype):
    values = random_input(TensorSpec("x", (100,), dtype), 0)
    assert values.dtype == dtype
    assert set(values.tolist()) == {0, 1}


def test_bfloat16_comes_as_its_bits():
    bits = random_input(TensorSpec("x", (1000,), "bfloat16"), 0)
    assert bits.dtype == np.uint16
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    assert abs(values).min() >= 0.5
    assert abs(values).max() <= 1
    assert values.min() < 0 < values.max()


def test_the_seed_decides():
    spec = TensorSpec("x", (7,))
    first, same, other = (random_input(spec, seed).tolist() for seed in (1, 1, 2))
    assert first == same != other


def test_scalars_and_empty_tensors_are_inputs_too():
    for dtype in ("float32", "float16", "bfloat16", "int64"):
        assert random_input(TensorSpec("x", (), dtype), 0).shape == ()
        assert random_input(TensorSpec("x", (0, 3), dtype), 0).size == 0


def test_an_unknown_type_is_refused():
    with pytest.raises(UnsupportedLayerError, match="'x' holds float4"):
        random_input(TensorSpec("x", (1,), "float4"), 0)
