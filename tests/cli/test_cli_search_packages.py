"""Searches of other packages on the command line: listed, run, and no trouble where broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hwbench.cli import main
from hwbench.errors import UsageError
from hwbench.search import GROUP, SEARCHES, load_method, searches
from hwbench.search.options import option_infos
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "docs" / "examples" / "hwbench-random-widths"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the example package in it, beside no environment."""
    folder = tmp_path_factory.mktemp("packages")
    wheels = folder / "wheels"
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)],
        cwd=EXAMPLE,
        check=True,
        timeout=120,
    )
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"),
            *("--target", str(folder / "site"), str(next(wheels.glob("*.whl")))),
        ],
        check=True,
        timeout=120,
    )
    return folder / "site"


def hwbench(installed: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)]),
        "HWBENCH_STORE": str(cwd / "store.db"),
        "COLUMNS": "120",
    }
    return subprocess.run(
        [sys.executable, "-m", "hwbench", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_search_of_another_package_is_listed_with_its_options(installed, tmp_path):
    listed = hwbench(installed, "search", "--help", cwd=tmp_path).stdout
    assert "random-widths  Every width is drawn at random, within the budget." in listed
    shown = hwbench(installed, "search", "random-widths", "--help", cwd=tmp_path).stdout
    assert "Number of networks that are drawn. [default: 50]" in shown
    assert "--no-baselines" in shown
    assert "--narrow" in shown


@pytest.mark.torch
def test_a_search_of_another_package_runs_and_goes_on(installed, tmp_path):
    words = ("search", "random-widths", "zoo:plain20", "--device", "virtual:noise=none,step=8")
    words += ("--input", "1x3x16x16", "--latency", "0.7", "--draws", "5", "--narrow", "1.5")
    first = hwbench(installed, *words, "--json", "-", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert len(document["trials"]) == 5
    assert document["plan"]["narrow"] == 1.5
    assert document["plan"]["method"] == "random-widths"
    assert set(document["baselines"]) == {"uniform", "shallow", "deep", "random"}
    assert document["measured"]["speedup"] > 1
    again = hwbench(installed, *words, "--json", "-", cwd=tmp_path)
    assert json.loads(again.stdout)["resumed"] > 5


class Point:
    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value


@pytest.fixture
def points(monkeypatch):
    """Entry points of other packages."""
    found: list[Point] = []
    monkeypatch.setattr(
        "hwbench.search.entry_points", lambda group: found if group == GROUP else []
    )
    return found


def test_a_broken_search_is_listed_with_the_reason_and_hinders_no_other(points, capsys):
    points.append(Point("broken", "no_such_package:Method"))
    assert main(["search", "--help"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "broken Cannot be used: search 'broken' cannot be loaded" in listed
    assert "amc" in listed
    assert main(["search", "broken"]) == 2
    assert "No module named 'no_such_package'" in capsys.readouterr().err


def test_other_packages_replace_no_search_of_hwbench(points):
    points.append(Point("amc", "no_such_package:Method"))
    assert searches() == SEARCHES
    assert load_method("amc").published == "He et al., ECCV 2018"
    with pytest.raises(UsageError, match="unknown search 'annealing'"):
        load_method("annealing")


@pytest.mark.parametrize("name", SEARCHES)
def test_every_option_of_a_search_is_an_option_of_its_command(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["search", name, "--help"]) == 0
    shown = capsys.readouterr().out
    method = load_method(name)
    for option, info in option_infos(method.options_type).items():
        assert (info.help in shown) == info.on_command_line, option
    assert method.summary in shown
    assert f"hwbench search {name} {method.example}" in " ".join(shown.split())
