"""ONNX Runtime's other execution providers on this computer's CPU.

Which of them there are depends on how the installed ONNX Runtime was built. What a provider does
not take, ONNX Runtime's own kernels run, without a word: so sessions are made with that forbidden
first, and where that fails the share of the work that fell back is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwbench.devices.base import LayerRow
from hwbench.devices.shared.joining import RuntimeRow, join_rows
from hwbench.devices.shared.ort.origins import strip_decoration
from hwbench.devices.shared.ort.profile import ProfiledRuns
from hwbench.errors import BuildError, DeviceUnavailableError, UnsupportedLayerError
from hwbench.network.graph import PartialLayer
from hwbench.network.ort import model_errors, onnxruntime
from hwbench.records.findings import Finding

CPU = "CPUExecutionProvider"
"""ONNX Runtime's own kernels."""
_SUFFIX = "ExecutionProvider"
_ON_CPU: Mapping[str, str] = {
    "openvino": "onnxruntime-openvino",
    "xnnpack": "",
    "dnnl": "",
    "acl": "",
    "armnn": "",
}
"""Providers that compute on a CPU, and the package on the index that brings them, if any."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One execution provider of the installed ONNX Runtime.

    Attributes:
        name: As in an address: `openvino`.
        full_name: As ONNX Runtime calls it: `OpenVINOExecutionProvider`.
    """

    name: str
    full_name: str

    def options(self, threads: int) -> dict[str, str]:
        """Make its options: fp32, and no more threads than asked for."""
        if self.name == "openvino":
            # Without a precision it computes in bfloat16 on processors that can.
            return {
                "device_type": "CPU",
                "precision": "FP32",
                "num_of_threads": str(threads),
                "num_streams": "1",
            }
        if self.name == "xnnpack":
            return {"intra_op_num_threads": str(threads)}
        return {}


def list_providers() -> dict[str, Provider]:
    """List the providers for this computer's CPU that the installed ONNX Runtime has, by name."""
    found = {}
    for full_name in onnxruntime().get_available_providers():
        name = full_name.removesuffix(_SUFFIX).lower()
        if name in _ON_CPU:
            found[name] = Provider(name, full_name)
    return found


def find_provider(name: str) -> Provider:
    """Find a provider by its name in an address.

    Raises:
        DeviceUnavailableError: The installed ONNX Runtime does not have it.
    """
    found = list_providers()
    if name in found:
        return found[name]
    has = ", ".join(found) or "none besides its own kernels"
    text = (
        f"onnxruntime {onnxruntime().__version__} here has no provider {name!r} for the CPU; it has"
        f" {has}"
    )
    package = _ON_CPU.get(name, "")
    if package:
        text += f"; {package} has it, which takes the place of onnxruntime: pip install {package}"
    raise DeviceUnavailableError(text)


def create_session(
    model: bytes, make_options: Callable[[], Any], provider: Provider, threads: int
) -> tuple[Any, bool]:
    """Create an InferenceSession on a provider.

    Args:
        model: The ONNX model.
        make_options: Makes options of a session.
        provider: The provider.
        threads: Threads it may use.

    Returns:
        (the session, whether ONNX Runtime's own kernels run a part of it).

    Raises:
        BuildError: The provider, or ONNX Runtime itself, refuses the model.
        UnsupportedLayerError: The provider does not load.
    """
    ort = onnxruntime()
    failures = model_errors()
    chosen = [(provider.full_name, provider.options(threads))]

    def create(*, may_fall_back: bool) -> Any:
        options = make_options()
        options.add_session_config_entry(
            "session.disable_cpu_ep_fallback", "0" if may_fall_back else "1"
        )
        # Else a provider that fails is replaced by another one.
        return ort.InferenceSession(model, options, providers=chosen, enable_fallback=0)

    falls_back = False
    try:
        session = create(may_fall_back=False)
    except failures:
        falls_back = True
        try:
            session = create(may_fall_back=True)
        except failures as error:
            text = " ".join(str(error).split())[:300]
            raise BuildError(f"{provider.full_name} does not run the model: {text}") from error
    if provider.full_name not in session.get_providers():
        raise UnsupportedLayerError(f"{provider.full_name} does not load here")
    return session, falls_back


def describe_fallback(
    provider: Provider, runs: ProfiledRuns, layers: Sequence[PartialLayer]
) -> Finding:
    """Say how much of a network ONNX Runtime's own kernels ran.

    Args:
        provider: What was to run all of it.
        runs: A profile of the network.
        layers: Its layers.

    Raises:
        UnsupportedLayerError: They ran all of it.
    """
    on_cpu = _layers_on_cpu(runs, layers)
    fallen = [layer for layer in layers if layer.name in on_cpu]
    ran = [entry for entry, name in runs.providers.items() if name == provider.full_name]
    if not ran:
        raise UnsupportedLayerError(
            f"{provider.full_name} takes no part of the model, and ONNX Runtime's own kernels would"
            " run it; measure it on the device cpu"
        )
    total = sum(layer.macs for layer in layers)
    share = sum(layer.macs for layer in fallen) / total if total else 0.0
    names = ", ".join(layer.name for layer in fallen[:3]) + (", ..." if len(fallen) > 3 else "")
    nodes = sum(name == CPU for name in runs.providers.values())
    text = (
        f"ONNX Runtime's own kernels ran {share:.1%} of the multiply-accumulates, {nodes} nodes"
        f" that {provider.full_name} did not take"
    )
    return Finding("provider_fell_back", f"{text} ({names})" if names else text)


def _layers_on_cpu(runs: ProfiledRuns, layers: Sequence[PartialLayer]) -> dict[str, str]:
    """Find the layers that ONNX Runtime's own kernels ran, each with an entry of the profile."""
    owners = _owners(layers)
    found = {}
    for entry, provider in runs.providers.items():
        owner = owners.get(strip_decoration(entry))
        if provider == CPU and owner is not None:
            found[owner] = entry
    return found


def _owners(layers: Sequence[PartialLayer]) -> dict[str, str]:
    """Name the layer of each node, and of each tensor that a layer writes."""
    owners = {layer.output: layer.name for layer in layers}
    return owners | {node: layer.name for layer in layers for node in layer.nodes}


def join_profile(runs: ProfiledRuns, layers: Sequence[PartialLayer]) -> tuple[LayerRow, ...]:
    """Join the profile of a network that a provider ran, to its layers.

    An entry that a provider compiled has a name of the provider's: it stands for all layers that
    have no entry of their own, and is a group, whose time is never divided.
    """
    owners = _owners(layers)
    serving = {
        entry: owners[strip_decoration(entry)]
        for entry in runs.nodes_s
        if strip_decoration(entry) in owners
    }
    rest = tuple(layer.name for layer in layers if layer.name not in set(serving.values()))
    rows = []
    for entry, samples_s in runs.nodes_s.items():
        provider = runs.providers.get(entry, CPU)
        compiled = provider != CPU and entry not in serving
        serves = rest if compiled else tuple(filter(None, (serving.get(entry),)))
        kind = runs.ops.get(entry) or "Node"
        name = provider.removesuffix(_SUFFIX)
        rows.append(RuntimeRow(kind, name, samples_s, serves))
    return join_rows(rows, layers)
