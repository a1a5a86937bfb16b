"""`hwbench history`, `compare --against TAG`, `compare RECORD RECORD`, and what the store lists."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pytest

from hwbench.store import open_store
from tests.support.cli_support import hwb
from tests.support.models import conv_net

pytestmark = pytest.mark.slow

__all__ = ["hwb"]

DEVICE = ("--device", "virtual:step=1", "--budget", "8", "--no-layers")
START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def weeks(hwb):
    """A store with ten measurements of one model, one a week; from the seventh on it is slower."""
    hwb("profile", "big.onnx", *DEVICE)
    (hwb.folder / "slower.onnx").write_bytes(conv_net((64, 68)))
    hwb("profile", "slower.onnx", *DEVICE)
    with open_store() as store:
        by_model = {summary.model: summary for summary in store.list()}
        quick, slow = by_model["big.onnx"], by_model["slower.onnx"]
        for number in range(10):
            record = store.get(slow.id if number >= 6 else quick.id)
            day = START + timedelta(days=7 * number)
            commit = f"{number:x}" * 40
            store.save(
                replace(
                    record,
                    id=f"{number:032x}",
                    model="net.onnx",
                    started_utc=day.isoformat(),
                    source_commit=commit,
                )
            )
    return hwb


def test_the_week_that_became_slower_is_named(weeks):
    outcome = weeks("history", "net.onnx")
    assert (outcome.code, outcome.err) == (0, "")
    text = " ".join(outcome.out.split())
    assert "10 measurements, 1 lasting change" in text
    assert "slower from 2026-04-12" in text
    assert "commit: 555555555555 → 666666666666" in text
    assert "model: " in text
    assert max(map(len, outcome.out.splitlines())) <= 80


def test_history_is_a_gate_and_a_document(weeks):
    broken = weeks("history", "net.onnx", "--fail-on", "slowdown>1.02", "--json", "-")
    assert broken.code == 1
    (timeline,) = broken.json["timelines"]
    assert [change["index"] for change in timeline["changes"]] == [6]
    assert broken.json["slowdown"] == timeline["changes"][0]["ratio"]
    assert weeks("history", "net.onnx", "--fail-on", "slowdown>1.2").code == 0
    assert weeks("history", "net.onnx", "--min-effect", "20%", "--json", "-").json["slowdown"] == 1
    assert "no measurement of 'absent'" in weeks("history", "absent").error


def test_the_list_shows_latencies(weeks):
    outcome = weeks("store", "list", "--limit", "3")
    assert " us " in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80
    rows = weeks("store", "list", "--json", "-").json["measurements"]
    with open_store() as store:
        for row in rows:
            assert row["latency_s"] == pytest.approx(store.get(row["id"]).median_s)


def test_measurements_are_deleted(weeks):
    assert weeks("store", "delete", "absent").code == 2
    done = weeks("store", "delete", "0" * 31 + "1", "0" * 31 + "2")
    assert done.out.startswith("2 measurements deleted from ")
    assert len(weeks("store", "list", "--json", "-").json["measurements"]) == 10
    assert "no measurement begins" in weeks("store", "show", "0" * 31 + "1").error


def test_old_measurements_are_pruned(weeks):
    dry = weeks("store", "prune", "--older", "2026-03-20", "--dry-run")
    assert dry.out.startswith("3 measurements would be deleted")
    assert len(weeks("store", "list", "--json", "-").json["measurements"]) == 12
    assert weeks("store", "prune", "--older", "2026-03-20").out.startswith("3 measurements deleted")
    assert len(weeks("store", "list", "--json", "-").json["measurements"]) == 9
    assert "is no date" in weeks("store", "prune", "--older", "soon").error


def test_a_tagged_model_is_measured_again_beside_the_new_one(hwb):
    words = ("compare", "--against", "main", "small.onnx", *DEVICE)
    unknown = hwb(*words)
    assert unknown.code == 2
    assert "no tag 'main'" in unknown.error
    assert "hwbench store tag main MODEL" in unknown.error
    tagged = hwb("store", "tag", "main", "big.onnx")
    assert (tagged.code, tagged.err) == (0, "")
    (hwb.folder / "big.onnx").unlink()
    document = hwb(*words, "--json", "-").json
    assert document["verdict"] == "FASTER"
    assert document["baseline"]["model"] == "big.onnx (main)"
    hwb("store", "tag", "main", "small.onnx")
    assert hwb(*words, "--json", "-").json["verdict"] == "SAME"
    assert "one model is enough" in hwb(*words, "odd.onnx").error
    assert "is no name for a tag" in hwb("store", "tag", "a tag", "small.onnx").error


def test_one_model_alone_has_nothing_to_be_compared_with(hwb):
    outcome = hwb("compare", "big.onnx")
    assert outcome.code == 2
    assert "--against" in outcome.error


def test_stored_measurements_are_compared_as_they_are(hwb):
    hwb("profile", "big.onnx", *DEVICE)
    hwb("profile", "small.onnx", *DEVICE)
    hwb("profile", "small.onnx", "--threads", "2", *DEVICE)
    with open_store() as store:  # all of the same second, so in no order
        records = [store.get(summary.id) for summary in store.list()]
    ids = {(record.model, record.settings.threads): record.id for record in records}
    first, second, threads = ids["big.onnx", 1], ids["small.onnx", 1], ids["small.onnx", 2]
    apart = hwb("compare", first[:12], second[:12])
    assert apart.code == 5
    assert "hwbench compare big.onnx small.onnx" in apart.err
    assert "not_interleaved: measured" in apart.out
    document = hwb("compare", first, second, "--json", "-").json
    assert document["verdict"] == "UNRESOLVED"
    low, high = document["speedup_ci"]
    assert low < document["speedup"] < high
    assert hwb("compare", first, threads).code == 2
    hwb("compare", "big.onnx", "small.onnx", *DEVICE)
    with open_store() as store:
        new = [summary for summary in store.list() if summary.id not in ids.values()]
    group = [summary.id for summary in sorted(new, key=lambda summary: summary.model)]
    again = hwb("compare", *group, "--json", "-").json
    assert again["verdict"] == "FASTER"
    assert again["outputs"]["snr_db"] is not None, "what was found out when they were measured"


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        (("big.onnx", "small.onnx"), None),
        (("small.onnx", "big.onnx"), "failure"),
        (("big.onnx", "small.onnx", "--fail-on", "speedup<9"), "failure"),
        (("big.onnx", "big.onnx", "--budget", "0.2"), "skipped"),
    ],
)
def test_a_comparison_is_a_case_of_junit(hwb, words, outcome):
    hwb("compare", *words[:2], *DEVICE, *words[2:], "--junit", "result.xml")
    (case,) = ET.parse(hwb.folder / "result.xml").iter("testcase")
    assert case.get("name") == f"{words[1]} against {words[0]}"
    assert [tag for tag in ("failure", "skipped", "error") if case.find(tag) is not None] == (
        [] if outcome is None else [outcome]
    )


def test_a_rule_that_was_hit_is_in_the_markdown_too(hwb):
    words = ("compare", "big.onnx", "small.onnx", *DEVICE, "--format", "md")
    broken = hwb(*words, "--fail-on", "speedup<3")
    assert broken.code == 1
    assert "**A rule was hit: speedup is " in broken.out
    assert "A rule was hit" not in hwb(*words, "--fail-on", "speedup<1.1").out
