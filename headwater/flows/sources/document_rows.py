"""Documents as record batches, built by column: a row of an unchanged file is three appends."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa

from headwater.flows.sources.protocol import RECORD_SCHEMA

_BATCH_ROWS = 1000
_BATCH_CHARS = 16_000_000


class DocumentRows:
    """The next batch.

    Args:
        labels: put on every row.
    """

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = list(labels)
        self._clear()

    def _clear(self) -> None:
        self._key: list[str | None] = []
        self._state: list[str] = []
        self._fingerprint: list[str | None] = []
        # The other columns are sparse in a refresh where little changed: row -> value.
        self._sparse: dict[str, dict[int, str]] = {
            name: {} for name in ("text", "title", "url", "metadata", "error")
        }
        self._times: dict[int, datetime] = {}
        self._chars = 0

    @property
    def count(self) -> int:
        """Rows so far."""
        return len(self._key)

    @property
    def full(self) -> bool:
        """Whether it is time for `batch`."""
        return len(self._key) >= _BATCH_ROWS or self._chars >= _BATCH_CHARS

    def unchanged(self, key: str, fingerprint: str) -> None:
        """Add a file that is as the store knows it."""
        self._key.append(key)
        self._state.append("unchanged")
        self._fingerprint.append(fingerprint)

    def add(
        self,
        key: str | None,
        state: str,
        *,
        fingerprint: str | None = None,
        source_ts: datetime | None = None,
        **values: str | None,
    ) -> None:
        """Add any other row; `values` are columns by name."""
        row = len(self._key)
        self._key.append(key)
        self._state.append(state)
        self._fingerprint.append(fingerprint)
        if source_ts is not None:
            self._times[row] = source_ts
        for name, value in values.items():
            if value is not None:
                self._sparse[name][row] = value
        self._chars += len(values.get("text") or "")

    def batch(self) -> pa.RecordBatch:
        """Everything so far; starts anew."""
        count = len(self._key)
        columns: dict[str, Any] = {
            name: _column(values, count, pa.string()) for name, values in self._sparse.items()
        }
        columns["source_ts"] = _column(self._times, count, RECORD_SCHEMA.field("source_ts").type)
        columns["key"] = pa.array(self._key, pa.string())
        columns["state"] = pa.array(self._state, pa.string())
        columns["fingerprint"] = pa.array(self._fingerprint, pa.string())
        columns["labels"] = pa.array([self._labels] * count, pa.list_(pa.string()))
        self._clear()
        arrays = [columns[name] for name in RECORD_SCHEMA.names]
        return pa.RecordBatch.from_arrays(arrays, schema=RECORD_SCHEMA)


def _column(values: dict[int, Any], count: int, kind: pa.DataType) -> pa.Array:
    if not values:
        return pa.nulls(count, kind)
    return pa.array([values.get(row) for row in range(count)], kind)
