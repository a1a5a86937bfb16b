"""Comparison: pairing, verdicts, and the sentences that explain them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwbench.devices.shared.ort.layers import explain_change
from hwbench.devices.virtual.device import Law, Virtual
from hwbench.devices.virtual.noise import White
from hwbench.measuring.sessions import measure, measure_interleaved
from hwbench.records.comparison import compare, explained_share
from hwbench.records.measurement import LayerLatency, LayerProfile, Settings
from hwbench.stats import Verdict
from tests.support.models import conv_workload, told

A, B = told("a"), told("b")
QUICK = Settings(layers=False, budget_s=20)


def pair(ratio: float, *, macs=(1000, 1000)):
    """Two interleaved records whose true ratio is `ratio`."""
    with Virtual(
        latencies_s={A.sha256: 0.01, B.sha256: 0.01 * ratio}, noise=(White(0.005),)
    ) as device:
        first, second = measure_interleaved(
            device, [replace(A, macs=macs[0]), replace(B, macs=macs[1])], QUICK
        )
    return first, second


def with_layers(record, **layers):
    rows = tuple(
        LayerLatency(name, "Conv", None, how, seconds) for name, (seconds, how) in layers.items()
    )
    return replace(record, profile=LayerProfile(rows, 0.01, 0.0, "nothing"))


def codes(comparison) -> set[str]:
    return {finding.code for finding in comparison.findings}


def test_speedup_is_the_inverse_of_the_ratio():
    found = compare(*pair(0.5))
    assert found.verdict is Verdict.FASTER
    assert found.speedup == pytest.approx(2.0, rel=0.01)
    assert found.speedup_ci[0] < found.speedup < found.speedup_ci[1]


def test_one_after_the_other_is_incomparable():
    with Virtual(latencies_s={A.sha256: 0.01}) as device:
        found = compare(measure(device, A, QUICK), measure(device, A, QUICK))
    assert found.verdict is Verdict.INCOMPARABLE
    assert found.speedup is None
    assert "not interleaved" in found.findings[0].text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"batch": 2}, "batch"),
        ({"clock": "other"}, "clock"),
        ({"settings": Settings(threads=2)}, "threads"),
    ],
)
def test_what_differs_is_named(change, word):
    first, second = pair(1.0)
    found = compare(first, replace(second, **change))
    assert found.verdict is Verdict.INCOMPARABLE
    assert word in found.findings[0].text


def test_precision_may_differ_and_is_said():
    first, second = pair(1.0)
    found = compare(first, replace(second, precision="int8"))
    assert found.verdict is Verdict.SAME
    assert "precision_differs" in codes(found)


def test_fewer_macs_without_gain_are_blamed_on_the_layout():
    first, second = pair(1.0, macs=(2000, 1000))
    found = compare(
        with_layers(first, a=(0.004, "nchwc16"), b=(0.006, "nchwc16")),
        with_layers(second, a=(0.005, "nchw"), b=(0.005, "nchw")),
        explain_change=explain_change,
    )
    text = next(finding.text for finding in found.findings if finding.code == "macs_without_gain")
    assert "2.00x fewer MACs, no faster: 2 layers fell off the blocked layout" in text
    assert "not multiples of 16" in text
    assert "fell_off_layout" in codes(found)


def test_a_gain_that_follows_the_macs_needs_no_sentence():
    found = compare(*pair(0.5, macs=(2000, 1000)))
    assert "macs_without_gain" not in codes(found)


def test_layers_are_matched_by_path_and_absent_ones_are_none():
    first, second = pair(0.5)
    found = compare(
        with_layers(first, a=(0.004, "x"), gone=(0.006, "x")),
        with_layers(second, a=(0.003, "x"), new=(0.002, "x")),
    )
    rows = {change.name: (change.baseline_s, change.candidate_s) for change in found.layers}
    assert rows == {"a": (0.004, 0.003), "gone": (0.006, None), "new": (None, 0.002)}
    assert sum(change.saved_s for change in found.layers) == pytest.approx(0.005)
    assert explained_share(found) == pytest.approx(1.0, rel=0.02)


def named(record, *rows):
    layers = tuple(LayerLatency(name, op, None, "", 1e-6) for name, op in rows)
    return replace(record, profile=LayerProfile(layers, 0.01, 0.0, "nothing"))


def test_layers_are_matched_by_path_however_exporters_and_quantisers_spell_it():
    one, two = pair(0.5)
    one = named(
        one,
        ("body.layer.0.dense", "Linear"),
        ("body.layer.0/Softmax", "Softmax"),
        ("body.layer.0/MatMul_1", "MatMul"),
        ("body.words", "Gather"),
        ("body.norm", "LayerNormalization"),
        ("head", "Linear"),
        ("stem.conv", "Conv"),
    )
    two = named(
        two,
        ("/body/layer.0/dense/MatMul_quant", "MatMulInteger"),
        ("/body/layer.0/dense/Add", "Add"),
        ("/body/layer.0/Softmax", "Softmax"),
        ("/body/layer.0/MatMul_1", "MatMul"),
        ("/body/words/Gather", "Gather"),
        ("/body/words/Gather_output_0_DequantizeLinear", "DequantizeLinear"),
        ("/body/norm/Div", "Div"),
        ("/body/norm/Sqrt", "Sqrt"),
        ("/head/Gemm_quant", "QGemm"),
        ("stem.conv", "Conv"),
    )
    changes = {change.name: change for change in compare(one, two).layers}
    alone = {
        name
        for name, change in changes.items()
        if change.baseline_s is None or change.candidate_s is None
    }
    assert alone == {
        "body.norm",  # whose parts are several
        "/body/norm/Div",
        "/body/norm/Sqrt",
        "/body/layer.0/dense/Add",
        "/body/words/Gather_output_0_DequantizeLinear",
    }
    assert len(changes) == 7 + 4


def test_layers_that_do_not_add_up_to_the_difference_are_confessed():
    first, second = pair(0.5)
    found = compare(with_layers(first, a=(0.004, "x")), with_layers(second, a=(0.0039, "x")))
    assert "layers_do_not_explain" in codes(found)


def test_layers_of_real_graphs_explain_a_narrower_network():
    before, after = conv_workload((32, 64, 64)), conv_workload((32, 32, 64))
    with Virtual(law=Law(macs_per_s=1e9), noise=(White(0.002),)) as device:
        found = compare(*measure_interleaved(device, [before, after], Settings(budget_s=20)))
    assert found.verdict is Verdict.FASTER
    assert explained_share(found) == pytest.approx(1.0, abs=0.05)
    saved = {change.name: change.saved_s for change in found.layers}
    assert saved["features.1.conv"] > 5 * abs(saved["features.0.conv"])


def test_findings_say_whose_they_are():
    first, second = pair(1.0)
    from hwbench.records.findings import Finding

    mine, shared = Finding("drift", "it drifted"), Finding("export_differs", "a little")
    found = compare(replace(first, findings=(mine, shared)), replace(second, findings=(shared,)))
    assert Finding("drift", "baseline: it drifted") in found.findings
    assert found.findings.count(shared) == 1


def test_runtimes_may_differ_where_both_were_asked_for():
    first, second = pair(0.5)
    other = replace(second.device, runtime="other 1.0")
    strange = compare(first, replace(second, device=other))
    assert strange.verdict is Verdict.INCOMPARABLE
    assert "runtime" in strange.findings[0].text
    asked = replace(second, device=replace(other, address="other"), clock="of the other")
    found = compare(first, asked)
    assert found.verdict is Verdict.FASTER
    assert "other (other 1.0)" in found.findings[0].text
    elsewhere = replace(asked, device=replace(asked.device, target_id="another machine"))
    assert compare(first, elsewhere).verdict is Verdict.INCOMPARABLE


def test_what_fell_back_is_said_first():
    from hwbench.records.findings import Finding

    first, second = pair(0.5, macs=(3000, 1000))
    fallen = replace(second, findings=(Finding("provider_fell_back", "half of it"),))
    assert compare(first, fallen).findings[0] == Finding(
        "provider_fell_back", "candidate: half of it"
    )
