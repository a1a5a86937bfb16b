"""`--fail-on` rules and the values of shared options."""

from __future__ import annotations

import math
import operator

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from hwbench.cli.options import duration, share
from hwbench.cli.rules import hits, parse_rule
from hwbench.errors import UsageError

FIELDS = ("speedup", "macs_ratio")
SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
NUMBERS = st.floats(min_value=-1e9, max_value=1e9)
SPACES = st.text(" \t", max_size=2)


@given(st.sampled_from(FIELDS), st.sampled_from(sorted(SIGNS)), NUMBERS, NUMBERS, SPACES)
def test_a_rule_means_what_it_says(field, sign, limit, value, space):
    rule = parse_rule(f"{space}{field}{space}{sign}{space}{limit!r}{space}", FIELDS)
    assert rule.hit({field: value}) == SIGNS[sign](value, limit)
    assert parse_rule(str(rule), FIELDS) == parse_rule(f"{field}{sign}{limit:g}", FIELDS)


@given(st.text(max_size=30))
def test_any_text_is_a_rule_or_a_usage_error(text):
    try:
        rule = parse_rule(text, FIELDS)
    except UsageError as error:
        assert "speedup, macs_ratio" in str(error)
    else:
        assert rule.field in FIELDS
        assert math.isfinite(rule.limit)


def test_a_share_may_be_written_in_percent():
    rule = parse_rule("speedup > 1.5 %", FIELDS)
    assert rule.limit == 0.015
    assert str(rule) == "speedup>0.015"


@pytest.mark.parametrize(
    "text",
    [
        "speedup<%",
        "speedup<1%%",
        "speedup<nan",
        "speedup<inf",
        "speedup<1<2",
        "speedup<",
        "<1",
        "speedup==1",
        "speedup<1;2",
        "speedup<1x",
    ],
)
def test_what_is_no_rule(text):
    with pytest.raises(UsageError, match="--fail-on"):
        parse_rule(text, FIELDS)


def test_a_limit_beyond_all_numbers_is_no_rule():
    with pytest.raises(UsageError, match="--fail-on"):
        parse_rule("speedup<1e999", FIELDS)


def test_an_unknown_value_hits_every_rule():
    rules = [parse_rule(f"macs_ratio{sign}1", FIELDS) for sign in SIGNS]
    assert len(hits(rules, {"macs_ratio": None})) == 4


def test_hits_name_value_and_rule():
    assert hits([parse_rule("speedup<1.3", FIELDS)], {"speedup": 1.2}) == [
        "speedup is 1.2, which --fail-on speedup<1.3 forbids"
    ]
    assert hits([parse_rule("speedup<1.3", FIELDS)], {"speedup": 1.3}) == []


@pytest.mark.parametrize(
    ("text", "value"), [("1%", 0.01), ("0.01", 0.01), (" 2.5 %", 0.025), ("5e-3", 0.005)]
)
def test_shares(text, value):
    assert share(text) == pytest.approx(value)


@given(st.text(max_size=12))
def test_any_text_is_a_share_and_a_duration_or_refused(text):
    for parser, limit in ((share, 1.0), (duration, math.inf)):
        try:
            value = parser(text)
        except typer.BadParameter:
            continue
        assert 0 < value < limit
