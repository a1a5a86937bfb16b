"""Comparisons as JUnit XML, which CI systems show beside the tests.

A comparison is a test case: SLOWER, or a rule that was hit, is a failure; UNRESOLVED is skipped, as
it says nothing; what could not be measured is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from hwbench.render.comparing import verdict_text
from hwbench.render.matrix import describe_column
from hwbench.render.units import printable, seconds
from hwbench.stats import Verdict

if TYPE_CHECKING:
    from hwbench.records.comparison import Comparison
    from hwbench.workflows.matrix import Matrix, MatrixCell


def comparison_junit(comparison: Comparison, broken_rules: Sequence[str]) -> str:
    """One comparison as a suite of one case.

    Args:
        comparison: What was measured.
        broken_rules: What the user's rules refuse, in words.
    """
    name = f"{comparison.candidate.model} against {comparison.baseline.model}"
    case = _make_case(name, comparison.baseline.device.address)
    _add_outcome(case, comparison, broken_rules)
    return _make_suite([case])


def matrix_junit(matrix: Matrix, broken_rules: Sequence[Sequence[str]]) -> str:
    """A matrix as a suite of one case for each cell.

    Args:
        matrix: What was measured.
        broken_rules: What the user's rules refuse, in words; for each cell.
    """
    return _make_suite(list(map(_case_of_cell, matrix.cells, broken_rules)))


def _case_of_cell(cell: MatrixCell, broken_rules: Sequence[str]) -> ET.Element:
    case = _make_case(cell.model, describe_column(cell.column))
    if cell.error is not None:
        _add(case, "error", type(cell.error).__name__, cell.error.message)
    elif cell.comparison is not None:
        _add_outcome(case, cell.comparison, broken_rules)
    elif cell.record is not None:
        if broken_rules:
            _add_rules(case, broken_rules)
        _add_text(case, f"latency {seconds(cell.record.median_s)}")
    return case


def _add_outcome(case: ET.Element, comparison: Comparison, broken_rules: Sequence[str]) -> None:
    verdict = comparison.verdict
    text = f"{verdict.value}: {verdict_text(comparison)}"
    if broken_rules:
        _add_rules(case, broken_rules)
    elif verdict is Verdict.SLOWER:
        _add(case, "failure", verdict.value, text)
    elif verdict is Verdict.INCOMPARABLE:
        _add(case, "error", verdict.value, comparison.findings[0].text)
    elif verdict is Verdict.UNRESOLVED:
        _add(case, "skipped", verdict.value, text)
    findings = [f"{finding.code}: {finding.text}" for finding in comparison.findings]
    _add_text(case, "\n".join([text, *findings]))


def _add_rules(case: ET.Element, broken_rules: Sequence[str]) -> None:
    _add(case, "failure", "rule", "; ".join(broken_rules))


def _make_case(name: str, place: str) -> ET.Element:
    return ET.Element("testcase", {"name": printable(name), "classname": printable(place)})


def _add(case: ET.Element, outcome: str, kind: str, message: str) -> None:
    ET.SubElement(case, outcome, {"type": kind, "message": printable(message)})


def _add_text(case: ET.Element, text: str) -> None:
    lines = [printable(line) for line in text.splitlines()]
    ET.SubElement(case, "system-out").text = "\n".join(lines)


def _make_suite(cases: Sequence[ET.Element]) -> str:
    counts = {
        outcome: str(sum(case.find(tag) is not None for case in cases))
        for outcome, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))
    }
    suite = ET.Element("testsuite", {"name": "hwbench", "tests": str(len(cases)), **counts})
    suite.extend(cases)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'
