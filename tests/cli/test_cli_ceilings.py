"""`hwbench doctor --ceilings`, and what profiles say with them."""

from __future__ import annotations

import pytest

from tests.support.cli_support import hwb

__all__ = ["hwb"]
pytestmark = pytest.mark.slow
VIRTUAL = ("--device", "virtual")


def test_a_profile_says_how_far_its_layers_are_from_the_ceilings(hwb):
    before = hwb("profile", "big.onnx", *VIRTUAL, "--budget", "3", "--json", "-").json
    assert before["ceilings"] is None
    assert before["layers"][0]["ceiling_share"] is None
    measured = hwb("doctor", *VIRTUAL, "--ceilings", "--budget", "6")
    assert measured.code == 0
    assert "The most that it can do with 1 thread" in measured.out
    after = hwb("profile", "big.onnx", *VIRTUAL, "--budget", "3", "--json", "-").json
    assert {part["precision"] for part in after["ceilings"]["precisions"]} == {
        "fp32",
        "fp16",
        "int8",
    }
    convolution = next(layer for layer in after["layers"] if layer["op"] == "Conv")
    assert 0 < convolution["ceiling_share"] < 1.1
    assert convolution["bound_by"] in {"compute", "memory"}
    shown = hwb("profile", "big.onnx", *VIRTUAL, "--budget", "3").out
    assert "of ceiling" in shown
    assert "Ceilings measured" in shown
    two = hwb("profile", "big.onnx", *VIRTUAL, "--threads", "2", "--budget", "3", "--json", "-")
    assert two.json["ceilings"] is None  # those are of one thread
    stored = hwb("store", "show", after["record"]["id"])
    assert "of ceiling" in stored.out


def test_ceilings_are_in_the_document_of_doctor_and_kept_nowhere_if_so_asked(hwb):
    options = (*VIRTUAL, "--ceilings", "--budget", "0.5", "--no-save", "--json", "-")
    document = hwb("doctor", *options).json
    assert document["ceilings"]["precisions"][0]["macs_per_s"] > 1e9
    assert hwb("doctor", *VIRTUAL, "--json", "-").json["ceilings"] is None
    assert not (hwb.folder / "store.db").exists()


def test_an_impossible_budget_is_refused(hwb):
    assert hwb("doctor", *VIRTUAL, "--ceilings", "--budget", "0").code == 2


def test_a_budget_for_nothing_is_refused(hwb):
    refused = hwb("doctor", *VIRTUAL, "--budget", "6")
    assert (refused.code, "add --ceilings" in refused.error) == (2, True)
