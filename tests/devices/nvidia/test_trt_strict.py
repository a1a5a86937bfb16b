"""The fakes are strict: what NVIDIA's bindings of a version would refuse, they refuse.

Else passing on them means little.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.devices.nvidia import wheels

SETUP = """
import cuda.bindings.runtime as rt, tensorrt_bindings as real
from tests.devices.nvidia import fake_cuda, fake_trt
gpu = fake_cuda.Gpu(rt); cuda = fake_cuda.Runtime(gpu); trt = fake_trt.module(real, gpu, real.__version__)
class Logger(trt.ILogger):
    def __init__(self): trt.ILogger.__init__(self)
    def log(self, severity, msg): pass
logger = Logger(); builder = trt.Builder(logger); config = builder.create_builder_config()
weak = hasattr(trt.BuilderFlag, "FP16"); old = real.__version__.startswith("8")
context = fake_trt.IExecutionContext(plan={}, addresses={}, runs=0, profiler=None, enqueue_emits_profile=True, due=False)
stream = cuda.cudaStreamCreateWithFlags(rt.cudaStreamNonBlocking)[1]
def refused(kind, action):
    try: action()
    except kind: return
    raise SystemExit(f"{kind.__name__} was expected")
"""
REFUSED = {
    "a name that no version has": "refused(AttributeError, lambda: builder.make_network(0))",
    "a name that went": "old or refused(AttributeError, lambda: builder.max_batch_size)",
    "a flag that went": (
        "weak or refused(AttributeError, lambda: config.set_flag(trt.BuilderFlag.FP16))"
    ),
    "a keyword that is not one": "refused(TypeError, lambda: builder.create_network(bits=1))",
    "a missing argument": "refused(TypeError, lambda: builder.build_serialized_network(config))",
    "arguments in the wrong order": (
        "refused(TypeError, lambda: context.set_tensor_address(5, 'x'))"
    ),
    "a number for an enum": "refused(TypeError, lambda: config.set_flag(6))",
    "an enum of another kind": "refused(TypeError, lambda: config.clear_flag(trt.DataType.FLOAT))",
    "text for a number": "refused(TypeError, lambda: context.execute_async_v3('0'))",
    "a float for a number": "refused(TypeError, lambda: context.execute_async_v3(1.5))",
    "a property that is not one": (
        "refused(AttributeError, lambda: setattr(config, 'optimisation', 3))"
    ),
    "a property that is read-only": (
        "refused(AttributeError, lambda: setattr(config, 'num_optimization_profiles', 3))"
    ),
    "a property of another type": (
        "refused(TypeError, lambda: setattr(config, 'profiling_verbosity', 2))"
    ),
    "a logger that is none": "refused(TypeError, lambda: trt.Builder(print))",
    "a profiler that is none": "refused(TypeError, lambda: setattr(context, 'profiler', object()))",
    "a CUDA function that is not one": "refused(AttributeError, lambda: cuda.cudaMallocBytes(5))",
    "too few arguments of CUDA": "refused(TypeError, lambda: cuda.cudaEventRecord(1))",
    "a number for an enum of CUDA": "refused(TypeError, lambda: cuda.cudaMemcpy(1, 2, 3, 1))",
    "a float for a size": "refused(TypeError, lambda: cuda.cudaMalloc(1.5))",
}


SESSION = """
import json, os, sys
sys.modules["tensorrt"] = trt; sys.modules["cuda.bindings.runtime"] = cuda; sys.modules["cuda.bindings"].runtime = cuda
from pathlib import Path
from hwbench.devices.nvidia import trt_build, trt_cuda, trt_session
from hwbench.errors import BuildError
from tests.devices.nvidia.trt_nets import convolutions
library, gpu_side = trt_build.Library(), trt_cuda.CudaRuntime()
recipe = trt_build.EngineRecipe("0" * 64, "fp32", 3, fresh=0)
plan, _ = trt_build.Builder(library, {}, Path("/nowhere")).provide_plan(convolutions((8,), 8).onnx, recipe)
events = len(gpu.events)
for _ in range(2):
    session = trt_session.TrtSession(library, gpu_side, plan, seed=0)
    assert gpu.memory and gpu.graphs and not session.capture_error
    found = session.profile(5, trt_session.request_clock(gpu_side))
    assert [len(found[name]) for name in ("layers", "whole_s", "reference_s")] == [5] * 3
    session.free()
    assert not gpu.memory and not gpu.graphs
assert gpu.flags == rt.cudaDeviceScheduleSpin
odd = json.loads(plan); odd["outputs"][0][1][0] = -1
try: trt_session.TrtSession(library, gpu_side, json.dumps(odd).encode(), seed=0)
except BuildError as error: assert "fix every dimension" in str(error)
assert not gpu.memory
"""


@pytest.mark.parametrize("version", wheels.BINDINGS)
def test_a_session_gives_everything_back(version):
    run(version, SETUP + SESSION)


@pytest.mark.parametrize("version", wheels.BINDINGS)
def test_fakes_refuse_what_the_bindings_refuse(version):
    run(version, SETUP + "\n".join(REFUSED.values()))


def run(version: str, code: str) -> None:
    """Run code in a process that imports the bindings of that version."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=wheels.environment(wheels.bindings(version), wheels.cuda()),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-1500:]
