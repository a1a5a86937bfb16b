"""The channel step of a device, found with a few small layers before a table is built.

The widths that are measured for a table belong where the steps are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hwbench.devices.base import Device, Prepared
from hwbench.errors import UnsupportedLayerError
from hwbench.lookup_tables.families import Family, place_of
from hwbench.lookup_tables.making.networks import loops_for
from hwbench.lookup_tables.surface import Points, find_step
from hwbench.network.layers import keyed_layers_of
from hwbench.network.single_layer import single_layer_workload
from hwbench.network.tflite.single_layer import single_layer_tflite
from hwbench.network.widths import DEFAULT_STEP
from hwbench.network.workload import TFLITE, Workload
from hwbench.records.layer_key import LayerKey
from hwbench.records.measurement import Settings

PROBES = range(32, 97, 4)
"""Channels of the probed layers: steps of 4 to 32 show in them."""
ROUNDS = 15


def grid_step(steps: Mapping[str, int]) -> int:
    """Step that widths should keep to, given those of each kind of layer."""
    return max((step for step in steps.values() if step > 1), default=DEFAULT_STEP)


def channel_steps(device: Device, workload: Workload, settings: Settings) -> dict[str, int]:
    """Channel step of each kind of weighted layer in a model.

    It is found with isolated layers that read as many channels as they write.

    Args:
        device: An opened device.
        workload: The model whose heaviest layer of each kind is probed.
        settings: Threads and seed.

    Raises:
        DeviceError: The device failed.
    """
    heaviest: dict[str, tuple[int, Family]] = {}
    for layer in keyed_layers_of(workload):
        family = place_of(layer.key).family
        if layer.macs > heaviest.get(family.kind, (0, family))[0]:
            heaviest[family.kind] = layer.macs, family
    make = single_layer_tflite if workload.format == TFLITE else single_layer_workload
    return {
        kind: _find_step(device, family, settings, make) for kind, (_, family) in heaviest.items()
    }


def _find_step(
    device: Device, family: Family, settings: Settings, make: Callable[[LayerKey], Workload]
) -> int:
    prepared: list[Prepared] = []
    try:
        workloads = [make(family.key(channels, channels)) for channels in PROBES]
        prepared += (
            device.prepare(workload, settings) for workload in workloads
        )  # kept one by one, to be released
        latency_s = _measure_latencies(device, prepared, settings)
    except UnsupportedLayerError:
        return 1
    finally:
        for one in prepared if device.usable else ():
            device.release(one)
    counts = np.array(PROBES, np.float64)
    return find_step([Points(counts, counts, latency_s, np.ones_like(counts))])


def _measure_latencies(
    device: Device, prepared: list[Prepared], settings: Settings
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Median latency of each, all interleaved in random order, seconds."""
    rng = np.random.default_rng(settings.seed)
    order = rng.permuted(np.tile(np.arange(len(prepared)), (ROUNDS, 1)), axis=1).ravel()
    loops = loops_for(device.run(prepared).values_s, settings)
    values_s = np.array(device.run([prepared[index] for index in order], loops).values_s)
    return np.array([np.median(values_s[order == index]) for index in range(len(prepared))])
