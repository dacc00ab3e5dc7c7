"""Columns of Parquet objects for a reader that must start fast: plain pyarrow, row group by row group.

`pyarrow.compute` and `pyarrow.dataset` are left out (they cost a tenth of a start), and nothing here
starts a thread, so that a fork is safe.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.errors import CorruptObjectError
from headwater.storage.objects import ObjectEntry, ObjectStore

_BUDGET = 48 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def read_columns(
    objects: ObjectStore,
    entries: Sequence[ObjectEntry],
    columns: list[str],
    *,
    encoded: Sequence[str] = (),
) -> list[pa.Table]:
    """Some columns of Parquet objects, one table each; `encoded` ones come as dictionaries.

    Raises:
        CorruptObjectError: an object is missing or damaged.
    """
    return [
        _open(objects, entry, encoded).read(columns=columns, use_threads=False) for entry in entries
    ]


def fixed(tables: Sequence[pa.Table], column: str, dtype: Any) -> np.ndarray:
    """A column of fixed width as one array of `dtype`; it must hold no nulls."""
    kind = np.dtype(dtype)
    parts = [
        np.frombuffer(piece.buffers()[1], dtype=kind)[piece.offset : piece.offset + len(piece)]
        for table in tables
        for piece in table[column].chunks
        if len(piece)
    ]
    return np.concatenate(parts) if parts else np.empty(0, dtype=kind)


def times(tables: Sequence[pa.Table], column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of times: int64 (n,) microseconds since 1970 and bool (n,) where there is one."""
    values, held = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=bool)]
    for table in tables:
        for piece in table[column].chunks:
            if not len(piece):
                continue
            valid, data = piece.buffers()
            part = slice(piece.offset, piece.offset + len(piece))
            values.append(np.frombuffer(data, dtype=np.int64)[part])
            if valid is None:
                held.append(np.ones(len(piece), dtype=bool))
            else:
                bits = np.unpackbits(np.frombuffer(valid, dtype=np.uint8), bitorder="little")
                held.append(bits[part].astype(bool))
    return np.concatenate(values), np.concatenate(held)


def codes(tables: Sequence[pa.Table], column: str) -> tuple[np.ndarray, list[str]]:
    """A column that was read `encoded`: int32 (n,) codes, and the words they stand for."""
    words: dict[str, int] = {}
    parts = []
    for table in tables:
        for piece in table[column].chunks:
            own = [words.setdefault(w, len(words)) for w in piece.dictionary.to_pylist()]
            if len(piece):
                indices = np.frombuffer(piece.indices.buffers()[1], dtype=np.int32)
                start = piece.indices.offset
                parts.append(np.array(own, dtype=np.int32)[indices[start : start + len(piece)]])
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32), list(words)


def value_of(scalar: Any) -> Any:
    """A value as plain Python; a time in UTC. pyarrow's own way would import pandas for times."""
    if not isinstance(scalar, pa.TimestampScalar):
        return scalar.as_py()
    if not scalar.is_valid:
        return None
    return instant(scalar.value * 1_000_000 // _PER_SECOND[scalar.type.unit])


def micros(time: datetime) -> int:
    """Microseconds since 1970."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def instant(value: int) -> datetime:
    """The time so many microseconds after 1970, in UTC."""
    return _EPOCH + timedelta(microseconds=int(value))


class Texts:
    """A column of texts in the pieces in which it was read.

    Attributes:
        pieces: of the column, in order; none is empty.
    """

    def __init__(self, pieces: Iterable[pa.Array]) -> None:
        self.pieces = [piece for piece in pieces if len(piece)]
        self._stops = list(accumulate(len(piece) for piece in self.pieces))

    def __getitem__(self, row: int) -> str:
        """The text of a row, counted through all pieces."""
        at = bisect_right(self._stops, row)
        piece = self.pieces[at]
        return str(piece[row - self._stops[at] + len(piece)].as_py())

    def among(self, wanted: Collection[str]) -> np.ndarray:
        """The rows whose text is one of `wanted`: int64 (n,), rising."""
        every = (text for piece in self.pieces for text in piece.to_pylist())
        return np.array([row for row, text in enumerate(every) if text in wanted], dtype=np.int64)

    def followed_by(self, pieces: Iterable[pa.Array], *, at: int) -> Texts:
        """The first `at` rows, where a piece must end, and then other pieces."""
        return Texts([*self.pieces[: bisect_right(self._stops, at)], *pieces])


class RowReader:
    """Single rows of Parquet objects, read a row group at a time.

    The groups read last are kept, by bytes and not by number, for all views that share the reader.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[str, int], _Group] = OrderedDict()
        self._bytes = 0
        self._starts: dict[str, np.ndarray] = {}

    def row(
        self, entries: Sequence[ObjectEntry], number: int, columns: list[str]
    ) -> dict[str, Any]:
        """The values of one row.

        Args:
            entries: objects of one table, in order.
            number: of the row, counted through all of them.
            columns: wanted; the same for each call about the same objects.

        Raises:
            CorruptObjectError: the object is missing or damaged.
        """
        for entry in entries:
            if number < entry.rows:
                group, at = self._group(entry, number, columns)
                return {name: value_of(group.columns[name][at]) for name in columns}
            number -= entry.rows
        raise IndexError(number)

    def _group(self, entry: ObjectEntry, number: int, columns: list[str]) -> tuple[_Group, int]:
        starts = self._row_group_starts(entry)
        index = int(np.searchsorted(starts, number, side="right")) - 1
        at = number - int(starts[index])
        key = (entry.sha256, index)
        with self._lock:
            found = self._groups.get(key)
            if found is not None:
                self._groups.move_to_end(key)
                return found, at
        file = _open(self._objects, entry)
        group = _Group.of(file.read_row_group(index, columns=columns, use_threads=False))
        self._keep(key, group)
        return group, at

    def _row_group_starts(self, entry: ObjectEntry) -> np.ndarray:
        """The first row of each row group; kept, because a footer takes longer than a search."""
        starts = self._starts.get(entry.sha256)
        if starts is None:
            footer = _open(self._objects, entry).metadata
            sizes = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
            starts = self._starts[entry.sha256] = np.cumsum([0, *sizes[:-1]])
        return starts

    def _keep(self, key: tuple[str, int], group: _Group) -> None:
        with self._lock:
            if key in self._groups:
                return
            self._groups[key] = group
            self._bytes += group.bytes
            while self._bytes > _BUDGET and len(self._groups) > 1:
                self._bytes -= self._groups.popitem(last=False)[1].bytes


@dataclass(frozen=True)
class _Group:
    """A row group, read: arrays, because a column of a table takes far longer to give a value."""

    columns: dict[str, pa.Array]
    bytes: int

    @staticmethod
    def of(table: pa.Table) -> _Group:
        columns = {
            name: column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
        return _Group(columns, table.nbytes)


def _open(objects: ObjectStore, entry: ObjectEntry, encoded: Sequence[str] = ()) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(
            objects.path(entry), memory_map=True, read_dictionary=list(encoded) or None
        )
    except (FileNotFoundError, pa.ArrowException) as error:
        raise CorruptObjectError(
            "An object of the store cannot be read",
            obj=f"objects/{entry.name}",
            todo=f"{error}; run 'headwater verify --deep' to see all of it",
        ) from None
