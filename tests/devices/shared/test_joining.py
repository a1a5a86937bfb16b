"""Rows of a runtime's profile joined to layers, whatever the runtime."""

from __future__ import annotations

import pytest

from hwbench.devices.shared.joining import RuntimeRow, join_rows, layers_served
from hwbench.network.graph import layers, load
from tests.support.models import conv_net

LAYERS = layers(load(conv_net((16, 32))))


def row(*serves: str, us: float = 1.0, **more: object) -> RuntimeRow:
    return RuntimeRow("Kind", "kernel", (us * 1e-6, 2 * us * 1e-6), serves, **more)  # type: ignore[arg-type]


def test_layers_have_these_names():
    assert [layer.name for layer in LAYERS] == [
        "features.0.conv",
        "features.1.conv",
        "pool",
        "flatten",
        "fc",
    ]


def test_a_layer_in_two_rows_is_one_and_no_time_is_lost():
    parts = [
        row("features.0.conv", us=5, principal=False),
        row("features.0.conv", us=2),
        row("features.1.conv", us=3),
    ]
    first, second = join_rows(parts, LAYERS)
    assert (first.name, first.nodes) == ("features.0.conv", 2)
    assert first.samples_s == pytest.approx((7e-6, 14e-6))
    assert first.key == LAYERS[0].key
    assert second.name == "features.1.conv", "which also has the layers that have no row"


def test_the_implementation_is_that_of_the_part_that_does_the_work():
    parts = [
        RuntimeRow("Convert", "copy", (1.0,), ("fc",), principal=False),
        RuntimeRow("Gemm", "fast", (1.0,), ("fc",)),
    ]
    assert join_rows(parts, LAYERS[-1:])[0].implementation == "fast"
    assert join_rows(parts[:1], LAYERS[-1:])[0].implementation == "copy", "without such a part"


def test_a_row_of_several_layers_is_a_group_and_ties_their_rows_together():
    parts = [
        row("features.0.conv"),
        row(),
        row("features.1.conv"),
        row("features.0.conv", "features.1.conv"),
        row("pool"),
        row("flatten"),
        row("fc"),
    ]
    joined = join_rows(parts, LAYERS)
    assert [item.name for item in joined] == [
        "features.1.conv/group of 2",
        "features.1.conv/Kind",
        "pool",
        "flatten",
        "fc",
    ]
    assert (joined[0].op, joined[0].key, joined[0].nodes) == ("Group", None, 3)


def test_inserted_rows_are_named_after_what_they_serve():
    parts = [row(), row(near="pool"), row("fc"), row(), row()]
    assert [item.name for item in join_rows(parts, LAYERS[-1:])] == [
        "input/Kind",
        "pool/Kind",
        "fc",
        "fc/Kind",
        "fc/Kind_2",
    ]


def test_layers_served_by_a_row():
    first, second = LAYERS[:2]
    assert layers_served(["features.0.relu", "features.0.conv"], LAYERS) == ("features.0.conv",)
    assert layers_served([first.nodes[-1], second.nodes[-1]], LAYERS) == ("features.0.conv",)
    assert layers_served([first.name, second.name], LAYERS) == (first.name, second.name)
    assert layers_served(["reorder"], LAYERS) == ()
