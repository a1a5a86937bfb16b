"""A prunable network: parsed once, and every pruned version has the layers that were foretold."""

from __future__ import annotations

import pytest

from hwbench.errors import UsageError
from hwbench.network.graph import count, layers, load
from hwbench.network.intake import load_workload
from hwbench.network.prunable import PrunableNetwork


@pytest.fixture(scope="module")
def network() -> PrunableNetwork:
    return PrunableNetwork(load_workload("zoo:resnet20"))


def test_a_version_has_the_keys_that_were_foretold(network: PrunableNetwork) -> None:
    for share in (1, 2, 3, 16):
        widths = [max(1, width // share - 1) for width in network.structure.widths]
        version = network.version(widths)
        built = layers(load(version.onnx))
        assert tuple(layer.key for layer in built) == network.keys(widths)
        assert {layer.name: layer.key for layer in built} == network.keys_by_name(widths)
        counts = count(load(version.onnx))
        assert (version.macs, version.params) == (counts.macs, counts.params)
        assert version.file_bytes == len(version.artifact)


def test_its_own_widths_give_the_workload_itself(network: PrunableNetwork) -> None:
    assert network.version(network.structure.widths) is network.workload


def test_a_network_without_a_block_has_all_other_layers(network: PrunableNetwork) -> None:
    block = network.structure.blocks[0]
    left = layers(load(network.without([block.name]).onnx))
    assert not {layer.name for layer in left} & set(block.layers)
    assert tuple(layer.key for layer in left) == network.keys_without([block.name])
    assert network.keys_without([]) == network.keys(network.structure.widths)


def test_widths_and_blocks_it_does_not_have_are_refused(network: PrunableNetwork) -> None:
    with pytest.raises(UsageError, match="widths given"):
        network.version([8])
    with pytest.raises(UsageError, match="no droppable block"):
        network.without(["layer9"])
