"""Inspector and profile of every shape that TensorRT has printed, joined back to the network's
layers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from hwbench.devices.nvidia.trt_layers import (
    EngineLayer,
    find_grain_s,
    join_profile,
    layer_findings,
    read_engine_layers,
)
from hwbench.errors import OutputParseError
from hwbench.network.graph import Layer, layers, load
from hwbench.records.layer_key import LayerKey
from tests.support.models import conv_net

DATA = Path(__file__).parent / "data"
MODEL = load(conv_net())
NODES = [node.name for node in MODEL.graph.node]
LAYERS = layers(MODEL)


def timed(engine: Sequence[EngineLayer], runs: int = 3) -> list[list[tuple[str, float]]]:
    """A profile in which engine layer i takes i + 1 us."""
    return [[(layer.name, (place + 1) * 1e-6) for place, layer in enumerate(engine)]] * runs


@pytest.mark.parametrize(
    ("file", "inserted", "kind"),
    [
        ("engine_8.json", ["input/Reformat", "fc/NoOp"], "fp32 CaskConvolution sm80_xmma_fprop"),
        ("engine_8_names.json", ["input/reformat", "fc/reformat"], "fused"),
        ("engine_10.json", ["input/Reformat", "fc/NoOp"], "fp16 CaskConvolution sm80_xmma_fprop"),
        ("engine_rtx.json", ["input/kgen"], "fp32 correlation __myelin_CASK_STUB"),
    ],
)
def test_every_shape_joins_back_to_modules(file, inserted, kind):
    engine = read_engine_layers((DATA / file).read_text(), NODES)
    rows = join_profile(engine, LAYERS, timed(engine))
    names = [row.name for row in rows if row.key is not None]
    assert names == ["features.0.conv", "features.1.conv", "features.2.conv", "pool", "fc"]
    unmatched = [row.name for row in rows if row.key is None]
    assert unmatched == (inserted if "names" not in file else [*inserted[:1], "fc/reformat"])
    assert rows[1].implementation.startswith(kind)
    total_s = sum(second for _, second in timed(engine)[0])
    assert sum(row.samples_s[0] for row in rows) == pytest.approx(total_s), "no time is lost"
    assert sum(row.nodes for row in rows) == len(engine)


@pytest.mark.parametrize("ends", ["Bindings", "I/O Tensors"], ids=["to 10.x", "from 11.x on"])
def test_the_ends_of_the_network_go_by_two_names(ends):
    data = json.loads((DATA / "engine_10.json").read_text())
    plain = {"Layers": data["Layers"]}
    assert read_engine_layers(json.dumps({**plain, ends: ["x", "y"]}), NODES) == read_engine_layers(
        json.dumps(plain), NODES
    )


def test_two_kernels_of_one_layer_are_one_row():
    engine = read_engine_layers((DATA / "engine_rtx.json").read_text(), NODES)
    fc = next(row for row in join_profile(engine, LAYERS, timed(engine)) if row.name == "fc")
    assert fc.nodes == 2
    assert fc.samples_s[0] == pytest.approx(13e-6)


def info(*parts: dict[str, object] | str) -> str:
    return json.dumps({"Layers": list(parts)})


def test_a_kernel_of_several_convolutions_is_a_group_whose_time_is_not_divided():
    names = ["features.0.conv", "features.0.relu", "features.1.conv", "features.1.relu"]
    engine = read_engine_layers(
        info(" + ".join(names), "features.2.conv + features.2.relu", "pool", "fc"), NODES
    )
    rows = join_profile(engine, LAYERS, timed(engine))
    assert [row.name for row in rows] == [
        "features.1.conv/group of 2",
        "features.2.conv",
        "pool",
        "fc",
    ]
    assert rows[0].key is None
    assert rows[0].op == "Group"
    assert rows[0].samples_s[0] == pytest.approx(1e-6)
    assert [finding.code for finding in layer_findings(rows)] == ["fused_layers"]


@pytest.mark.parametrize(
    "name", ["{ForeignNode[features.0.conv...fc_154]}", "ForeignNode[features.0.conv...fc]"]
)
def test_a_part_compiled_in_one_piece_is_one_group(name):
    engine = read_engine_layers(info(name), NODES)
    (row,) = join_profile(engine, LAYERS, timed(engine))
    assert row.name == "features.2.conv/group of 6"


def test_pointwise_chains_of_8_are_read():
    engine = read_engine_layers(
        info(
            "features.0.conv", "PWN(features.0.relu)", "PWN(PWN(features.1.relu), features.2.relu)"
        ),
        NODES,
    )
    assert [layer.nodes for layer in engine] == [
        ("features.0.conv",),
        ("features.0.relu",),
        ("features.1.relu", "features.2.relu"),
    ]


def test_a_kernel_between_two_layers_ties_nothing_together():
    first, second = LAYERS[:2]
    between = {
        "Name": "add",
        "Metadata": f"[ONNX Layer: {first.nodes[-1]}]\x1f[ONNX Layer: {second.nodes[-1]}]",
    }
    engine = read_engine_layers(info("features.0.conv", "features.1.conv", between), NODES)
    rows = join_profile(engine, LAYERS[:2], timed(engine))
    assert [(row.name, row.nodes) for row in rows] == [
        ("features.0.conv", 2),
        ("features.1.conv", 1),
    ]


def test_layers_are_told_apart_and_repeated_names_added_up():
    engine = read_engine_layers(info("copy_a", "features.0.conv", "copy_b"), NODES)
    runs = [[("copy_a", 1e-6), ("features.0.conv", 2e-6), ("copy_b", 3e-6), ("copy_b", 4e-6)]] * 2
    rows = join_profile(engine, LAYERS[:1], runs)
    assert [(row.name, row.nodes) for row in rows] == [
        ("input/reformat", 1),
        ("features.0.conv", 1),
        ("features.0.conv/reformat", 2),
    ]
    assert rows[2].samples_s == (pytest.approx(7e-6),) * 2


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [[]],
        [[("features.0.conv", 1e-6)], [("pool", 1e-6)]],
        [[("a layer of another engine", 1e-6)]],
    ],
    ids=str,
)
def test_profiles_that_do_not_fit_are_refused(runs):
    with pytest.raises(OutputParseError):
        join_profile(read_engine_layers(info("features.0.conv", "pool"), NODES), LAYERS, runs)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"Layers": []}', '{"Layers": [3]}', '{"Layers": [{"LayerType": "x"}]}'],
)
def test_damaged_engine_information_is_refused(text):
    with pytest.raises(OutputParseError):
        read_engine_layers(text, NODES)


@pytest.mark.parametrize(
    "details",
    [
        {"Inputs": 3},
        {"Inputs": [3]},
        {"Inputs": [{"Datatype": 4}]},
        {"TacticName": 5},
        {"Metadata": 6},
    ],
)
def test_odd_details_are_no_obstacle(details):
    (layer,) = read_engine_layers(info({"Name": "pool", **details}), NODES)
    assert (layer.nodes, layer.precision) == (("pool",), "")


def test_a_layer_that_reads_a_wider_type_than_the_file_says_is_found():
    key = LayerKey("Conv", ((1, 8, 8, 8),), (1, 8, 8, 8), precision="int8")
    quantised = [Layer(name, "Conv", key, (name,), ("x",), name, 100, 10) for name in ("a", "b")]
    kinds = [("a", "Int8"), ("b", "Float")]
    engine = read_engine_layers(
        info(*({"Name": name, "Inputs": [{"Datatype": kind}]} for name, kind in kinds)), ["a", "b"]
    )
    (finding,) = layer_findings(join_profile(engine, quantised, timed(engine)))
    assert finding.code == "fall_back"
    assert "1 of 2" in finding.text
    assert "(b)" in finding.text


def test_the_grain_of_the_profilers_clock_is_seen():
    assert find_grain_s([[("a", 6.144e-6), ("b", 39.936e-6), ("c", 0.0)]]) == pytest.approx(
        1.024e-6
    )
    assert find_grain_s([[("a", 6.144e-6), ("b", 39.936e-6 + 32e-9)]]) == pytest.approx(32e-9)
