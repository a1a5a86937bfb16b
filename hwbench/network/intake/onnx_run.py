"""What one inference in ONNX Runtime tells of a model: the shapes that nothing else knows.

ONNX infers no shapes behind operators of other domains, such as ONNX Runtime's own, nor where a
shape depends on values. There the runtime is asked: its profile carries the shapes of all that ran,
also in the bodies of control flow. It runs without optimisations, so that every node is there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hwbench.errors import DeviceUnavailableError, WorkloadError
from hwbench.network import graph
from hwbench.network.graph.shapes import RUNTIME_SHAPES
from hwbench.network.graph.view import GraphView, subgraphs
from hwbench.network.ort import onnxruntime
from hwbench.network.weight_files import ORT_FOLDER
from hwbench.records.findings import Finding
from hwbench.records.tensors import Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto

_KERNEL = "_kernel_time"
_SHAPED_BY_VALUES = "shapes_of_a_run"
_ELEMENT_TYPES = {
    "float": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7,
    "string": 8, "bool": 9, "float16": 10, "double": 11, "uint32": 12, "uint64": 13,
    "bfloat16": 16,
}  # fmt: skip
"""ONNX's number of an element type, by ONNX Runtime's name of it."""

DrawFeeds = Callable[["ModelProto"], Mapping[str, "NDArray[Any]"]]
Typed = tuple[int, Shape]
"""Element type and shape of a tensor."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A model all of whose shapes are known, as far as they can be.

    Attributes:
        model: The model, its nodes named and its shapes written into it.
        executions: How often each node ran in one inference, by name; None if nothing was run.
        findings: What is to be told of it.
    """

    model: ModelProto
    executions: dict[str, int] | None
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class _Run:
    """What a profile tells.

    Attributes:
        executions: How often each node ran.
        outputs: What each node wrote, in order, without outputs that are left out; empty where that
            differed from one time to the next.
        inputs: What each node read, likewise.
    """

    executions: Counter[str] = field(default_factory=Counter)
    outputs: dict[str, list[Typed]] = field(default_factory=dict)
    inputs: dict[str, list[Typed]] = field(default_factory=dict)


def runtime_loads(model: ModelProto, folder: Path) -> bool:
    """Tell whether ONNX Runtime loads a model, whatever ONNX's own rules say of it.

    Args:
        model: The model.
        folder: Where weights lie that are not inside.
    """
    try:
        _open_session(model.SerializeToString(), None, folder)
    except Exception:  # noqa: BLE001 - the runtime has many errors, all of which mean no
        return False
    return True


def runs(model: ModelProto, feeds: Mapping[str, NDArray[Any]]) -> bool:
    """Tell whether ONNX Runtime runs a model on values of its inputs."""
    try:
        session = _open_session(model.SerializeToString())
        session.run_with_ort_values(None, {name: _wrap_array(each) for name, each in feeds.items()})
    except Exception:  # noqa: BLE001 - the runtime has many errors, all of which mean no
        return False
    return True


def complete_model(
    data: bytes, draw_feeds: DrawFeeds, weights_folder: Path | None = None
) -> Completed:
    """Load a model, and have the runtime fill in the shapes that ONNX does not infer.

    Args:
        data: A model with fixed inputs.
        draw_feeds: Makes values for its inputs, by name; called if the runtime is to be asked, and
            raises what forbids that.
        weights_folder: Where weights lie that are not inside; None if all are.

    Raises:
        WorkloadError: ONNX's rules are broken, and ONNX Runtime does not run it either.
    """
    problem: WorkloadError | None = None
    try:
        model = graph.load(data)
    except WorkloadError as error:
        problem = error
        model = _parse_marked(data, error)
    root = _find_unshaped(model)
    if problem is None and root is None and not _has_open_loops(model):
        return Completed(model, None, ())
    run = _run_once(model, draw_feeds(model), weights_folder)
    if run is None:
        if problem is not None:
            raise problem
        return Completed(model, None, ())
    told = _write_shapes(model.graph, run)
    if problem is not None or root is not None:
        _mark(model, told)
    findings: tuple[Finding, ...] = ()
    if root is not None and root.domain in {"", "ai.onnx"} and problem is None:
        findings = (_make_finding(root),)
    return Completed(model, dict(run.executions), findings)


def _make_finding(root: NodeProto) -> Finding:
    text = (
        f"shapes from {root.name} ({root.op_type}) on depend on values: those of a run with these"
        " inputs are used"
    )
    return Finding(_SHAPED_BY_VALUES, text)


def _parse_marked(data: bytes, error: WorkloadError) -> ModelProto:
    """Parse a model that breaks ONNX's rules; if it is none at all, that is the error."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise error from None
    if not model.graph.node:
        raise error
    return graph.name_nodes(model)


def _mark(model: ModelProto, told: Mapping[str, Typed]) -> None:
    entries = [entry for entry in model.metadata_props if entry.key != RUNTIME_SHAPES]
    del model.metadata_props[:]
    model.metadata_props.extend(entries)
    rows = [[name, kind, list(shape)] for name, (kind, shape) in sorted(told.items())]
    model.metadata_props.add(key=RUNTIME_SHAPES, value=json.dumps(rows))


def _find_unshaped(model: ModelProto) -> NodeProto | None:
    """Find the first node that writes a tensor without a fixed shape; None if there is none."""
    view = GraphView(model)
    unshaped: list[NodeProto] = []
    for index in view.active:
        node = view.nodes[index]
        tensors = [name for name in node.output if name and not view.is_no_tensor(name)]
        is_known = all(view.fixed_shape(name) is not None for name in tensors)
        if not is_known or not all(_is_shaped(body) for body in subgraphs(node)):
            unshaped.append(node)
    return unshaped[0] if unshaped else None


def _is_shaped(body: GraphProto) -> bool:
    """Tell whether all tensors in a body of control flow have fixed shapes."""
    shaped = set()
    for value in (*body.value_info, *body.output):
        kind = value.type.WhichOneof("value")
        tensor = value.type.tensor_type
        is_fixed = tensor.HasField("shape") and all(
            dim.HasField("dim_value") for dim in tensor.shape.dim
        )
        if is_fixed or kind not in {"tensor_type", None}:
            shaped.add(value.name)
    for node in body.node:
        if node.op_type != "Constant" and not shaped.issuperset(filter(None, node.output)):
            return False
        if not all(_is_shaped(inner) for inner in subgraphs(node)):
            return False
    return True


def _has_open_loops(model: ModelProto) -> bool:
    """Tell whether only a run says how often a loop runs."""
    return any(node.op_type == "Loop" for node in graph.iterate_nodes(model.graph))


def _run_once(
    model: ModelProto, feeds: Mapping[str, NDArray[Any]], weights_folder: Path | None
) -> _Run | None:
    """Run a model once, with its nodes under plain names; None if the runtime does not."""
    names = {}
    nodes = list(graph.iterate_nodes(model.graph))
    for number, node in enumerate(nodes):
        # A profile is JSON, into which ONNX Runtime writes names as they are.
        names[f"n{number}"] = node.name
        node.name = f"n{number}"
    try:
        data = model.SerializeToString()
    finally:
        for node, name in zip(nodes, names.values(), strict=True):
            node.name = name
    try:
        with TemporaryDirectory(prefix="hwbench-") as folder:
            session = _open_session(data, Path(folder) / "profile", weights_folder)
            values = {name: _wrap_array(array) for name, array in feeds.items()}
            session.run_with_ort_values(None, values)
            events = json.loads(Path(session.end_profiling()).read_bytes())
    except Exception:  # noqa: BLE001 - the runtime has many errors, all of which mean no
        return None
    return _read_events(events, names)


def _open_session(
    data: bytes, profile: Path | None = None, weights_folder: Path | None = None
) -> Any:
    try:
        ort = onnxruntime()
    except DeviceUnavailableError as error:
        raise WorkloadError(str(error)) from error
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # waiting threads would count as work of the file
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if weights_folder is not None:
        options.add_session_config_entry(ORT_FOLDER, str(weights_folder.resolve()))
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _wrap_array(array: NDArray[Any]) -> Any:
    from onnx.helper import np_dtype_to_tensor_dtype

    values = onnxruntime().OrtValue
    if array.dtype.kind != "V":
        return values.ortvalue_from_numpy(array)
    # A type that NumPy does not have, such as bfloat16, is handed over as the same bits.
    same_bits = array.view(f"uint{8 * array.dtype.itemsize}")
    kind = np_dtype_to_tensor_dtype(array.dtype)
    return values.ortvalue_from_numpy_with_onnx_type(same_bits, kind)


def _read_events(events: Sequence[dict[str, Any]], names: dict[str, str]) -> _Run:
    run = _Run()
    for event in events:
        name = names.get(str(event.get("name", "")).removesuffix(_KERNEL))
        if name is None or not str(event.get("name", "")).endswith(_KERNEL):
            continue
        run.executions[name] += 1
        arguments = event.get("args", {})
        for held, key in ((run.outputs, "output_type_shape"), (run.inputs, "input_type_shape")):
            typed = _read_types(arguments.get(key, ()))
            if held.setdefault(name, typed) != typed:
                held[name] = []
    return run


def _read_types(entries: Sequence[dict[str, list[int]]]) -> list[Typed]:
    """Read what a profile says of tensors: `[{"float": [1, 3]}]`."""
    types = []
    for entry in entries:
        for kind, shape in entry.items():
            types.append((_ELEMENT_TYPES.get(kind, 0), tuple(shape)))
    return types


def _write_shapes(body: GraphProto, run: _Run, *, is_body: bool = False) -> dict[str, Typed]:
    """Write the shapes of a run into a graph and its bodies, where they hold none.

    Returns:
        Those that were written into the graph itself.
    """
    written: dict[str, Typed] = {}
    seen: dict[str, Typed] = {}
    for node in body.node:
        _match(seen, node.input, run.inputs.get(node.name, []))
    for node in body.node:
        _match(seen, node.output, run.outputs.get(node.name, []))
        for inner in subgraphs(node):
            _write_shapes(inner, run, is_body=True)
    makers = {name for node in body.node for name in node.output if name}
    # What is written apart from a body's outputs is dropped with it, see `drop_runtime_shapes`.
    outputs = () if is_body else body.output
    values = {value.name: value for value in (*body.value_info, *outputs)}
    for name in sorted(makers & seen.keys()):
        value = values.get(name)
        if value is None:
            value = body.value_info.add()
            value.name = name
        kind = value.type.WhichOneof("value")
        if kind not in {"tensor_type", None}:
            continue
        tensor = value.type.tensor_type
        element_type, shape = seen[name]
        if not tensor.elem_type:
            tensor.elem_type = element_type
        dims = tensor.shape.dim
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            continue
        tensor.shape.Clear()
        tensor.shape.SetInParent()
        for size in shape:
            tensor.shape.dim.add().dim_value = size
        written[name] = tensor.elem_type, shape
    return written


def _match(seen: dict[str, Typed], names: Sequence[str], types: Sequence[Typed]) -> None:
    """Add what is known of tensors that have names; outputs that are left out have no type."""
    present = [name for name in names if name]
    if len(present) == len(types):
        seen.update(zip(present, types, strict=True))
