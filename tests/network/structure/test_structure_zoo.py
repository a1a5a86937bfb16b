"""Structures of the networks of the papers, exported as `hwbench profile` exports them (narrow,
small images).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest

from hwbench.network import zoo
from hwbench.network.graph import count, layers, load
from hwbench.network.intake import load_workload
from hwbench.network.structure import Structure
from hwbench.network.structure.surgery import PrunableGraph
from tests.support.onnx_nets import run

# Droppable by the rule "output has the shape of the input"; see He et al. 2015, table 1, and
# Sandler et al. 2018, table 2.
BLOCKS = {
    "mobilenet_v1@0.25": [],
    "mobilenet_v2@0.35": [f"features.{i}" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)],
    "resnet18@0.25": ["layer1.0", *(f"layer{stage}.1" for stage in (1, 2, 3, 4))],
    "resnet34@0.125": [
        f"layer{s + 1}.{i}" for s, depth in enumerate((3, 4, 6, 3)) for i in range(s > 0, depth)
    ],
    "resnet50@0.125": [
        f"layer{s + 1}.{i}" for s, depth in enumerate((3, 4, 6, 3)) for i in range(1, depth)
    ],
    "resnet20": [f"layer{s + 1}.{i}" for s in range(3) for i in range(s > 0, 3)],
    "plain20": [],
}
GROUPS = {
    "mobilenet_v1@0.25": 14,  # conv1 and 13 point-wise
    "mobilenet_v2@0.35": 25,  # 16 expansions, 7 stages of projections, first and last convolution
    "resnet18@0.25": 12,  # 8 inner convolutions, 4 stages
    "resnet34@0.125": 20,  # 16 inner convolutions, 4 stages
    "resnet50@0.125": 37,  # 2 in each of 16 blocks, 4 stages, the stem
    "resnet20": 9,  # inner convolutions; the parameter-free shortcut fixes the stages
    "plain20": 19,
}


@cache
def _model(spec: str) -> onnx.ModelProto:
    size = 224 if spec.startswith("vgg") else 32
    return load(load_workload(zoo.build(spec), inputs=[f"1x3x{size}x{size}"]).onnx)


@pytest.mark.parametrize("spec", sorted(BLOCKS))
def test_groups_and_blocks(spec: str) -> None:
    structure = Structure.from_model(_model(spec))
    assert [block.name for block in structure.blocks] == BLOCKS[spec]
    assert len(structure.groups) == GROUPS[spec]
    modules = dict(zoo.build(spec).named_modules())
    for group in structure.groups:
        for name in group.producers:
            made = getattr(modules[name], "out_channels", None) or modules[name].out_features
            assert made == group.width


@pytest.mark.parametrize("spec", sorted(BLOCKS))
def test_pruned_graphs_have_the_predicted_layers_and_run(spec: str) -> None:
    model = _model(spec)
    structure = Structure.from_model(model)
    rng = np.random.default_rng(0)
    for widths in (
        [1] * len(structure.groups),
        [int(rng.integers(1, width + 1)) for width in structure.widths],
    ):
        small = PrunableGraph(model).with_widths(widths)
        assert tuple(layer.key for layer in layers(small)) == structure.keys(widths)
        assert np.isfinite(run(small)).all()


@pytest.mark.parametrize("spec", [spec for spec in sorted(BLOCKS) if BLOCKS[spec]])
def test_dropping_all_blocks_leaves_the_other_layers(spec: str) -> None:
    model = _model(spec)
    structure = Structure.from_model(model)
    small = PrunableGraph(model).without_blocks(BLOCKS[spec])
    gone = {name for block in structure.blocks for name in block.nodes}
    assert [layer.name for layer in layers(small)] == [
        layer.name for layer in layers(model) if layer.name not in gone
    ]
    assert np.isfinite(run(small)).all()


@pytest.mark.parametrize("spec", [*sorted(BLOCKS), "resnet56", "vgg16@0.0625"])
def test_a_key_alone_tells_what_the_graph_counts(spec: str) -> None:
    model = _model(spec)
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    counted = 0
    for layer in layers(model):
        node = nodes[layer.name]
        if node.op_type not in {"Conv", "Gemm", "MatMul"}:
            assert layer.key.weights == layer.key.macs == 0
            continue
        held = weights[node.input[1]]
        positions = np.prod(shapes[node.output[0]]) // layer.key.output[1]
        assert layer.key.weights == np.prod(held)
        assert layer.key.macs == np.prod(held) * positions == layer.macs
        counted += layer.key.macs
    assert counted == count(model).macs > 0
