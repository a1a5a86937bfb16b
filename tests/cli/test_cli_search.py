"""`hwbench search` on the command line."""

from __future__ import annotations

import json

import pytest

from hwbench.cli import main
from hwbench.errors import UsageError

pytestmark = pytest.mark.slow  # starts dozens of processes, or searches

COMMAND = (
    "search",
    "amc",
    "zoo:mobilenet_v1",
    "--table",
    "pixel1",
    "--latency",
    "0.55",
    "--trials",
    "5",
)


@pytest.fixture(autouse=True)
def _own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("HWBENCH_STORE", str(tmp_path / "store.db"))


def test_published_table_is_enough_for_a_search(capsys):
    assert main([*COMMAND, "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["objective"] == "kept L1 weight"
    assert 0.4 < document["predicted_ratio"] <= 0.55
    assert document["measured"] is None
    assert {finding["code"] for finding in document["findings"]} == {
        "untrained",
        "objective_kept_weight",
        "extrapolated",
        "baseline_better",
    }
    assert list(document["kept_layers"]) == ["classifier"]
    assert set(document["baselines"]) == {"uniform", "shallow", "deep", "random"}
    for trial in document["baselines"].values():
        assert trial["outcome"]["latency_s"] <= document["limit"] * (1 + 1e-9)
    assert main([*COMMAND, "--no-baselines"]) == 0
    said = capsys.readouterr().out
    assert "kept L1 weight" in said
    assert "evaluated by the L1 weight they keep" in " ".join(said.split())
    assert "went on after" not in said  # without baselines it is another search


def test_impossible_budget_names_the_least(capsys):
    assert (
        main(["search", "amc", "zoo:mobilenet_v1", "--table", "pixel1", "--latency", "0.01"]) == 2
    )
    said = capsys.readouterr().err
    assert "cannot be reached: the least on this grid is 0.0" in said
    assert "% of the original" in said


def test_a_folder_that_cannot_be_written_is_code_2_beside_the_result(capsys, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "log.jsonl").mkdir()
    assert main([*COMMAND, "--no-baselines", "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert "found by amc in 5 trials" in said.out
    assert "hwbench: not all of the result could be written to" in said.err


FRONT = ("search", "zoo:mobilenet_v1", "--table", "pixel1", "--latency", "0.7,0.55")


def test_several_budgets_end_in_a_front(capsys, tmp_path):
    words = [*FRONT, "--trials", "12", "--levels", "1", "--no-baselines"]
    assert main([*words, "--json", str(tmp_path / "f.json"), "--fail-on", "quality>0.1"]) == 1
    said = capsys.readouterr()
    assert said.err.count("which --fail-on quality>0.1 forbids") == 2
    assert "0.55: quality is" in said.err
    document = json.loads((tmp_path / "f.json").read_text())
    assert [row["budget"] for row in document["front"]] == ["0.55", "0.7"]
    for row in document["front"]:
        assert row["share"] == row["result"]["predicted_ratio"] <= float(row["budget"])
    assert "2 networks worth having" in said.out
    assert main([*words, "--format", "md"]) == 0
    assert "went on after 24 trials" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("amc", "zoo:plain20", "--latency", "fast"), "cannot be read; expected a share"),
        (
            ("amc", "zoo:plain20", "--latency", "0.5", "--macs", "0.5"),
            "a search has one kind of budget",
        ),
        (("amc", "zoo:plain20"), "needs a budget"),
        (("zoo:plain20", "--latency", "0.5,fast"), "latency budget 'fast' cannot be read"),
        (("zoo:plain20", "--macs", "0.5,,0.7"), "macs budget '' cannot be read"),
        (("practise", "zoo:plain20", "--macs", "0.5"), "drops blocks for latency"),
        (
            ("practise", "zoo:plain20", "--device", "virtual", "--latency", "0.5"),
            "no block that keeps its shape",
        ),
        (("amc", "zoo:plain20", "--table", "nowhere", "--latency", "0.5"), "no lookup table"),
    ],
)
def test_impossible_requests_are_said_in_one_line(words, said, capsys):
    assert main(["search", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_remedies_are_options_where_no_search_is_named_too(capsys):
    words = ["zoo:plain20", "--macs", "0.5", "--mean", "0.5"]
    for name in ([], ["amc"]):
        assert main(["search", *name, *words]) == 2
        said = capsys.readouterr().err
        assert f"try: hwbench search {' '.join([*name, *words])} --data IMAGES" in said


def test_archives_without_layers_are_refused_with_advice(tmp_path, capsys):
    import torch

    from hwbench.network import zoo

    program = torch.export.export(zoo.build("plain20"), (torch.ones(1, 3, 32, 32),))
    torch.export.save(program, tmp_path / "net.pt2")
    assert main(["search", "amc", str(tmp_path / "net.pt2"), "--macs", "0.5"]) == 2
    assert (
        "give the module itself: zoo:NAME, package.module:factory with a file of weights"
        in capsys.readouterr().err
    )


def test_pickled_module_and_weights_are_searched(tmp_path, capsys):
    import torch
    from torch import nn

    module = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    torch.save(module, tmp_path / "net.pt")
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    words = [
        "search",
        "amc",
        str(tmp_path / "net.pt"),
        "--input",
        "1x3x8x8",
        "--macs",
        "0.6",
        "--trials",
        "3",
        "--json",
        "-",
    ]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["best"]["outcome"]["macs"] <= 0.6 * first["original"]["macs"]
    assert main([*words, "--weights", str(tmp_path / "weights.pt")]) == 0
    assert json.loads(capsys.readouterr().out)["best"] == first["best"]
    # A whole module of torch's own layers has weights too.
    assert main([*words, "--weights", str(tmp_path / "net.pt")]) == 0
    assert json.loads(capsys.readouterr().out)["best"] == first["best"]
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    assert main([*words, "--weights", str(tmp_path / "none.pt")]) == 2
    assert "expected a module or a state_dict" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "model", "expected"),
    [
        (
            ("abcpruner", "--latency", "0.5", "--no-baselines", "--patience", "3"),
            "zoo:mobilenet_v1",
            {"patience": 3, "baselines": False},
        ),
        (
            ("practise", "--latency", "0.5", "--tune-steps", "9", "--adaptor-steps", "7"),
            "zoo:resnet20",
            {"tune_steps": 9, "adaptor_steps": 7},
        ),
        (
            (
                "amc",
                "--macs",
                "0.5",
                "--data",
                "digits",
                "--tune",
                "kd",
                "--temperature",
                "2",
                "--lower",
                "10%",
                "--trials",
                "5",
            ),
            "zoo:mobilenet_v1",
            {"tune": "kd", "temperature": 2.0, "lower": 0.1, "trials": 5, "baselines": True},
        ),
    ],
)
def test_options_reach_the_search(words, model, expected, monkeypatch):
    given = {}

    def caught(model, plan, **places):
        given.update(places, model=model, plan=plan)
        raise UsageError("caught")

    monkeypatch.setattr("hwbench.workflows.search.run.run_search", caught)
    assert main(["search", *words, "--jobs", "3", "--seed", "4"]) == 2
    assert (given["model"], given["jobs"], given["plan"].seed, given["plan"].method) == (
        model,
        3,
        4,
        words[0],
    )
    plan = given["plan"].to_dict()
    assert {name: plan[name] for name in expected} == expected
