"""Whether a candidate computes what its baseline does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hwbench.measuring.agreement import check_outputs, compare_outputs, fit_inputs
from hwbench.network.graph import count, load
from hwbench.network.intake import load_workload
from hwbench.network.workload import Workload
from hwbench.records.outputs import Likeness
from hwbench.records.tensors import TensorSpec
from tests.support.models import conv_net, conv_workload

WIDTHS = (16, 32, 32)


def changed(change) -> Workload:
    """`conv_workload` after a change to its graph."""
    model = onnx.load_from_string(conv_net(WIDTHS))
    change(model.graph)
    data = model.SerializeToString()
    counts = count(load(data))
    return replace(
        conv_workload(WIDTHS, name="changed"),
        artifact=data,
        macs=counts.macs,
        params=counts.params,
    )


def weight(graph, name: str):
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def permute_outputs(graph) -> None:
    for name in ("fc.weight", "fc.bias"):
        tensor = weight(graph, name)
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.roll(values, 3, axis=0), name))


def redraw_weights(graph) -> None:
    random = np.random.default_rng(99)
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        drawn = (random.standard_normal(values.shape) * values.std()).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(drawn, tensor.name))


def leave_out_layer(graph) -> None:
    """The last convolution, whose inputs and outputs have equally many channels."""
    (node,) = (node for node in graph.node if node.name == "features.2.conv")
    (after,) = (node for node in graph.node if node.input[0] == node.name or node.input[0] == "c2")
    after.input[0] = node.input[0]
    graph.node.remove(node)


def drop_classes(graph) -> None:
    for name in ("fc.weight", "fc.bias"):
        tensor = weight(graph, name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:5], name))
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5


def fill_with_nan(graph) -> None:
    tensor = weight(graph, "fc.bias")
    tensor.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), "fc.bias"))


def die(graph) -> None:
    """Give the same for every input and class, as a network of nothing but zeros does."""
    for name in ("fc.weight", "fc.bias"):
        tensor = weight(graph, name)
        zeros = np.zeros_like(numpy_helper.to_array(tensor))
        tensor.CopyFrom(numpy_helper.from_array(zeros, name))


def find(candidate: Workload) -> Likeness:
    return check_outputs(conv_workload(WIDTHS), candidate, seed=0, budget_s=30)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (permute_outputs, ""),
        (redraw_weights, ""),
        (leave_out_layer, ""),
        (drop_classes, "output 1 is 1x5 against 1x10"),
        (die, "all values of its outputs are equal"),
        (fill_with_nan, "100% of its outputs are no finite numbers"),
    ],
)
def test_a_candidate_that_computes_something_else_is_told(change, said):
    likeness = find(changed(change))
    (finding,) = likeness.findings
    assert finding.code == "different_outputs"
    assert "8 random inputs" in finding.text
    assert said in finding.text


def test_versions_of_one_network_are_not_told_of():
    equal = find(conv_workload(WIDTHS, name="copy"))
    assert equal.findings == ()
    assert equal.outputs.snr_db == math.inf
    assert equal.outputs.agreement == 1
    assert "onnxruntime" in equal.outputs.runtime


@pytest.mark.parametrize(("precision", "least_db"), [("int8", 15), ("fp16", 45), ("bf16", 25)])
def test_other_precisions_keep_the_outputs(tmp_path, precision, least_db):
    path = tmp_path / "net.onnx"
    path.write_bytes(conv_net(WIDTHS))
    baseline, candidate = (load_workload(path, precision=kind) for kind in ("fp32", precision))
    likeness = check_outputs(baseline, candidate, seed=0, budget_s=30)
    if likeness.outputs is None:  # ONNX Runtime has no kernel for it
        assert precision == "bf16"
        assert likeness.findings[0].code == "outputs_not_compared"
        return
    assert likeness.findings == ()
    assert least_db < likeness.outputs.snr_db < math.inf


def test_networks_of_random_weights_are_named_once_and_not_compared():
    one, other = (replace(conv_workload(), name=name) for name in ("zoo:a", "zoo:a"))
    likeness = check_outputs(one, other, seed=0, budget_s=30)
    assert [finding.code for finding in likeness.findings] == ["random_weights"]
    assert likeness.findings[0].text.count("zoo:a") == 1
    assert likeness.outputs is None


def test_a_network_that_does_not_run_here_is_said_and_nothing_fails():
    likeness = find(replace(conv_workload(name="broken"), artifact=b"no model"))
    assert [finding.code for finding in likeness.findings] == ["outputs_not_compared"]
    assert "broken does not run" in likeness.findings[0].text


def test_given_inputs_are_those_that_are_run():
    image = np.full((1, 3, 16, 16), 0.25, np.float32)
    baseline = replace(conv_workload(WIDTHS), values={"x": image})
    likeness = check_outputs(baseline, conv_workload(WIDTHS, name="copy"), 0, 30)
    assert likeness.outputs.inputs == "given inputs"


def test_signal_to_noise_and_correlation_are_what_they_are_called():
    random = np.random.default_rng(1)
    signal = random.standard_normal((4, 1000))
    noise = 0.1 * random.standard_normal((4, 1000))
    pairs = [
        ([row[None]], [row[None] + error[None]]) for row, error in zip(signal, noise, strict=True)
    ]
    outputs = compare_outputs(pairs, "inputs", "runtime")
    assert outputs.snr_db == pytest.approx(20, abs=0.5)
    assert outputs.correlation == pytest.approx(1 / math.sqrt(1.01), abs=0.01)


def test_the_output_that_agrees_least_counts_however_small_it_is():
    random = np.random.default_rng(2)
    large, small, other = (random.standard_normal((1, 1000)) for _ in range(3))
    outputs = compare_outputs([([1e6 * large, small], [1e6 * large, other])], "", "")
    assert outputs.correlation < 0.2
    assert outputs.snr_db < 0


def two_heads(classes, value) -> Workload:
    """A network with ten classes and one value, by their weights (64, 10) and (64, 1)."""
    nodes = [
        helper.make_node("MatMul", ["x", "classes"], ["a"], name="classes"),
        helper.make_node("MatMul", ["x", "value"], ["b"], name="value"),
    ]
    weights = {"classes": classes, "value": value}
    graph = helper.make_graph(
        nodes,
        "heads",
        [helper.make_tensor_value_info("x", 1, [1, 64])],
        [helper.make_tensor_value_info(name, 1, [1, n]) for name, n in (("a", 10), ("b", 1))],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data = model.SerializeToString()
    return Workload("heads", data, (TensorSpec("x", (1, 64)),), 1, "fp32", 704, 704, len(data))


@pytest.mark.slow
def test_a_small_output_is_judged_by_as_many_values_as_a_large_one():
    """A tuned network's value follows the baseline's by 0.7; eight of them would often say less."""
    random = np.random.default_rng(3)
    classes, value, other = (random.standard_normal((64, n)) for n in (10, 1, 1))
    other -= value * (value * other).sum() / (value**2).sum()
    other *= np.linalg.norm(value) / np.linalg.norm(other)
    tuned = replace(two_heads(classes, 0.7 * value + math.sqrt(0.51) * other), params=703)
    for seed in range(12):
        likeness = check_outputs(two_heads(classes, value), tuned, seed * 100, 60)
        assert likeness.outputs.correlation == pytest.approx(0.7, abs=0.25)
        assert likeness.outputs.output == 2
        assert not likeness.findings
    (finding,) = check_outputs(
        two_heads(100 * classes, value), two_heads(100 * classes, other), 0, 60
    ).findings
    assert "the correlation of output 2 is" in finding.text


def test_whole_numbers_are_compared_as_classes():
    outputs = compare_outputs([([np.array([1, 2, 3])], [np.array([1, 2, 4])])], "", "")
    assert outputs.agreement == pytest.approx(2 / 3)
    assert outputs.relative_error is None


def test_inputs_are_handed_on_in_the_type_of_the_other_network():
    single, half, brain = (
        TensorSpec("x", (2,), kind) for kind in ("float32", "float16", "bfloat16")
    )
    value = np.array([1.0, -2.5], np.float32)
    (as_half,) = fit_inputs([value], [single], [half])
    assert as_half.dtype == np.float16
    (as_bits,) = fit_inputs([value], [single], [brain])
    assert as_bits.dtype == np.uint16
    (back,) = fit_inputs([as_bits], [brain], [single])
    assert back.tolist() == value.tolist()


def test_int8_is_not_judged_by_random_inputs_outside_of_its_ranges():
    """Ranges found on pictures cut large random values off: the outputs only follow."""

    def shrink(graph) -> None:
        for name in ("fc.weight", "fc.bias"):
            tensor = weight(graph, name)
            values = 0.6 * numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values, name))

    baseline, candidate = conv_workload(WIDTHS), changed(shrink)
    (finding,) = check_outputs(baseline, candidate, 0, 5.0).findings
    assert "8.0 dB" in finding.text
    assert not check_outputs(baseline, replace(candidate, precision="int8"), 0, 5.0).findings


def test_levels_that_both_share_do_not_hide_that_the_rest_has_nothing_in_common():
    random = np.random.default_rng(0)
    levels = 1000 * random.standard_normal(10)
    pairs = [
        (
            [(levels + random.standard_normal(10))[None]],
            [(levels + random.standard_normal(10))[None]],
        )
        for _ in range(8)
    ]
    assert compare_outputs(pairs, "8 inputs", "numpy").correlation > 0.9  # too small a change
    pairs = [([before[0] - 0.99 * levels], [after[0] - 0.99 * levels]) for before, after in pairs]
    assert abs(compare_outputs(pairs, "8 inputs", "numpy").correlation) < 0.4


def test_few_inputs_are_compared_by_their_values():
    values = [np.array([[1.0, 2.0, 3.0]]), np.array([[1.1, 2.1, 3.1]])]
    pairs = [([value], [value[:, ::-1]]) for value in values]
    assert compare_outputs(pairs, "2 inputs", "numpy").correlation == pytest.approx(-1, abs=0.01)
