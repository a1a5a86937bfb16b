"""ONNX in, engine out: one code path for TensorRT 8.6 to 11 and TensorRT-RTX.

Runs in the child process only.

What a version offers is found out by looking for it, and flags go by name: TensorRT 11 dropped some
and renumbered the others. Where the version can type a network strongly (10 and later), it does, so
that every layer computes in the precision that the file says; where it cannot (8.6), the flag of
that precision lets the builder use it.

API: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/index.html.
"""

from __future__ import annotations

import importlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwbench.devices.nvidia.trt_cache import FileCache
from hwbench.errors import BuildError, DeviceUnavailableError, UnsupportedLayerError, WorkloadError

MODULES = ("tensorrt", "tensorrt_rtx")
"""TensorRT's modules, in order of preference where several are installed."""
TIMING_ITERATIONS = 8
"""Timings that are averaged to choose a kernel, as in trtexec.

With the library's own default of 1, engines of the same model differ more.
"""
ENGINE_BYTES, ENGINES = 4 << 30, 256
"""Most bytes and files of the cache of engines."""
TIMING_BYTES, TIMINGS = 256 << 20, 64
"""Most bytes and files of the cache of timings."""
FRESH_ENGINES = 32
"""Engines built afresh that are kept, in memory only; one that was dropped is built once more."""
KEPT_MESSAGES = 5
"""Last messages of TensorRT that go into an error."""


class Library:
    """TensorRT, imported, with what differs between versions.

    Raises:
        DeviceUnavailableError: It cannot be imported, or does not start on this GPU.
    """

    def __init__(self) -> None:
        self.trt: Any = _import()
        trt = self.trt
        self.is_rtx = trt.__name__.startswith("tensorrt_rtx")
        self.version = f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {trt.__version__}"
        self.strong = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        self.messages: list[str] = []
        self.logger = _make_logger(trt, self.messages)
        try:
            self.runtime = trt.Runtime(self.logger)
            self.builder = trt.Builder(self.logger)
        except TypeError as error:  # pybind11's word for a constructor that returned null
            raise DeviceUnavailableError(
                f"{self.version} does not start: {self.take_messages() or error}"
            ) from error

    def take_messages(self) -> str:
        """Return the last errors that TensorRT logged, in one line, and forget them."""
        text = "; ".join(self.messages[-KEPT_MESSAGES:])
        self.messages.clear()
        return " ".join(text.split())[:1500]


def _make_logger(trt: Any, messages: list[str]) -> Any:
    """Make a logger for TensorRT.

    Warnings and errors go to standard error; errors are also added to `messages`.
    """
    severities = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 requires it

        def log(self, severity: Any, msg: str) -> None:
            if severity in {severities.INTERNAL_ERROR, severities.ERROR}:
                messages.append(msg)
            if severity not in {severities.INFO, severities.VERBOSE}:
                sys.stderr.write(f"{severity}: {msg}\n")

    return Logger()


def _import() -> Any:
    missing = []
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            missing.append(str(error))
    raise DeviceUnavailableError(
        f"TensorRT cannot be imported ({'; '.join(missing)}); pip install tensorrt, or tensorrt-rtx"
    )


@dataclass(frozen=True, slots=True)
class EngineRecipe:
    """Everything that decides which engine comes out, besides the library and the GPU.

    Attributes:
        model_sha256: SHA-256 of the ONNX bytes that TensorRT reads.
        precision: `fp32`, `fp16` or `int8`, as it is in the file.
        level: `builder_optimization_level`, 0 to 5.
        fresh: Number of an engine that is built without any cache, to see how engines differ; None
            for the one that is kept.
    """

    model_sha256: str
    precision: str
    level: int
    fresh: int | None = None

    def facts(self) -> tuple[object, ...]:
        """List what names the engine in the cache."""
        return ("engine 1", self.model_sha256, self.precision, self.level, TIMING_ITERATIONS)


class Builder:
    """Builds engines, and keeps them and the timings that led to them.

    Args:
        library: TensorRT.
        gpu: Facts of the GPU and its driver; an engine is of use to these alone.
        folder: Folder of the caches.
    """

    def __init__(self, library: Library, gpu: dict[str, Any], folder: Path) -> None:
        self._library = library
        self._platform = (library.version, *sorted(gpu.items()))
        self._engines = FileCache(folder / "engines", ENGINE_BYTES, ENGINES)
        self._timings = FileCache(folder / "timings", TIMING_BYTES, TIMINGS)
        self._fresh: dict[EngineRecipe, bytes] = {}

    def provide_plan(self, model: bytes, recipe: EngineRecipe) -> tuple[bytes, bool]:
        """Fetch the serialised engine of a model from the cache, or build it.

        Returns:
            (the engine, whether it was built now).

        Raises:
            UnsupportedLayerError: TensorRT has no such layer.
            BuildError: It refuses the model.
        """
        facts = (*self._platform, *recipe.facts())
        cached = self._engines.get(*facts) if recipe.fresh is None else self._fresh.get(recipe)
        if cached is not None:
            return cached, False
        started = time.monotonic()
        plan = self._build(model, recipe)
        sys.stderr.write(
            f"built {recipe.model_sha256[:12]} ({recipe.precision}) in"
            f" {time.monotonic() - started:.1f} s\n"
        )
        if recipe.fresh is None:
            self._engines.put(plan, *facts)
        else:
            while len(self._fresh) >= FRESH_ENGINES:
                del self._fresh[next(iter(self._fresh))]
            self._fresh[recipe] = plan
        return plan, True

    def _build(self, model: bytes, recipe: EngineRecipe) -> bytes:
        library = self._library
        library.messages.clear()
        network = library.builder.create_network(self._creation_flags())
        if network is None:
            raise BuildError(f"{library.version} makes no network: {library.take_messages()}")
        parser = library.trt.OnnxParser(network, library.logger)
        if not parser.parse(model):
            raise _explain_refusal(library, parser)
        config = library.builder.create_builder_config()
        if config is None:
            raise BuildError(
                f"{library.version} makes no builder configuration: {library.take_messages()}"
            )
        self._configure(config, recipe)
        timings = None
        # With the timings of earlier builds a fresh engine would repeat their choice of kernels.
        if recipe.fresh is None and not library.is_rtx:
            timings = self._set_timing_cache(config, recipe)
        plan = library.builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(
                f"{library.version} cannot build the model:"
                f" {library.take_messages() or 'it does not say why'}"
            )
        if timings is not None:
            self._keep_timings(timings, recipe)
        return bytes(plan)

    def _creation_flags(self) -> int:
        """Choose the flags of a network.

        It is strongly typed where that exists. Otherwise its batch is explicit, which 8.6 must be
        asked for and later versions always have.
        """
        explicit = getattr(self._library.trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        if self._library.strong is not None:
            return 1 << int(self._library.strong)
        return 0 if explicit is None else 1 << int(explicit)

    def _configure(self, config: Any, recipe: EngineRecipe) -> None:
        trt = self._library.trt
        options = {
            "profiling_verbosity": trt.ProfilingVerbosity.DETAILED,
            "builder_optimization_level": recipe.level,
            "avg_timing_iterations": TIMING_ITERATIONS,
            "max_aux_streams": 0,  # one stream, so that layers add up
        }
        for name, value in options.items():
            if hasattr(config, name):
                setattr(config, name, value)
                # The setter's own answer is lost in an assignment, so the value is read back.
                if getattr(config, name) != value:
                    raise DeviceUnavailableError(
                        f"{self._library.version} does not take {name} = {value}:"
                        f" {self._library.take_messages()}"
                    )
        tf32 = getattr(trt.BuilderFlag, "TF32", None)
        if tf32:  # on unless it is cleared, and fp32 means fp32 here
            config.clear_flag(tf32)
        if self._library.strong is None and recipe.precision != "fp32":
            config.set_flag(getattr(trt.BuilderFlag, recipe.precision.upper()))

    def _timing_facts(self, recipe: EngineRecipe) -> tuple[object, ...]:
        return ("timings 1", *self._platform, recipe.precision, recipe.level, TIMING_ITERATIONS)

    def _set_timing_cache(self, config: Any, recipe: EngineRecipe) -> Any:
        """Give the timings of earlier builds to this one.

        TensorRT refuses timings of another device or version; then the cache starts empty.

        Returns:
            The cache, which the build adds to; None if TensorRT takes none.
        """
        for timings in (self._timings.get(*self._timing_facts(recipe)) or b"", b""):
            cache = config.create_timing_cache(timings)
            if cache is not None and config.set_timing_cache(cache, False):  # noqa: FBT003 - its name differs between versions
                return cache
        return None

    def _keep_timings(self, cache: Any, recipe: EngineRecipe) -> None:
        memory = cache.serialize()
        if memory is not None:
            self._timings.put(bytes(memory), *self._timing_facts(recipe))


def _explain_refusal(library: Library, parser: Any) -> WorkloadError:
    """Make the error that says why the parser refused the model, node by node."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    reasons = "; ".join(f"{_describe_node(error)}: {error.desc()}" for error in errors)
    if not reasons:
        reasons = library.take_messages() or "it does not say why"
    # An operator of an unknown domain is looked for among the plugins, and is then only an
    # "invalid" node.
    unsupported = any(
        "UNSUPPORTED_NODE" in str(error.code()) or "Plugin not found" in error.desc()
        for error in errors
    )
    kind = UnsupportedLayerError if unsupported else BuildError
    return kind(f"{library.version} refuses the model: {' '.join(reasons.split())[:1500]}")


def _describe_node(error: Any) -> str:
    """Describe the node that an error is about; before version 9 only its number is known."""
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    description = name or f"node {error.node()}"
    return f"{description} ({operator})" if operator else description
