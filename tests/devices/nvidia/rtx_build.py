"""Builds ONNX files with TensorRT-RTX through the driver's own code.

A program of its own, since TensorRT may crash.

For each line of standard input, {"name", "model", "precision"}, one line of output: {"name",
"seconds", "bytes", "engine"} with the engine inspector's JSON, or {"name", "error"}. Without a GPU
an engine can be built but not loaded, so what the inspector would say is taken from the builder's
log, which ends with it.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from hwbench.devices.nvidia import trt_build
from hwbench.errors import HwbenchError

_FIELD = re.compile(
    r"(LayerType|TacticName|Metadata): (.*?)(?=,"
    r" (?:Inputs|StreamId|Metadata|Outputs|TacticName|ParameterType): ?|$)",
    re.DOTALL,
)


def listening_logger(trt: Any, messages: list[str]) -> Any:
    """As the driver's, and keeps everything."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.heard: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            self.heard.append(msg)
            if severity == trt.ILogger.Severity.ERROR:
                messages.append(msg)

    return Logger()


def inspector_json(heard: list[str]) -> str:
    """What the builder logged of its engine's layers, in the form of the inspector."""
    text = next(message for message in reversed(heard) if message.startswith("Layers:\n"))
    body = text.removeprefix("Layers:\n").partition("\n\nI/O Tensors:")[0]
    layers = []
    for part in re.split(r"^Name: ", body, flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition(", LayerType: ")
        fields = dict(_FIELD.findall(f"LayerType: {rest.strip()}"))
        inputs = re.search(r"Inputs: \[(.*?)\], (?:Constants|Outputs)", rest, re.DOTALL)
        kinds = re.findall(r"Datatype: (\w+)", inputs[1]) if inputs else []
        layers.append({"Name": name, **fields, "Inputs": [{"Datatype": kind} for kind in kinds]})
    return json.dumps({"Layers": layers, "I/O Tensors": []})


def main() -> None:
    trt_build._make_logger = listening_logger
    library = trt_build.Library()
    with tempfile.TemporaryDirectory() as folder:
        builder = trt_build.Builder(library, {"name": "no GPU"}, Path(folder))
        for line in sys.stdin:
            request = json.loads(line)
            model = Path(request["model"]).read_bytes()
            library.logger.heard.clear()
            started = time.monotonic()
            told: dict[str, Any] = {"name": request["name"], "version": library.version}
            try:
                recipe = trt_build.EngineRecipe(
                    sha256(model).hexdigest(), request["precision"], level=1
                )
                plan, _ = builder.provide_plan(model, recipe)
                told |= {"bytes": len(plan), "engine": inspector_json(library.logger.heard)}
            except HwbenchError as error:
                told["error"] = f"{type(error).__name__}: {error}"
            told["seconds"] = time.monotonic() - started
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
