"""Two runtimes of one target are compared; different targets, and labs, are refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import hwbench
from hwbench.devices.virtual.device import Virtual
from hwbench.errors import IncomparableError, UsageError
from hwbench.workflows.meter import opened_to_compare

SETTINGS = hwbench.Settings(budget_s=5)


def test_the_candidate_runs_where_it_was_asked_to():
    found = hwbench.compare(
        "zoo:resnet20",
        "zoo:resnet20",
        device="virtual:seed=1,noise=none",
        candidate_device="virtual:seed=2,noise=none",
        settings=SETTINGS,
        save=False,
    )
    assert found.candidate.device.address == "virtual:seed=2,noise=none"
    assert found.verdict.value == "SAME"
    names = {
        change.name
        for change in found.layers
        if None not in (change.baseline_s, change.candidate_s)
    }
    assert {"conv1", "layer1.0.conv1", "fc"} <= names


def test_different_targets_are_refused(monkeypatch):
    info = Virtual._info

    def other_target(device):
        found = info(device)
        if "seed=2" not in device.address:
            return found
        from dataclasses import replace

        return replace(found, target="another machine", target_id="other")

    monkeypatch.setattr(Virtual, "_info", other_target)
    with pytest.raises(IncomparableError, match="another machine; only runtimes of one target"):
        hwbench.compare(
            "zoo:resnet20",
            "zoo:resnet20",
            device="virtual:seed=1",
            candidate_device="virtual:seed=2",
            settings=SETTINGS,
            save=False,
        )


def test_a_lab_measures_on_one_device():
    lab = SimpleNamespace(address="cpu")
    with pytest.raises(UsageError, match="one device"), opened_to_compare(lab, "virtual"):
        pass
