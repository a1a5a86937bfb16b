"""ONNX in, engine out: one code path for TensorRT 8.6 to 11 and TensorRT-RTX.

Runs in the child process only.

What a version offers is told by asking for it, and flags go by name: TensorRT 11 dropped some and
renumbered the others. Where the version can type a network strongly (10 and later), it does, so
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
"""In order of preference where several are installed."""
TIMING_ITERATIONS = 8
"""Timings averaged to choose a kernel, as trtexec does.

The library's own default of 1 makes engines differ more.
"""
ENGINE_BYTES, ENGINES = 4 << 30, 256
TIMING_BYTES, TIMINGS = 256 << 20, 64
FRESH_ENGINES = 32
"""Kept in memory only; one that is no longer there is built once more."""
KEPT_MESSAGES = 5


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
        self.logger = _logger(trt, self.messages)
        try:
            self.runtime = trt.Runtime(self.logger)
            self.builder = trt.Builder(self.logger)
        except TypeError as error:  # pybind11's word for a constructor that returned null
            raise DeviceUnavailableError(
                f"{self.version} does not start: {self.said() or error}"
            ) from error

    def said(self) -> str:
        """The last errors that TensorRT logged, in one line; each is told once."""
        text = "; ".join(self.messages[-KEPT_MESSAGES:])
        self.messages.clear()
        return " ".join(text.split())[:1500]


def _logger(trt: Any, messages: list[str]) -> Any:
    """A logger whose warnings and errors go to standard error, and whose errors are kept in `messages`."""
    severities = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 wants it so

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
class Recipe:
    """Everything that decides which engine comes out, besides the library and the GPU.

    Attributes:
        model_sha256: Of the ONNX bytes that TensorRT reads.
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
        """What names the engine in the cache."""
        return ("engine 1", self.model_sha256, self.precision, self.level, TIMING_ITERATIONS)


class Builder:
    """Builds engines, and keeps them and the timings that led to them.

    Args:
        library: TensorRT.
        gpu: Facts of the GPU and its driver; an engine belongs to them.
        folder: Of the caches.
    """

    def __init__(self, library: Library, gpu: dict[str, Any], folder: Path) -> None:
        self._library = library
        self._where = (library.version, *sorted(gpu.items()))
        self._engines = FileCache(folder / "engines", ENGINE_BYTES, ENGINES)
        self._timings = FileCache(folder / "timings", TIMING_BYTES, TIMINGS)
        self._fresh: dict[Recipe, bytes] = {}

    def plan(self, model: bytes, recipe: Recipe) -> tuple[bytes, bool]:
        """The serialised engine, and whether it was built now.

        Raises:
            UnsupportedLayerError: TensorRT has no such layer.
            BuildError: It refuses the model.
        """
        facts = (*self._where, *recipe.facts())
        kept = self._engines.get(*facts) if recipe.fresh is None else self._fresh.get(recipe)
        if kept is not None:
            return kept, False
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

    def _build(self, model: bytes, recipe: Recipe) -> bytes:
        library = self._library
        library.messages.clear()
        network = library.builder.create_network(self._creation_flags())
        if network is None:
            raise BuildError(f"{library.version} makes no network: {library.said()}")
        parser = library.trt.OnnxParser(network, library.logger)
        if not parser.parse(model):
            raise _refusal(library, parser)
        config = library.builder.create_builder_config()
        if config is None:
            raise BuildError(f"{library.version} makes no builder configuration: {library.said()}")
        self._configure(config, recipe)
        timing = (
            None
            if recipe.fresh is not None or library.is_rtx
            else self._timing_cache(config, recipe)
        )
        plan = library.builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(
                f"{library.version} cannot build the model:"
                f" {library.said() or 'it does not say why'}"
            )
        if timing is not None:
            self._keep_timings(timing, recipe)
        return bytes(plan)

    def _creation_flags(self) -> int:
        """Strongly typed where that exists.

        The explicit batch that 8.6 asks for and later versions have always.
        """
        explicit = getattr(self._library.trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        if self._library.strong is not None:
            return 1 << int(self._library.strong)
        return 0 if explicit is None else 1 << int(explicit)

    def _configure(self, config: Any, recipe: Recipe) -> None:
        trt = self._library.trt
        wanted = {
            "profiling_verbosity": trt.ProfilingVerbosity.DETAILED,
            "builder_optimization_level": recipe.level,
            "avg_timing_iterations": TIMING_ITERATIONS,
            "max_aux_streams": 0,  # one stream, so that layers add up
        }
        for name, value in wanted.items():
            if hasattr(config, name):
                setattr(config, name, value)
                if (
                    getattr(config, name) != value
                ):  # the setter's own answer is lost in an assignment
                    raise DeviceUnavailableError(
                        f"{self._library.version} does not take {name} = {value}:"
                        f" {self._library.said()}"
                    )
        if tf32 := getattr(
            trt.BuilderFlag, "TF32", None
        ):  # on unless cleared; fp32 means fp32 here
            config.clear_flag(tf32)
        if self._library.strong is None and recipe.precision != "fp32":
            config.set_flag(
                getattr(trt.BuilderFlag, {"fp16": "FP16", "int8": "INT8"}[recipe.precision])
            )

    def _timing_facts(self, recipe: Recipe) -> tuple[object, ...]:
        return ("timings 1", *self._where, recipe.precision, recipe.level, TIMING_ITERATIONS)

    def _timing_cache(self, config: Any, recipe: Recipe) -> Any:
        """The timings of earlier builds, given to this one.

        Empty where they are of another device or version.
        """
        for known in (self._timings.get(*self._timing_facts(recipe)) or b"", b""):
            cache = config.create_timing_cache(known)
            if cache is not None and config.set_timing_cache(cache, False):  # noqa: FBT003 - one version's name for it is not the other's
                return cache
        return None

    def _keep_timings(self, cache: Any, recipe: Recipe) -> None:
        memory = cache.serialize()
        if memory is not None:
            self._timings.put(bytes(memory), *self._timing_facts(recipe))


def _refusal(library: Library, parser: Any) -> WorkloadError:
    """Why the parser refused the model, node by node."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    told = (
        "; ".join(f"{_node(error)}{error.desc()}" for error in errors)
        or library.said()
        or "it does not say why"
    )
    # An operator of an unknown domain is looked for among the plugins, and is then only an
    # "invalid" node.
    unsupported = any(
        "UNSUPPORTED_NODE" in str(error.code()) or "Plugin not found" in error.desc()
        for error in errors
    )
    kind = UnsupportedLayerError if unsupported else BuildError
    return kind(f"{library.version} refuses the model: {' '.join(told.split())[:1500]}")


def _node(error: Any) -> str:
    """The node an error is about; before version 9 only its number is told."""
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    return f"{name or 'node ' + str(error.node())}{f' ({operator})' if operator else ''}: "
