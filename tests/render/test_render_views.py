"""Views of records made by hand: what they say, at 80 columns and beyond, on terminals and in
Markdown.
"""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from hwbench.devices.base import Advice, Found
from hwbench.records.ceilings import Bandwidth, Ceiling, Ceilings
from hwbench.records.comparison import LayerChange, compare
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.findings import Finding
from hwbench.records.layer_key import LayerKey
from hwbench.records.measurement import LayerLatency, LayerProfile, Measurement, Settings
from hwbench.records.series import Series
from hwbench.records.tensors import TensorSpec
from hwbench.render.blocks import Column, Line, Notes, Table, write_markdown, write_text
from hwbench.render.comparing import TOP_LAYERS, compare_view, verdict_text
from hwbench.render.views import devices_view, doctor_view, profile_view, selftest_view, store_view
from hwbench.store import Summary
from hwbench.workflows.doctor import Diagnosis
from hwbench.workflows.selftest import SelfTest

NOW = Conditions("2026-03-01T09:15:02+00:00", (3.2e9, 2.4e9), "performance", 54.0, 0.25)
CPU = DeviceInfo("cpu", "AMD EPYC 9354, 2 cores", "epyc", "onnxruntime 1.32.0")
LONG = "backbone.encoder.stages.3.blocks.11.attention.projection.conv"


def layers(scale: float = 1.0, count: int = 3, how: str = "nchwc16") -> LayerProfile:
    rows = [
        LayerLatency(f"{LONG}{i}", "GlobalAveragePool", None, how, scale * (i + 1) * 1e-3)
        for i in range(count)
    ]
    return LayerProfile(tuple(rows), 0.02, 1e-6, "time between layers that no profiler sees")


def record(latency_s: float = 0.01, **changes) -> Measurement:
    """Eight sessions of three samples, a per mille apart, whose latency is exactly `latency_s`."""
    sessions = [session for session in range(8) for _ in range(3)]
    samples = tuple(
        latency_s * 1.001 ** (index % 3 - 1 + (-1) ** session)
        for index, session in enumerate(sessions)
    )
    base = Measurement(
        id="0123456789abcdef" * 2,
        group_id="g",
        model="a/very/long/path/to/some/models/resnet18_pruned_by_half.onnx",
        model_sha256="s",
        inputs=(TensorSpec("x", (1, 3, 224, 224)),),
        batch=1,
        precision="fp32",
        macs=1_820_000_000,
        params=11_690_000,
        file_bytes=46_800_000,
        peak_memory_bytes=None,
        device=CPU,
        settings=Settings(),
        clock="perf_counter",
        loops=1,
        series=Series(samples, tuple(sessions), tuple(range(24))),
        warm_up=Series(),
        before=NOW,
        after=NOW,
        findings=(
            Finding("too_few_samples", "3 of at least 8 sessions fit into 1 s; raise --budget"),
        ),
        profile=layers(),
        started_utc="2026-03-01T09:15:02+00:00",
        hwbench_version="0.1.0",
        commit="c0ffee" * 6,
        complete=True,
    )
    return replace(base, **changes)


def text(view, width: int = 80) -> str:
    file = io.StringIO()
    write_text(view, file, width)
    return file.getvalue()


def markdown(view) -> str:
    file = io.StringIO()
    write_markdown(view, file)
    return file.getvalue()


def flat(shown: str) -> str:
    return " ".join(shown.split())


def compared(ratio: float, **changes):
    smaller = {
        "macs": 900_000_000,
        "id": "fedcba9876543210" * 2,
        "profile": layers(ratio),
        **changes,
    }
    return compare(record(), record(0.01 * ratio, **smaller))


def every_view():
    found = [
        Found("cpu", CPU.target, ready=True),
        Found("tensorrt", "NVIDIA", ready=False, hint="pip install " + "x" * 90),
    ]
    advice = (
        Advice(
            "governor",
            False,
            "the governor is powersave " * 4,
            "sudo cpupower frequency-set -g performance",
        ),
    )
    summary = Summary(
        "0123456789abcdef" * 2,
        record().model,
        "s",
        "android:SERIAL0123456789",
        "t",
        NOW.at_utc,
        1400,
        complete=False,
    )
    comparison = compared(0.5)
    return {
        "profile": profile_view(record()),
        "compare": compare_view(comparison),
        "selftest": selftest_view(SelfTest(CPU, (comparison, compared(1.0)))),
        "doctor": doctor_view(
            Diagnosis(CPU, NOW, (*advice, Advice("load", True, "nothing else runs")))
        ),
        "devices": devices_view(found),
        "store": store_view("sqlite:////home/someone/.local/share/hwbench/store.db", [summary]),
        "empty store": store_view("sqlite:///x.db", []),
    }


@pytest.mark.parametrize(("ready", "shown"), [(True, True), (False, False)])
def test_how_a_driver_can_be_proven_is_shown_where_one_is_not_yet(ready, shown):
    target = Found("android:S", "a phone", ready=ready, hint="not on a phone yet")
    view = devices_view([target], proof_hint="prove it like this")
    assert ("prove it like this" in text(view, 80)) is shown
    proven = Found("cpu", "a CPU", ready=True)
    assert "prove it" not in text(devices_view([proven], proof_hint="prove it like this"), 80)


@pytest.mark.parametrize("name", every_view())
@pytest.mark.parametrize("width", [80, 60])
def test_nothing_is_wider_than_the_terminal(name, width):
    shown = text(every_view()[name], width)
    assert shown.strip()
    assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize("name", every_view())
def test_no_colours_outside_a_terminal(name):
    assert "\x1b" not in text(every_view()[name])


def test_no_colour_is_respected_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def shown() -> str:
        file = Terminal()
        write_text([Notes((("drift", "it drifts"),))], file, 80)
        return file.getvalue()

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[33m" in shown()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[33m" not in shown()


def test_profile_says_what_where_and_how_sure():
    shown = text(profile_view(record(model="zoo:resnet18")))
    head = flat(shown.partition("\n\n")[0])
    assert head.startswith(
        "zoo:resnet18 on AMD EPYC 9354, 2 cores (onnxruntime 1.32.0, fp32, 1 thread): 10.00 ms (95"
        " % interval 9.9"
    )
    assert head.endswith("8 sessions)")
    assert shown.partition("\n\n")[2].startswith("! too_few_samples: 3 of at least")
    for part in (
        "1.82 G MACs",
        "11.69 M parameters",
        "46.80 MB",
        "1x3x224x224",
        "0123456789ab",
        "perf_counter",
        "2026-03-01 09:15:02 UTC",
    ):
        assert part in flat(shown)


def test_rest_and_closure_are_shown():
    shown = text(profile_view(record()))  # three layers of 1, 2 and 3 ms in a network of 10 ms
    rest = next(line for line in shown.splitlines() if line.startswith("rest"))
    assert rest.split()[1:] == ["4.000", "ms", "40.0", "%"]
    assert (
        "add up to 60.0 % of the latency; the rest is time between layers that no profiler sees."
        in flat(shown)
    )


def test_long_paths_lose_their_middle_and_get_it_back():
    narrow, wide = (text(profile_view(record()), width) for width in (80, 200))
    assert LONG not in narrow
    assert "…" in narrow
    assert "conv2" in narrow
    assert LONG in wide
    assert LONG in markdown(profile_view(record())).replace("\\", "")


def test_a_record_without_layers_or_samples():
    assert "layer" not in text(profile_view(record(profile=None, findings=())))
    empty = record(series=Series(), complete=False, clock="")
    shown = flat(text(profile_view(empty)))
    assert "no sample was taken" in shown
    assert "ended before it was complete" in shown


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (0.5, "2.00x faster (95 % interval"),
        (2.0, "2.00x slower (95 % interval"),
        (1.0, "the same speed to within 1.0 %: 1.000x (95 % interval"),
    ],
)
def test_headline_of_a_comparison(ratio, said):
    assert verdict_text(compared(ratio)).startswith(said)
    assert flat(text(compare_view(compared(ratio)))).startswith(said)


def test_unresolved_and_incomparable_headlines():
    pair = compared(1.0)
    noisy = replace(
        pair.candidate,
        series=replace(
            pair.candidate.series,
            samples_s=tuple(
                s * (1 + 0.1 * (n % 2))
                for s, n in zip(
                    pair.candidate.series.samples_s, pair.candidate.series.session, strict=True
                )
            ),
        ),
    )
    headline = verdict_text(compare(pair.baseline, noisy))
    assert headline.startswith("cannot tell from 8 sessions: 0.95")
    assert "99.6 % interval that verdicts rest on is 0.803" in headline
    assert (
        verdict_text(compare(pair.baseline, replace(pair.candidate, batch=2))) == "not comparable"
    )
    assert "batch" in text(compare_view(compare(pair.baseline, replace(pair.candidate, batch=2))))


def test_an_interval_that_tells_nothing_is_not_shown():
    pair = compared(1.0)

    def two_sessions(record, first_s, second_s):
        series = Series((first_s,) * 4 + (second_s,) * 4, (0,) * 4 + (1,) * 4, tuple(range(8)))
        return replace(record, series=series)

    baseline = two_sessions(pair.baseline, 0.010, 0.010)
    candidate = two_sessions(pair.candidate, 0.001, 0.016)
    shown = flat(text(compare_view(compare(baseline, candidate))))
    assert "cannot tell from 2 sessions: 2.50x (too early to say how sure that is); a" in shown
    assert "95 % interval 10.00 to 10.00 too early to say" in shown
    assert " 0.00 to" not in shown
    profile = flat(text(profile_view(candidate)))
    assert "4.000 ms (too early to say how sure that is, 2 sessions)" in profile


def test_findings_of_one_code_stand_on_one_line():
    pair = compared(1.0)
    findings = (Finding("bimodal", "baseline: a"), Finding("x", "y"), Finding("bimodal", "b"))
    shown = flat(text(compare_view(replace(pair, findings=findings)), 200))
    assert "bimodal: baseline: a; b" in shown
    assert shown.count("bimodal") == 1


def test_both_sides_say_their_precision():
    shown = flat(text(compare_view(compared(0.5, precision="int8")), 120))
    assert "precision fp32 int8" in shown


def test_changes_of_layers_have_margins_and_noise_is_marked():
    change = LayerChange("conv", 100e-6, 90e-6, None, None, None, 3e-6, 4e-6)
    assert change.margin_s == pytest.approx(5e-6)
    assert not change.is_noise
    noise = replace(change, name="other", candidate_s=96e-6)
    assert noise.is_noise
    unknown = replace(change, name="third", candidate_margin_s=None)
    assert unknown.margin_s is None
    gone = replace(change, name="gone", candidate_s=None, candidate_margin_s=None)
    assert gone.margin_s == 3e-6
    pair = replace(compared(0.5), layers=(change, noise, unknown))
    shown = flat(text(compare_view(pair), 120))
    assert "conv 100.0 us 90.00 us +10.00 us ±5.000 us" in shown
    assert "other 100.0 us 96.00 us +4.000 us ±5.000 us noise" in shown
    assert shown.count("±") == 2


def test_a_layer_at_a_bound_is_shown_as_one():
    base = record()
    first, *rest = base.profile.layers
    bounded = replace(first, is_bound=True)
    sure = [replace(layer, ci_s=(0.98 * layer.median_s, 1.02 * layer.median_s)) for layer in rest]
    profile = replace(base.profile, layers=(bounded, *sure))
    shown = flat(text(profile_view(replace(base, profile=profile)), 120))
    assert shown.count("≤ ") == 1
    assert "±2.0 %" in shown


def test_compare_shows_both_sides_and_what_the_layers_explain():
    shown = flat(text(compare_view(compared(0.5, precision="int8")), 120))
    assert "latency 10.00 ms 5.000 ms 2.00x" in shown
    assert "MACs 1.82 G 900.0 M 2.02x" in shown
    assert "candidate in int8" in shown
    assert "The layers account for 60.0 % of the 5.000 ms saved." in shown
    assert "records 0123456789ab and fedcba987654" in shown


def test_layers_are_ranked_and_the_rest_is_summed():
    many = TOP_LAYERS + 4
    comparison = compare(
        record(profile=layers(count=many)), record(0.009, profile=layers(0.9, count=many))
    )
    short, whole = (
        text(compare_view(comparison, all_layers=every, layers_hint="--all-layers"), 160)
        for every in (False, True)
    )
    saved = [float(line.split("+")[1].split()[0]) for line in whole.splitlines() if "+" in line]
    assert len(saved) == many
    shown = [line for line in short.splitlines() if line.startswith(LONG[:10])]
    assert len(shown) == TOP_LAYERS
    assert f"{LONG}{many - 1}" in shown[0]
    assert "4 further layers (--all-layers)" in short
    assert "+1.000 ms" in short  # the four smallest saved 0.1 + 0.2 + 0.3 + 0.4 ms


def test_a_layer_that_fell_off_its_layout_or_is_gone():
    candidate = LayerProfile((replace(layers(how="nchw").layers[0]),), 0.02, 0.0, "")
    shown = text(compare_view(compare(record(), record(0.005, profile=candidate))), 160)
    assert "nchwc16 → nchw" in shown
    gone = next(line for line in shown.splitlines() if line.startswith(f"{LONG}2"))
    assert gone.split()[3:4] == ["-"]
    assert "+3.000 ms" in gone


def test_doctor_shows_what_to_mend_first():
    shown = flat(text(every_view()["doctor"]))
    assert (
        shown.index("! governor:") < shown.index("sudo cpupower") < shown.index("nothing else runs")
    )
    assert "3.20 GHz at most, governor performance, 54 °C, load 0.25" in shown


def test_markdown_means_its_characters():
    view = [
        Line("a*b", "bold"),
        Notes((("x_y", "see <here> | there"),)),
        Table((Column("a|b"), Column("n", right=True)), (("c_d", "1"),)),
    ]
    assert (
        markdown(view)
        == "**a\\*b**\n\n- `x_y`: see \\<here\\> \\| there\n\n| a\\|b | n |\n| --- | ---: |\n|"
        " c\\_d | 1 |\n"
    )


def test_control_characters_of_a_model_reach_no_terminal():
    evil = replace(layers().layers[0], name="conv\x1b[2J\n\x07")
    profile = replace(layers(), layers=(evil,))
    for view in (
        profile_view(record(profile=profile)),
        profile_view(record(model="m\x1b]0;x\x07")),
    ):
        for shown in (text(view), markdown(view)):
            assert "\x1b" not in shown
            assert "\x07" not in shown


def test_layers_far_above_the_ceilings_cast_doubt_on_these():
    key = LayerKey.parse("Linear[64x64->64x64]{}@fp32")
    row = LayerLatency("fc", "Linear", key, "x", key.macs / 200e9)
    profile = LayerProfile((row,), 0.02, 1e-6, "what no profiler sees")
    known = Ceilings(
        CPU,
        1,
        (Ceiling("fp32", 100e9, key, (Bandwidth(1, 1e15),)),),
        "2026-03-01T09:00:00+00:00",
        "1",
    )
    shown = flat(text(profile_view(record(profile=profile), ceilings=known)))
    assert "200.0 % compute" in shown
    assert "1 layer above them" in shown
