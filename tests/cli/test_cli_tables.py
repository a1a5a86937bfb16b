from __future__ import annotations

import pytest

from tests.support.cli_support import hwb

__all__ = ["hwb"]

DEVICE = ("--device", "virtual:noise=none", "--budget", "2")


@pytest.fixture
def built(hwb):
    outcome = hwb("table", "build", "big.onnx", *DEVICE, "--validation", "2", "--json", "-")
    assert (outcome.code, outcome.err) == (0, "")
    return hwb, outcome.json


def test_a_build_reports_its_grade(built):
    _, document = built
    assert document["grade"]["networks"] == len(document["networks"]) == 2
    assert document["grade"]["mean_error"] < 0.02
    assert document["entries"] > 10
    assert all(
        low < high for low, high in (network["predicted_ci_s"] for network in document["networks"])
    )


def test_a_table_is_shown_with_its_steps_and_source(built):
    hwb, document = built
    shown = hwb("table", "show", "virtual:noise=none")
    assert "held-out pruned network" in shown.out
    assert "big.onnx" in shown.out
    by_id = hwb("table", "show", document["table"][:12], "--json", "-")
    assert by_id.json["steps"] == document["steps"]
    assert len(by_id.json["entries"]) == document["entries"]


def test_a_model_is_predicted_layer_by_layer(built):
    hwb, _ = built
    text = hwb("table", "predict", "big.onnx", "--table", "virtual:noise=none")
    assert "predicted (95 % interval" in text.out
    prediction = hwb(
        "table", "predict", "big.onnx", "--table", "virtual:noise=none", "--json", "-"
    ).json
    low_s, high_s = prediction["latency_ci_s"]
    assert low_s < prediction["latency_s"] < high_s
    measured = hwb("profile", "big.onnx", *DEVICE, "--json", "-").json["median_s"]
    assert prediction["latency_s"] == pytest.approx(measured, rel=0.02)


def test_several_models_are_predicted_by_several_tables(built):
    hwb, _ = built
    words = ("table", "predict", "big.onnx", "small.onnx", "--table", "virtual:noise=none")
    both = hwb(*words)
    assert (both.code, both.err) == (0, "")
    assert "big.onnx" in both.out
    assert "small.onnx" in both.out
    document = hwb(*words, "--table", "pixel1", "--json", "-")
    assert document.code == 2
    assert "2 of 4 predictions could not be made" in document.err
    rows = document.json["predictions"]
    assert [row["latency_s"] is None for row in rows] == [False, True, False, True]
    assert "no entry for layer" in rows[1]["error"]
    text = hwb(*words, "--table", "pixel1", "--table", "absent")
    assert "no_prediction: big.onnx by absent: no lookup table 'absent'" in " ".join(
        text.out.split()
    )
    assert max(map(len, text.out.splitlines())) <= 80


def test_a_shipped_table_says_when_it_was_made(hwb):
    assert "2026-11-22" in hwb("table", "list").out


def test_an_unknown_layer_names_the_command_that_measures_it(built):
    hwb, _ = built
    outcome = hwb("table", "predict", "tiny_input.onnx", "--table", "virtual:noise=none")
    assert outcome.code == 2
    assert "hwbench table build tiny_input.onnx --device virtual:noise=none" in outcome.error


def test_a_validation_can_fail_a_pipeline(built):
    hwb, _ = built
    words = ("table", "validate", "big.onnx", *DEVICE, "--networks", "3")
    assert hwb(*words, "--fail-on", "mean_error>0.05").code == 0
    broken = hwb(*words, "--fail-on", "mean_error<0.05")
    assert broken.code == 1
    assert "mean_error" in broken.err
    other = hwb(
        "table",
        "validate",
        "big.onnx",
        "--device",
        "virtual:step=4",
        "--table",
        "virtual:noise=none",
    )
    assert other.code == 2
    assert "hwbench table build" in other.error


def test_a_table_is_recalibrated(built):
    hwb, document = built
    outcome = hwb("table", "recalibrate", "big.onnx", *DEVICE, "--networks", "3", "--json", "-")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.json["table"] != document["table"]
    assert outcome.json["grade"]["networks"] == 3
    assert outcome.json["entries"] == document["entries"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "cpu"), "no lookup table"),
        (("build", "big.onnx", "--widths", "eight"), "auto"),
        (("build", "big.onnx", "--lower", "2"), "between 0 and 100"),
        (("build", "big.onnx", "--fail-on", "speedup<2"), "speedup"),
    ],
)
def test_impossible_requests(hwb, words, said):
    outcome = hwb("table", *words)
    assert outcome.code == 2
    assert said in outcome.error


def test_help_alone(hwb):
    assert "build" in hwb("table").out


@pytest.mark.slow
def test_a_picture_is_written(built):
    pytest.importorskip("matplotlib")
    hwb, _ = built
    assert hwb("table", "plot", "virtual:noise=none", "--out", "layers.png").code == 0
    assert (hwb.folder / "layers.png").read_bytes().startswith(b"\x89PNG")
    words = ("table", "validate", "big.onnx", *DEVICE, "--networks", "2")
    assert hwb(*words, "--plot", "truth.png").code == 0
    assert (hwb.folder / "truth.png").read_bytes().startswith(b"\x89PNG")
    assert hwb(*words, "--plot", "nowhere/truth.png").code == 2
    wrong = hwb("table", "plot", "virtual:noise=none", "--out", "layers.xyz")
    assert wrong.code == 2
    assert ".png" in wrong.error
