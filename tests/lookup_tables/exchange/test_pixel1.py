"""Pixel 1 logs joined to the layers of the networks they were made of."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from statistics import median

import numpy as np
import pytest

from hwbench.errors import UsageError
from hwbench.lookup_tables.exchange.foreign_network import ForeignEntry
from hwbench.lookup_tables.exchange.join_by_order import join_tflite
from hwbench.lookup_tables.exchange.shipped import PIXEL1, pixel1_logs
from hwbench.network import graph
from hwbench.network.graph.build import layer_model
from hwbench.network.intake import load_workload
from hwbench.records.layer_key import LayerKey

FULL, THREE_QUARTERS, AMC = PIXEL1


@cache
def keys_of(model: str) -> tuple[LayerKey, ...]:
    return tuple(layer.key for layer in graph.layers(graph.load(load_workload(model).onnx)))


@cache
def entries_of(model: str) -> tuple[ForeignEntry, ...]:
    return join_tflite(pixel1_logs(model), keys_of(model))


def end_to_end_s(model: str) -> float:
    return median(log.profiled.mean_s for log in pixel1_logs(model))


@pytest.mark.parametrize("model", PIXEL1)
def test_medians_over_the_repeats_sum_to_the_end_to_end_latency(model):
    entries = entries_of(model)
    assert sum(entry.median_s * entry.calls for entry in entries) == pytest.approx(
        end_to_end_s(model), rel=0.005
    )
    assert all(entry.n == 3 * entry.calls for entry in entries)
    assert sum(entry.calls for entry in entries) == len(pixel1_logs(model)[0].operators)


def test_rows_go_to_their_layers():
    entries = {entry.key: entry for entry in entries_of(FULL)}
    first, *_, last = keys_of(FULL)
    assert entries[first].samples_s == pytest.approx((4.245e-3, 4.203e-3, 4.461e-3))
    assert entries[first].median_s == pytest.approx(4.245e-3)
    assert last.op == "Linear"
    assert entries[last].samples_s[0] == pytest.approx(0.623e-3)
    repeated = [
        key
        for key in entries
        if key.output == (1, 512, 14, 14) and key.inputs == ((1, 512, 14, 14),)
    ]
    assert [entries[key].calls for key in repeated] == [5, 5]
    assert (
        sum(entry.calls for entry in entries_of(FULL) if entry.key.attr("group", "1") != "1") == 13
    )


def test_a_softmax_that_the_model_leaves_out_gets_the_key_it_would_have():
    (key,) = [entry.key for entry in entries_of(FULL) if entry.key.op == "Softmax"]
    found = graph.layers(graph.load(layer_model(key)))
    assert [layer.key for layer in found] == [key]
    assert key.inputs == ((1, 1001),)
    assert not [entry for entry in entries_of(AMC) if entry.key.op == "Softmax"]


def test_rows_below_the_resolution_give_no_entry():
    logs = [
        replace(log, operators=tuple(_without_time(row) for row in log.operators))
        for log in pixel1_logs(FULL)
    ]
    assert {entry.key.op for entry in entries_of(FULL)} - {
        entry.key.op for entry in join_tflite(logs, keys_of(FULL))
    } == {"Reshape"}


def _without_time(row):
    return replace(row, mean_s=None) if row.kind == "SQUEEZE" else row


def test_logs_that_do_not_fit_are_refused_by_the_first_row():
    logs, keys = pixel1_logs(FULL), keys_of(FULL)
    with pytest.raises(
        UsageError,
        match=(
            r"row 3 of mobilenet_run1\.txt, CONV_2D 'MobilenetV1/.*/Conv2d_1_pointwise/Relu6', does"
        ),
    ):
        join_tflite(logs, [*keys[:2], keys[1], *keys[3:]])
    with pytest.raises(UsageError, match="any layer: the model has no more"):
        join_tflite(
            [
                replace(log, operators=(*log.operators, log.operators[-1]))
                for log in pixel1_logs(AMC)
            ],
            keys_of(AMC),
        )
    with pytest.raises(UsageError, match="ends before layer"):
        join_tflite(
            [replace(log, operators=log.operators[:-2]) for log in pixel1_logs(AMC)], keys_of(AMC)
        )
    strange = replace(logs[0].operators[0], kind="CUSTOM")
    with pytest.raises(UsageError, match=r"row 1 of mobilenet_run1\.txt, CUSTOM"):
        join_tflite([replace(logs[0], operators=(strange, *logs[0].operators[1:]))], keys)
    often = replace(logs[0].operators[0], calls=2)
    with pytest.raises(UsageError, match="called 2 times"):
        join_tflite([replace(logs[0], operators=(often, *logs[0].operators[1:]))], keys)


def test_logs_of_several_networks_or_without_operators_are_refused():
    with pytest.raises(UsageError, match="different networks"):
        join_tflite([*pixel1_logs(FULL)[:1], *pixel1_logs(THREE_QUARTERS)[:1]], keys_of(FULL))
    with pytest.raises(UsageError, match="no logs"):
        join_tflite([], keys_of(FULL))
    with pytest.raises(UsageError, match="--enable_op_profiling"):
        join_tflite([replace(pixel1_logs(FULL)[0], operators=())], keys_of(FULL))
    with pytest.raises(UsageError, match="no logs of 'zoo:resnet18'"):
        pixel1_logs("zoo:resnet18")


def family(key: LayerKey) -> str:
    return (
        "depthwise"
        if key.attr("group", "1") != "1"
        else f"conv{key.attr('kernel')}"
        if key.op == "Conv"
        else "rest"
    )


def features(key: LayerKey) -> list[float]:
    """Multiply-accumulates, elements read and written, weights, and a constant, as far as three
    networks can tell them apart.
    """
    (_, cin, *before), (_, cout, *after) = key.inputs[0], key.output
    read, written = cin * float(np.prod(before)), cout * float(np.prod(after))
    if family(key) == "conv1x1":
        return [cin * written, read, written, cin * cout, 1.0]
    return (
        [written, read, float(np.prod(after)), 1.0]
        if family(key) == "depthwise"
        else [written, 1.0]
    )


def predicted_s(model: str, known: list[ForeignEntry]) -> float:
    """Latency of `model` by one least-squares fit of relative errors per family of layers, on
    entries of other networks.
    """
    total = 0.0
    for name in {family(entry.key) for entry in entries_of(model)}:
        points = [entry for entry in known if family(entry.key) == name]
        wanted = [entry for entry in entries_of(model) if family(entry.key) == name]
        if name == "rest":  # pooling, logits, reshape, softmax: under 1 % together
            total += sum(entry.median_s * entry.calls for entry in points) / 2
            continue
        measured_s = np.array([entry.median_s for entry in points])
        design = np.array([features(entry.key) for entry in points])
        scale = design.max(axis=0)
        weights, *_ = np.linalg.lstsq(
            design / scale / measured_s[:, None], np.ones(len(points)), rcond=None
        )
        layers_s = np.array([features(entry.key) for entry in wanted]) / scale @ weights
        total += float(layers_s @ [entry.calls for entry in wanted])
    return total


@pytest.mark.parametrize("model", PIXEL1)
def test_two_networks_predict_the_third_within_5_percent(model):
    known = [entry for other in PIXEL1 if other != model for entry in entries_of(other)]
    assert predicted_s(model, known) == pytest.approx(end_to_end_s(model), rel=0.05)
