"""Latency tables of ProxylessNAS and once-for-all."""

from __future__ import annotations

import json

import pytest

from hwbench.errors import HwbenchError, OutputParseError, SchemaError, UnsafeModelError
from hwbench.lookup_tables.exchange import foreign_files, ofa_yaml
from hwbench.lookup_tables.exchange.foreign_files import OfaTable
from hwbench.lookup_tables.exchange.ofa_yaml import OfaRow
from tests.support.paths import DATA

KEY = "Conv-input:224x224x3-output:112x112x32"


def test_entries_become_seconds_and_shapes():
    table = foreign_files.read(DATA / "ofa.yaml")
    assert isinstance(table, OfaTable)
    assert table.rows[0] == OfaRow(
        "Conv",
        (160, 160, 3),
        (80, 80, 24),
        (),
        pytest.approx(495.7e-6),
        pytest.approx(10.2e-6),
        498,
    )
    assert table.rows[1].output == (1000,)
    assert dict(table.rows[2].attrs) == {
        "expand": 408,
        "kernel": 3,
        "stride": 2,
        "idskip": 0,
        "se": 1,
        "hs": 1,
    }
    assert (table.rows[2].mean_s, table.rows[2].std_s) == (pytest.approx(606e-6), 0.0)
    assert (table.rows[3].count, table.rows[3].std_s) == (None, None)


def test_that_the_file_names_no_unit_is_said():
    table = ofa_yaml.parse(f"{KEY}: {{count: 10, mean: 1.23}}")
    assert [finding.code for finding in table.findings] == ["no_unit"]


def test_the_same_table_as_json_is_read(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(
        json.dumps(
            {KEY: {"count": 10, "mean": 1.25}, "Logits-input:1x1x8-output:4": {"mean": 0.5}},
            indent=2,
        )
    )
    table = foreign_files.read(path)
    assert isinstance(table, OfaTable)
    assert [row.mean_s for row in table.rows] == [1.25e-3, 0.5e-3]


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!python/tuple [1]"],
)
def test_python_tags_are_refused(tag):
    with pytest.raises(UnsafeModelError, match="Python objects"):
        foreign_files.parse(f"{KEY}: {{mean: {tag}}}", "table.yaml")


@pytest.mark.parametrize(
    "mean", ["0", "-1.5", ".nan", ".inf", "soon", "[1]", "{a: 1}", "1e30", "''", "null"]
)
def test_a_mean_that_is_no_latency_is_refused(mean):
    with pytest.raises(OutputParseError, match="mean is"):
        ofa_yaml.parse(f"{KEY}: {{mean: {mean}}}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{KEY}: {{count: 3}}", "has no mean"),
        (f"{KEY}: 1.23", "no latency table"),
        (f"{KEY}: {{mean: 1}}\n{KEY}: {{mean: 2}}", "given twice"),
        (f"{KEY}: {{mean: 1, mean: 2}}", "given twice"),
        (f"{KEY}-kernel: {{mean: 1}}", "is no key"),
        (f"{KEY}: {{mean: 1", "damaged YAML at line 1"),
        (f"{KEY}: " + "[" * 3000, "damaged YAML"),
        (f"{KEY}: {{mean: 1, count: 1.5}}", "whole number"),
        ("- a", "no latency table"),
        ("", "no latency table"),
        ("? [a]\n: 1", "is no key"),
    ],
)
def test_damage_is_told(text, message):
    with pytest.raises(HwbenchError, match=message):
        ofa_yaml.parse(text)


def test_references_cannot_blow_up():
    """Ten levels of ten references each stand for 10**10 values if expanded."""
    levels = ["a0: &a0 [x]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 11)
    ]
    with pytest.raises(SchemaError):
        ofa_yaml.parse("\n".join(levels))


def test_length_is_bounded():
    with pytest.raises(SchemaError, match="at most"):
        ofa_yaml.parse("#" * (ofa_yaml.MAX_CHARACTERS + 1))
