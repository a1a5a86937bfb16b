"""What each command answers, on the virtual device: views, JSON, exit codes, the store."""

from __future__ import annotations

import json

import pytest

from hwbench.records.measurement import Measurement
from hwbench.render.documents import profile_document
from tests.support.cli_support import hwb

__all__ = ["hwb"]
VIRTUAL = ("--device", "virtual")
SIDE = {"median_s", "samples_s", "session", "macs", "params", "file_bytes", "peak_memory_bytes"}


def test_profile_shows_the_answer_first_and_its_record_last(hwb):
    found = hwb("profile", "big.onnx", *VIRTUAL)
    assert found.code == 0
    assert found.err == ""
    head, last = (
        found.out.splitlines()[0],
        found.out.strip().rpartition("\n\n")[2].replace("\n", " "),
    )
    assert head.startswith("big.onnx on simulated device")
    assert "features.1.conv" in found.out
    assert "\nrest" in found.out
    (stored,) = hwb("store", "list", "--json", "-").json["measurements"]
    assert f"record {stored['id'][:12]}" in last


def test_profile_json_has_the_documented_form(hwb):
    found = hwb("profile", "big.onnx", *VIRTUAL, "--json", "-")
    data = found.json
    assert found.err == ""
    assert data["schema"] == 1
    assert data["model"] == "big.onnx"
    assert len(data["samples_s"]) == len(data["session"]) > 0
    low, high = data["median_ci_s"]
    assert low < data["median_s"] < high
    of_layer = {"name", "op", "key", "implementation", "median_s", "share", "calls"}
    assert of_layer | {"ci_s", "is_bound", "ceiling_share", "bound_by"} == set(data["layers"][0])
    total = sum(row["median_s"] * row["calls"] for row in data["layers"])
    assert data["layers_sum_s"] == pytest.approx(total)
    assert data["closure"] == pytest.approx(total / data["median_s"])
    assert data["rest_s"] == pytest.approx(data["median_s"] - total)
    assert sum(row["share"] for row in data["layers"]) + data["rest_s"] / data[
        "median_s"
    ] == pytest.approx(1)
    assert data["rest_cause"]
    assert {"macs", "params", "device", "findings"} <= set(data)


def test_layers_are_null_when_not_asked_for(hwb):
    data = hwb("profile", "big.onnx", *VIRTUAL, "--no-layers", "--json", "-").json
    assert [
        data[name] for name in ("layers", "layers_sum_s", "closure", "rest_s", "rest_cause")
    ] == [None] * 5
    compared = hwb("compare", "big.onnx", "small.onnx", *VIRTUAL, "--no-layers", "--json", "-").json
    assert compared["layers"] is None


def test_profile_without_a_model_takes_the_default(hwb, monkeypatch):
    import hwbench
    from hwbench.workflows.defaults import DEFAULT_MODEL

    asked = []
    real = hwbench.profile
    monkeypatch.setattr(
        "hwbench.workflows.profile.profile",
        lambda model, **rest: asked.append(model) or real("big.onnx", **rest),
    )
    assert hwb("profile", *VIRTUAL).code == 0
    assert asked == [DEFAULT_MODEL]


def test_compare_json_has_the_documented_form(hwb):
    data = hwb("compare", "big.onnx", "small.onnx", *VIRTUAL, "--json", "-").json
    assert data["schema"] == 1
    assert set(data["baseline"]) >= SIDE
    assert set(data["candidate"]) >= SIDE
    assert data["verdict"] == "FASTER"
    low, high = data["speedup_ci"]
    assert 1 < low < data["speedup"] < high
    assert data["confidence"] == 0.95
    assert data["macs_ratio"] == data["baseline"]["macs"] / data["candidate"]["macs"]
    assert data["params_ratio"] == data["baseline"]["params"] / data["candidate"]["params"]
    assert data["baseline"]["peak_memory_bytes"] is None
    for row in data["layers"]:
        assert row["saved_s"] == pytest.approx(row["baseline_s"] - row["candidate_s"])


@pytest.mark.parametrize(
    ("models", "more", "code", "word"),
    [
        (("big.onnx", "small.onnx"), (), 0, ""),
        (("big.onnx", "big.onnx"), ("--device", "virtual:noise=none"), 0, ""),
        (("small.onnx", "big.onnx"), (), 1, "SLOWER"),
        (("big.onnx", "big.onnx"), ("--budget", "1"), 5, "UNRESOLVED"),
        (("big.onnx", "tiny_input.onnx"), (), 2, "--input"),
    ],
)
def test_exit_code_of_each_verdict(hwb, models, more, code, word):
    found = hwb("compare", *models, *VIRTUAL, "--no-layers", *more)
    assert found.code == code
    assert found.err.count("\n") == (1 if word else 0)
    assert word in found.err


def test_incomparable_records_end_with_2_even_if_a_rule_is_hit(hwb, monkeypatch):
    from dataclasses import replace

    import hwbench
    from hwbench.records.comparison import compare as compare_records

    real = hwbench.compare

    def spoiled(*models, **rest):
        found = real(*models, **rest)
        return compare_records(found.baseline, replace(found.candidate, batch=2))

    monkeypatch.setattr("hwbench.workflows.compare.compare", spoiled)
    found = hwb("compare", "big.onnx", "small.onnx", *VIRTUAL, "--fail-on", "speedup<2")
    assert found.code == 2
    assert "INCOMPARABLE" in found.err
    assert "batch" in found.err
    assert found.out.startswith("not comparable")
    data = hwb("compare", "big.onnx", "small.onnx", *VIRTUAL, "--json", "-").json
    assert data["speedup"] is None
    assert data["speedup_ci"] is None


@pytest.mark.parametrize(
    ("rules", "code", "lines"),
    [
        (["speedup<1.1"], 0, 0),
        (["speedup<100"], 1, 1),
        (["speedup > 1.1", "macs_ratio>=1"], 1, 2),
        (["params_ratio<=0.5", "speedup<1.1"], 0, 0),
        (["candidate_median_s>1"], 0, 0),
        (["candidate_median_s>0.000001"], 1, 1),
    ],
)
def test_fail_on_of_compare(hwb, rules, code, lines):
    words = [word for rule in rules for word in ("--fail-on", rule)]
    found = hwb("compare", "big.onnx", "small.onnx", *VIRTUAL, "--no-layers", *words)
    assert found.code == code
    assert found.err.count("--fail-on") == found.err.count("\n") == lines


def test_fail_on_of_profile_and_selftest(hwb):
    assert hwb("profile", "big.onnx", *VIRTUAL, "--fail-on", "median_s>1").code == 0
    assert hwb("profile", "big.onnx", *VIRTUAL, "--fail-on", "median_s>1e-9").code == 1
    unmeasured = hwb("profile", "big.onnx", *VIRTUAL, "--no-layers", "--fail-on", "closure<0.9")
    assert unmeasured.code == 2
    assert "closure" in unmeasured.error
    selftest = ("selftest", "--model", "big.onnx", "--runs", "1", *VIRTUAL)
    assert hwb(*selftest, "--fail-on", "noise_floor>0.5").code == 0
    assert hwb(*selftest, "--fail-on", "noise_floor<0.5").code == 1


def test_min_effect_decides_between_same_and_faster(hwb):
    words = (
        "compare",
        "big.onnx",
        "odd.onnx",
        "--device",
        "virtual:noise=none",
        "--no-layers",
        "--json",
        "-",
    )
    assert hwb(*words, "--min-effect", "0.1%").json["verdict"] == "FASTER"
    assert hwb(*words, "--min-effect", "0.5").json["verdict"] == "SAME"


def test_settings_reach_the_record(hwb):
    words = ("--threads", "2", "--seed", "7", "--budget", "5", "--precision", "fp32", "--no-save")
    data = hwb("profile", "big.onnx", "--device", "virtual:seed=4", *words, "--json", "-").json
    settings = data["record"]["settings"]
    assert (settings["threads"], settings["seed"], settings["budget_s"]) == (2, 7, 5.0)
    assert data["device"]["address"] == "virtual:seed=4"
    assert not (hwb.folder / "store.db").exists()


def test_json_file_comes_beside_the_view(hwb):
    found = hwb("profile", "big.onnx", *VIRTUAL, "--json", "out.json")
    assert found.out.startswith("big.onnx on")
    assert json.loads((hwb.folder / "out.json").read_text())["model"] == "big.onnx"


def test_markdown_is_a_table(hwb):
    found = hwb("compare", "big.onnx", "small.onnx", *VIRTUAL, "--format", "md")
    assert found.out.startswith("**")
    assert "| layer | baseline | candidate | saved | 95 % | runs as |\n| --- | ---: |" in found.out


def test_what_a_model_prints_stays_off_standard_output(hwb, monkeypatch):
    (hwb.folder / "noisy_factory.py").write_text(
        "from torch import nn\n\ndef build():\n    print('hello from the factory')\n    return"
        " nn.Conv2d(3, 8, 3)\n"
    )
    monkeypatch.syspath_prepend(str(hwb.folder))
    found = hwb("profile", "noisy_factory:build", "--input", "1x3x8x8", *VIRTUAL, "--json", "-")
    assert found.code == 0, found.err
    assert found.json["median_s"] > 0
    assert "hello from the factory" in found.err


def test_selftest_counts_false_verdicts(hwb):
    words = ("selftest", "--model", "big.onnx", "--runs", "2", *VIRTUAL)
    data = hwb(*words, "--json", "-").json
    assert data["runs"] == len(data["comparisons"]) == 2
    assert data["false_verdicts"] == sum(
        row["verdict"] in {"FASTER", "SLOWER"} for row in data["comparisons"]
    )
    assert 0 < data["noise_floor"] < 0.1
    assert f"{data['false_verdicts']} of 2 comparisons" in hwb(*words).out


def test_devices_and_doctor(hwb):
    listed = hwb("devices", "--json", "-").json["devices"]
    assert {"address", "description", "ready", "hint"} == set(listed[0])
    assert "virtual" in hwb("devices").out
    assert hwb("doctor", *VIRTUAL).code == 0
    assert {"device", "conditions", "healthy", "advice"} <= set(
        hwb("doctor", *VIRTUAL, "--json", "-").json
    )


def test_store_lists_shows_and_exports(hwb):
    assert "no measurement in" in hwb("store", "list").out
    hwb("profile", "big.onnx", *VIRTUAL)
    hwb("profile", "small.onnx", *VIRTUAL, "--no-layers")
    assert len(hwb("store", "list", "--json", "-").json["measurements"]) == 2
    (row,) = hwb("store", "list", "--model", "big.onnx", "--json", "-").json["measurements"]
    assert row["complete"]
    shown = hwb("store", "show", row["id"][:8])
    assert shown.out.startswith("big.onnx on")
    record = Measurement.from_dict(hwb("store", "show", row["id"], "--json", "-").json)
    assert record.id == row["id"]
    assert profile_document(record)["layers"]
    lines = hwb("store", "export").out.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["measurement"] * 2
    assert hwb("store", "export", "all.jsonl").out == "2 records written to all.jsonl\n"
    assert (hwb.folder / "all.jsonl").read_text().splitlines() == lines


def test_store_option_wins_over_the_environment(hwb):
    hwb("profile", "big.onnx", *VIRTUAL, "--no-layers", "--store", "other.db")
    assert not (hwb.folder / "store.db").exists()
    assert len(hwb("store", "list", "--store", "other.db", "--json", "-").json["measurements"]) == 1


def test_models_that_take_other_inputs_are_incomparable_for_machines_too(hwb):
    found = hwb("compare", "big.onnx", "tiny_input.onnx", *VIRTUAL, "--json", "-")
    assert found.code == 2
    assert found.json["verdict"] == "INCOMPARABLE"
    assert found.json["speedup"] is None
    assert "1x3x16x16" in found.json["findings"][0]["text"]
    assert found.err.count("\n") == 1
