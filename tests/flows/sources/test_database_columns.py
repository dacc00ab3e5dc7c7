"""A column gives the text that its values give one by one, whichever way it is rendered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headwater.errors import ConfigError, SourceDataError
from headwater.flows.sources.columnar import (
    JsonTexts,
    column_fragments,
    column_texts,
    column_times,
    template_fields,
)
from headwater.flows.sources.protocol import RECORD_SCHEMA, canonical_json
from headwater.flows.sources.rendering import Layout, join_key, join_keys, render_batch
from headwater.flows.sources.values import plain_value, value_text, value_time

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
WHOLE = st.integers(-(2**63), 2**63 - 1)
FLOAT = (
    st.floats(allow_nan=True, allow_infinity=True) | st.floats(-1e-3, 1e-3) | st.floats(-1e12, 1e12)
)
DECIMAL = st.decimals(
    allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9
)
ANY = TEXT | WHOLE | FLOAT | DECIMAL | st.booleans() | st.dates() | st.datetimes() | st.none()
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def column(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Columns with nulls."""
    return st.lists(values | st.none(), max_size=6)


def assert_as_one_by_one(values: Sequence[Any], given_as: Any) -> None:
    """Texts, JSON and times are what each value gives alone."""
    assert column_texts("c", given_as).to_pylist() == [value_text(v) for v in values]
    fragments = [None if v is None else canonical_json(plain_value(v)) for v in values]
    assert column_fragments("c", given_as).to_pylist() == fragments
    assert column_times(given_as).to_pylist() == [value_time(v) for v in values]


@given(column(ANY))
def test_columns_of_python_values(values: list[Any]) -> None:
    """Mixed types, as SQLite and most drivers give them."""
    assert_as_one_by_one(values, values)


@given(column(TEXT), column(WHOLE), column(FLOAT), column(st.booleans()))
@example([""], [0], [-0.0, 1e16, 1e-5, 123456789012.5, float("nan"), float("-inf")], [True])
def test_columns_of_arrow(
    texts: list[Any], whole: list[Any], floats: list[Any], flags: list[Any]
) -> None:
    """Typed columns, as PostgreSQL and DuckDB give them."""
    for values, kind in (
        (texts, pa.string()),
        (whole, pa.int64()),
        (floats, pa.float64()),
        (flags, pa.bool_()),
    ):
        assert_as_one_by_one(values, pa.array(values, kind))
        assert_as_one_by_one(values, values)


def test_columns_of_arrow_that_are_rare() -> None:
    """Decimals, days, moments, small floats and dictionaries go through Python's values."""
    moment = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    for array in (
        pa.array([Decimal("12.50"), None]),
        pa.array([date(2024, 1, 2)]),
        pa.array([moment], pa.timestamp("us", tz="UTC")),
        pa.array([0.5], pa.float32()),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array([timedelta(hours=1)]),
        pa.array(["x"], pa.large_string()),
    ):
        assert_as_one_by_one(array.to_pylist(), array)
    with pytest.raises(SourceDataError, match=r"c\b[\s\S]*ignore"):
        column_texts("c", pa.array([b"x"]))


@given(column(JSON))
@example([{"a": 1e16}, {"a": 1e-5}, {"b": 2, "a": [None, "x"]}, 12345678901234567890, "é\u2028"])
def test_columns_of_json(values: list[Any]) -> None:
    """JSON as text is what the values it stands for are, written in any way."""
    for dumped in (json.dumps, lambda v: json.dumps(v, ensure_ascii=False, indent=1)):
        texts = [None if v is None else dumped(v) for v in values]
        for given_as in (JsonTexts(texts), JsonTexts(pa.array(texts, pa.string()))):
            assert column_texts("c", given_as).to_pylist() == [value_text(v) for v in values]
            fragments = [None if v is None else canonical_json(plain_value(v)) for v in values]
            assert column_fragments("c", given_as).to_pylist() == fragments


def test_what_is_no_json_stands_for_itself() -> None:
    """A broken JSON text costs nothing but its structure; a lone half of a pair stays readable."""
    texts = ["{", "", "nope", '{"a": NaN}', "[" * 5000]
    assert column_texts("c", JsonTexts(texts)).to_pylist() == [
        "{",
        "",
        "nope",
        '{"a":NaN}',
        "[" * 5000,
    ]


@given(st.lists(st.tuples(TEXT | st.none(), TEXT | st.none()), max_size=5))
def test_keys_are_joined_as_one_by_one(pairs: list[tuple[str | None, str | None]]) -> None:
    """A column of keys is what each row's key is alone."""
    parts = [pa.array([p[n] for p in pairs], pa.string()) for n in (0, 1)]
    assert join_keys(parts, ("a", "b")).to_pylist() == [join_key(p) for p in pairs]


@given(st.lists(st.tuples(TEXT | st.none(), TEXT | st.none()), max_size=5))
def test_batches_from_arrow_and_from_python_are_equal(
    pairs: list[tuple[str | None, str | None]],
) -> None:
    """The same rows give the same records, down to the byte, wherever they come from."""
    layout = Layout(
        text=("a", "b"), metadata=("b",), title="a", url="https://x/{a}/{key}", labels=("l",)
    )
    keys = [str(n) for n in range(len(pairs))]
    plain = {"a": [a for a, _ in pairs], "b": [b for _, b in pairs]}
    arrow = {name: pa.array(values, pa.string()) for name, values in plain.items()}
    one, other = (
        render_batch(keys, plain, layout),
        render_batch(pa.array(keys, pa.string()), arrow, layout),
    )
    assert one.equals(other)
    assert one.schema.equals(RECORD_SCHEMA)
    for row, (a, b) in zip(one.to_pylist(), pairs, strict=True):
        lines = [f"{n}:{chr(10) if chr(10) in v else ' '}{v}" for n, v in (("A", a), ("B", b)) if v]
        assert row["text"] == "\n".join(lines)


def test_a_template_renders_a_row() -> None:
    """Braces hold columns; a line whose columns are all empty is left out, others stay."""
    columns = {"name": ["pen", "ink", None], "price": [Decimal("1.50"), None, None]}
    layout = Layout(text=(), template="# {name}\nFor sale\nPrice: {price} EUR\n{{not a column}}")
    assert render_batch(["a", "b", "c"], columns, layout).column("text").to_pylist() == [
        "# pen\nFor sale\nPrice: 1.50 EUR\n{not a column}",
        "# ink\nFor sale\n{not a column}",
        "For sale\n{not a column}",
    ]


@pytest.mark.parametrize("template", ["{price:.2f}", "{name!r}", "{", "{}"])
def test_a_template_holds_names_alone(template: str) -> None:
    """What is more than a name is refused before anything is read."""
    with pytest.raises(ConfigError):
        template_fields(template)
