"""The suites that `headwater init` writes: sensible, and meant to be edited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from headwater.errors import NotFoundError


def _one(type_: str, severity: str, why: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": type_, "kwargs": kwargs, "severity": severity, "meta": {"why": why}}


def _not_null(column: str, severity: str, why: str) -> dict[str, Any]:
    return _one("expect_column_values_to_not_be_null", severity, why, column=column)


def _common_rows() -> list[dict[str, Any]]:
    return [
        _not_null("key", "critical", "a record without a key cannot be followed over time"),
        _one(
            "expect_column_values_to_be_between",
            "critical",
            "an empty text answers nothing, and a huge one is an accident",
            column="text_length",
            min_value=1,
            max_value=2_000_000,
        ),
        _not_null("title", "warning", "answers cite the title"),
        _one(
            "expect_column_values_to_not_match_regex",
            "warning",
            "the replacement character betrays a wrong encoding",
            column="text",
            regex="\ufffd",
        ),
    ]


def _link_rows() -> list[dict[str, Any]]:
    return [
        _one(
            "expect_column_values_to_match_regex",
            "warning",
            "a link that no browser opens",
            column="url",
            regex="^https?://[^\\s]+$",
        )
    ]


def _key_rows() -> list[dict[str, Any]]:
    return [
        _one(
            "expect_column_values_to_match_regex",
            "warning",
            "a key with spaces around it is another key after the next cleanup",
            column="key",
            regex=r"^\S(?:.*\S)?$",
        )
    ]


_EXTRA_ROWS: Final[dict[str, Callable[[], list[dict[str, Any]]]]] = {
    "documents": list,
    "database": _key_rows,
    "api": lambda: [*_key_rows(), *_link_rows()],
    "web": lambda: [*_key_rows(), *_link_rows()],
}


def default_suite(kind: str) -> dict[str, Any]:
    """The suite for a new source, ready for `json.dumps`.

    Args:
        kind: `documents`, `database`, `api` or `web`.

    Raises:
        NotFoundError: there is no such kind.
    """
    try:
        extra = _EXTRA_ROWS[kind]
    except KeyError:
        raise NotFoundError(
            "No default suite for this kind of source", obj=kind, todo=", ".join(_EXTRA_ROWS)
        ) from None
    return {
        "name": kind,
        "rows": [*_common_rows(), *extra()],
        "table": [
            _one(
                "expect_table_row_count_to_be_between",
                "warning",
                "an empty source is seldom meant",
                min_value=1,
            ),
            _one(
                "expect_column_values_to_be_unique",
                "critical",
                "two documents with one key cannot both be right",
                column="key",
            ),
        ],
    }
