"""Two interleaved measurements -> ratio, verdict, and the layers that explain it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hwbench.records.findings import CONVERTED, Finding, order_findings
from hwbench.records.measurement import LayerLatency, Measurement
from hwbench.records.outputs import Likeness
from hwbench.records.tensors import Shape, channels_first
from hwbench.stats import Estimate, Ratio, Verdict, exp_or_infinity, ratio_of_sessions

RECORD = "comparison"
"""Kind of the store's record that names interleaved measurements, the baseline first."""
DISAPPOINTING = 0.5
"""A speed-up that keeps less than this share of what the MACs promised is worth a sentence."""
FEWER = 1.1
"""MACs ratio from which a network counts as smaller."""
MAIN_CAUSE = 0.4
"""Share of the time above what the MACs promised from which a cause is named as the cause."""
IMPOSSIBLE = "impossible"
"""Code of the finding that a latency is below what the device can do."""
EXPLAINED = 0.5
"""Share of the saved time that the layers must account for, or it is said that they do not."""

BESIDE = frozenset(
    {"Add", "Cast", "DequantizeLinear", "DynamicQuantizeLinear", "Mul", "QuantizeLinear"}
    | {"Reshape", "Transpose"}
)
"""Operators that exporters and quantisers put beside a module's own."""


@dataclass(frozen=True, slots=True)
class ChangeExplanation:
    """What it means that a layer is executed in another way, told by whoever knows the runtime.

    Attributes:
        code: Code of the finding that names such layers.
        change: What became of them, for that finding: "left the blocked layout in the candidate".
        cause: Why that costs time: "fell off the blocked layout because ...".
    """

    code: str
    change: str
    cause: str


ExplainChange = Callable[[str, str], ChangeExplanation | None]
"""Explains a layer's change of implementation, from baseline to candidate, if worth a word."""


@dataclass(frozen=True, slots=True)
class LayerChange:
    """One layer on both sides, matched by module path; None on the side where it is absent.

    Attributes:
        name: Module path.
        baseline_s: Seconds per inference in the baseline.
        candidate_s: Seconds per inference in the candidate.
        baseline_implementation: How the baseline's runtime executed it.
        candidate_implementation: How the candidate's runtime executed it.
        explanation: What a change of the implementation means; None where that is not known.
        baseline_margin_s: Half-width of the 95 % interval of `baseline_s`; None where it has none.
        candidate_margin_s: Half-width of that of `candidate_s`.
    """

    name: str
    baseline_s: float | None
    candidate_s: float | None
    baseline_implementation: str | None
    candidate_implementation: str | None
    explanation: ChangeExplanation | None = None
    baseline_margin_s: float | None = None
    candidate_margin_s: float | None = None

    @property
    def margin_s(self) -> float | None:
        """Half-width of the 95 % interval of `saved_s`, seconds; None where there is none."""
        return self.find_margin(1.0)

    @property
    def is_noise(self) -> bool:
        """Whether the change lies inside its own interval, so that it may be none."""
        margin_s = self.margin_s
        return margin_s is not None and abs(self.saved_s) <= margin_s

    def find_margin(self, share: float) -> float | None:
        """Half-width of the 95 % interval of candidate minus a share of the baseline, seconds.

        The two are measured in inferences of their own, so that their variances add up. A side
        where the layer is absent is known exactly; None where a side has no interval.
        """
        squares = 0.0
        for value_s, margin_s, weight in (
            (self.baseline_s, self.baseline_margin_s, share),
            (self.candidate_s, self.candidate_margin_s, 1.0),
        ):
            if value_s is not None:
                if margin_s is None:
                    return None
                squares += (weight * margin_s) ** 2
        return math.sqrt(squares)

    @property
    def saved_s(self) -> float:
        """Seconds per inference that the candidate saves here; negative where it is slower."""
        return (self.baseline_s or 0.0) - (self.candidate_s or 0.0)


@dataclass(frozen=True)
class Comparison:
    """What a candidate gains over a baseline.

    Attributes:
        baseline: Record of the reference.
        candidate: Record of the new one.
        ratio: Candidate over baseline; None if they are incomparable.
        verdict: What may be claimed.
        layers: Layer by layer, in the baseline's order, then those only the candidate has; empty
            without layer times.
        findings: Explanations and reasons to distrust, those of both records included.
        likeness: How far both networks compute the same.
    """

    baseline: Measurement
    candidate: Measurement
    ratio: Ratio | None
    verdict: Verdict
    layers: tuple[LayerChange, ...]
    findings: tuple[Finding, ...]
    likeness: Likeness = field(default_factory=Likeness)

    def __repr__(self) -> str:
        """The comparison in short."""
        sides = f"{self.candidate.model} against {self.baseline.model}"
        if self.speedup is None or self.speedup_ci is None:
            return f"<Comparison {self.verdict.value}: {sides}>"
        low, high = self.speedup_ci
        speedup = f"speed-up {self.speedup:.4g} ({low:.4g} to {high:.4g})"
        return f"<Comparison {self.verdict.value}: {sides}, {speedup}>"

    def metrics(self) -> dict[str, float]:
        """What is known in numbers, flat, for `mlflow.log_metrics` or `wandb.log`.

        The names are `speedup`, `speedup_low` and `speedup_high` (95 % interval), `macs_ratio`,
        `params_ratio`, and those of `Measurement.metrics` behind `baseline/` and `candidate/`.
        What is not known is left out.
        """
        low, high = self.speedup_ci or (None, None)
        known = {
            "speedup": self.speedup,
            "speedup_low": low,
            "speedup_high": high,
            "macs_ratio": self.macs_ratio,
            "params_ratio": self.params_ratio,
        }
        for side, record in (("baseline", self.baseline), ("candidate", self.candidate)):
            known |= {f"{side}/{name}": value for name, value in record.metrics().items()}
        return {
            name: value
            for name, value in known.items()
            if value is not None and math.isfinite(value)
        }

    @property
    def speedup(self) -> float | None:
        """Baseline over candidate; above 1 is faster."""
        return None if self.ratio is None else 1 / self.ratio.ratio

    @property
    def speedup_ci(self) -> tuple[float, float] | None:
        """95 % interval of `speedup`."""
        return None if self.ratio is None else invert_interval(self.ratio.ci)

    @property
    def verdict_ci(self) -> tuple[float, float] | None:
        """The 99.6 % interval of `speedup` for the verdict: it holds however often one looks."""
        return None if self.ratio is None else invert_interval(self.ratio.verdict_ci)

    def start_ratio(self, quantity: str) -> Ratio | None:
        """Ratio of one of `measurement.START_QUANTITIES`, candidate over baseline.

        It is paired by session: both were made ready within one. None where a side does not tell,
        or the two are incomparable.
        """
        if self.ratio is None:
            return None
        pairs = zip(
            self.baseline.start_values(quantity),
            self.candidate.start_values(quantity),
            strict=False,
        )
        logs = [math.log(after / before) for before, after in pairs if before and after]
        return ratio_of_sessions(np.array(logs)) if logs else None

    def start_gain(self, quantity: str) -> tuple[float, tuple[float, float]] | None:
        """How much less of a quantity the candidate needs, above 1 is less, and its 95 % interval.

        None where `start_ratio` is.
        """
        ratio = self.start_ratio(quantity)
        return None if ratio is None else (1 / ratio.ratio, invert_interval(ratio.ci))

    @property
    def steady_speedup(self) -> Estimate | None:
        """The speed-up at the end of a load without a pause; None if there was none.

        It is `speedup`, which rests on several sessions, times what became of it under the load.
        """
        before, after = self.baseline.sustained, self.candidate.sustained
        if self.ratio is None or before is None or after is None:
            return None
        if len(before.windows) != len(after.windows):
            return None  # not of one load
        change, half = after.gain_change(before)
        centre = change - math.log(self.ratio.ratio)
        half = math.hypot(half, math.log1p(self.ratio.half_width))
        ends = math.exp(centre - half), exp_or_infinity(centre + half)
        return Estimate(math.exp(centre), ends, self.ratio.sessions)

    @property
    def macs_ratio(self) -> float | None:
        """MACs of the baseline over those of the candidate.

        None if one has none, or they cannot be counted.
        """
        return _divide(self.baseline.macs, self.candidate.macs)

    @property
    def params_ratio(self) -> float | None:
        """Parameters of the baseline over those of the candidate; None if one has none."""
        return _divide(self.baseline.params, self.candidate.params)


def compare(
    baseline: Measurement,
    candidate: Measurement,
    *,
    explain_change: ExplainChange | None = None,
    likeness: Likeness | None = None,
) -> Comparison:
    """Compare two records of one interleaved measurement.

    Records that disagree in more than the model, or were not interleaved, give the verdict
    INCOMPARABLE and say why.

    Args:
        baseline: The reference.
        candidate: The new one.
        explain_change: Explains layers that are executed in another way; None explains none.
        likeness: How far both networks compute the same, where that was looked into.
    """
    likeness = likeness or Likeness()
    reasons = find_differences(baseline, candidate)
    changes = _match_layers(baseline, candidate, explain_change)
    shared = _join_findings(baseline, candidate)
    if reasons:
        finding = Finding("incomparable", f"not comparable: {'; '.join(reasons)}")
        findings = order_findings((finding, *likeness.findings, *shared))
        return Comparison(
            baseline, candidate, None, Verdict.INCOMPARABLE, changes, findings, likeness
        )
    ratio = candidate.series.ratio_to(baseline.series)
    verdict = ratio.verdict(baseline.settings.min_effect)
    if any(finding.code == IMPOSSIBLE for finding in shared):
        verdict = Verdict.UNRESOLVED  # nothing rests on a latency that cannot be
    unexplained = Comparison(baseline, candidate, ratio, verdict, changes, (), likeness)
    findings = (*likeness.findings, *explain(unexplained), *shared)
    return replace(unexplained, findings=order_findings(findings))


def compare_apart(
    baseline: Measurement, candidate: Measurement, *, explain_change: ExplainChange | None = None
) -> Comparison:
    """Compare two records that were measured one after the other, maybe months apart.

    The ratio is that of their latencies, its interval that of both taken as independent. What the
    device did in between is in neither, so there is no verdict, and a finding says so.

    Args:
        baseline: The reference.
        candidate: The new one.
        explain_change: Explains layers that are executed in another way; None explains none.
    """
    if baseline.group_id == candidate.group_id or _find_other_differences(baseline, candidate):
        return compare(baseline, candidate, explain_change=explain_change)
    before, after = baseline.series.latency(), candidate.series.latency()
    centre = math.log(after.estimate / before.estimate)
    half = math.hypot(*(math.log1p(estimate.half_width) for estimate in (before, after)))
    ratio = Ratio(
        math.exp(centre),
        (math.exp(centre - half), exp_or_infinity(centre + half)),
        (0.0, math.inf),
        min(before.sessions, after.sessions),
    )
    changes = _match_layers(baseline, candidate, explain_change)
    text = (
        f"measured {baseline.started_utc} and {candidate.started_utc}, not interleaved: what the"
        " device did in between is not in the interval"
    )
    finding = Finding("not_interleaved", text)
    unexplained = Comparison(baseline, candidate, ratio, Verdict.UNRESOLVED, changes, ())
    findings = (finding, *explain(unexplained), *_join_findings(baseline, candidate))
    return replace(unexplained, findings=order_findings(findings))


def find_differences(baseline: Measurement, candidate: Measurement) -> list[str]:
    """What besides the model differs between two records, in words.

    Precision may differ and is a finding instead; so may the runtime, and with it the clock, if
    both were asked for on one target.
    """
    differences = _find_other_differences(baseline, candidate)
    if baseline.group_id != candidate.group_id:
        differences.append("measured one after the other, not interleaved")
    return differences


def _input_shapes(record: Measurement) -> list[Shape]:
    """Shapes of the inputs; those of images whose conversion put channels last as they were."""
    shapes = [spec.shape for spec in record.inputs]
    if any(finding.code == CONVERTED for finding in record.findings):
        return [channels_first(shape) for shape in shapes]
    return shapes


def _find_other_differences(baseline: Measurement, candidate: Measurement) -> list[str]:
    """What differs beside the model, whether or not the two were interleaved."""
    pairs: dict[str, tuple[object, object]] = {
        "device": (baseline.device.target_id, candidate.device.target_id),
        "input shapes": (
            _input_shapes(baseline),
            _input_shapes(candidate),
        ),
        "batch": (baseline.batch, candidate.batch),
        "threads": (baseline.settings.threads, candidate.settings.threads),
        "isolation": (baseline.settings.isolate, candidate.settings.isolate),
    }
    if not compares_runtimes(baseline, candidate):
        pairs["runtime"] = (baseline.device.runtime, candidate.device.runtime)
        pairs["clock"] = (baseline.clock, candidate.clock)
    differences = []
    for name, (before, after) in pairs.items():
        if before != after:
            differences.append(f"{name} {before} against {after}")
    return differences


def compares_runtimes(baseline: Measurement, candidate: Measurement) -> bool:
    """Tell whether two records were taken on two runtimes of one target on purpose."""
    return (
        baseline.group_id == candidate.group_id
        and baseline.device.address != candidate.device.address
    )


def explain(comparison: Comparison) -> tuple[Finding, ...]:
    """Sentences that explain a comparison, as findings."""
    findings = [
        _compare_runtimes(comparison),
        _name_unknown_macs(comparison),
        _compare_with_macs(comparison),
        *_list_changed_implementations(comparison),
        _compare_with_layers(comparison),
        _compare_precisions(comparison),
    ]
    return tuple(finding for finding in findings if finding is not None)


def _name_unknown_macs(comparison: Comparison) -> Finding | None:
    """Whether the MACs cannot be compared, as those of one side are not known."""
    sides = {"baseline": comparison.baseline, "candidate": comparison.candidate}
    unknown = [side for side, record in sides.items() if record.macs is None]
    if not unknown:
        return None
    whose = " and ".join(f"those of the {side}" for side in unknown)
    return Finding("macs_not_compared", f"MACs are not compared: {whose} are unknown")


def _compare_with_macs(comparison: Comparison) -> Finding | None:
    """Whether the speed-up keeps far less than the MACs promise, and why."""
    ratio, speedup, interval = comparison.macs_ratio, comparison.speedup, comparison.speedup_ci
    if ratio is None or speedup is None or interval is None or ratio < FEWER:
        return None
    # Where nothing is resolved, the speed-up may be as large as its interval allows.
    at_most = interval[1] if comparison.verdict is Verdict.UNRESOLVED else speedup
    if at_most - 1 >= DISAPPOINTING * (ratio - 1):
        return None
    match comparison.verdict:
        case Verdict.SAME:
            outcome = "no faster"
        case Verdict.SLOWER:
            outcome = f"{1 / speedup:.2f}x slower"
        case Verdict.FASTER:
            outcome = f"only {speedup:.2f}x faster"
        case _:
            outcome = f"at most {at_most:.2f}x faster"
    text = f"{ratio:.2f}x fewer MACs, {outcome}: {_name_main_cause(comparison, ratio)}"
    return Finding("macs_without_gain", text)


def _name_main_cause(comparison: Comparison, macs_ratio: float) -> str:
    """Where the time went that the candidate would not need if latency followed MACs, in words.

    The excess of a layer is what the candidate spends on it beyond the baseline's time divided by
    the ratio of the MACs. A cause is named if the layers it holds for have most of the excess.
    """
    if not comparison.layers:
        return "layers were not measured"
    excess_s = {}
    for change in comparison.layers:
        promised_s = (change.baseline_s or 0.0) / macs_ratio
        excess_s[change.name] = (change.candidate_s or 0.0) - promised_s
    total_s = sum(max(excess, 0.0) for excess in excess_s.values())
    if total_s <= 0:
        return "its layers do not tell why"

    for explanation, changes in _explained_changes(comparison):
        if sum(excess_s[change.name] for change in changes) > MAIN_CAUSE * total_s:
            return f"{len(changes)} layers {explanation.cause}"

    added = [change.name for change in comparison.layers if not change.baseline_s]
    if sum(excess_s[name] for name in added) > MAIN_CAUSE * total_s:
        example = max(added, key=excess_s.__getitem__)
        return f"{len(added)} layers are new in the candidate, such as {example}"

    # A layer whose excess may be noise is not blamed.
    for change in comparison.layers:
        margin_s = change.find_margin(1 / macs_ratio)
        if margin_s is not None and excess_s[change.name] <= margin_s:
            del excess_s[change.name]
    if not excess_s:
        return "no single layer is surely to blame"
    worst = sorted(excess_s, key=excess_s.__getitem__, reverse=True)[:3]
    share = sum(excess_s[name] for name in worst) / total_s
    return (
        f"most of the time that stayed is spread over the layers, {share:.0%} of it in"
        f" {', '.join(worst)}"
    )


def _list_changed_implementations(comparison: Comparison) -> list[Finding]:
    findings = []
    for explanation, changes in _explained_changes(comparison):
        names = ", ".join(change.name for change in changes[:3])
        more = ", ..." if len(changes) > 3 else ""
        text = f"{len(changes)} layers {explanation.change}: {names}{more}"
        findings.append(Finding(explanation.code, text))
    return findings


def _explained_changes(
    comparison: Comparison,
) -> list[tuple[ChangeExplanation, list[LayerChange]]]:
    """Layers with an explained change of implementation, by the code of the explanation."""
    by_code: dict[str, list[LayerChange]] = {}
    explanations: dict[str, ChangeExplanation] = {}
    for change in comparison.layers:
        if change.explanation is not None:
            explanations.setdefault(change.explanation.code, change.explanation)
            by_code.setdefault(change.explanation.code, []).append(change)
    return [(explanations[code], changes) for code, changes in by_code.items()]


def _compare_with_layers(comparison: Comparison) -> Finding | None:
    """Whether the layers add up to something else than the end-to-end difference."""
    share = explained_share(comparison)
    if share is None or comparison.verdict not in {Verdict.FASTER, Verdict.SLOWER}:
        return None
    if EXPLAINED <= share <= 2 - EXPLAINED:
        return None
    text = f"the layers account for {share:.0%} of the difference; the rest lies between them"
    return Finding("layers_do_not_explain", text)


def _compare_runtimes(comparison: Comparison) -> Finding | None:
    baseline, candidate = comparison.baseline, comparison.candidate
    if not compares_runtimes(baseline, candidate):
        return None
    text = (
        f"baseline runs on {baseline.device.address} ({baseline.device.runtime}), candidate on"
        f" {candidate.device.address} ({candidate.device.runtime})"
    )
    return Finding("runtime_differs", text)


def _compare_precisions(comparison: Comparison) -> Finding | None:
    before, after = comparison.baseline.precision, comparison.candidate.precision
    if before == after:
        return None
    return Finding("precision_differs", f"baseline runs in {before}, candidate in {after}")


def explained_share(comparison: Comparison) -> float | None:
    """Share of the end-to-end difference that the layer rows add up to.

    None without layer times or difference.
    """
    if not comparison.layers or comparison.ratio is None:
        return None
    saved_s = comparison.baseline.median_s * (1 - comparison.ratio.ratio)
    return sum(change.saved_s for change in comparison.layers) / saved_s if saved_s else None


def _match_layers(
    baseline: Measurement, candidate: Measurement, explain_change: ExplainChange | None
) -> tuple[LayerChange, ...]:
    """Match layers by module path, which pruning keeps when it changes widths or drops blocks.

    Files that PyTorch's exporter wrote, and what quantisers made of them, spell the same paths
    differently: what no name matches is matched by path.
    """
    if baseline.profile is None or candidate.profile is None:
        return ()
    before = {layer.name: layer for layer in baseline.profile.layers}
    after = {layer.name: layer for layer in candidate.profile.layers}
    new_names = _match_paths(
        [layer for name, layer in before.items() if name not in after],
        [layer for name, layer in after.items() if name not in before],
    )
    after = {new_names.get(name, name): layer for name, layer in after.items()}
    names = dict.fromkeys([*before, *after])
    return tuple(_change(name, before.get(name), after.get(name), explain_change) for name in names)


def _match_paths(before: Sequence[LayerLatency], after: Sequence[LayerLatency]) -> dict[str, str]:
    """Match layers whose names say the same module and operator in different words.

    Returns:
        The names of the baseline by those of the candidate; without those that could be several.
    """
    matched: dict[str, str] = {}
    for spell in (_spell_operator, _spell_module):
        known = set(matched.values())
        paths_before = _index_paths(spell, [row for row in before if row.name not in known])
        paths_after = _index_paths(spell, [row for row in after if row.name not in matched])
        for path in paths_before.keys() & paths_after.keys():
            old, new = paths_before[path], paths_after[path]
            if len(old) == len(new) == 1:
                matched[new[0]] = old[0]
    return matched


def _index_paths(
    spell: Callable[[LayerLatency], str], layers: Sequence[LayerLatency]
) -> dict[str, list[str]]:
    """Names of layers by what `spell` makes of them; an empty text is none."""
    names: dict[str, list[str]] = {}
    for layer in layers:
        if path := spell(layer):
            names.setdefault(path, []).append(layer.name)
    return names


def _spell_operator(layer: LayerLatency) -> str:
    """Spell module and operator: `/body/layer.0/Softmax` and `body.layer.0/Softmax` are one."""
    name = layer.name.removesuffix("_quant").removesuffix("_QuantizeLinear")
    return name.strip("/").replace("/", ".")


def _spell_module(layer: LayerLatency) -> str:
    """Spell the module alone: `/body/dense/MatMul_quant` is `body.dense`."""
    if layer.op in BESIDE:
        return ""
    name = layer.name
    if name.startswith("/"):
        name = name.rpartition("/")[0]
    return name.strip("/").replace("/", ".")


def _change(
    name: str,
    before: LayerLatency | None,
    after: LayerLatency | None,
    explain_change: ExplainChange | None,
) -> LayerChange:
    explanation = None
    if explain_change is not None and before is not None and after is not None:
        explanation = explain_change(before.implementation, after.implementation)
    return LayerChange(
        name,
        None if before is None else before.inference_s,
        None if after is None else after.inference_s,
        None if before is None else before.implementation,
        None if after is None else after.implementation,
        explanation,
        None if before is None else before.margin_s,
        None if after is None else after.margin_s,
    )


def _join_findings(baseline: Measurement, candidate: Measurement) -> tuple[Finding, ...]:
    """Findings of both records, each saying whose it is; what both share is said once."""
    shared = [finding for finding in baseline.findings if finding in candidate.findings]
    joined = list(shared)
    for side, record in (("baseline", baseline), ("candidate", candidate)):
        own = [finding for finding in record.findings if finding not in shared]
        joined += [Finding(finding.code, f"{side}: {finding.text}") for finding in own]
    return tuple(joined)


def _divide(before: int | None, after: int | None) -> float | None:
    return before / after if before and after else None


def invert_interval(interval: tuple[float, float]) -> tuple[float, float]:
    """The interval of a speed-up from that of a ratio."""
    low, high = interval
    return 1 / high, (1 / low if low > 0 else float("inf"))
