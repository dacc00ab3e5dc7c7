"""The filter language: what parses, what it says when it does not, and that text and value agree."""

from __future__ import annotations

import math
import string
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import ConfigError
from headwater.retrieval.filter_terms import ALIASES, FIELDS
from headwater.retrieval.filters import (
    And,
    Compare,
    Field,
    In,
    IsNull,
    Like,
    Literal,
    Not,
    Or,
    parse,
)

TIMES = st.datetimes(timezones=st.just(UTC)).map(Literal.of)
TEXTS = st.text().map(Literal.of)
NUMBERS = (st.integers(-(2**127), 2**127) | st.floats(allow_nan=False, allow_infinity=False)).map(
    Literal.of
)
BOOLEANS = st.booleans().map(Literal.of)
ORDERED = ("=", "!=", "<", "<=", ">", ">=")
META = st.lists(st.text() | st.sampled_from(["in", "a-b", "2024"]), min_size=1, max_size=3).map(
    lambda path: Field("meta", tuple(path))
)


def fields(kind):
    """Fields of every document whose values are of a kind."""
    return st.sampled_from([Field(name) for name, of in FIELDS.items() if of == kind])


def predicates():
    """Conditions that can be built, over every kind of field and value."""
    ops = st.sampled_from(ORDERED)
    values = TEXTS | NUMBERS | TIMES
    lists = st.lists(values | BOOLEANS, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.builds(Compare, META, ops, values),
        st.builds(Compare, META, st.sampled_from(("=", "!=")), BOOLEANS),
        st.builds(Compare, fields("text"), ops, TEXTS),
        st.builds(Compare, fields("time"), ops, TIMES),
        st.builds(In, META, lists),
        st.builds(In, fields("text"), st.lists(TEXTS, min_size=1, max_size=3).map(tuple)),
        st.builds(Like, META | fields("text"), st.text()),
        st.builds(IsNull, META | fields("text") | fields("time")),
    )


EXPRESSIONS = st.recursive(
    predicates(),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=12,
)
WORDS = ["source", "meta.a", "meta", "=", "!=", "<", "in", "(", ")", ",", "like", "is", "null"]
WORDS += ["not", "and", "or", "'a'", "'", '"', "1", "-", "1e9", "2026-01-01", "true", "%", "."]


@given(EXPRESSIONS)
def test_an_expression_written_as_text_is_the_same_expression(expression):
    """`parse(str(e)) == e`, whatever quotes, dots and keywords its names and values hold."""
    assert parse(str(expression)) == expression
    assert hash(parse(str(expression))) == hash(expression)


@given(st.text() | st.lists(st.sampled_from(WORDS)).map(" ".join) | st.text(string.printable))
def test_hostile_text_is_refused_by_the_one_error(text):
    """Whatever is typed, it parses or it is a ConfigError that can be printed anywhere."""
    try:
        parse(text)
    except ConfigError as error:
        str(error).encode("utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        "(" * 1_000_000,
        "'" * 999_999,
        "key = '" + "''" * 30_000,
        "not " * 16_000,
        "(" * 65_000,
        "meta." + '"' * 60_001,
        "meta" + ".a" * 30_000,
        " " * 60_000 + "~",
        "1" * 60_000,
        "key = " + "9" * 60_000,
    ],
    ids=lambda text: f"{text[:8]}-{len(text)}",
)
def test_a_huge_filter_is_refused_and_not_followed(text):
    """A megabyte of text, of parentheses or of quotes ends in a short message."""
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert len(str(error.value)) < 500


def test_nesting_is_bounded_however_an_expression_is_made():
    """Fifty levels are enough for people; more are refused as text and as values."""
    leaf = parse("key = 'a'")
    assert parse("(" * 49 + "key = 'a'" + ")" * 49) == leaf
    with pytest.raises(ConfigError, match="deep"):
        parse("(" * 50 + "key = 'a'" + ")" * 50)
    with pytest.raises(ConfigError, match="deep"):
        parse("not " * 50 + "key = 'a'")
    for _ in range(49):
        leaf = Not(leaf)
    assert parse(str(leaf)) == leaf
    with pytest.raises(ConfigError, match="deep"):
        Not(leaf)


def test_not_binds_before_and_and_and_before_or():
    """Precedence is the usual one, and parentheses change it."""
    a, b, c = (parse(f"key = '{name}'") for name in "abc")
    text = "not key = 'a' and key = 'b' or key = 'c'"
    assert parse(text) == Or((And((Not(a), b)), c))
    assert parse("not (key = 'a' and (key = 'b' or key = 'c'))") == Not(And((a, Or((b, c)))))
    assert parse("key = 'a' OR key = 'b' Or key = 'c'") == Or((a, b, c))
    assert parse("key not in ('a')") == Not(parse("key in ('a')"))
    assert parse("key not like 'a%'") == Not(parse("key like 'a%'"))
    assert parse("key is not null") == Not(IsNull(Field("key")))


def test_times_are_instants_however_they_are_written():
    """A quoted or bare date or time of a time field is one value, in UTC."""
    when = Compare(Field("changed_at"), ">", Literal.of(datetime(2026, 1, 1, 10, tzinfo=UTC)))
    for text in (
        "'2026-01-01T10:00:00Z'", "2026-01-01T10:00:00Z", "2026-01-01T12:00:00+02:00",
        "2026-01-01T10:00:00", "'2026-01-01 10:00'",
    ):  # fmt: skip
        assert parse(f"changed_at > {text}") == when
    assert parse("changed_at > 2026-01-01") == parse("changed_at>'2026-01-01T00:00Z'")


def test_other_names_of_a_field_mean_the_field():
    """`path` is the key, and `label` are the labels."""
    assert ALIASES == {"path": "key", "label": "labels"}
    assert parse("path like 'a%' and label = 'x'") == parse("key like 'a%' and labels = 'x'")


def test_true_is_not_one():
    """Values of different kinds are different filters, so that no cached answer is mixed up."""
    assert parse("meta.a = true") != parse("meta.a = 1")
    assert parse("meta.a = '1'") != parse("meta.a = 1") == parse("meta.a = 1.0")


@pytest.mark.parametrize(
    "text, what",
    [
        ("", "character 1: 'the end'"),
        ("key", "= != < <= > >= in like is"),
        ("key = 'a' key", "'and', 'or' or the end is expected, at character 11"),
        ("souce = 'a'", "Unknown filter field: souce (at character 1)\n  -> nearest: source"),
        ("key = 'a' or label.x = 'a'", "Unknown filter field: label.x (at character 14)"),
        ("meta = 'a'", "meta.NAME"),
        ("source = 3", "compares a text with a number: source, 3 (at character 1)"),
        ("source like 'a' and changed_at > 5", "compares a time with a number: changed_at, 5 (at"),
        ("changed_at like '2026%'", "compares a time with a text"),
        ("changed_at > 'soon'", "no time, at character 14"),
        ("known_at > 2026-02-30", "no time, at character 12"),
        ("known_at > '0001-01-01T00:00+14:00'", "no time"),
        ("meta.a < true", "cannot order true and false"),
        ("key = null", "ask 'is null'"),
        ("key = a", "put a text in single quotes"),
        ("key = 'a", "a text that does not end, at character 7"),
        ("key = 'a' ; drop", "an unknown sign, at character 11"),
        ("key in ()", "a value is expected"),
        ("key in ('a'", "')' is expected"),
        ("key like 5", "a text is expected after 'like'"),
        ("meta.a = 1e999", "a number out of range"),
        ("'a' in meta.tags", "the name of a field is expected"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place_and_what_is_possible(text, what):
    """Every message says where, which field, and what would be right."""
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert what in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Field("sauce"),
        lambda: Field("meta"),
        lambda: Field("key", ("a",)),
        lambda: Literal.of(math.nan),
        lambda: Literal.of(2**200),
        lambda: Literal.of(None),
        lambda: Compare(Field("key"), "~", Literal.of("a")),
        lambda: Compare(Field("key"), "=", Literal.of(1)),
        lambda: In(Field("key"), ()),
        lambda: In(Field("known_at"), (Literal.of("a"),)),
        lambda: Like(Field("known_at"), "a"),
        lambda: And((IsNull(Field("key")),)),
        lambda: Or(()),
    ],
)
def test_an_expression_that_makes_no_sense_cannot_be_built(make):
    """Values that are put together by a program are checked like text."""
    with pytest.raises(ConfigError):
        make()
