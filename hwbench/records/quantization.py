"""What came of quantising a network: the versions that were tried, and the one that was kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwbench.records.comparison import Comparison
from hwbench.records.findings import Finding
from hwbench.stats import Ratio


@dataclass(frozen=True, slots=True)
class QuantizedLayer:
    """What int8 does to one layer.

    Attributes:
        name: Module path.
        saved_s: Seconds of an inference that it saves in int8, in the first measurement; None where
            the device has no layers, or not this one.
        saved_margin_s: Half-width of the 95 % interval of `saved_s`.
        noise_share: Share of the power of the error of the network's outputs that is gone when this
            layer alone stays in fp32; None where that was not tried.
        is_slower: Whether it is proven slower in int8.
        is_sensitive: Whether it alone makes much of the error.
    """

    name: str
    saved_s: float | None
    saved_margin_s: float | None
    noise_share: float | None
    is_slower: bool
    is_sensitive: bool


@dataclass(frozen=True, slots=True)
class QuantizedVersion:
    """One int8 version of a network.

    Attributes:
        left: Names of the layers that stay in fp32.
        ratio: Its latency over that of the fp32 network; None where it was not measured.
        snr_db: Signal-to-noise ratio of its outputs in decibels, on images of the validation set.
        accuracy_drop: Accuracy of the fp32 network minus its own, on the validation set, or what a
            function of the user's gives in its place; None for images without labels.
        agreement: Share of those images to which both give the same class; None where they give
            none.
        is_chosen: Whether it was kept.
    """

    left: tuple[str, ...]
    ratio: Ratio | None
    snr_db: float
    accuracy_drop: float | None
    agreement: float | None
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class QuantizationRecipe:
    """What it takes to make the network again with ONNX Runtime's quantiser.

    Attributes:
        model: Name of the fp32 network.
        model_sha256: Identity of its ONNX model.
        quantizer: The quantiser and its version.
        format: How the quantised model says what is in int8.
        activations: Type of the activations.
        weights: Type of the weights.
        per_channel: Whether each output channel of a weight has a scale of its own.
        ranges: How the ranges of the activations were found.
        data: Images that they were found on.
        images: How many of these, drawn evenly over the classes.
        seed: Seed of their drawing.
        preprocessing: What was done to the images; None where they come as inputs.
        left_in_fp32: Names of the layers that stay in fp32.
        onnx_sha256: Identity of the quantised model.
    """

    model: str
    model_sha256: str
    quantizer: str
    format: str
    activations: str
    weights: str
    per_channel: bool
    ranges: str
    data: str
    images: int
    seed: int
    preprocessing: Mapping[str, Any] | None
    left_in_fp32: tuple[str, ...]
    onnx_sha256: str


@dataclass(frozen=True)
class Quantization:
    """A network in int8, and what that gains and costs.

    Attributes:
        path: The int8 network, an ONNX file.
        recipe_path: Its recipe, a JSON file.
        recipe: How it was made.
        comparison: It against the fp32 network, measured afresh after it was chosen, with its
            accuracy on the test set.
        versions: All versions that were tried, that with every layer in int8 first.
        layers: What int8 does to the layers, where it is worth a word.
        findings: What to know of it beside the findings of the comparison.
    """

    path: Path
    recipe_path: Path
    recipe: QuantizationRecipe
    comparison: Comparison
    versions: tuple[QuantizedVersion, ...]
    layers: tuple[QuantizedLayer, ...]
    findings: tuple[Finding, ...]
