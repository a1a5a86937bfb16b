"""Whatever is typed for inputs, dimensions and factories is understood, or refused in one line."""

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench.errors import UsageError
from hwbench.network.intake import factories, fitting, input_texts

EXAMPLES = int(os.environ.get("HWBENCH_EXAMPLES", "200"))
quick = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
PIECES = st.sampled_from(
    ["1", "3", "224", "x", "=", ":", "int64", "float32", "[", "]", "(", ")", ",", ".", "ids", "seq",
     "-", "0", "e9", '"', "'", "timm", "create_model", "**", "*", "{", "}", "scalar", "lambda", "\\d",
     "9" * 20, " ", "\n", "\0", "\ud800", "é"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=14).map("".join))
VALUES = st.recursive(
    st.one_of(TEXTS, st.integers(), st.booleans(), st.none(), st.floats()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner), st.tuples(inner)),
    max_leaves=6,
)


def check(parse, value):
    try:
        return parse(value)
    except UsageError as error:
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) < 700
        return None


@quick
@given(TEXTS)
def test_inputs_are_parsed_or_refused(text):
    request = check(input_texts.parse_input, text)
    if request is not None:
        assert input_texts.parse_input(str(request)).shape == request.shape


@quick
@given(VALUES)
def test_inputs_and_dimensions_of_any_type_are_parsed_or_refused(value):
    check(input_texts.parse_inputs, value)
    check(input_texts.parse_dims, value)


@quick
@given(TEXTS)
def test_factories_are_parsed_or_refused_and_nothing_is_run(text):
    factories.is_factory(text)
    check(factories.parse_factory, text)
    check(factories.parse_factory, f"timm:create_model({text})")


@quick
@given(st.lists(TEXTS, max_size=8), st.lists(TEXTS, max_size=8))
def test_names_are_matched_whatever_they_are(own, saved):
    fit = fitting.match_names(own, saved)
    assert set(fit.source) | set(fit.missing) == set(own)
