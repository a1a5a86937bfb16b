"""Records as JSON documents (schema 1): plain types, seconds, null for the unknown, no NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hwbench.measuring.sustained import find_throttling
from hwbench.records.codec import to_plain
from hwbench.records.comparison import explained_share
from hwbench.records.measurement import START_QUANTITIES, TAIL
from hwbench.stats import SHOWN_CONFIDENCE, Verdict

if TYPE_CHECKING:
    from hwbench.devices.base import Found
    from hwbench.errors import IncomparableError
    from hwbench.records.ceilings import Ceilings
    from hwbench.records.comparison import Comparison, LayerChange
    from hwbench.records.device import DeviceInfo
    from hwbench.records.findings import Finding
    from hwbench.records.measurement import LayerLatency, Measurement
    from hwbench.records.outputs import OutputAgreement, QualityChange
    from hwbench.store import Summary
    from hwbench.workflows.doctor import Diagnosis
    from hwbench.workflows.selftest import SelfTest

SCHEMA = 1

Document = dict[str, Any]


def to_json(document: Document) -> str:
    """The document as text, ending in a newline; what is not finite becomes null."""
    plain = to_json_types(document)
    return json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def to_json_types(value: Any, clean: Callable[[str], str] | None = None) -> Any:
    """A value in JSON's own types; null for a number that is not finite.

    Args:
        value: Anything made of mappings, lists, tuples, texts and numbers.
        clean: What is done to each text that is not a name of a field; None for nothing.
    """
    match value:
        case str():
            return value if clean is None else clean(value)
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(name): to_json_types(inner, clean) for name, inner in value.items()}
        case list() | tuple():
            return [to_json_types(inner, clean) for inner in value]
        case _:
            return value


def profile_document(record: Measurement, ceilings: Ceilings | None = None) -> Document:
    """One measurement.

    Latencies are null if it was ended before its first sample, layers if none were taken.

    Args:
        record: What to describe.
        ceilings: The most that its device can do; None where that is not known.
    """
    median_s, median_ci_s, closure = None, None, None
    if record.series:
        median_s, median_ci_s, closure = record.median_s, record.median_ci_s, record.closure
    layers, sum_s, rest_s, rest_cause = None, None, None, None
    if record.profile is not None:
        layers = [_layer_document(layer, median_s, ceilings) for layer in record.profile.layers]
        sum_s, rest_cause = record.profile.layers_sum_s, record.profile.rest_cause
        rest_s = None if median_s is None else median_s - sum_s
    return {
        "schema": SCHEMA,
        "model": record.model,
        "device": _device_document(record.device),
        "median_s": median_s,
        "median_ci_s": median_ci_s,
        "confidence": SHOWN_CONFIDENCE,
        "samples_s": record.series.samples_s,
        "session": record.series.session,
        "macs": record.macs,
        "params": record.params,
        "file_bytes": record.file_bytes,
        "peak_memory_bytes": record.peak_memory_bytes,
        **_start_document(record),
        **_tail_document(record),
        "slowdown": None if record.sustained is None else record.sustained.slowdown.estimate,
        "sustained": _load_document(record),
        "layers": layers,
        "layers_sum_s": sum_s,
        "closure": closure,
        "rest_s": rest_s,
        "rest_cause": rest_cause,
        "ceilings": None if ceilings is None else ceilings_document(ceilings),
        "findings": _finding_documents(record.findings),
        "record": _provenance_document(record),
    }


def _layer_document(
    layer: LayerLatency, whole_s: float | None, ceilings: Ceilings | None
) -> Document:
    bound = None if ceilings is None else ceilings.bound(layer)
    return {
        "name": layer.name,
        "op": layer.op,
        "key": None if layer.key is None else str(layer.key),
        "implementation": layer.implementation,
        "median_s": layer.median_s,
        "share": None if whole_s is None else layer.inference_s / whole_s,
        "calls": layer.calls,
        "ci_s": layer.ci_s,
        "is_bound": layer.is_bound,
        "ceiling_share": None if bound is None else bound.share,
        "bound_by": None if bound is None else bound.binds,
    }


def compare_document(comparison: Comparison) -> Document:
    """One comparison with both sides' samples.

    Its numbers are null where the two are incomparable.
    """
    steady = comparison.steady_speedup
    return {
        "schema": SCHEMA,
        "baseline": _side_document(comparison.baseline),
        "candidate": _side_document(comparison.candidate),
        "device": _device_document(comparison.baseline.device),
        "speedup": comparison.speedup,
        "speedup_ci": comparison.speedup_ci,
        "confidence": SHOWN_CONFIDENCE,
        "verdict": comparison.verdict.value,
        "verdict_ci": comparison.verdict_ci,
        "macs_ratio": comparison.macs_ratio,
        "params_ratio": comparison.params_ratio,
        "start": {quantity: _gain_document(comparison, quantity) for quantity in START_QUANTITIES},
        "steady_speedup": None if steady is None else steady.estimate,
        "steady_speedup_ci": None if steady is None else steady.ci,
        "accuracy_drop": comparison.likeness.accuracy_drop,
        "agreement": comparison.likeness.agreement,
        "outputs": _outputs_document(comparison.likeness.outputs),
        "quality": _quality_document(comparison.likeness.quality),
        "layers": [_change_document(change) for change in comparison.layers] or None,
        "explained_share": explained_share(comparison),
        "findings": _finding_documents(comparison.findings),
    }


def _outputs_document(outputs: OutputAgreement | None) -> Document | None:
    """How far outputs agree on the same inputs; a ratio of equal outputs has no end and is null."""
    if outputs is None:
        return None
    return {**asdict(outputs), "snr_db": outputs.snr_db}


def _quality_document(quality: QualityChange | None) -> Document | None:
    return None if quality is None else asdict(quality)


def incomparable_document(error: IncomparableError) -> Document:
    """What machines are told of two models that were not even measured."""
    return {
        "schema": SCHEMA,
        "verdict": Verdict.INCOMPARABLE.value,
        "speedup": None,
        "speedup_ci": None,
        "findings": [{"code": "incomparable", "text": str(error)}],
    }


def _side_document(record: Measurement) -> Document:
    return {
        "model": record.model,
        "address": record.device.address,
        "runtime": record.device.runtime,
        "median_s": record.median_s,
        "median_ci_s": record.median_ci_s,
        "samples_s": record.series.samples_s,
        "session": record.series.session,
        "macs": record.macs,
        "params": record.params,
        "file_bytes": record.file_bytes,
        "peak_memory_bytes": record.peak_memory_bytes,
        **_start_document(record),
        **_tail_document(record),
        "sustained": _load_document(record),
        "record": _provenance_document(record),
    }


def _start_document(record: Measurement) -> Document:
    """What making a session ready took, with intervals; null where the device does not tell."""
    load, first_run = record.start("load_s"), record.start("first_run_s")
    memory = record.start("peak_memory_bytes")
    return {
        "load_s": None if load is None else load.estimate,
        "load_ci_s": None if load is None else load.ci,
        "first_run_s": None if first_run is None else first_run.estimate,
        "first_run_ci_s": None if first_run is None else first_run.ci,
        "peak_memory_ci_bytes": None if memory is None else memory.ci,
    }


def _tail_document(record: Measurement) -> Document:
    """Latencies of single inferences; null where samples are means of several."""
    document: Document = {}
    for field, share in TAIL.items():
        estimate = record.quantile(share)
        document[field] = None if estimate is None else estimate.estimate
        ends = field.replace("_s", "_ci_s")
        document[ends] = None if estimate is None else estimate.ci
    document["worst_s"] = record.worst_s
    return document


def _load_document(record: Measurement) -> Document | None:
    """What became of the latency under load without a pause; null if there was none."""
    load = record.sustained
    if load is None:
        return None
    return {
        "asked_s": load.asked_s,
        "rest_s": load.rest_s,
        "burst_s": load.burst.estimate,
        "burst_ci_s": load.burst.ci,
        "steady_s": load.steady.estimate,
        "steady_ci_s": load.steady.ci,
        "slowdown": load.slowdown.estimate,
        "slowdown_ci": load.slowdown.ci,
        "throttled_after_s": find_throttling(load),
        "hottest_c": load.hottest_c,
        "windows": [asdict(window) for window in load.windows],
    }


def _gain_document(comparison: Comparison, quantity: str) -> Document | None:
    """How much less of a quantity the candidate needs to start."""
    gain = comparison.start_gain(quantity)
    return None if gain is None else {"gain": gain[0], "gain_ci": gain[1]}


def _change_document(change: LayerChange) -> Document:
    return {
        "name": change.name,
        "baseline_s": change.baseline_s,
        "candidate_s": change.candidate_s,
        "saved_s": change.saved_s,
        "saved_margin_s": change.margin_s,
        "baseline_implementation": change.baseline_implementation,
        "candidate_implementation": change.candidate_implementation,
    }


def _provenance_document(record: Measurement) -> Document:
    """Where the numbers came from."""
    return {
        "id": record.id,
        "group_id": record.group_id,
        "started_utc": record.started_utc,
        "complete": record.complete,
        "model_sha256": record.model_sha256,
        "inputs": [asdict(spec) for spec in record.inputs],
        "batch": record.batch,
        "precision": record.precision,
        "settings": asdict(record.settings),
        "clock": record.clock,
        "loops": record.loops,
        "hwbench_version": record.hwbench_version,
        "commit": record.commit,
    }


def selftest_document(outcome: SelfTest) -> Document:
    """A/A comparisons: each ratio with its interval and verdict."""
    comparisons = []
    for comparison in outcome.comparisons:
        ratio = comparison.ratio
        comparisons.append(
            {
                "ratio": None if ratio is None else ratio.ratio,
                "ratio_ci": None if ratio is None else ratio.ci,
                "sessions": None if ratio is None else ratio.sessions,
                "verdict": comparison.verdict.value,
            }
        )
    return {
        "schema": SCHEMA,
        "model": outcome.comparisons[0].baseline.model if outcome.comparisons else None,
        "device": _device_document(outcome.device),
        "runs": len(outcome.comparisons),
        "false_verdicts": outcome.false_verdicts,
        "covered": outcome.covered,
        "noise_floor": outcome.noise_floor,
        "comparisons": comparisons,
    }


def ceilings_document(ceilings: Ceilings) -> Document:
    """The most that a device can do in each precision."""
    return {
        "created_utc": ceilings.created_utc,
        "threads": ceilings.threads,
        "precisions": [to_plain(ceiling) for ceiling in ceilings.ceilings],
        "left_out": list(ceilings.left_out),
    }


def doctor_document(diagnosis: Diagnosis, ceilings: Ceilings | None = None) -> Document:
    """A device's state and what was checked on it.

    Args:
        diagnosis: The state.
        ceilings: The most that it can do; None where that was not measured.
    """
    return {
        "schema": SCHEMA,
        "device": _device_document(diagnosis.device),
        "conditions": asdict(diagnosis.conditions),
        "healthy": diagnosis.healthy,
        "advice": [asdict(advice) for advice in diagnosis.advice],
        "ceilings": None if ceilings is None else ceilings_document(ceilings),
    }


def devices_document(targets: Sequence[Found]) -> Document:
    """Every target in reach, ready or not."""
    return {"schema": SCHEMA, "devices": [asdict(target) for target in targets]}


def store_document(
    url: str, summaries: Iterable[Summary], latencies_s: Mapping[str, float]
) -> Document:
    """What a store holds, newest first; latencies are null where there are no samples."""
    measurements = [
        asdict(summary) | {"latency_s": latencies_s.get(summary.id)} for summary in summaries
    ]
    return {"schema": SCHEMA, "store": url, "measurements": measurements}


def _device_document(info: DeviceInfo) -> Document:
    return {**asdict(info), "details": dict(info.details)}


def _finding_documents(findings: Iterable[Finding]) -> list[Document]:
    return [{"code": finding.code, "text": finding.text} for finding in findings]
