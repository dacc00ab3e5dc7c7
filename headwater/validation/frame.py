"""From Arrow records to the pandas frame that Great Expectations reads: one column per field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from headwater.errors import MissingExtraError

ROW_ID: Final = "headwater_row"
"""Numbers the frame's rows from 0, so that a failure points at one record even without a key."""

_FIXED = ("key", "text", "title", "url", "source_ts")
RECORD_COLUMNS: Final = frozenset({*_FIXED, "text_length"})
"""The columns that every frame of records has, whatever its metadata."""

_EXACT_IN_FLOAT = 2**53


def record_frame(batch: pa.Table, *, known_fields: Iterable[str] = ()) -> Any:
    """The frame of changed records.

    Args:
        batch: records with at least the columns key, text, title, url, source_ts, metadata (JSON).
        known_fields: metadata fields the source is known to have; one that no record of the batch
            carries becomes a column of nulls instead of a missing column.

    Returns:
        A `pandas.DataFrame` with `ROW_ID`, key, text, title, url, source_ts, text_length (in
        characters) and one column per metadata field of the batch.
    """
    columns = {name: batch.column(name) for name in _FIXED}
    columns["text_length"] = pc.utf8_length(batch.column("text"))
    metadata = batch.column("metadata").to_pylist()
    return _frame(columns, metadata, batch.num_rows, known_fields)


def projection_frame(projection: pa.Table) -> Any:
    """The frame of a source's projection; a string column `metadata` is spread into its fields."""
    columns = {name: projection.column(name) for name in projection.column_names}
    metadata: Sequence[str | None] = ()
    if "metadata" in columns and pa.types.is_string(columns["metadata"].type):
        metadata = columns.pop("metadata").to_pylist()
    return _frame(columns, metadata, projection.num_rows, ())


def metadata_object(text: str | None) -> dict[str, Any] | None:
    """The metadata of a record, or None when the text is no JSON object."""
    if text is None or text in ("", "{}"):
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _frame(
    columns: dict[str, Any],
    metadata: Sequence[str | None],
    rows: int,
    known_fields: Iterable[str],
) -> Any:
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtraError.of("pandas", "pipeline") from None
    data: dict[str, Any] = {name: column.to_pandas() for name, column in columns.items()}
    for name, values in _spread(metadata, rows, known_fields).items():
        data[f"metadata.{name}" if name in data or name == ROW_ID else name] = _series(pd, values)
    data[ROW_ID] = range(rows)
    return pd.DataFrame(data)


def _spread(
    metadata: Sequence[str | None], rows: int, known_fields: Iterable[str]
) -> dict[str, list[Any]]:
    """Field -> its value in every row, None where a record lacks it."""
    fields: dict[str, list[Any]] = {name: [None] * rows for name in sorted(set(known_fields))}
    for row, text in enumerate(metadata):
        for name, value in (metadata_object(text) or {}).items():
            fields.setdefault(name, [None] * rows)[row] = value
    return fields


def _series(pd: Any, values: list[Any]) -> Any:
    """A column whose type is never guessed across kinds: mixed values stay Python objects."""
    found = {type(value) for value in values if value is not None}
    if found == {str}:
        return pd.Series(values, dtype="str")
    if found and found <= {int, float}:
        whole = found == {int} and None not in values
        if all(abs(value) <= _EXACT_IN_FLOAT for value in values if value is not None):
            return pd.Series(values, dtype="int64" if whole else "float64")
    return pd.Series(values, dtype="object")
