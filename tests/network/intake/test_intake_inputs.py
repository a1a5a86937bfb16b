"""Input shapes: from the file where it holds them, else from the user.

Open dimensions are never guessed.
"""

import warnings

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from hwbench.errors import Argument, SchemaError, UsageError, WorkloadError
from hwbench.network.intake import load_workload
from hwbench.network.intake.archives import inspect
from hwbench.network.intake.input_texts import InputRequest, parse_input
from hwbench.network.intake.onnx_inputs import blame_sizes
from hwbench.network.intake.torch_files import ReadRequest, choose_input_shapes
from hwbench.records.tensors import TensorSpec
from tests.support.saved_models import SHAPE, TinyNet, save


def test_input_texts():
    assert parse_input("1x3x224x224") == InputRequest("", (1, 3, 224, 224))
    assert parse_input("data.0=8") == InputRequest("data.0", (8,))
    for text in ("", "x", "1x", "1x-3", "a=b", "1 x 3", "0"):
        with pytest.raises(UsageError, match=r"no shape|dimension of 0"):
            parse_input(text)


def two_inputs(path, left=("n", 3), right=("n", 3)):
    """An ONNX model that adds two inputs of the given dimensions.

    None is an open dimension without a name.
    """
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in (("a", left), ("b", right))
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, left)
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["y"])], "g", inputs, [output])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )
    return path


def shapes(workload):
    return {spec.name: spec.shape for spec in workload.inputs}


def test_a_named_dimension_is_fixed_once_for_all_inputs(tmp_path):
    path = two_inputs(tmp_path / "m.onnx")
    assert shapes(load_workload(path, batch=4)) == {"a": (4, 3), "b": (4, 3)}
    assert shapes(load_workload(path, inputs=["2x3"])) == {"a": (2, 3), "b": (2, 3)}
    assert shapes(load_workload(path, inputs=["b=5x3"])) == {"a": (5, 3), "b": (5, 3)}
    assert load_workload(path, inputs=["b=5x3"]).batch == 5


@pytest.mark.parametrize(
    ("left", "right", "options", "says"),
    [
        (
            ("n", 3),
            ("n", 3),
            {},
            "'a' has open dimensions: [n, 3]; fix all of them: pass inputs='a=1x3', or fix the first: pass batch=1",
        ),
        ((1, None), (1, None), {"batch": 1}, "open dimensions: [1, ?]"),
        (("n", 3), ("n", 3), {"inputs": ["2x3", "3x3"]}, "'n' is asked to be 2 and 3"),
        ((1, 3), (1, 3), {"inputs": ["2x3"]}, "is fixed to [1, 3]"),
        ((1, 3), (1, 3), {"batch": 2}, "a batch of 2 needs a model exported with that batch"),
        ((1, 3), (1, 3), {"inputs": ["1x3x1"]}, "not those of (1, 3, 1)"),
        ((1, 3), (1, 3), {"inputs": ["c=1x3"]}, "has the inputs a, b"),
        ((1, 3), (1, 3), {"inputs": ["1x3"] * 3}, "has the inputs a, b"),
    ],
)
def test_onnx_shapes_that_stay_open_or_do_not_fit(left, right, options, says, tmp_path):
    with pytest.raises(UsageError) as caught:
        load_workload(two_inputs(tmp_path / "m.onnx", left, right), **options)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_the_network_cannot_take_are_answered_by_those_it_takes(tmp_path):
    path = two_inputs(tmp_path / "m.onnx", (None, 3), (None, 3))
    with pytest.raises(UsageError, match="does not run with the sizes given") as caught:
        load_workload(path, inputs=["a=2x3", "b=5x3"])
    assert caught.value.remedies == (
        Argument("inputs", ("a=1x3", "b=1x3"), purpose="it runs with"),
    )


def sliding(path, kernel, dims):
    """A window over a sound of open length; narrower ones do not fit."""
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=kernel)
    make = helper.make_tensor_value_info
    inputs = [make("x", TensorProto.FLOAT, dims)]
    graph = helper.make_graph([node], "g", inputs, [make("y", TensorProto.FLOAT, None)])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )
    return path


@pytest.mark.parametrize(
    ("kernel", "dims", "value"),
    [
        ([400], [1, 1, "samples"], "x=1x1x512"),
        ([400], ["batch", 1, "samples"], "x=1x1x512"),
        ([400], [1, 1, None], "x=1x1x512"),
        ([5000], [1, 1, "time"], "x=1x1x16000"),
        ([300, 2], ["n", 3, None, None], "x=1x3x640x640"),
        ([7, 7], ["n", 3, "height", "width"], "x=1x3x224x224"),
    ],
)
def test_sizes_that_errors_propose_are_taken(kernel, dims, value, tmp_path):
    path = sliding(tmp_path / "m.onnx", kernel, dims)
    with pytest.raises(UsageError, match="open dimensions") as caught:
        load_workload(path)
    first = caught.value.remedies[0]
    assert first == Argument("inputs", value, purpose="fix all of them")
    assert load_workload(path, inputs=[first.value]).inputs[0].shape[1:] == tuple(
        int(size) for size in value.split("x")[2:]
    )


def test_sizes_that_are_too_small_for_a_window_are_answered_by_larger_ones(tmp_path):
    path = sliding(tmp_path / "m.onnx", [400], [1, 1, "samples"])
    with pytest.raises(UsageError, match="spans 400 where its padded input has 128") as caught:
        load_workload(path, inputs=["1x1x128"])
    assert caught.value.remedies[0].value == "x=1x1x512"


def test_a_network_that_runs_with_no_usual_size_says_what_is_wrong(tmp_path):
    path = sliding(tmp_path / "m.onnx", [10**6], [1, 1, "samples"])
    with pytest.raises(SchemaError, match="spans 1000000"):
        load_workload(path, inputs=["1x1x128"])


def test_another_fault_is_not_blamed_on_the_sizes(tmp_path):
    model = onnx.load(sliding(tmp_path / "m.onnx", [400], [1, 1, "samples"]))
    asked = [TensorSpec("", (1, 1, 512), "")], None, "m", {}
    blame_sizes(model, asked, "its weights are too large")


def test_all_inputs_are_asked_for_at_once(tmp_path):
    path = two_inputs(tmp_path / "m.onnx", ("n", None), (1, None))
    with pytest.raises(UsageError) as caught:
        load_workload(path)
    assert caught.value.remedies == (
        Argument("inputs", ("a=1x128", "b=1x128"), purpose="fix all of them"),
    )


def test_traced_torchscript_keeps_its_shapes_and_a_batch_or_a_shape_of_the_user_wins(tmp_path):
    path = save(TinyNet(), "traced", tmp_path / "m.pt")
    assert load_workload(path, batch=2).inputs[0].shape == (2, *SHAPE[1:])
    kept = inspect(path).inputs
    assert [spec.shape for spec in kept] == [SHAPE]
    asked = ReadRequest("m", (parse_input("1x3x32x32"),), batch=5)
    assert choose_input_shapes(asked, kept)[0].shape == (5, 3, 32, 32)


def test_scripted_torchscript_has_no_shapes(tmp_path):
    with pytest.raises(
        UsageError, match=r"first layer, features\.0\.conv, is 8x3x3x3\); give it: pass inputs="
    ):
        load_workload(save(TinyNet(), "scripted", tmp_path / "m.pt"))


def test_an_exported_program_with_an_open_batch_is_fixed(tmp_path):
    path = tmp_path / "m.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        open_batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
        torch.export.save(
            torch.export.export(
                TinyNet(), (torch.zeros(2, *SHAPE[1:]),), dynamic_shapes=open_batch
            ),
            path,
        )
    workload = load_workload(path, batch=3)
    assert workload.inputs[0].shape == (3, *SHAPE[1:])
    assert workload.macs == 3 * load_workload(TinyNet(), example_inputs=(torch.zeros(SHAPE),)).macs


class Mixed(nn.Module):
    """Indices and floats, the second argument optional."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)

    def forward(self, tokens, weights=None):
        found = self.embedding(tokens)
        return found if weights is None else found * weights


def test_example_inputs_carry_their_types_and_arguments_go_by_name():
    tokens = torch.tensor([[1, 2, 3]])
    workload = load_workload(Mixed(), example_inputs=(tokens, torch.rand(1, 3, 4)))
    assert [(spec.name, spec.dtype) for spec in workload.inputs] == [
        ("tokens", "int64"),
        ("weights", "float32"),
    ]
    assert len(load_workload(Mixed(), example_inputs=tokens).inputs) == 1


def test_a_module_that_does_not_run_on_the_inputs_says_why():
    with pytest.raises(
        WorkloadError, match=r"does not run on inputs 1x4x16x16: RuntimeError: .*channels"
    ):
        load_workload(TinyNet(), inputs=["1x4x16x16"])
