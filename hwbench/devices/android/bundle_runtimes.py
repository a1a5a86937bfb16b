"""The runtimes that a bundle can hold: what each is called, and where its library comes from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from hwbench.devices.shared.litert import library as litert
from hwbench.devices.shared.runner.build import LITERT_RUNNER, ORT_RUNNER, ort_library
from hwbench.errors import Call, UsageError
from hwbench.network.ort import TELEMETRY_OFF, onnxruntime

_ORT_VERSION = re.compile(rb"\0VERS_(\d+\.\d+\.\d+)\0")
"""How ONNX Runtime names the version of its exported symbols.

It is in its linker scripts, tools/ci_build/gen_def.py.
"""
_LITERT_AAR = re.compile(r"litert-(\d+\.\d+\.\d+)\.aar")
"""How Google's Maven repository names the archive of `com.google.ai.edge.litert:litert`."""


@dataclass(frozen=True)
class Runtime:
    """A runtime that a bundle can hold.

    Attributes:
        name: Its name in addresses, and the beginning of the names of its bundles on a phone.
        title: Its name for people.
        record_name: Its name before the version in records.
        distribution: The name of its wheels.
        wheel_member: The library in a wheel, as a regular expression.
        aar_name: How its archive for Android is named, for messages.
        aar_member: The library in that archive.
        library: The file name of the library in a bundle.
        runner: The C file of its runner.
        tells_version: Whether the library tells its version when it is opened.
        env: The environment variables that its runner needs.
        host_version: Finds its version on this computer.
        host_library: Finds its library on this computer.
        aar_version: Finds the version of a library (its bytes) out of an archive (its path).
    """

    name: str
    title: str
    record_name: str
    distribution: str
    wheel_member: str
    aar_name: str
    aar_member: str
    library: str
    runner: str
    tells_version: bool
    env: Mapping[str, str]
    host_version: Callable[[], str]
    host_library: Callable[[], Path]
    aar_version: Callable[[bytes, PurePath], str]

    @property
    def android_build(self) -> Call:
        """What helps wherever the bundle for Linux cannot be made or does not run."""
        address = "android" if self == ORT else f"android:runtime={self.name}"
        return Call(
            "setup_device",
            {"address": address, "aar": None, "ndk": None},
            purpose=f"set up Android's own build of {self.title}",
        )


def _ort_version() -> str:
    return str(onnxruntime().__version__)


def _find_ort_version(library: bytes, aar: PurePath) -> str:
    """Find the version of ONNX Runtime in the library itself.

    Raises:
        UsageError: It is another library.
    """
    versions = set(_ORT_VERSION.findall(library))
    if len(versions) != 1:
        raise UsageError(
            f"the library in {aar} does not say which ONNX Runtime it is (found"
            f" {sorted(versions)}); take another AAR"
        )
    return str(versions.pop().decode())


def _find_litert_version(_library: bytes, aar: PurePath) -> str:
    """Find the version of LiteRT in the name of its archive; the library does not tell it.

    Raises:
        UsageError: The archive is named otherwise.
    """
    match = _LITERT_AAR.fullmatch(aar.name)
    if match is None:
        raise UsageError(
            f"{aar} does not say which LiteRT it holds, nor does the library; give it the name"
            " litert-VERSION.aar that it has in Google's Maven repository"
        )
    return match[1]


ORT = Runtime(
    name="onnxruntime",
    title="ONNX Runtime",
    record_name="onnxruntime",
    distribution="onnxruntime",
    wheel_member=r"onnxruntime/capi/libonnxruntime\.so[\d.]*",
    aar_name="onnxruntime-android",
    aar_member="jni/arm64-v8a/libonnxruntime.so",
    library="libonnxruntime.so.1",
    runner=ORT_RUNNER,
    tells_version=True,
    env=TELEMETRY_OFF,
    host_version=_ort_version,
    host_library=ort_library,
    aar_version=_find_ort_version,
)
LITERT = Runtime(
    name="litert",
    title="LiteRT",
    record_name="LiteRT",
    distribution=litert.DISTRIBUTION,
    wheel_member=rf"{litert.PACKAGE}/libLiteRt\.so",
    aar_name="litert",
    aar_member=f"jni/arm64-v8a/{litert.LIBRARY}",
    library=litert.LIBRARY,
    runner=LITERT_RUNNER,
    tells_version=False,
    env={},
    host_version=litert.litert_version,
    host_library=litert.litert_library,
    aar_version=_find_litert_version,
)
RUNTIMES = {runtime.name: runtime for runtime in (ORT, LITERT)}
