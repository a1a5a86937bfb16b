"""How far are the driver's samples from a C loop over the same runtime? Both interleaved, fresh sessions, three model sizes.

    python -m runners.studies.fidelity

The C loop is the native runner: nothing but the run between two readings of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import numpy as np

from hwbench import stats
from hwbench.devices.cpu_ort import CpuOrt
from hwbench.measurement import Settings
from hwbench.model_files import load_workload
from hwbench.onnx_graph.build import layer_model
from hwbench.workload import LayerKey, TensorSpec, Workload
from runners.studies._results import save_study

SESSIONS, BLOCKS = 24, 40
SETTINGS = Settings()
ROUND_S = 2e-3
KEYS = {
    "one 3x3 convolution, 16 channels, 16x16": "Conv[1x16x16x16->1x16x16x16]{group=1,kernel=3x3,pads=1.1.1.1,strides=1x1}@fp32",
    "one 3x3 convolution, 64 channels, 16x16": "Conv[1x64x16x16->1x64x16x16]{group=1,kernel=3x3,pads=1.1.1.1,strides=1x1}@fp32",
}


def one_layer(name: str, text: str) -> Workload:
    """A network of a single layer."""
    key = LayerKey.parse(text)
    model = layer_model(key)
    import onnx

    inputs = tuple(
        TensorSpec(value.name, tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim))
        for value in onnx.load_from_string(model).graph.input
    )
    return Workload(name, model, inputs, 1, "fp32", 0, 0, len(model))


def study(device: CpuOrt, workload: Workload) -> dict[str, object]:
    """Interleave Python's session and the C loop over `SESSIONS` fresh sessions of both."""
    random = np.random.default_rng(0)
    python_s: list[float] = []
    native_s: list[float] = []
    session: list[int] = []
    for number in range(SESSIONS):
        both = [device.prepare(workload, Settings(isolate=isolate)) for isolate in (False, True)]
        loops = max(1, round(ROUND_S / device.run(both[:1], 3).values_s[0]))
        device.run([both[0]] * 5, loops)
        device.run([both[1]] * 5, loops)
        for _ in range(BLOCKS if loops > 1 else BLOCKS // 2):
            values = {index: device.run([both[index]], loops).values_s[0] for index in random.permutation(2)}
            python_s.append(values[0])
            native_s.append(values[1])
            session.append(number)
        for prepared in both:
            device.release(prepared)
    block = np.arange(len(session))
    ratio = stats.ratio(native_s, python_s, session, block, block)
    native = stats.latency(native_s, session).estimate
    low_s, high_s = ((end - 1) * native for end in ratio.ci)
    within = (ratio.ci[0] >= 0.99 and ratio.ci[1] <= 1.01) or (abs(low_s) <= 2e-6 and abs(high_s) <= 2e-6)
    return {
        "model": workload.name,
        "sessions": SESSIONS,
        "c_loop_us": native * 1e6,
        "ratio": ratio.ratio,
        "ratio_low": ratio.ci[0],
        "ratio_high": ratio.ci[1],
        "difference_low_us": low_s * 1e6,
        "difference_high_us": high_s * 1e6,
        "within_1%_or_2us": within,
        "raw": {"python_s": python_s, "native_s": native_s, "session": session},
    }


def main() -> None:
    """Run the three models and write results/fidelity/."""
    workloads = [one_layer(name, text) for name, text in KEYS.items()]
    workloads.append(load_workload("zoo:mobilenet_v1"))
    with CpuOrt() as device:
        rows = [study(device, workload) for workload in workloads]
    raw = {str(row["model"]): row.pop("raw") for row in rows}
    save_study(
        "fidelity",
        question="How far are the CPU driver's samples from a C loop over the same ONNX Runtime?",
        rows=rows,
        raw=raw,
        command="make study NAME=fidelity",
        notes="Ratio and difference: driver over C loop, 95 % intervals over sessions (a fresh session and process each).",
    )


if __name__ == "__main__":
    main()
