"""TensorRT on paper: a module as strict as the real bindings of one version, that parses ONNX and
'runs' it on the fake GPU.

Fakes play the rules that a driver can break: flags that a version lacks, an unchecked refusal,
running before addresses are set, capturing before the first run, quantisation that TensorRT does
not take. Layers come out under the names and in the JSON of the version. `FAULT` in the environment
asks for a failure.
"""

from __future__ import annotations

import json
import os
import signal
import time
from types import ModuleType
from typing import Any

import numpy as np

from hwbench.network.graph import layers, load
from tests.devices.nvidia.fake_cuda import Gpu
from tests.devices.nvidia.strict import Strict, construct

LAYER_S, PER_MAC_S, PROFILER_S = 6e-6, 2e-11, 4e-6
"""Seconds of a layer, of a multiply-accumulate, and of the profiler for each layer: a GPU with a
simple law.
"""
_KINDS = {
    "float32": "FLOAT",
    "float16": "HALF",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
}


def fault() -> str:
    return os.environ.get("FAULT", "")


def strike(point: str) -> None:
    """Die or hang at `point`, if that was asked for."""
    if fault() == f"crash@{point}":
        os.write(2, b"[E] paper TensorRT is about to crash\n")
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault() == f"hang@{point}":
        os.write(2, b"[W] paper TensorRT hangs\n")
        time.sleep(600)


class _State:
    """What all fakes of one process share."""

    gpu: Gpu
    logger: Any = None
    version: str = ""

    @classmethod
    def say(cls, severity: str, text: str) -> None:
        cls.logger.log(getattr(Strict.module.ILogger.Severity, severity), text)


def is_weak() -> bool:
    return not hasattr(Strict.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


class Builder(Strict):
    def _start(self, logger: Any) -> None:
        _State.logger = logger
        if fault() == "no builder":
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def _create_network(self, flags: int = 0) -> Any:
        known = Strict.module.NetworkDefinitionCreationFlag.__members__.values()
        assert not flags & ~sum(1 << int(flag) for flag in known), f"unknown bits in {flags:b}"
        if is_weak():
            assert flags == 1 << int(Strict.module.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        return INetworkDefinition(flags=int(flags), model=None)

    def _create_builder_config(self) -> Any:
        defaults = {
            "builder_optimization_level": 3,
            "avg_timing_iterations": 1,
            "max_aux_streams": -1,
        }
        verbosity = Strict.module.ProfilingVerbosity.LAYER_NAMES_ONLY
        return IBuilderConfig(on={"TF32"}, cache=None, profiling_verbosity=verbosity, **defaults)

    def _build_serialized_network(self, network: Any, config: Any) -> Any:
        strike("build")
        if fault() == "no engine":
            _State.say("ERROR", "Could not find any implementation for node conv1")
            return None
        precision = network.state["precision"]
        flag = {"fp16": "FP16", "int8": "INT8"}.get(precision)
        if is_weak() and flag and flag not in config.state["on"]:
            _State.say("ERROR", f"network needs {flag}")
            return None
        settings = {
            name: str(value) for name, value in config.state.items() if name not in {"on", "cache"}
        }
        plan = {
            "version": _State.version,
            "inputs": network.state["inputs"],
            "outputs": network.state["outputs"],
            "layers": network.state["layers"],
            "on": sorted(config.state["on"]),
            "settings": settings,
            "timings": (
                None
                if config.state["cache"] is None
                else config.state["cache"].state["data"].decode()
            ),
            "nonce": time.time_ns(),
        }
        if config.state["cache"] is not None:
            config.state["cache"].state["data"] += b"+"
        return IHostMemory(data=json.dumps(plan).encode())


class IHostMemory(Strict):
    def __bytes__(self) -> bytes:
        return self.state["data"]


class INetworkDefinition(Strict):
    pass


class ITimingCache(Strict):
    def _serialize(self) -> Any:
        return IHostMemory(data=self.state["data"])


class IBuilderConfig(Strict):
    def _set_flag(self, flag: Any) -> None:
        self.state["on"].add(flag.name)

    def _clear_flag(self, flag: Any) -> None:
        self.state["on"].discard(flag.name)

    def _create_timing_cache(self, serialized: bytes) -> Any:
        return ITimingCache(data=bytes(serialized))

    def _set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if fault() == "stale timings" and cache.state["data"]:
            return False
        self.state["cache"] = cache
        return True


class ParserError(Strict):
    def _desc(self) -> str:
        return self.state["text"]

    def _node(self) -> int:
        return 3

    def _node_name(self) -> str:
        return self.state["node"]

    def _node_operator(self) -> str:
        return self.state["operator"]

    def _code(self) -> Any:
        return getattr(Strict.module.ErrorCode, self.state["kind"])


class OnnxParser(Strict):
    def _start(self, network: Any, logger: Any) -> None:
        self.state.update(network=network, errors=[])

    def _get_num_errors(self) -> int:
        return len(self.state["errors"])

    def _get_error(self, index: int) -> Any:
        return self.state["errors"][index]

    def _refuse(self, kind: str, node: Any, text: str) -> bool:
        self.state["errors"].append(
            ParserError(kind=kind, node=node.name, operator=node.op_type, text=text)
        )
        return False

    def _parse(self, model: bytes, path: Any = None) -> bool:
        graph_model = load(bytes(model))
        graph = graph_model.graph
        types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        assert len({node.name for node in graph.node}) == len(graph.node), (
            "every node has a name of its own"
        )
        for node in graph.node:
            if node.op_type == "Unheard":
                return self._refuse("UNSUPPORTED_NODE", node, "no importer registered")
            if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
                zero = types.get(node.input[2]) if len(node.input) > 2 else 2
                if zero != 3 or types.get(node.input[0], 1) == 6:
                    return self._refuse("INVALID_NODE", node, "only symmetric INT8 is supported")
        elements = {tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1}
        precision = "int8" if 3 in elements else "fp16" if 10 in elements else "fp32"
        layer_rows = [[layer.name, list(layer.nodes), layer.macs] for layer in layers(graph_model)]
        self.state["network"].state.update(
            precision=precision,
            layers=layer_rows,
            inputs=list(map(_tensor, graph.input)),
            outputs=list(map(_tensor, graph.output)),
        )
        return True


def _tensor(value: Any) -> list[Any]:
    from onnx import helper

    kind = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).name
    return [value.name, [dim.dim_value for dim in value.type.tensor_type.shape.dim], _KINDS[kind]]


class Runtime(Strict):
    def _start(self, logger: Any) -> None:
        _State.logger = logger

    def _deserialize_cuda_engine(self, serialized: bytes) -> Any:
        plan = json.loads(serialized)
        if plan["version"] != _State.version or fault() == "no load":
            _State.say(
                "INTERNAL_ERROR", "engine plan file is not compatible with this version of TensorRT"
            )
            return None
        return ICudaEngine(plan=plan)


class ICudaEngine(Strict):
    def _tensors(self) -> list[tuple[list[Any], str]]:
        plan = self.state["plan"]
        return [(t, "INPUT") for t in plan["inputs"]] + [(t, "OUTPUT") for t in plan["outputs"]]

    def _find(self, name: str) -> tuple[list[Any], str]:
        return next(found for found in self._tensors() if found[0][0] == name)

    def _get_num_io_tensors(self) -> int:
        return len(self._tensors())

    def _get_tensor_name(self, index: int) -> str:
        return self._tensors()[index][0][0]

    def _get_tensor_shape(self, name: str) -> Any:
        return tuple(self._find(name)[0][1])

    def _get_tensor_dtype(self, name: str) -> Any:
        return getattr(Strict.module.DataType, self._find(name)[0][2])

    def _get_tensor_mode(self, name: str) -> Any:
        return getattr(Strict.module.TensorIOMode, self._find(name)[1])

    def _get_tensor_location(self, name: str) -> Any:
        return Strict.module.TensorLocation.DEVICE

    def _create_execution_context(self, *strategy: Any) -> Any:
        return IExecutionContext(
            plan=self.state["plan"],
            addresses={},
            runs=0,
            profiler=None,
            enqueue_emits_profile=True,
            due=False,
        )

    def _create_engine_inspector(self) -> Any:
        return EngineInspector(plan=self.state["plan"])


class EngineInspector(Strict):
    def _get_engine_information(self, form: Any) -> str:
        assert form == Strict.module.LayerInformationFormat.JSON
        layers = [_layer_json(layer) for layer in self.state["plan"]["layers"]]
        ends = "I/O Tensors" if _State.version.startswith("11") else "Bindings"
        return json.dumps({"Layers": layers, ends: ["x", "y"]})


def engine_name(nodes: list[str]) -> str:
    return " + ".join(nodes)


def _layer_json(layer: list[Any]) -> dict[str, Any]:
    name, nodes, _ = layer
    found = {
        "Name": engine_name(nodes),
        "LayerType": "CaskConvolution",
        "TacticName": f"sm90_{name}",
    }
    if _State.version.startswith("8"):
        return {**found, "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32"}]}
    return {
        **found,
        "Inputs": [{"Name": "x", "Datatype": "Float"}],
        "Metadata": "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes),
    }


class IExecutionContext(Strict):
    def _set_tensor_address(self, name: str, memory: int) -> bool:
        self.state["addresses"][name] = memory
        return memory in _State.gpu.memory

    def _execute_async_v3(self, stream: int) -> bool:
        strike("run")
        state, gpu = self.state, _State.gpu
        plan = state["plan"]
        wanted = {tensor[0] for tensor in (*plan["inputs"], *plan["outputs"])}
        ready = state["addresses"].keys() == wanted and all(
            address in gpu.memory for address in state["addresses"].values()
        )
        if not ready or stream not in gpu.streams:
            _State.say("ERROR", "address is not set, or no such stream")
            return False
        if gpu.capturing is not None and (state["runs"] == 0 or fault() == "no graph"):
            gpu.spoiled = True  # what is done once allocates, which cannot be captured
        state["runs"] += 1
        state["due"] = state["profiler"] is not None
        cost_s = PROFILER_S * len(plan["layers"]) if state["profiler"] is not None else 0.0
        gpu.enqueue(lambda: sum(_layer_s(layer) for layer in plan["layers"]) + cost_s)
        return True

    def _report_to_profiler(self) -> bool:
        state = self.state
        if state["enqueue_emits_profile"] or not state["due"]:
            return False
        state["due"] = False
        for layer in state["plan"]["layers"]:
            state["profiler"].report_layer_time(
                engine_name(layer[1]), (_layer_s(layer) + PROFILER_S) * 1e3
            )
        return True


def _layer_s(layer: list[Any]) -> float:
    return LAYER_S + PER_MAC_S * layer[2]


def module(real: ModuleType, gpu: Gpu, version: str) -> ModuleType:
    """What `import tensorrt` gives: the real bindings, but for the classes that need TensorRT
    itself.
    """
    Strict.module = real
    _State.gpu, _State.version = gpu, version
    fake = ModuleType("tensorrt")
    for name in dir(real):
        if not name.startswith("__"):
            setattr(fake, name, getattr(real, name))
    fake.__version__ = real.__version__
    for kind in (Builder, Runtime, OnnxParser):
        setattr(fake, kind.__name__, _constructor(kind))
    return fake


def _constructor(kind: type[Strict]) -> Any:
    return lambda *arguments, **named: construct(kind, *arguments, **named)
