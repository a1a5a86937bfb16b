"""What a person, and a program, reads of a network that was quantised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwbench.records.codec import to_plain
from hwbench.records.comparison import invert_interval
from hwbench.records.findings import order_findings
from hwbench.records.outputs import ACCURACY
from hwbench.records.quantization import Quantization, QuantizedLayer, QuantizedVersion
from hwbench.render.blocks import Block, Column, Line, Table, View
from hwbench.render.comparing import compare_view
from hwbench.render.documents import SCHEMA, Document, compare_document
from hwbench.render.units import decibels, percent, plural, seconds, times, with_margin
from hwbench.stats import is_telling


def quantize_view(
    outcome: Quantization, *, saved: bool = True, broken_rules: Sequence[str] = ()
) -> View:
    """The comparison with the fp32 network, the versions that were tried, and the files.

    Args:
        outcome: What to show.
        saved: Whether a store has the comparison.
        broken_rules: What the user's rules refuse, in words.
    """
    findings = order_findings((*outcome.comparison.findings, *outcome.findings))
    comparison = replace(outcome.comparison, findings=findings)
    blocks: list[Block] = list(compare_view(comparison, saved=saved, broken_rules=broken_rules))
    blocks.append(_make_versions_table(outcome))
    if outcome.layers:
        blocks.append(_make_layers_table(outcome.layers))
    recipe = outcome.recipe
    blocks.append(
        Line(
            f"Calibrated on {plural(recipe.images, 'image')} of {recipe.data}; written to"
            f" {outcome.path}, with the recipe in {outcome.recipe_path}"
        )
    )
    return blocks


def _make_versions_table(outcome: Quantization) -> Table:
    """The versions that were chosen from, by measurements and images of the choice alone."""
    quality = outcome.comparison.likeness.quality
    is_accuracy = quality is None or quality.measure == ACCURACY
    columns = (
        Column("int8 version"),
        Column("gain", right=True),
        Column("outputs", right=True),
        Column("accuracy lost" if is_accuracy else "quality lost", right=True),
        Column("same class", right=True),
        Column(""),
    )
    rows = []
    for tried in outcome.versions:
        name = "every layer"
        if tried.left:
            name = f"but {plural(len(tried.left), 'layer')} in fp32"
        gain = ""
        if tried.ratio is not None:
            gain = times(1 / tried.ratio.ratio)
            ends = invert_interval(tried.ratio.ci)
            if is_telling(ends):
                gain = with_margin(gain, ends)
        drop = "-"
        if tried.accuracy_drop is not None:
            lost = tried.accuracy_drop
            drop = percent(lost) if is_accuracy else f"{lost:.4g}"
        kept = "kept" if tried.is_chosen else ""
        rows.append((name, gain, decibels(tried.snr_db), drop, percent(tried.agreement), kept))
    return Table(columns, tuple(rows))


def _make_layers_table(layers: Sequence[QuantizedLayer]) -> Table:
    columns = (
        Column("layer", path=True),
        Column("saved in int8", right=True),
        Column("95 %", right=True),
        Column("share of error", right=True),
        Column("in int8 it is"),
    )
    rows = []
    for layer in layers:
        reasons = []
        if layer.is_slower:
            reasons.append("slower")
        if layer.is_sensitive:
            reasons.append("worse")
        saved = "-" if layer.saved_s is None else seconds(layer.saved_s, sign=True)
        margin = "" if layer.saved_margin_s is None else f"±{seconds(layer.saved_margin_s)}"
        share = "-" if layer.noise_share is None else percent(layer.noise_share)
        rows.append((layer.name, saved, margin, share, ", ".join(reasons)))
    return Table(columns, tuple(rows))


def quantize_document(outcome: Quantization) -> Document:
    """A network that was quantised: its comparison, its recipe, and what else was tried."""
    return {
        "schema": SCHEMA,
        "onnx": str(outcome.path),
        "recipe": to_plain(outcome.recipe),
        "comparison": compare_document(outcome.comparison),
        "versions": [_version_document(tried) for tried in outcome.versions],
        "layers": [to_plain(layer) for layer in outcome.layers],
        "findings": [to_plain(finding) for finding in outcome.findings],
    }


def _version_document(tried: QuantizedVersion) -> Document:
    ratio = tried.ratio
    return {
        "left_in_fp32": list(tried.left),
        "ratio": None if ratio is None else ratio.ratio,
        "ratio_ci": None if ratio is None else ratio.ci,
        "snr_db": tried.snr_db,
        "accuracy_drop": tried.accuracy_drop,
        "agreement": tried.agreement,
        "is_chosen": tried.is_chosen,
    }
