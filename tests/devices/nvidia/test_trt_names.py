"""Names that TensorRT gives to what it made of a network's nodes."""

from __future__ import annotations

import pytest

from hwbench.devices.nvidia.trt_names import find_nodes, split_name

NODES = ["conv", "relu", "/a/MatMul", "/a/Add", "gelu", "fc"]
PLACES = {name: place for place, name in enumerate(NODES)}
WEIGHTS = {"fc.weight": 5, "onnx::MatMul_9": 2, "folded": -1}


def found(name: str) -> tuple[list[str], tuple[str, ...]]:
    nodes = find_nodes(split_name(name), PLACES, WEIGHTS)
    return [NODES[place] for place in nodes.places], nodes.unknown


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("conv + relu", ["conv", "relu"]),
        ("PWN(relu)", ["relu"]),
        ("PWN(PWN(gelu), relu)", ["gelu", "relu"]),
        ("conv + PWN(relu)", ["conv", "relu"]),
        ("{ForeignNode[/a/MatMul.../a/Add]}", ["/a/MatMul", "/a/Add"]),
        ("{ForeignNode[/a/MatMul_12...gelu]}", ["/a/MatMul", "/a/Add", "gelu"]),
        (
            "{ForeignNode[onnx::MatMul_9 + (Unnamed Layer* 8) [Shuffle]...gelu]}",
            ["/a/MatMul", "/a/Add", "gelu"],
        ),
        ("Reformatting CopyNode for Input Tensor 0 to conv", []),
        ("reshape_after_fc", []),
        ("(Unnamed Layer* 306) [Shuffle]", []),
        ("copied_squeeze_after_(Unnamed Layer* 307) [ElementWise]", []),
        ("fc.weight + fc + unsqueeze_node_after_fc.weight + (Unnamed Layer* 7) [Shuffle]", ["fc"]),
        ("folded + fc", ["fc"]),
        ("fc.weight + gelu_quantize_scale_node + fc", ["gelu", "fc"]),
        ("conv || fc", ["conv", "fc"]),
        ("shuffle_between_conv_and_fc", []),
        ("ONNXTRT_Broadcast_7 + /a/Add", ["/a/Add"]),
    ],
)
def test_names_say_what_a_layer_was_made_of(name, nodes):
    assert found(name) == (nodes, ())


@pytest.mark.parametrize(
    "name",
    ["stranger", "conv + stranger", "reshape_after_stranger", "{ForeignNode[a...b]}", "__myl_1"],
)
def test_what_is_of_another_network_is_unknown(name):
    assert found(name)[1]
