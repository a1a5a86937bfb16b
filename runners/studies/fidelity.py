"""How far are the driver's samples from the plainest C loop over the same runtime? Interleaved,
fresh sessions, three sizes.

    python -m runners.studies.fidelity

Both engines of the CPU driver are held against `c_loop.c`: the native runner, and ONNX Runtime
called from Python, which serves where there is no C compiler.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwbench import stats
from hwbench.devices.ort.python_engine import PythonEngine
from hwbench.devices.shared import host
from hwbench.devices.shared.runner.build import build_runner, ort_library
from hwbench.devices.shared.runner.engine import Engine, NativeEngine
from hwbench.devices.shared.runner.process import RunnerProcess
from hwbench.network.graph.build import layer_model
from hwbench.network.intake import load_workload
from hwbench.network.workload import Workload
from hwbench.records.layer_key import LayerKey
from hwbench.records.tensors import TensorSpec
from runners.studies._pictures import COLOURS, figure
from runners.studies._results import save_study

SESSIONS, BLOCKS = 24, 30
ROUND_S = 2e-3
KEYS = {
    "one 3x3 convolution, 16 channels": (
        "Conv[1x16x16x16->1x16x16x16]{group=1,kernel=3x3,pads=1.1.1.1,strides=1x1}@fp32"
    ),
    "one 3x3 convolution, 64 channels": (
        "Conv[1x64x16x16->1x64x16x16]{group=1,kernel=3x3,pads=1.1.1.1,strides=1x1}@fp32"
    ),
}
SOURCE = Path(__file__).with_name("c_loop.c")


def one_layer(name: str, text: str) -> Workload:
    """A network of a single layer."""
    import onnx

    model = layer_model(LayerKey.parse(text))
    value = onnx.load_from_string(model).graph.input[0]
    shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return Workload(name, model, (TensorSpec(value.name, shape),), 1, "fp32", 0, 0, len(model))


class CLoop:
    """One process of the C loop."""

    def __init__(self, program: Path, model: Path, core: int, loops: int) -> None:
        argv = [str(program), str(ort_library()), str(model), str(core), str(loops)]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.loops = loops

    def round_s(self) -> float:
        """Seconds per inference of one round."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("no pipes")
        self.process.stdin.write(b"\n")
        return int(self.process.stdout.readline()) * 1e-9 / self.loops

    def close(self) -> None:
        """End it."""
        self.process.communicate(timeout=10)


def native(model: Path, folder: Path, core: int) -> NativeEngine:
    """The engine of the CPU driver, with one model file."""
    runner = RunnerProcess.start([str(build_runner())])
    runner.library(ort_library())
    return NativeEngine(
        runner, lambda _runner, _workload: model, folder, cores=[core], threads=1, seed=0
    )


def study(program: Path, folder: Path, core: int, workload: Workload) -> list[dict[str, object]]:
    """Interleave both engines and the C loop over `SESSIONS` fresh sessions of each."""
    random = np.random.default_rng(0)
    model = folder / f"{workload.sha256}.onnx"
    model.write_bytes(workload.onnx)
    seen: dict[str, list[float]] = {"native runner": [], "Python": [], "C loop": []}
    session: list[int] = []
    loops = 0
    for number in range(SESSIONS):
        engines: dict[str, Engine] = {
            "native runner": native(model, folder, core),
            "Python": PythonEngine([core], 0, folder),
        }
        for engine in engines.values():
            engine.load("m", workload)
        loops = loops or max(1, round(ROUND_S / min(engines["native runner"].run(["m"] * 5, 3))))
        c_loop = CLoop(program, model, core, loops)
        for block in range(-3, BLOCKS):  # the first three warm up
            for name in random.permutation(list(seen)):
                value = c_loop.round_s() if name == "C loop" else engines[name].run(["m"], loops)[0]
                if block >= 0:
                    seen[name].append(value)
            session += [number] * (block >= 0)
        for engine in engines.values():
            engine.close()
        c_loop.close()
    return [row(workload, engine, seen, session) for engine in ("native runner", "Python")]


def row(
    workload: Workload, engine: str, seen: dict[str, list[float]], session: list[int]
) -> dict[str, object]:
    """One engine against the C loop."""
    block = np.arange(len(session))
    ratio = stats.ratio(seen["C loop"], seen[engine], session, block, block)
    loop_s = stats.latency(seen["C loop"], session).estimate
    low_us, high_us = ((end - 1) * loop_s * 1e6 for end in ratio.ci)
    return {
        "model": workload.name,
        "engine": engine,
        "c_loop_us": loop_s * 1e6,
        "ratio": ratio.ratio,
        "ratio_low": ratio.ci[0],
        "ratio_high": ratio.ci[1],
        "difference_low_us": low_us,
        "difference_high_us": high_us,
        "within_1%_or_2us": (
            (ratio.ci[0] >= 0.99 and ratio.ci[1] <= 1.01) or max(abs(low_us), abs(high_us)) <= 2
        ),
        "raw": {engine: seen[engine], "c_loop": seen["C loop"], "session": session},
    }


def main() -> None:
    """Run the three models and write results/fidelity/."""
    workloads = [
        *(one_layer(name, text) for name, text in KEYS.items()),
        load_workload("zoo:mobilenet_v1"),
    ]
    core = host.quiet_first(host.physical_cores(host.affinity()))[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = folder / "c_loop"
        subprocess.run(
            ["cc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(SOURCE), "-ldl"],
            check=True,
            timeout=60,
        )
        rows = [found for workload in workloads for found in study(program, folder, core, workload)]
    raw = [{"model": row["model"], **row.pop("raw")} for row in rows]  # type: ignore[dict-item]
    save_study(
        "fidelity",
        question=(
            "How far are the CPU driver's samples from the plainest C loop over the same ONNX"
            " Runtime?"
        ),
        answer=answer(rows),
        rows=rows,
        raw=raw,
        picture=draw(rows),
        command="make study NAME=fidelity",
        notes=(
            f"Engine over C loop, 95 % intervals over {SESSIONS} sessions (fresh processes,"
            f" {BLOCKS} interleaved rounds each)."
        ),
    )


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """What each engine reads over what the C loop reads, at every latency."""
    engines = dict.fromkeys(row["engine"] for row in rows)
    parts = [
        ", ".join(in_words(row) for row in rows if row["engine"] == engine) for engine in engines
    ]
    return (
        "; ".join(
            f"{engine} over C loop: {part}" for engine, part in zip(engines, parts, strict=True)
        )
        + "."
    )


def in_words(row: dict[str, Any]) -> str:
    """One ratio with its interval, and where."""
    return (
        f"{row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f}) at"
        f" {row['c_loop_us']:.0f} us"
    )


def draw(rows: Sequence[dict[str, Any]]) -> Any:
    """Engines over the C loop, by latency."""
    furthest = max(abs(row["ratio"] - 1) for row in rows if row["engine"] == "native runner")
    title = f"The native runner reads what the plainest C loop reads, within {furthest:.1%}"
    drawn, axes = figure(title, xlabel="latency in the C loop (us)", ylabel="engine over C loop")
    for colour, engine in zip(COLOURS, ("native runner", "Python"), strict=False):
        some = [row for row in rows if row["engine"] == engine]
        errors = [
            [row["ratio"] - row["ratio_low"] for row in some],
            [row["ratio_high"] - row["ratio"] for row in some],
        ]
        x = [row["c_loop_us"] for row in some]
        axes.errorbar(
            x,
            [row["ratio"] for row in some],
            yerr=errors,
            fmt="o",
            capsize=3,
            color=colour,
            label=engine,
        )
    axes.axhline(1, color="black", lw=0.8)
    axes.set_xscale("log")
    axes.legend()
    return drawn


if __name__ == "__main__":
    main()
