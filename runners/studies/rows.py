"""Do layer times stand at the layer that did the work, in networks of other people?

python -m runners.studies.rows --keep FOLDER   (needs timm, torchvision, transformers,
segmentation-models-pytorch and ultralytics; weights are random)
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hwbench.devices.base import LayerRow
from hwbench.devices.ort.cpu import CpuOrt
from hwbench.devices.ort.python_engine import PythonEngine
from hwbench.devices.shared.ort.executed_graph import executed_nodes
from hwbench.devices.shared.ort.layers import join_profile, match_entries
from hwbench.devices.shared.ort.origins import NodeOrigin, find_origins
from hwbench.devices.shared.ort.profile import read_trace
from hwbench.errors import HwbenchError
from hwbench.measuring.sessions import measure
from hwbench.network.graph import Layer, count, layers, load
from hwbench.network.graph.view import GraphView
from hwbench.network.intake import load_workload
from hwbench.network.ort import onnxruntime
from hwbench.network.workload import Workload
from hwbench.records.measurement import Measurement, Settings
from hwbench.records.tensors import TensorSpec
from runners.studies._results import save_study

NOTES = """\
Two independent looks at each network, neither of which uses the names that rows are joined by.
*Values*: the network and the graph that ONNX Runtime executes for it run on the same input with
every tensor shown, and what an executed node writes must be equal to a tensor of the layer it was
joined to (`time_right`), else it is `time_wrong`. `time_moves`: nodes that only move values, which
the runtime shifts about, so that their values are parts of those of several layers. `time_inside`:
nodes whose values are no tensor of the network, inside what the runtime spelt out. `time_inserted`:
layout conversions with rows of their own. `time_unknown`: joined to no layer. *Modules*: hooks on
the torch modules count the calls, output sizes and multiply-accumulates of every convolution and
linear layer; each call must be a layer of that module's name with the same numbers, and have a row
(but for calls that write the same for two inputs, which are constants of the network).
A network is right if at most 0.5 % of its time is wrong or unknown and no module is missing."""
IMAGE = (1, 3, 224, 224)
SETTINGS = Settings(budget_s=12, min_sessions=3, target=0.02)
ATTEMPTS = 3
"""Measurements at most of one network; the one with the narrowest interval counts."""
QUIET = 0.03
"""Width of the interval of a latency, over it, below which a measurement was undisturbed."""
CLOSES = (0.95, 1.05)
WRONG_AT_MOST = 0.005
"""Share of the time that may be at a wrong layer, or at none, for a network to be right."""
RUNS = 3
"""Profiled inferences from which the shares of the time are taken."""
VISION = (
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "densenet121",
    "googlenet",
    "efficientnet_b0",
    "regnet_y_400mf",
    "convnext_tiny",
    "vit_b_32",
    "swin_t",
    "mnasnet1_0",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)
TIMM = (
    "vit_tiny_patch16_224",
    "mixer_s32_224",
    "resmlp_12_224",
    "levit_128s",
    "mobilevit_s",
    "mobilevitv2_050",
    "edgenext_xx_small",
    "ghostnet_100",
    "repvgg_a0",
    "tf_efficientnet_lite0",
    "tf_mobilenetv3_small_100",
    "eca_nfnet_l0",
    "resnext50_32x4d",
    "convnextv2_atto",
    "poolformer_s12",
    "pvt_v2_b0",
    "coat_lite_tiny",
    "xcit_nano_12_p16_224",
    "efficientformer_l1",
    "fastvit_t8",
    "hrnet_w18_small",
    "dla34",
    "ese_vovnet19b_dw",
    "rexnet_100",
    "mobileone_s0",
    "seresnext26d_32x4d",
    "cait_xxs24_224",
)
SEGMENTATION = (
    "Unet resnet18",
    "FPN mobilenet_v2",
    "DeepLabV3Plus resnet18",
    "PSPNet resnet18",
    "Linknet resnet18",
    "UnetPlusPlus resnet18",
)
YOLO = ("yolov5n", "yolov8n", "yolo11n", "yolov8n-seg", "yolov8n-cls")
_SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
}
LANGUAGE: Mapping[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "Bert": ("BertModel", _SMALL, (1, 64)),
    "DistilBert": (
        "DistilBertModel",
        {"dim": 128, "n_layers": 2, "n_heads": 2, "hidden_dim": 512},
        (1, 64),
    ),
    "Roberta": ("RobertaModel", _SMALL, (1, 64)),
    "GPT2": (
        "GPT2Model",
        {"n_embd": 128, "n_layer": 2, "n_head": 2, "use_cache": False},
        (1, 64),
    ),
    "ViT": ("ViTModel", _SMALL, IMAGE),
    "Segformer": ("SegformerForSemanticSegmentation", {}, (1, 3, 128, 128)),
    "Electra": ("ElectraModel", _SMALL, (1, 64)),
}


def list_architectures() -> dict[str, tuple[Callable[[], Any], tuple[int, ...]]]:
    """For every architecture what makes it and the shape of its input."""
    made: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {}
    for name in VISION:
        made[f"torchvision {name}"] = partial(_make_vision, name), IMAGE
    for name in TIMM:
        shape = (1, 3, 256, 256) if name == "mobilevit_s" else IMAGE
        made[f"timm {name}"] = partial(_make_timm, name), shape
    for name in SEGMENTATION:
        made[f"smp {name}"] = partial(_make_segmentation, name), (1, 3, 128, 128)
    for name in YOLO:
        made[f"ultralytics {name}"] = partial(_make_yolo, name), IMAGE
    for name, (kind, options, input_shape) in LANGUAGE.items():
        made[f"transformers {name}"] = partial(_make_transformer, name, kind, options), input_shape
    return made


def _import(name: str) -> Any:
    from importlib import import_module

    return import_module(name)


def _make_timm(name: str) -> Any:
    return _import("timm").create_model(name)


def _make_vision(name: str) -> Any:
    options = {"weights": None}
    if "mobilenet_v3_large" in name:
        options["weights_backbone"] = None
    return _import("torchvision").models.get_model(name, **options)


def _make_segmentation(name: str) -> Any:
    kind, encoder = name.split()
    return getattr(_import("segmentation_models_pytorch"), kind)(encoder, encoder_weights=None)


def _make_yolo(name: str) -> Any:
    return _import("ultralytics").YOLO(f"{name}.yaml").model


def _make_transformer(name: str, kind: str, options: dict[str, Any]) -> Any:
    library = _import("transformers")
    return getattr(library, kind)(getattr(library, f"{name}Config")(**options))


def make_network(name: str) -> tuple[Any, tuple[Any, Any]]:
    """A network with random weights in eval mode, and two inputs for it."""
    import torch

    make, shape = list_architectures()[name]
    torch.manual_seed(0)
    module = make().eval()
    if len(shape) == 2:
        return module, (torch.randint(0, 100, shape), torch.randint(0, 100, shape))
    return module, (torch.randn(*shape), torch.randn(*shape))


def count_modules(module: Any, examples: Sequence[Any]) -> list[dict[str, Any]]:
    """Every call of a convolution or linear layer, as hooks on the torch modules see it.

    One that writes the same whatever the input is (of an encoding of positions) is left out: its
    output is a constant of the network.
    """
    calls, others = (_list_calls(module, example) for example in examples)
    counted = []
    for call, other in zip(calls, others, strict=True):
        if call.pop("written") != other["written"]:
            counted.append(call)
    return counted


def _list_calls(module: Any, example: Any) -> list[dict[str, Any]]:
    import torch

    calls: list[dict[str, Any]] = []

    def watch(path: str) -> Callable[..., None]:
        def note(layer: Any, inputs: Any, output: Any) -> None:
            weight = layer.weight
            if isinstance(layer, torch.nn.Linear):
                macs = output.numel() * weight.shape[1]
            elif layer.transposed:
                macs = inputs[0].numel() * weight[0].numel()
            else:
                macs = output.numel() * weight[0].numel()
            written = (float(output.double().sum()), float(output.double().abs().sum()))
            shape = list(output.shape)
            calls.append({"path": path, "macs": macs, "output": shape, "written": written})

        return note

    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)  # noqa: SLF001 - the class of all
    hooks = [
        layer.register_forward_hook(watch(path))
        for path, layer in module.named_modules()
        if isinstance(layer, kinds)
    ]
    with torch.no_grad():
        module(example)
    for hook in hooks:
        hook.remove()
    return calls


def prepare(name: str, folder: Path) -> tuple[Workload, list[dict[str, Any]]]:
    """Export a network and count its modules, or read what an earlier run of this study kept."""
    import torch

    stem = folder / name.replace(" ", "__").replace("/", "_")
    model_path, calls_path = stem.with_suffix(".onnx"), stem.with_suffix(".json")
    if not calls_path.exists() or not model_path.exists():
        module, examples = make_network(name)
        if not model_path.exists():
            model_path.write_bytes(load_workload(module, example_inputs=examples[0]).onnx)
        with torch.no_grad():
            calls_path.write_text(json.dumps(count_modules(module, examples)))
    data = model_path.read_bytes()
    model = load(data)
    counts = count(model)
    kinds = {1: "float32", 7: "int64"}
    specs = []
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        specs.append(TensorSpec(value.name, shape, kinds[tensor.elem_type]))
    workload = Workload(name, data, tuple(specs), 1, "fp32", counts.macs, counts.params, len(data))
    return workload, json.loads(calls_path.read_text())


def check_modules(parts: Sequence[Layer], calls: Sequence[Mapping[str, Any]]) -> list[str]:
    """Calls of modules without a layer of their name, multiply-accumulates and output size."""
    by_path: defaultdict[str, list[Layer]] = defaultdict(list)
    for part in parts:
        by_path[part.name].append(part)
    wrong = []
    seen: Counter[str] = Counter()
    for call in calls:
        path = str(call["path"])
        label = path if not seen[path] else f"{path}_{seen[path]}"
        seen[path] += 1
        fitting = [
            part
            for part in by_path[label]
            if part.macs == call["macs"] and np.prod(part.key.output) == np.prod(call["output"])
        ]
        if not fitting:
            wrong.append(label)
    return wrong


def _run_showing(model: Any, names: Sequence[str], workload: Workload) -> list[Any]:
    """Run a model without optimisations, and return the tensors that were asked for."""
    import onnx

    random = np.random.default_rng(3)
    feeds = {}
    for spec in workload.inputs:
        if spec.dtype == "int64":
            feeds[spec.name] = random.integers(0, 100, spec.shape)
        else:
            feeds[spec.name] = random.standard_normal(spec.shape).astype(np.float32)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(list(names), feeds))


def describe_values(tensor: Any) -> Any:
    """Numbers that do not depend on the order of a tensor's elements, nor on zeros padded to it."""
    values = np.asarray(tensor, np.float64).ravel()
    sizes = np.abs(values)
    if not values.size:
        return np.zeros(6)
    return np.array(
        [
            sizes.sum(),
            (values**2).sum(),
            (sizes**1.5).sum(),
            sizes.max(),
            values.sum(),
            max(values.max(), 0) - max(-values.min(), 0),
        ]
    )


def find_equal(table: Any, description: Any) -> Any:
    """Rows of a table of descriptions that equal one, up to rounding."""
    difference = np.abs(table - description)
    tolerance = 1e-3 * np.abs(table)
    tolerance[:, 4] = 1e-3 * table[:, 0]  # sums of both signs, relative to the sum of sizes
    tolerance[:, 5] = 1e-3 * table[:, 3]
    return np.nonzero((difference <= tolerance + 1e-9).all(axis=1))[0]


MOVES = frozenset(
    {
        "Cast",
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "ReorderInput",
        "ReorderOutput",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
"""Executed nodes that compute nothing: the runtime moves them, so that their values are parts of
those of several layers."""


def check_values(workload: Workload) -> Iterator[tuple[NodeOrigin, str]]:
    """For every executed node, what its values say of the layers it was joined to.

    Yields:
        (node, one of `right`, `wrong`, `moves`: it only moves values, `inside`: its values are no
        tensor of the network, as inside a fused operator, `inserted`, `unknown`).
    """
    import onnx

    ort = onnxruntime()
    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "executed.onnx")
        ort.InferenceSession(workload.onnx, options, providers=["CPUExecutionProvider"])
        data = Path(options.optimized_model_filepath).read_bytes()
    view = GraphView(load(workload.onnx))
    parts = layers(view)
    owners = {node: part.name for part in parts for node in part.nodes}
    made = [
        (name, view.nodes[index].name)
        for index in view.active
        for name in view.nodes[index].output
        if name
    ]
    plain = onnx.load_model_from_string(workload.onnx)
    tensors = _run_showing(plain, [name for name, _ in made], workload)
    table = np.array([describe_values(tensor) for tensor in tensors])
    executed = executed_nodes(data)
    written = [name for node in executed for name in node.outputs if name]
    values = _run_showing(onnx.load_model_from_string(data), written, workload)
    descriptions = dict(zip(written, map(describe_values, values), strict=True))
    for origin in find_origins(executed, view, parts):
        equal = set()
        for name in origin.node.outputs:
            if name:
                equal |= {owners.get(made[i][1], "") for i in find_equal(table, descriptions[name])}
        if not origin.serves:
            verdict = "inserted" if origin.known else "unknown"
        elif equal & set(origin.serves):
            verdict = "right"
        elif origin.node.op in MOVES:
            verdict = "moves"
        else:
            verdict = "wrong" if equal else "inside"
        yield origin, verdict


def share_times(
    workload: Workload, verdicts: Sequence[tuple[NodeOrigin, str]], parts: Sequence[Layer]
) -> tuple[dict[str, float], tuple[LayerRow, ...]]:
    """Profile a network, and give the share of the time of each verdict, and the rows."""
    with (
        TemporaryDirectory() as folder,
        closing(PythonEngine([0], 0, Path(folder))) as engine,
    ):
        engine.load("net", workload, profile=True)
        engine.run(["net"] * RUNS, 1)
        runs = read_trace(engine.unload("net") or b"", RUNS)
    origins = [origin for origin, _ in verdicts]
    verdict_of = {id(origin): verdict for origin, verdict in verdicts}
    times: defaultdict[str, float] = defaultdict(float)
    for entry, origin in match_entries(origins, runs):
        times[verdict_of.get(id(origin), "unknown")] += float(np.median(runs.nodes_s[entry]))
    total = sum(times.values())
    shares = {verdict: time_s / total for verdict, time_s in times.items()}
    return shares, join_profile(origins, parts, runs, block=1)


def measure_quietly(workload: Workload) -> tuple[Measurement, int]:
    """Measure until a measurement was undisturbed; gives the best one and how many there were.

    The best one is that with the narrowest interval, whatever its layers add up to.
    """
    records: list[Measurement] = []
    while len(records) < ATTEMPTS and (not records or min(map(_width, records)) > QUIET):
        with CpuOrt() as device:
            records.append(measure(device, workload, SETTINGS))
    return min(records, key=_width), len(records)


def _width(record: Measurement) -> float:
    low, high = record.median_ci_s
    return (high - low) / record.median_s


def check_network(name: str, folder: Path) -> dict[str, Any]:
    """What values and modules say of one network; needs no quiet machine."""
    try:
        workload, calls = prepare(name, folder)
        parts = layers(load(workload.onnx))
        verdicts = list(check_values(workload))
        times, rows = share_times(workload, verdicts, parts)
    except HwbenchError as error:
        return {"architecture": name, "right": False, "reason": str(error)[:120]}
    reasons = []
    wrong = [origin.node.name for origin, verdict in verdicts if verdict == "wrong"]
    if times.get("wrong", 0) + times.get("unknown", 0) > WRONG_AT_MOST:
        reasons.append(f"values: {wrong[:2]}")
    if missing := check_modules(parts, calls):
        reasons.append(f"{len(missing)} modules without their layer: {missing[:2]}")
    names = {row.name for row in rows}
    if rowless := [part.name for part in parts if part.macs and part.name not in names]:
        reasons.append(f"{len(rowless)} layers without their row: {rowless[:2]}")
    return {
        "architecture": name,
        "right": not reasons,
        "rows": len(rows),
        "rows_with_key": sum(row.key is not None for row in rows),
        "modules": len(calls),
        "module_macs": sum(int(call["macs"]) for call in calls),
        "layer_macs": sum(part.macs for part in parts),
        **{
            f"time_{verdict}": round(times.get(verdict, 0.0), 4)
            for verdict in ("right", "moves", "inside", "inserted", "wrong", "unknown")
        },
        "reason": "; ".join(reasons),
    }


def measure_network(name: str, folder: Path) -> dict[str, Any]:
    """Latency and closure of one network; wants a quiet machine."""
    try:
        workload, _ = prepare(name, folder)
        record, attempts = measure_quietly(workload)
    except HwbenchError as error:
        return {"architecture": name, "closes": False, "reason": str(error)[:120]}
    closure = record.closure or 0.0
    return {
        "architecture": name,
        "latency_ms": round(record.median_s * 1e3, 3),
        "interval": round(_width(record), 3),
        "closure": round(closure, 3),
        "closes": CLOSES[0] <= closure <= CLOSES[1],
        "attempts": attempts,
    }


def main() -> None:
    """Study every architecture and write results/rows/; what was studied is kept in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, required=True, help="folder for networks and results")
    parser.add_argument("--only", default="", help="only architectures whose name has this")
    parser.add_argument("--without-latency", action="store_true", help="on a busy machine")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    steps = {"checks": check_network}
    if not options.without_latency:
        steps["latency"] = measure_network
    rows = []
    for name in list_architectures():
        if options.only not in name:
            continue
        row: dict[str, Any] = {}
        for step, function in steps.items():
            path = options.keep / f"{name.replace(' ', '__')}.{step}.json"
            if not path.exists():
                path.write_text(json.dumps(function(name, options.keep)))
            row = json.loads(path.read_text()) | row
        rows.append(row)
        print(row, flush=True)
    if options.only:
        return
    columns = max((list(row) for row in rows), key=len)
    save_study(
        "rows",
        question=(
            "Do layer times stand at the layer that did the work, in networks of other people?"
        ),
        answer=answer(rows),
        rows=[{column: row.get(column, "") for column in columns} for row in rows],
        command="python -m runners.studies.rows --keep FOLDER",
        notes=NOTES,
    )


def answer(rows: Sequence[Mapping[str, Any]]) -> str:
    """One or two sentences."""
    right = sum(bool(row["right"]) for row in rows)
    shares = [float(row["time_right"]) for row in rows if "time_right" in row]
    text = (
        f"In {right} of {len(rows)} architectures the rows are at the right layers; values confirm"
        f" {min(shares):.0%} to {max(shares):.0%} of the time (median {np.median(shares):.1%})."
    )
    measured = [row for row in rows if "closure" in row]
    if measured:
        closed = sum(bool(row["closes"]) for row in measured)
        text += (
            f" In {closed} of {len(measured)} the rows add up to {CLOSES[0]} to {CLOSES[1]} of the"
            " latency."
        )
    return text


if __name__ == "__main__":
    main()
