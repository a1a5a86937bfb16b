"""Every view of records whose names are chosen: what a hostile model file can put in front of a
reader.
"""

from __future__ import annotations

import io
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from hwbench.devices.base import Advice, Found
from hwbench.records.comparison import compare
from hwbench.records.findings import Finding
from hwbench.render import searching, tables
from hwbench.render.blocks import View, write_markdown, write_text
from hwbench.render.comparing import compare_view
from hwbench.render.views import devices_view, doctor_view, profile_view, selftest_view, store_view
from hwbench.search.base import Candidate, Outcome, Trial
from hwbench.store import Summary
from hwbench.workflows.doctor import Diagnosis
from hwbench.workflows.predict import ModelPrediction
from hwbench.workflows.search.plan import Plan
from hwbench.workflows.search.result import SearchResult
from hwbench.workflows.selftest import SelfTest
from tests.render.test_render_views import CPU, NOW, layers, record
from tests.support import table_support

TRICKY = "aZ09._-/ |*`_[]<>&#$~\\!层积모😀e\u0301\u202e\x1b\x07\n\t"
NAMES = st.text(st.sampled_from(TRICKY) | st.characters(codec="utf-8"), min_size=1, max_size=150)
"""Long, wide, combining, right to left, with control characters, and all that means something in
Markdown.
"""
patiently = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""How examples are tried on a machine that does other things too: no time decides."""


def measured(name: str) -> dict[str, View]:
    """Views of measurements and devices."""
    device = replace(CPU, target=name, runtime=name)
    rows = tuple(
        replace(layer, name=f"{name}{n}", op=name, implementation=name)
        for n, layer in enumerate(layers().layers)
    )
    profile, findings = (
        replace(layers(), layers=rows, rest_cause=name),
        (Finding("noisy_host", name),),
    )
    base = record(model=name, device=device, profile=profile, findings=findings)
    comparison = compare(
        base,
        replace(
            base,
            id="f" * 32,
            series=replace(base.series, samples_s=tuple(s / 2 for s in base.series.samples_s)),
        ),
    )
    advice = (
        Advice("governor", ok=False, text=name, remedy=name),
        Advice("load", ok=True, text=name),
    )
    summary = Summary(
        "0123456789abcdef" * 2, name, "s", name, "t", NOW.at_utc, 1400, complete=False
    )
    return {
        "profile": profile_view(base),
        "compare": compare_view(comparison, all_layers=True),
        "selftest": selftest_view(SelfTest(device, (comparison,))),
        "doctor": doctor_view(Diagnosis(device, NOW, advice)),
        "devices": devices_view([Found(name, name, ready=False, hint=name)]),
        "store": store_view(f"sqlite:///{name}", [summary]),
        "search": searching.search_view(found(name)),
    }


def found(name: str) -> SearchResult:
    """A search that went through everything a result can hold."""
    outcome = Outcome(0.91, 0.0101, 285_000_000, 2_600_000, 10_400_000)
    best = Trial(Candidate(3, widths=tuple(range(8, 400, 8))), outcome)
    return SearchResult(
        key="0123456789abcdef",
        model=name,
        plan=Plan.of("amc", reward="latency"),
        objective=name,
        original=outcome,
        best=best,
        limit=0.02,
        trials=(best, Trial(Candidate(4), error=name)),
        baselines={"uniform": best, name: None},
        resumed=1,
        layers=((name, name),) * 5,
        comparison=None,
        tuned="kd",
        quality=0.9,
        original_quality=0.92,
        out=None,
        findings=(Finding("extrapolated", name),),
    )


def tabled(name: str) -> dict[str, View]:
    """Views of a lookup table."""
    table = table_support.built(quiet=True).table
    made = table.provenance
    device, sources = (
        replace(made.device, target=name, address=name),
        tuple(replace(s, model=name) for s in made.sources),
    )
    named = table._twin(
        metadata=replace(
            table.metadata, provenance=replace(made, device=device, sources=sources, note=name)
        )
    )
    keys = [slot.layer.key for slot in table_support.structure().slots]
    parts = table.layers(keys)
    total = table.total(parts)
    told = ModelPrediction(
        name, name, total.latency_s, total.ci_s, tuple(parts), tuple(map(str, keys))
    )
    return {
        "show": tables.table_view(named),
        "list": tables.list_view({"0123456789abcdef": named}),
        "predict": tables.prediction_view(told),
    }


def text(view: View, width: int | None = 80) -> str:
    file = io.StringIO()
    write_text(view, file, width)
    return file.getvalue()


def markdown(view: View) -> str:
    file = io.StringIO()
    write_markdown(view, file)
    return file.getvalue()
