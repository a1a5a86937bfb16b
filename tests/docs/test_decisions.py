"""Decisions have numbers of their own, and the table of contents leads to all of them."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

TEXT = (ROOT / "DECISIONS.md").read_text()


def test_every_decision_has_a_number_a_status_and_a_line_in_the_table():
    decisions = re.findall(r"^### (\d+)\. (.+)\n\nStatus: .+\.$", TEXT, re.MULTILINE)
    listed = re.findall(r"^\| (\d+) \| \[(.+)\]\(#.+\) \| .+ \|$", TEXT, re.MULTILINE)
    assert len(decisions) == len(re.findall(r"^### ", TEXT, re.MULTILINE))
    assert listed == decisions
    numbers = sorted(int(number) for number, _ in decisions)
    assert numbers == list(range(1, len(numbers) + 1))
