"""The process that converts a network to the format of TensorFlow Lite; see `to_tflite`.

litert-torch calls tensors after the modules that compute them, by the last part of their names. So
every step of the network becomes a module with a number, and the numbers in the file that comes of
it become the names of the ONNX nodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hwbench.network.graph import load
from hwbench.network.graph.view import GraphView
from hwbench.network.tflite.operators import onnx_name, operator_name
from hwbench.network.torch_graph import to_torch

if TYPE_CHECKING:
    from torch import Tensor

    from hwbench.network.torch_graph import TorchNet

_TORCH_TYPES = {6: torch.int32, 7: torch.int64, 9: torch.bool}
"""Types of inputs by ONNX's number of them; others are float32."""
_KINDS = {"Gemm": "Linear", "MatMul": "Linear"}
"""Kinds of layers by ONNX operators that have another name."""
_NUMBER = re.compile(r"Step_n(\d+)(?!\d)")


class Step(nn.Module):
    """One step of a network.

    Args:
        function: What it computes.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *operands: Any, **options: Any) -> Tensor:
        """Compute it."""
        return self._function(*operands, **options)


def main(source: str, target: str) -> None:
    """Convert a model.

    Args:
        source: Path of the ONNX model.
        target: Path of the file to write.
    """
    import litert_torch  # type: ignore[import-not-found]

    onnx = Path(source).read_bytes()
    view = GraphView(load(onnx))
    net = to_torch(onnx)
    nodes = number_steps(net)
    images, examples = [], []
    for place, name in enumerate(view.inputs):
        shape = view.shape(name)
        if len(shape) == 4:
            images.append(place)
            shape = (shape[0], *shape[2:], shape[1])
        kind = _TORCH_TYPES.get(view.element_type(name), torch.float32)
        examples.append(torch.zeros(shape, dtype=kind))
    module: nn.Module = net.module.eval()
    if images:
        module = litert_torch.to_channel_last_io(module, args=images)
    litert_torch.convert(module, tuple(examples)).export(target)
    kinds = {node.name: node.op_type for node in view.nodes}
    steps = [(name, kinds[name]) for name in nodes]
    rename_tensors(Path(target), steps, list(view.inputs))


def number_steps(net: TorchNet) -> list[str]:
    """Make every step of a network a module called after a number.

    Args:
        net: The network, which is changed.

    Returns:
        The name of the ONNX node that the step of each number computes.
    """
    names: list[str] = []
    for step in net.module.graph.nodes:
        origin = net.origins.get(step.name)
        if step.op != "call_function" or origin is None:
            continue
        path = f"n{len(names)}"
        names.append(origin)
        net.module.add_submodule(path, Step(step.target))
        step.op, step.target = "call_module", path
    net.module.recompile()
    return names


def rename_tensors(path: Path, steps: Sequence[tuple[str, str]], inputs: Sequence[str]) -> None:
    """Call the tensors of a `.tflite` file after nodes, and its inputs as the network does.

    Of what was fused into an operator, the node of its own kind names it.

    Args:
        path: The file, which is written anew.
        steps: Name and operator of the ONNX node that each step is of, by the steps' numbers.
        inputs: Names of the inputs, in order.
    """
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    graph = model.subgraphs[0]
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = onnx_name(operator_name(max(code.builtinCode, code.deprecatedBuiltinCode)))
        for tensor in (graph.tensors[index] for index in operator.outputs):
            numbers = _NUMBER.findall((tensor.name or b"").decode("utf-8", "replace"))
            found = [steps[int(number)] for number in numbers]
            same_kind = [name for name, op in found if _KINDS.get(op, op) == kind]
            if found:
                tensor.name = (same_kind or [found[-1][0]])[-1].encode()
    for signature in (model.signatureDefs or [])[:1]:
        for entry, name in zip(signature.inputs, inputs, strict=True):
            graph.tensors[entry.tensorIndex].name = name.encode()
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
