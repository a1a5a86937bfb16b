"""The workflows of the documentation are what GitHub Actions takes, and do what their pages say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import DOCS
from tests.support.models import conv_net
from tests.support.paths import ROOT

FILES = sorted((DOCS / "examples").glob("*.yml"))
WORKFLOWS = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES}
JOB_KEYS = {"runs-on", "timeout-minutes", "steps", "needs", "if", "env", "strategy", "permissions"}
STEP_KEYS = {"name", "id", "if", "uses", "with", "run", "env", "shell", "timeout-minutes"}
"""Keys of the schema of workflows (schemastore's github-workflow.json) that ours may use."""
INPUTS = {
    "actions/checkout@v4": {"fetch-depth", "lfs", "ref", "path", "persist-credentials"},
    "actions/setup-python@v5": {"python-version", "cache"},
    "actions/upload-artifact@v4": {"name", "path", "if-no-files-found", "retention-days"},
}
"""Inputs that the action.yml of each action has, of those that ours may use."""
FAKE_GH = '''
"""`gh api` as the workflow calls it, on a file of comments."""
import json, pathlib, re, sys
kept = pathlib.Path("comments.json")
comments = json.loads(kept.read_text())
words = sys.argv[1:]
assert words[0] == "api", words
(path,) = (word for word in words if word.startswith("repos/"))
if "-F" not in words:
    assert path == "repos/me/nets/issues/7/comments" and "--paginate" in words, words
    marker = re.search(r'startswith\\("(.+?)"\\)', words[words.index("--jq") + 1])[1]
    for comment in comments:
        if comment["bot"] and comment["body"].startswith(marker):
            print(comment["id"])
    sys.exit()
name, file = words[words.index("-F") + 1].split("=@")
assert name == "body"
body = pathlib.Path(file).read_text()
if "--method" in words:
    assert words[words.index("--method") + 1] == "PATCH"
    number = int(re.fullmatch(r"repos/me/nets/issues/comments/(\\d+)", path)[1])
    (comment,) = (comment for comment in comments if comment["id"] == number)
    comment["body"] = body
else:
    assert path == "repos/me/nets/issues/7/comments"
    comments.append({"id": len(comments) + 1, "bot": True, "body": body})
kept.write_text(json.dumps(comments))
'''


def steps(name: str) -> list[dict[str, object]]:
    """Steps of all jobs of a workflow."""
    return [step for job in WORKFLOWS[name]["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_keys_of_the_schema_and_inputs_that_its_actions_have(name):
    workflow = WORKFLOWS[name]
    # YAML 1.1 reads the key `on` as a truth value.
    assert set(workflow) <= {"name", True, "permissions", "env", "jobs", "concurrency"}
    assert workflow[True] == "pull_request"
    for job in workflow["jobs"].values():
        assert set(job) <= JOB_KEYS
        assert {"runs-on", "steps"} <= set(job)
    for step in steps(name):
        assert set(step) <= STEP_KEYS
        assert ("uses" in step) is not ("run" in step)
        if "uses" in step:
            assert set(step.get("with", {})) <= INPUTS[step["uses"]]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_text_of_the_pull_request_reaches_the_shell(name):
    assert not [step for step in steps(name) if "${{" in step.get("run", "")]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_installs_what_there_is(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package, _, extra = WORKFLOWS[name]["env"]["HWBENCH"].rstrip("]").partition("[")
    assert package == project["name"]
    assert not extra or extra in project["optional-dependencies"]
    (install,) = (step for step in steps(name) if step.get("name") == "Install")
    assert install["run"] == 'python -m pip install "$HWBENCH"'


class Repository:
    """A repository whose pull request changes `models/net.onnx`, and a runner that checks it.

    Args:
        folder: Where it lies.
        before: The network of the branch that the pull request goes to; None for none.
        after: That of the pull request.
    """

    def __init__(self, folder: Path, before: bytes | None, after: bytes) -> None:
        self.folder, self.runner = folder / "checkout", folder / "runner"
        network = self.folder / "models/net.onnx"
        network.parent.mkdir(parents=True)
        self.runner.mkdir()
        (self.folder / "README").write_text("nets\n")
        self._git("init", "-q", "-b", "main", ".")
        if before is not None:
            network.write_bytes(before)
        self._git("add", ".")
        self._git("commit", "-q", "-m", "before")
        self._git("update-ref", "refs/remotes/origin/main", "HEAD")
        network.write_bytes(after)
        commands = folder / "commands"
        commands.mkdir()
        gh = commands / "gh"
        gh.write_text(f"#!{sys.executable}\n{FAKE_GH}")
        gh.chmod(0o755)
        self._comments = self.folder / "comments.json"
        self._comments.write_text(
            json.dumps([{"id": 1, "bot": False, "body": "<!-- hwbench --> nice try"}])
        )
        path = [str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join(path),
            "HWBENCH_STORE": str(folder / "store.db"),
            "RUNNER_TEMP": str(self.runner),
            "GITHUB_OUTPUT": str(self.runner / "output"),
            "GITHUB_STEP_SUMMARY": str(self.runner / "summary"),
            "GITHUB_REPOSITORY": "me/nets",
            "BASE": "main",
            "NUMBER": "7",
            **WORKFLOWS["comment.yml"]["env"],
            "DEVICE": "virtual",
        }

    def _git(self, *words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        command = ["git", *identity, *words]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True, timeout=60)

    def push(self, **environment: str) -> int:
        """Run the steps as GitHub does; the exit code of the one that fails, else 0."""
        scripts = {step.get("id", step.get("name")): step for step in steps("comment.yml")}
        (self.runner / "output").unlink(missing_ok=True)
        self._git("worktree", "prune")
        code = 0
        for name in ("compare", "Comment", "Judge"):
            names = {**self._environment, **environment}
            if name == "Judge":
                output = (self.runner / "output").read_text()
                names["CODE"] = re.fullmatch(r"code=(\d+)\n", output)[1]
            done = subprocess.run(
                ["bash", "-e", "-c", scripts[name]["run"]],
                cwd=self.folder,
                env=names,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert name == "Judge" or done.returncode == 0, done.stderr
            code = done.returncode
        self._git("worktree", "remove", "--force", str(self.runner / "base"))
        return code

    @property
    def comments(self) -> list[str]:
        """What stands below the pull request."""
        return [comment["body"] for comment in json.loads(self._comments.read_text())]


@pytest.mark.slow
def test_one_comment_follows_the_pull_request(tmp_path):
    net, slower = conv_net((32, 32)), conv_net((64, 64))
    repository = Repository(tmp_path, net, slower)
    assert repository.push() == 1
    (stranger, comment) = repository.comments
    assert comment.startswith("<!-- hwbench -->\n**")
    assert "x slower" in comment
    (repository.folder / "models/net.onnx").write_bytes(net)
    assert repository.push() == 0
    assert repository.comments[0] == stranger
    (comment,) = repository.comments[1:]
    assert "the same speed to within 5.0 %" in comment
    assert "the same speed" in (repository.runner / "summary").read_text()


@pytest.mark.slow
def test_what_noise_leaves_open_is_as_it_was_chosen(tmp_path):
    repository = Repository(tmp_path, conv_net((32, 32)), conv_net((33, 32)))
    noisy = {"DEVICE": "virtual:noise=session+white+bimodal"}
    short = repository._environment["PATH"].split(os.pathsep)[0]
    real = Path(sys.executable).parent / "hwbench"
    (Path(short) / "hwbench").write_text(f'#!/bin/sh\nexec {real} "$@" --budget 0.01\n')
    (Path(short) / "hwbench").chmod(0o755)
    assert repository.push(**noisy) == 5
    assert "cannot tell" in repository.comments[1]
    assert repository.push(**noisy, UNRESOLVED="pass") == 0


@pytest.mark.slow
def test_a_network_that_the_branch_does_not_have_yet_is_told(tmp_path):
    repository = Repository(tmp_path, None, conv_net((32, 32)))
    assert repository.push() == 2
    assert "could not compare (exit code 2)" in repository.comments[1]
