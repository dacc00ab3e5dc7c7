"""Rows become text."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import ConfigError, SourceDataError
from headwater.flows.sources.rendering import (
    Layout,
    field_label,
    join_key,
    render_batch,
    split_key,
    template_fields,
    value_text,
    value_time,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("as it is", "as it is"),
        (True, "true"),
        (3, "3"),
        (1.0, "1.0"),
        (Decimal("1E+3"), "1000"),
        (Decimal("12.50"), "12.50"),
        (date(2024, 2, 3), "2024-02-03"),
        (datetime(2024, 2, 3, 4, 5), "2024-02-03 04:05:00"),
        (
            datetime(2024, 2, 3, 4, tzinfo=timezone(timedelta(hours=2))),
            "2024-02-03 02:00:00+00:00",
        ),
        (["a", None, 2], "a, 2"),
        ({"b": 1, "a": [True]}, '{"a":[true],"b":1}'),
    ],
)
def test_every_value_has_one_text(value: object, text: str | None) -> None:
    """The text of a value follows its type."""
    assert value_text(value) == text


def test_nulls_and_empty_strings_are_left_out() -> None:
    """A line is written only for a value that says something, in the order of the layout."""
    columns = {"unit_price": [Decimal("1.50"), None], "name": ["pen", ""], "no": [None, 7]}
    batch = render_batch(["a", "b"], columns, Layout(text=("name", "unit_price", "no")))
    assert batch.column("text").to_pylist() == ["Name: pen\nUnit price: 1.50", "No: 7"]


def test_a_value_of_several_lines_stands_below_its_name() -> None:
    """Lines of a value are kept, so that its own markdown survives."""
    batch = render_batch(["a"], {"body": ["# Head\n\ntext"]}, Layout(text=("body",)))
    assert batch.column("text").to_pylist() == ["Body:\n# Head\n\ntext"]


def test_a_bare_field_is_the_document() -> None:
    """The single text field is written without its name."""
    batch = render_batch(["a"], {"body": ["# Head"]}, Layout(text=("body",), bare=True))
    assert batch.column("text").to_pylist() == ["# Head"]


def test_binary_values_are_refused_by_name() -> None:
    """A blob among the texts or the metadata names its column and the way out."""
    for layout in (Layout(text=("photo",)), Layout(text=(), metadata=("photo",))):
        with pytest.raises(SourceDataError, match=r"photo[\s\S]*ignore"):
            render_batch(["a"], {"photo": [b"\x00"]}, layout)


def test_metadata_is_canonical_and_leaves_nulls_out() -> None:
    """Metadata keeps JSON's own types; times and decimals become text."""
    columns = {"z": [1, None], "a": [date(2024, 1, 1), None], "f": [float("nan"), 0.5]}
    batch = render_batch(["a", "b"], columns, Layout(text=(), metadata=("z", "a", "f")))
    assert batch.column("metadata").to_pylist() == [
        '{"a":"2024-01-01","f":"nan","z":1}',
        '{"f":0.5}',
    ]


def test_a_row_that_is_no_unicode_is_unreadable_and_the_others_get_through() -> None:
    """A lone surrogate costs one row, which says why."""
    batch = render_batch(["a", "b"], {"t": ["bad \udcff", "good"]}, Layout(text=("t",)))
    rows = batch.to_pylist()
    assert rows[0]["state"] == "unreadable"
    assert "text" in rows[0]["error"]
    assert rows[0]["text"] is None
    assert (rows[1]["state"], rows[1]["text"]) == ("present", "T: good")


def test_link_values_are_quoted() -> None:
    """A value cannot leave its place in a link, and a null gives no link."""
    template = "https://x.example/{key}?q={name}"
    assert template_fields(template) == ("key", "name")
    batch = render_batch(["a/b?", "a"], {"name": ["é&", None]}, Layout(text=(), url=template))
    assert batch.column("url").to_pylist() == ["https://x.example/a%2Fb%3F?q=%C3%A9%26", None]


@pytest.mark.parametrize("template", ["https://x/{", "https://x/{}"])
def test_a_wrong_template_is_a_configuration_error(template: str) -> None:
    """Braces that do not match, or are empty, are found before a row is read."""
    with pytest.raises(ConfigError):
        template_fields(template)


@pytest.mark.parametrize(
    "value",
    [
        1704067200,
        1704067200000,
        "2024-01-01T00:00:00Z",
        "2024-01-01 00:00:00",
        date(2024, 1, 1),
        "Mon, 01 Jan 2024 01:00:00 +0100",
        datetime(2024, 1, 1, tzinfo=UTC),
    ],
)
def test_times_are_read_as_utc(value: object) -> None:
    """Seconds, milliseconds, ISO 8601 and mail dates mean the same instant."""
    assert value_time(value) == datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("value", [None, "", "soon", True, 1e300, "infinity", ["2024-01-01"]])
def test_what_is_no_time_is_none(value: object) -> None:
    """A value that is no time costs the time, not the record."""
    assert value_time(value) is None


def test_labels_speak() -> None:
    """Field names are written as words."""
    assert field_label("unit_price") == "Unit price"
    assert field_label("author.name") == "Author name"


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_a_joined_key_splits_into_its_parts(parts: list[str]) -> None:
    """Joining never merges two different keys."""
    joined = join_key(parts)
    assert joined is not None
    assert split_key(joined, len(parts)) == tuple(parts)


def test_a_null_part_makes_a_null_key() -> None:
    """A key is null when any part of it is."""
    assert join_key(["a", None]) is None
    assert join_key([None]) is None
    assert split_key("a/b/c", 2) is None
