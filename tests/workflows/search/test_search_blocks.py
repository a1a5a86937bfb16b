"""What dropping blocks saves, by a lookup table."""

from __future__ import annotations

import pytest

from hwbench.devices.virtual.device import Law
from hwbench.network.intake import load_workload
from hwbench.network.prunable import PrunableNetwork
from hwbench.workflows.search.blocks import TableGains
from tests.support.tiny_net import example, table, tiny


def test_gains_from_a_table_are_those_of_the_device():
    workload = load_workload(tiny(), example_inputs=example())
    network = PrunableNetwork(workload)
    law = Law(channel_step=4)

    def truth_s(dropped) -> float:
        return law.network_s(network.keys_without(dropped))

    gains = TableGains(table(), network)
    gain = gains.gain("blocks.1")
    truth = 1 - truth_s(["blocks.1"]) / truth_s([])
    assert gain.share == pytest.approx(truth, rel=0.05)
    assert 0 < gain.low < gain.share < gain.high
    two = ["blocks.2", "blocks.0"]
    assert (
        gains.latency_s(two) == gains.latency_s(two[::-1]) == pytest.approx(truth_s(two), rel=0.05)
    )
