"""`hwbench matrix`: the table in a terminal, Markdown, CSV and JSON; exit codes; bad input."""

from __future__ import annotations

import csv
import json
from xml.etree import ElementTree as ET

import pytest

from tests.support.cli_support import hwb

pytestmark = pytest.mark.slow

__all__ = ["hwb"]

WORDS = ("matrix", "big.onnx", "small.onnx", "--budget", "8")
DEVICE = ("--device", "virtual:step=1")


def test_a_matrix_fits_a_terminal_of_80_columns(hwb):
    outcome = hwb(*WORDS, *DEVICE, "--precision", "fp32,int8", "--threads", "1,2", "--batch", "1")
    assert (outcome.code, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "2 models in 4 columns; speed-ups are over big.onnx" in outcome.out
    assert outcome.out.partition("different_outputs")[0].count("small.onnx") == 2


def test_the_same_in_markdown_csv_and_json(hwb):
    markdown = hwb(*WORDS, *DEVICE, "--format", "md", "--csv", "cells.csv")
    assert "| small.onnx |" in markdown.out
    lines = (hwb.folder / "cells.csv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(lines))
    assert [row["model"] for row in rows] == ["big.onnx", "small.onnx"]
    assert float(rows[0]["latency_low_s"]) < float(rows[0]["latency_s"])
    assert (rows[0]["speedup"], rows[1]["verdict"]) == ("", "FASTER")
    document = hwb(*WORDS, *DEVICE, "--json", "-").json
    assert [cell["verdict"] for cell in document["cells"]] == [None, "FASTER"]
    assert document["columns"] == [
        {"device": "virtual:step=1", "precision": "fp32", "threads": 1, "batch": None}
    ]


def test_what_computes_something_else_is_told_everywhere(hwb):
    """`small.onnx` has weights of its own, `same.onnx` those of the first model."""
    (hwb.folder / "same.onnx").write_bytes((hwb.folder / "big.onnx").read_bytes())
    words = (*WORDS, "same.onnx", *DEVICE, "--threads", "1,2")
    text = hwb(*words, "--json", "cells.json")
    said = " ".join(text.out.split())
    assert said.count("different_outputs: small.onnx in fp32: the candidate computes") == 1
    assert "same.onnx in fp32" not in said
    assert text.code == 0
    cells = json.loads((hwb.folder / "cells.json").read_text())["cells"]
    told = [[finding["code"] for finding in cell["findings"]] for cell in cells]
    wrong = ["different_outputs" in codes for codes in told]
    assert wrong == [False, True, False] * 2
    assert [cell["agreement"] for cell in cells if cell["model"] == "same.onnx"] == [1.0, 1.0]
    markdown = hwb(*words, "--format", "md")
    assert "different_outputs" in markdown.out
    gated = hwb(*words, "--fail-on", "agreement<99%", "--junit", "cells.xml")
    assert gated.code == 1
    assert "small.onnx on virtual:step=1 fp32, 2 threads: agreement is" in gated.err
    assert "same.onnx" not in gated.err
    assert hwb("report", "--out", "page.html").code == 0
    assert "different_outputs" in (hwb.folder / "page.html").read_text(encoding="utf-8")


def test_random_weights_are_said_once_and_a_gate_does_not_open_without_evidence(hwb):
    models = ("zoo:plain20@0.25", "zoo:plain20@0.5", "zoo:resnet20@0.25")
    rule = ("--fail-on", "agreement<50%")
    outcome = hwb("matrix", *models, *DEVICE, "--budget", "1", *rule)
    said = " ".join(outcome.out.split())
    assert said.count("random_weights: ") == 1
    assert "the same holds for zoo:resnet20@0.25 in fp32" in said
    assert outcome.code == 1
    assert "agreement is unknown" in outcome.err


def test_cells_are_cases_of_junit(hwb):
    hwb(*WORDS, "absent.onnx", *DEVICE, "--junit", "cells.xml")
    suite = ET.parse(hwb.folder / "cells.xml").getroot().find("testsuite")
    assert suite.attrib == {
        "name": "hwbench",
        "tests": "3",
        "failures": "0",
        "errors": "1",
        "skipped": "0",
    }
    big, small, absent = suite.findall("testcase")
    assert big.find("system-out").text.startswith("latency ")
    assert small.find("system-out").text.startswith("FASTER: ")
    assert absent.find("error").get("message") == "no such model file: absent.onnx"


def test_failures_are_cells_and_an_exit_code(hwb):
    outcome = hwb(*WORDS, "absent.onnx", *DEVICE, "--threads", "1,2")
    assert outcome.code == 2
    assert outcome.err == "hwbench: 2 of 6 cells could not be measured\n"
    assert "failed: 2 cells, first absent.onnx on virtual:step=1" in " ".join(outcome.out.split())
    unsupported = hwb(*WORDS, *DEVICE, "--precision", "bf16")
    assert unsupported.code == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--precision", "fp8"), "'fp8' is none of fp32, fp16"),
        (("--threads", "0"), "'0' is no positive whole number"),
        (("--batch", "1,two"), "'two' is no positive whole number"),
        (("--device", "vrtual"), "unknown device 'vrtual'"),
        (("--device", "vrt*"), "see: hwbench devices"),
        (("--csv", "nowhere/cells.csv"), "does not exist"),
        (("--fail-on", "accuracy_drop>1%"), "needs images to evaluate the models on: --data"),
    ],
)
def test_impossible_requests(hwb, words, said):
    outcome = hwb(*WORDS, *words)
    assert outcome.code == 2
    assert said in outcome.error


def test_rules_hold_for_every_cell(hwb):
    columns = (*DEVICE, "--threads", "1,2")
    assert hwb(*WORDS, *columns, "--fail-on", "speedup<1.1").code == 0
    words = (*WORDS, "absent.onnx", *columns, "--fail-on", "speedup<100", "--format", "md")
    broken = hwb(*words, "--junit", "cells.xml")
    assert broken.code == 2, "a failure weighs more than a rule"
    assert broken.out.count("**A rule was hit: ") == 2
    assert "hwbench: small.onnx on virtual:step=1 fp32, 1 thread: speedup is 2." in broken.err
    failures = ET.parse(hwb.folder / "cells.xml").getroot().findall(".//failure")
    assert [failure.get("type") for failure in failures] == ["rule", "rule"]


def test_a_rule_on_latency_holds_for_the_baseline_too(hwb):
    broken = hwb(*WORDS, *DEVICE, "--fail-on", "latency_s>0.000001", "--junit", "cells.xml")
    assert (broken.code, broken.err.count("\n")) == (1, 2)
    assert len(ET.parse(hwb.folder / "cells.xml").getroot().findall(".//failure")) == 2
    assert "unknown field" in hwb(*WORDS, "--fail-on", "macs<1").error


def test_the_quality_of_every_model_is_told_once_and_kept(hwb, monkeypatch):
    (hwb.folder / "a_judge_of_cells.py").write_text(
        "import torch\n"
        "def largest(network):\n"
        "    torch.manual_seed(0)\n"
        "    with torch.no_grad():\n"
        "        return network(torch.rand(1, 3, 16, 16)).softmax(1).max().item()\n"
    )
    monkeypatch.syspath_prepend(str(hwb.folder))
    words = (*WORDS, *DEVICE, "--threads", "1,2", "--evaluate", "a_judge_of_cells:largest")
    outcome = hwb(*words, "--csv", "cells.csv")
    assert (outcome.code, outcome.err) == (0, "")
    assert "a_judge_of_cells:largest on a_judge_of_cells:largest; drops are" in outcome.out
    assert outcome.out.partition("different_outputs")[0].count("small.onnx") == 2, (
        "in one table of latencies, and one of qualities"
    )
    lines = (hwb.folder / "cells.csv").read_text(encoding="utf-8").splitlines()
    big, small, *_ = csv.DictReader(lines)
    drop = float(big["quality"]) - float(small["quality"])
    assert float(small["quality_drop"]) == pytest.approx(drop)
    assert big["quality_drop"] == ""


def test_images_that_the_models_do_not_take_end_the_matrix(hwb):
    assert hwb(*WORDS, *DEVICE, "--data", "nowhere/").code == 2
