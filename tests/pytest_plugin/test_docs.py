"""The page, the sample suite and the workflow say what is true: they are read, and run, here."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.paths import ROOT

pytest_plugins = ("pytester",)
DOCS = ROOT / "docs"
PAGE = (DOCS / "pytest.md").read_text()
WORKFLOW = yaml.safe_load((DOCS / "examples/latency.yml").read_text())
STEPS = WORKFLOW["jobs"]["latency"]["steps"]
OPTION = re.compile(r"(?<!\S)--[\w-]+")
IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@example.com")


@pytest.fixture
def known(suite) -> set[str]:
    """Every option of this pytest with its plugins."""
    return set(OPTION.findall(suite.run("--help", device=None).stdout.str()))


def test_the_page_names_every_option_and_no_other(known):
    ours = {option for option in known if option.startswith("--hwbench-")}
    assert ours == set(re.findall(r"--hwbench-[\w-]+", PAGE))
    assert set(re.findall(r"--benchmark-[\w-]+", PAGE)) <= known


def test_the_page_shows_the_sample_suite():
    assert (DOCS / "examples/test_latency.py").read_text() in PAGE


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (DOCS / target).exists(), target


def test_the_sample_suite_passes(suite):
    shutil.copy(DOCS / "examples/test_latency.py", suite.folder)
    suite.ini("markers = hil")
    suite.run("-W", "default", device="virtual:seed=1,noise=none", apart=True).assert_outcomes(
        passed=5, skipped=1
    )


def commands(step: dict[str, str]) -> list[list[str]]:
    """The words of each command of a step."""
    text = step.get("run", "").replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines()]


def test_the_workflow_uses_options_that_exist(known):
    words = [
        word
        for step in STEPS
        for command in commands(step)
        if "pytest" in command
        for word in command
    ]
    used = {word for word in words if word.startswith("--")}
    assert {"--hwbench-store", "--benchmark-compare-fail"} <= used <= known


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize(("net", "passes"), [("slower", False), ("twin", True)])
def test_the_workflow_stops_a_slower_network(suite, monkeypatch, net, passes):
    """The workflow's own commands, on a repository whose pull request changes the network, and on a
    virtual device.
    """

    def git(*words: str) -> None:
        subprocess.run(
            ["git", *IDENTITY, *words],
            cwd=suite.folder,
            check=True,
            capture_output=True,
            timeout=60,
        )

    tests = suite.folder / "tests/latency"
    tests.mkdir(parents=True)
    (tests / "test_net.py").write_text(
        'def test_net(hw_benchmark):\n    hw_benchmark("net.onnx")\n'
    )
    git("init", "-q", "-b", "main", ".")
    git("add", "net.onnx", "tests", "tox.ini")
    git("commit", "-q", "-m", "before")
    git("update-ref", "refs/remotes/origin/main", "HEAD")
    suite.put(net, "net")
    git("commit", "-q", "-a", "-m", "after")

    runner = suite.folder.with_name(suite.folder.name + "-runner")
    runner.mkdir()
    monkeypatch.setenv("RUNNER_TEMP", str(runner))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(suite.folder))
    monkeypatch.setenv("BASE", "main")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    outcomes = []
    for seed, script in enumerate(
        step["run"] for step in STEPS if "-m pytest" in step.get("run", "")
    ):
        monkeypatch.setenv("PYTEST_ADDOPTS", f"--hwbench-device virtual:seed={seed} -W default")
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=suite.folder,
            capture_output=True,
            text=True,
            timeout=240,
        )
        outcomes.append((done.returncode == 0, done.stdout + done.stderr))
    (base_passes, base), (passed, output) = outcomes
    assert base_passes, base
    assert passed is passes, output
    assert ("Performance has regressed" in output) is not passes
