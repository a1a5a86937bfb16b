"""The virtual device's latencies are those of its law."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from hwbench.devices import open_device
from hwbench.devices.virtual.device import NODE_COST_S, PREPARE_S, Law, Virtual
from hwbench.errors import UsageError, WorkloadError
from hwbench.network.graph import count, layers, load
from hwbench.network.workload import Workload
from hwbench.records.layer_key import LayerKey
from hwbench.records.measurement import Settings
from hwbench.records.tensors import TensorSpec

ONLY_MACS = Law(
    macs_per_s=1, bytes_per_s=math.inf, layer_overhead_s=0, network_overhead_s=0, channel_step=1
)


def conv(cin: int, cout: int, group: int = 1, precision: str = "fp32") -> LayerKey:
    attrs = (("kernel", "3x3"), ("group", str(group)))
    return LayerKey("Conv", ((1, cin, 8, 8),), (1, cout, 8, 8), attrs, precision)


def network() -> Workload:
    """A convolution, a depthwise one, one of two groups, a transposed one, pooling and a
    classifier.
    """
    inits, nodes = [], []

    def add(
        op: str, name: str, reads: str, weight: list[int] | None = None, **attrs: object
    ) -> str:
        inputs = [reads]
        if weight is not None:
            inits.append(
                helper.make_tensor(
                    f"{name}.weight", TensorProto.FLOAT, weight, [0.1] * math.prod(weight)
                )
            )
            inputs.append(f"{name}.weight")
        nodes.append(helper.make_node(op, inputs, [f"{name}.out"], name, **attrs))
        return f"{name}.out"

    last = add("Conv", "plain", "x", [6, 3, 3, 3], pads=[1] * 4, strides=[2, 2])
    last = add("Relu", "relu", last)
    last = add("Conv", "depthwise", last, [6, 1, 3, 3], group=6, pads=[1] * 4)
    last = add("Conv", "grouped", last, [4, 3, 1, 1], group=2)
    last = add("ConvTranspose", "up", last, [4, 5, 2, 2], strides=[2, 2])
    last = add("GlobalAveragePool", "pool", last)
    last = add("Flatten", "flat", last)
    last = add("Gemm", "fc", last, [5, 10])
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", [2, 3, 8, 8]), (last, [2, 10]))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], inits)
    data = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    return Workload("net", data, (TensorSpec("x", (2, 3, 8, 8)),), 2, "fp32", 0, 0, len(data))


def test_without_steps_the_macs_are_those_of_the_graph() -> None:
    model = load(network().onnx)
    assert ONLY_MACS.network_s([layer.key for layer in layers(model)]) == count(model).macs > 0


def test_channels_cost_full_steps() -> None:
    law = Law(bytes_per_s=math.inf)
    costs = {width: law.layer_s(conv(32, width)) for width in (16, 17, 31, 32, 33)}
    assert costs[17] == costs[31] == costs[32]
    assert costs[16] < costs[17] < costs[33]
    assert law.layer_s(conv(17, 16)) == law.layer_s(conv(32, 16)) > law.layer_s(conv(16, 16))
    assert law.layer_s(conv(17, 17, group=17)) == law.layer_s(conv(32, 32, group=32))


def test_a_layer_by_hand() -> None:
    law = Law(macs_per_s=1e9, bytes_per_s=1e8, layer_overhead_s=3e-6)
    macs, elements = 64 * 32 * 16 * 9, 64 * 3 + 64 * 17 + 17 * 3 * 9
    assert law.layer_s(conv(3, 17)) == pytest.approx(3e-6 + macs / 1e9 + 4 * elements / 1e8)
    assert law.layer_s(conv(3, 17, precision="int8")) == pytest.approx(
        3e-6 + macs / 4e9 + elements / 1e8
    )
    add = LayerKey("Add", ((1, 5), (1, 5)), (1, 5))
    assert law.layer_s(add) == pytest.approx(3e-6 + 4 * 15 / 1e8)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 8, 16, 32]))
def test_more_channels_are_never_faster(cin: int, cout: int, step: int) -> None:
    law = Law(channel_step=step)
    assert law.layer_s(conv(cin, cout)) < law.layer_s(conv(cin, cout + 1))
    assert law.layer_s(conv(cin, cout)) < law.layer_s(conv(cin + 1, cout))


def test_a_silent_device_tells_the_truth() -> None:
    workload = network()
    keys = [layer.key for layer in layers(load(workload.onnx))]
    with Virtual("noise=none") as device:
        before_s = device.time_s()
        prepared = device.prepare(workload, Settings())
        assert device.time_s() - before_s == pytest.approx(PREPARE_S)
        truth_s = device.law.network_s(keys)
        before_s = device.time_s()
        assert device.run([prepared] * 3, loops=7).values_s == pytest.approx((truth_s,) * 3)
        assert device.time_s() - before_s == pytest.approx(21 * truth_s)


def test_the_layer_profile_is_the_law_and_the_profilers_cost() -> None:
    workload = network()
    keys = [layer.key for layer in layers(load(workload.onnx))]
    with Virtual("noise=none") as device:
        seen = device.profile_layers(device.prepare(workload, Settings()), 4)
        assert [row.key for row in seen.rows] == keys
        assert seen.node_cost_s == NODE_COST_S
        for row in seen.rows:
            assert row.key is not None
            assert row.samples_s == pytest.approx([device.law.layer_s(row.key) + NODE_COST_S] * 4)
        assert seen.whole_s == pytest.approx(
            [device.law.network_s(keys) + NODE_COST_S * len(keys)] * 4
        )


def test_given_latencies_replace_the_law() -> None:
    workload = Workload("any", b"no ONNX", (TensorSpec("x", (1,)),), 1, "fp32", 0, 0, 0)
    with Virtual("noise=none", latencies_s={workload.sha256: 0.125}) as device:
        prepared = device.prepare(workload, Settings())
        assert device.run([prepared]).values_s == (0.125,)
        with pytest.raises(WorkloadError, match="layers=False"):
            device.profile_layers(prepared, 1)
        assert device.usable
    with Virtual() as device, pytest.raises(WorkloadError):
        device.prepare(workload, Settings())


def test_released_or_foreign_sessions_are_refused() -> None:
    with Virtual("seed=1") as device, Virtual("seed=2") as other:
        prepared = device.prepare(network(), Settings())
        for wrong in (device, other):
            device.release(prepared)
            with pytest.raises(UsageError, match="released or is another device's"):
                wrong.run([prepared])


def test_options_of_the_address() -> None:
    with open_device("virtual:noise=drift+spikes,seed=5,step=8,fault=throttled@3") as device:
        info = device.info()
        assert info.address == "virtual:noise=drift+spikes,seed=5,step=8,fault=throttled@3"
        assert "step 8" in info.target
        details = dict(info.details)
        assert details["seed"] == "5"
        assert "Drift(" in details["noise"]
        assert "Spikes(" in details["noise"]
        assert "White(" not in details["noise"]
        assert not device.conditions().throttled


@pytest.mark.parametrize(
    ("address", "match"),
    [
        ("noise=pink", "unknown noise 'pink'.*none, white, drift"),
        ("noise=", "unknown noise ''"),
        ("noise=white+none", "unknown noise 'none'"),
        ("colour=red", "unknown option 'colour=red'.*noise=.*seed="),
        ("SERIAL", "unknown option 'SERIAL'"),
        ("seed=x", "'seed=x' .* whole number"),
        ("seed=-1", "'seed=-1' .* at least 0"),
        ("step=0", "'step=0' .* at least 1"),
        ("fault=fire", "unknown fault 'fire'.*known: open, build, lost"),
        ("fault=lost@soon", "whole number"),
    ],
)
def test_impossible_options_are_refused(address: str, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        Virtual(address)
    assert len(str(caught.value).splitlines()) == 1
