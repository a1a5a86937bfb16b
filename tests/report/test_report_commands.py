"""Commands that repeat a search give every option as the command line takes it."""

from __future__ import annotations

import json
import shlex

import pytest

from hwbench.cli import main
from hwbench.errors import UsageError
from hwbench.report.commands import search_command
from hwbench.search.limit import Limit
from hwbench.search.training_settings import TrainingSettings
from hwbench.workflows.search.plan import Plan


def test_a_search_is_repeated_as_it_was_asked_for(monkeypatch):
    plan = Plan.of(
        "amc",
        Limit("macs", share=0.5),
        data="digits",
        mean=(0.5, 0.25, 0.125),
        std=(0.5,),
        scale=255.0,
        accept_untrained=True,
        step=16,
        tune_with=TrainingSettings(rate=0.1, schedule="cosine", mirror=True, augment="a:b(1, 2)"),
    )
    record = {"plan": json.loads(json.dumps(plan.to_dict())), "model": "zoo:plain20"}
    given = []

    def caught(model, asked, **_):
        given.append((model, asked))
        raise UsageError("caught")

    monkeypatch.setattr("hwbench.workflows.search.run.run_search", caught)
    assert main(shlex.split(search_command(record))[1:]) == 2
    assert given == [("zoo:plain20", plan)]


@pytest.mark.parametrize("option", ["--mean", "--std"])
def test_numbers_that_cannot_be_read_are_refused(option, capsys):
    words = ["search", "amc", "zoo:plain20", "--macs", "0.5", "--data", "digits", option, "0.5;1"]
    assert main(words) == 2
    assert "expected a number, or three with commas between them" in capsys.readouterr().err


def test_settings_that_cannot_be_read_are_refused(capsys):
    words = ["search", "amc", "zoo:plain20", "--macs", "0.5", "--tune-with", "speed=3"]
    assert main(words) == 2
    assert "'speed=3' is no setting of training" in capsys.readouterr().err
