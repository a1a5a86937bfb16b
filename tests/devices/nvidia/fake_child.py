"""The driver's child process, real in every line, on a TensorRT and a CUDA that are fakes.

`python -m tests.devices.nvidia.fake_child FOLDER`, with the bindings of one version on the path.
"""

from __future__ import annotations

import sys
from types import ModuleType

from hwbench.devices.nvidia import trt_child
from tests.devices.nvidia import fake_cuda, fake_trt


def main() -> None:
    import cuda.bindings.runtime as real_cuda
    import tensorrt_bindings as real_trt

    gpu = fake_cuda.Gpu(real_cuda)
    runtime = fake_cuda.Runtime(gpu)
    fake_trt.strike("start")
    package = ModuleType("cuda.bindings")
    package.runtime = runtime
    sys.modules["cuda.bindings"] = package
    sys.modules["cuda.bindings.runtime"] = runtime
    sys.modules["tensorrt"] = fake_trt.module(real_trt, gpu, real_trt.__version__)
    trt_child.main()


if __name__ == "__main__":
    main()
