"""`--format` says what is printed, `--json FILE` writes JSON beside it."""

from __future__ import annotations

import json

import pytest

from tests.render.test_render_markdown import rows_of
from tests.support.cli_support import hwb

__all__ = ["hwb"]

DEVICE = ("--device", "virtual:noise=none", "--budget", "2")
PROFILE = ("profile", "big.onnx", *DEVICE)


def test_format_json_is_json_on_standard_output(hwb):
    printed, dashed = hwb(*PROFILE, "--format", "json"), hwb(*PROFILE, "--json", "-")
    assert printed.code == 0
    assert printed.json.keys() == dashed.json.keys()
    assert printed.json["median_s"] == dashed.json["median_s"]


@pytest.mark.parametrize(
    ("layout", "begins"), [("text", "big.onnx on"), ("md", "**big.onnx on"), ("json", "{")]
)
def test_a_file_comes_beside_whatever_is_printed(hwb, layout, begins):
    found = hwb(*PROFILE, "--format", layout, "--json", "out.json")
    assert found.code == 0
    assert found.out.startswith(begins)
    kept = (hwb.folder / "out.json").read_text()
    assert json.loads(kept)["model"] == "big.onnx"
    assert layout != "json" or kept == found.out


def test_standard_output_holds_one_thing(hwb):
    found = hwb(*PROFILE, "--format", "md", "--json", "-")
    assert found.json["model"] == "big.onnx"


def test_incomparable_models_are_json_too(hwb):
    found = hwb("compare", "big.onnx", "tiny_input.onnx", *DEVICE, "--format", "json")
    assert found.code == 2
    assert found.json["verdict"] == "INCOMPARABLE"


def test_an_unknown_format_is_refused(hwb):
    refused = hwb(*PROFILE, "--format", "html")
    assert refused.code == 2
    assert "'text', 'md', 'json'" in refused.error


@pytest.mark.slow
def test_markdown_of_all_that_goes_into_a_pull_request(hwb):
    on = "virtual:noise=none"
    build = ("table", "build", "big.onnx", *DEVICE, "--validation", "2")
    commands = {
        build: "held-out pruned networks",
        (
            "table",
            "validate",
            "big.onnx",
            *DEVICE,
            "--networks",
            "8",
        ): "5th to 95th percentile of the errors",
        ("table", "show", on): "| layer | step |",
        ("table", "predict", "big.onnx", "--table", on): "| layer | from | latency | share |",
        ("compare", "big.onnx", "small.onnx", "--device", on): "| samples |",
        (
            "search",
            "amc",
            "zoo:mobilenet_v1",
            "--table",
            "pixel1",
            "--latency",
            "0.55",
            "--trials",
            "4",
        ): "| network |",
    }
    for words, said in commands.items():
        found = hwb(*words, "--format", "md")
        assert found.code == 0, found.err
        assert found.out.startswith("**")
        assert said in found.out
        rows_of(found.out)
