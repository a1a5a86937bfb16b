"""Every study can be imported, says what it is and how to repeat it, and has results that hold
together.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from runners.studies import _results

STUDIES = sorted(path.stem for path in Path(_results.__file__).parent.glob("[a-z]*.py"))
RESULTS = _results.RESULTS
NOT_YET_RUN = {"h200", "meter_cpu", "pruning_reach"}
"""Studies that have no results yet: for hardware, quiet or time that was not at hand."""
LINK = re.compile(r"\]\(([^)#:]+)\)")
LARGEST_PICTURE = 150_000


@pytest.mark.parametrize("name", STUDIES)
def test_study_says_what_it_is(name):
    module = import_module(f"runners.studies.{name}")
    assert callable(module.main)
    assert module.__doc__.strip()


@pytest.mark.parametrize("name", sorted(set(STUDIES) - NOT_YET_RUN))
def test_study_has_results(name):
    readme = (RESULTS / name / "README.md").read_text()
    assert readme.startswith(f"# {name}\n")
    for line in ("- machine: ", "- versions: ", "- date: ", "- data: "):
        assert f"\n{line}" in readme
    assert re.search(rf"^- repeat: `.*\b{name}\b.*`$", readme, re.MULTILINE)
    assert (RESULTS / name / "data.csv").read_text().count("\n") >= 2
    for file in re.findall(r"`([\w.]+\.(?:csv|gz))`", readme):
        assert (RESULTS / name / file).is_file()


@pytest.mark.parametrize(
    "readme", sorted(RESULTS.rglob("README.md")), ids=lambda path: str(path.relative_to(RESULTS))
)
def test_links_in_results_lead_somewhere(readme):
    for target in LINK.findall(readme.read_text()):
        assert (readme.parent / target).exists(), target


def test_the_story_holds_every_study():
    told = {
        target.strip("/").split("/")[0]
        for target in LINK.findall((RESULTS / "README.md").read_text())
    }
    assert told >= {path.parent.name for path in RESULTS.glob("*/README.md")}


@pytest.mark.parametrize(
    "picture", sorted(RESULTS.rglob("*.png")), ids=lambda path: str(path.relative_to(RESULTS))
)
def test_pictures_are_small(picture):
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) <= LARGEST_PICTURE


def test_a_study_is_saved_with_answer_picture_and_raw_data(tmp_path, monkeypatch, capsys):
    from runners.studies._pictures import figure

    monkeypatch.setattr(_results, "RESULTS", tmp_path)
    drawn, axes = figure("One message", xlabel="widths", ylabel="latency (ms)")
    axes.plot([1, 2], [3, 4])
    rows = [{"name": "a", "ratio": 0.123456}, {"name": "b", "ratio": 2}]
    folder = _results.save_study(
        "mine",
        question="Is it?",
        answer="It is.",
        rows=rows,
        command="make study NAME=mine",
        raw=[1],
        picture=drawn,
    )
    readme = (folder / "README.md").read_text()
    assert (
        readme.index("Is it?")
        < readme.index("**It is.**")
        < readme.index("![mine](picture.png)")
        < readme.index("| a | 0.1235 |")
    )
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "data.csv",
        "raw.json.gz",
        "picture.png",
    }
    assert "It is." in capsys.readouterr().out


def test_a_study_without_picture_mentions_none(tmp_path, monkeypatch):
    monkeypatch.setattr(_results, "RESULTS", tmp_path)
    folder = _results.save_study("plain", question="Q?", rows=[{"n": 1}], command="c")
    assert "picture" not in (folder / "README.md").read_text()
    assert {path.name for path in folder.iterdir()} == {"README.md", "data.csv"}
