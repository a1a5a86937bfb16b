"""The process that runs networks for their outputs; see `run_outputs`.

A message is a line of JSON, then the bytes of the arrays that it describes, one after the other.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import HwbenchError, WorkloadError
from hwbench.network.ort import onnxruntime
from hwbench.network.weight_files import ORT_FOLDER
from hwbench.network.workload import TFLITE
from hwbench.optional import import_optional

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUMPY_TYPES = frozenset(
    {"float", "double", "float16", "bool"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
"""Types of tensors, as ONNX Runtime calls them, that NumPy has too."""


def write_message(stream: IO[bytes], message: Mapping[str, Any], arrays: Any = ()) -> None:
    """Write a message with arrays."""
    described = [{"dtype": array.dtype.str, "shape": array.shape} for array in arrays]
    stream.write(json.dumps({**message, "arrays": described}).encode() + b"\n")
    for array in arrays:
        stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Read a message and its arrays.

    Raises:
        EOFError: The other side has ended.
    """
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    message: dict[str, Any] = json.loads(line)
    arrays = []
    for described in message.pop("arrays"):
        kind, shape = np.dtype(described["dtype"]), tuple(described["shape"])
        data = stream.read(kind.itemsize * math.prod(shape))
        if len(data) != kind.itemsize * math.prod(shape):
            raise EOFError
        arrays.append(np.frombuffer(data, kind).reshape(shape))
    return message, arrays


def main(parent: int) -> None:
    """Answer requests from standard input on standard output until that ends.

    Args:
        parent: Id of the process that asks.
    """
    _end_with_parent(parent)
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sessions: dict[str, Any] = {}
    while True:
        try:
            request, arrays = read_message(sys.stdin.buffer)
        except EOFError:
            return
        try:
            outputs = _answer(request, arrays, sessions)
        except HwbenchError as error:
            write_message(answers, {"error": str(error)})
        except Exception as error:  # noqa: BLE001 - the runtime has many errors, all of which mean no
            write_message(answers, {"error": str(error).strip().partition("\n")[0][:300]})
        else:
            write_message(answers, {}, outputs)


def _end_with_parent(parent: int) -> None:
    """Have the kernel end this process with the one that started it, also in the middle of a run.

    Elsewhere than on Linux only the end of its input tells, which is looked for between runs.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it had ended already


def _answer(
    request: Mapping[str, Any], arrays: Sequence[NDArray[Any]], sessions: dict[str, Any]
) -> list[NDArray[Any]]:
    """Load a network under a name, run one, or forget one."""
    name = request["name"]
    if "unload" in request:
        del sessions[name]
        return []
    if "model" in request:
        sessions[name] = _open_session(request["model"], request["threads"], request.get("weights"))
        return []
    if isinstance(sessions[name], TfliteSession):
        network: TfliteSession = sessions[name]
        return network.run(arrays)
    session, values = sessions[name], {}
    for described, array in zip(session.get_inputs(), arrays, strict=True):
        values[described.name] = _wrap_array(array, described.type)
    return [value.numpy() for value in session.run_with_ort_values(None, values)]


def _wrap_array(array: NDArray[Any], kind: str) -> Any:
    """Hand over an array; bfloat16, which NumPy does not have, comes as `uint16`."""
    values = onnxruntime().OrtValue
    if kind == "tensor(bfloat16)":
        return values.ortvalue_from_numpy_with_onnx_type(array, 16)
    return values.ortvalue_from_numpy(array)


class TfliteSession:
    """A model of TensorFlow Lite in LiteRT's interpreter.

    Args:
        path: The `.tflite` file.
        threads: Threads it may use.
    """

    def __init__(self, path: str, threads: int) -> None:
        interpreter = import_optional(
            "ai_edge_litert.interpreter", "litert", "outputs of .tflite files", WorkloadError
        )
        self._network = interpreter.Interpreter(path, num_threads=threads)
        self._network.allocate_tensors()

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run it once, with the values of its inputs in order."""
        for described, array in zip(self._network.get_input_details(), arrays, strict=True):
            self._network.set_tensor(described["index"], array)
        self._network.invoke()
        return [
            self._network.get_tensor(described["index"])
            for described in self._network.get_output_details()
        ]


def _open_session(path: str, threads: int, weights_folder: str | None) -> Any:
    if path.endswith(f".{TFLITE}"):
        return TfliteSession(path, threads)
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    # Nothing is timed here, and threads that spin take the processor from those that compute.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model: str | bytes = path
    if weights_folder is not None:
        options.add_session_config_entry(ORT_FOLDER, weights_folder)
        model = Path(path).read_bytes()  # beside a path, older versions do not heed that folder
    providers = ["CPUExecutionProvider"]
    session = ort.InferenceSession(model, options, providers=providers)
    kinds = {output.name: output.type[len("tensor(") : -1] for output in session.get_outputs()}
    foreign = {name for name, kind in kinds.items() if kind not in _NUMPY_TYPES}
    if not foreign:
        return session
    return ort.InferenceSession(_cast_outputs(path, foreign), options, providers=providers)


def _cast_outputs(path: str, names: set[str]) -> bytes:
    """The model with these outputs cast to float32."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    for name in sorted(names):
        cast = f"{name}_as_float"
        node = onnx.helper.make_node("Cast", [name], [cast], name=cast, to=onnx.TensorProto.FLOAT)
        model.graph.node.append(node)
    for output in model.graph.output:
        if output.name in names:
            output.name = f"{output.name}_as_float"
            output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    data: bytes = model.SerializeToString()
    return data
