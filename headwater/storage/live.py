"""The live documents of a source, in columns: what change detection compares an extract with.

A dictionary of a million small objects takes several times the memory of their values and is slow
to fill. Here the values stay in Arrow; a document is built only when somebody asks for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headwater.storage.changes import LiveDocument

Rows = npt.NDArray[np.int64]
"""Positions among the live documents; -1 where there is none."""

Mask = npt.NDArray[np.bool_]

# Large offsets: a million keys of the longest kind are more than one array of 32-bit offsets holds.
_SCHEMA: Final = pa.schema(
    [
        ("key", pa.large_string()),
        ("version_id", pa.large_string()),
        ("content_hash", pa.binary(32)),
        ("metadata_hash", pa.binary(32)),
        ("fingerprint", pa.large_string()),
        ("changed_at", pa.timestamp("us", tz="UTC")),
    ]
)
_FIELDS: Final = tuple(_SCHEMA.names)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PORTION: Final = 10_000


class LiveDocuments(Mapping[str, LiveDocument]):
    """Key -> document, read-only, in the order of the table it was made from.

    A key is found by its hash in a sorted array and then compared itself, so equal hashes of
    different keys cost a step and never an error.
    """

    def __init__(self, table: pa.Table) -> None:
        """Take the columns `key` and those of `LiveDocument`; the last row of a key counts."""
        columns = table.select(_FIELDS).cast(_SCHEMA)
        hashes = _hashes(columns["key"])
        order = np.argsort(hashes, kind="stable")
        if np.any(hashes[order[1:]] == hashes[order[:-1]]):
            last = {key: row for row, key in enumerate(columns["key"].to_pylist())}
            if len(last) < len(columns):
                columns = columns.take(pa.array(list(last.values()), pa.int64()))
                hashes = _hashes(columns["key"])
                order = np.argsort(hashes, kind="stable")
        self._columns: dict[str, pa.Array] = {
            name: _whole(columns[name], _SCHEMA.field(name).type) for name in _FIELDS
        }
        self._order = order.astype(np.int32 if len(order) < 2**31 else np.int64)
        self._hashes = hashes[order]
        self._digests = {n: _words(self._columns[n]) for n in ("content_hash", "metadata_hash")}

    @classmethod
    def of(cls, live: Mapping[str, LiveDocument]) -> LiveDocuments:
        """The same documents in columns; itself when it is made of columns already."""
        if isinstance(live, LiveDocuments):
            return live
        found = list(live.values())
        columns = {name: [getattr(one, name) for one in found] for name in _FIELDS[1:]}
        return cls(pa.table({"key": list(live), **columns}, schema=_SCHEMA))

    def __reduce__(self) -> tuple[type[LiveDocuments], tuple[pa.Table]]:
        # The index is of no use to another process: Python's hash of a string differs there.
        return LiveDocuments, (pa.table(self._columns, schema=_SCHEMA),)

    # --- as a mapping -------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._hashes)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _PORTION):
            yield from self._columns["key"].slice(start, _PORTION).to_pylist()

    def __contains__(self, key: object) -> bool:
        return self.row_of(key) >= 0

    def __getitem__(self, key: str) -> LiveDocument:
        row = self.row_of(key)
        if row < 0:
            raise KeyError(key)
        return next(self._documents(row, 1))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LiveDocuments):
            return super().__eq__(other)
        if len(self) != len(other):
            return False
        rows = other.rows_of(self._columns["key"])
        return bool(np.all(rows >= 0)) and all(
            column.equals(other._columns[name].take(pa.array(rows)))
            for name, column in self._columns.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def items(self) -> ItemsView[str, LiveDocument]:
        """Pairs of key and document, built portion by portion."""
        return _Items(self)

    def values(self) -> ValuesView[LiveDocument]:
        """The documents, built portion by portion."""
        return _Values(self)

    # --- in columns ---------------------------------------------------------------------------

    def rows_of(self, keys: pa.Array) -> Rows:
        """Where each key is; -1 for one that is not live, and for a null."""
        found = np.full(len(keys), -1, np.int64)
        hashes = _hashes(keys)
        places = np.searchsorted(self._hashes, hashes)
        waiting = np.arange(len(keys))
        while waiting.size:
            waiting = waiting[places[waiting] < len(self)]
            waiting = waiting[self._hashes[places[waiting]] == hashes[waiting]]
            rows = self._order[places[waiting]]
            wanted = keys if len(waiting) == len(keys) else keys.take(pa.array(waiting))
            same = _mask(pc.equal(self._columns["key"].take(pa.array(rows)), wanted))
            found[waiting[same]] = rows[same]
            waiting = waiting[~same]
            places[waiting] += 1
        return found

    def keys_at(self, rows: Rows) -> list[str]:
        """The keys at these positions."""
        keys: list[str] = self._columns["key"].take(pa.array(rows)).to_pylist()
        return keys

    def fingerprints(self) -> dict[str, str]:
        """Key -> fingerprint of every document that has one."""
        column = self._columns["fingerprint"]
        if column.null_count == len(column):
            return {}
        has = pc.fill_null(pc.greater(pc.binary_length(column), 0), False)
        pairs = (self._columns[name].filter(has).to_pylist() for name in ("key", "fingerprint"))
        return dict(zip(*pairs, strict=True))

    def holding(self, contents: pa.Array) -> pa.Array:
        """Those of the documents' content hashes that are among `contents`, one per document."""
        column = self._columns["content_hash"]
        return column.filter(pc.is_in(column, value_set=contents))

    def same(
        self,
        rows: Rows,
        content_hashes: Sequence[bytes],
        metadata_hashes: Sequence[bytes],
        fingerprints: pa.Array,
    ) -> Mask:
        """Whether the documents at `rows` are exactly these; False where there is none.

        Args:
            rows: where the documents are, -1 for none.
            content_hashes: 32 bytes each, one per row.
            metadata_hashes: likewise.
            fingerprints: strings, one per row; two nulls are the same.
        """
        same = rows >= 0
        if not np.any(same):
            return same
        at = np.maximum(rows, 0)
        for name, digests in (
            ("content_hash", content_hashes),
            ("metadata_hash", metadata_hashes),
        ):
            incoming = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 4)
            same &= (self._digests[name][at] == incoming).all(axis=1)
        held = self._columns["fingerprint"]
        if held.null_count < len(held) or fingerprints.null_count < len(fingerprints):
            held = held.take(pa.array(at))
            both_null = pc.and_(pc.is_null(held), pc.is_null(fingerprints))
            same &= _mask(pc.equal(held, fingerprints)) | _mask(both_null)
        return same

    def row_of(self, key: object) -> int:
        """Where a key is; -1 if it is not live."""
        wanted = hash(key)
        place = bisect_left(self._hashes, wanted)
        while place < len(self) and self._hashes[place] == wanted:
            row = int(self._order[place])
            if self._columns["key"][row].as_py() == key:
                return row
            place += 1
        return -1

    def _documents(self, start: int, count: int) -> Iterator[LiveDocument]:
        part = [self._columns[name].slice(start, count) for name in _FIELDS[1:]]
        *values, changed = part
        return map(LiveDocument, *(v.to_pylist() for v in values), utc_times(changed))

    def _portions(self) -> Iterator[tuple[list[str], Iterator[LiveDocument]]]:
        for start in range(0, len(self), _PORTION):
            keys = self._columns["key"].slice(start, _PORTION).to_pylist()
            yield keys, self._documents(start, _PORTION)


class _Items(ItemsView[str, LiveDocument]):
    _mapping: LiveDocuments

    def __iter__(self) -> Iterator[tuple[str, LiveDocument]]:
        for keys, documents in self._mapping._portions():
            yield from zip(keys, documents, strict=True)


class _Values(ValuesView[LiveDocument]):
    _mapping: LiveDocuments

    def __iter__(self) -> Iterator[LiveDocument]:
        for _, documents in self._mapping._portions():
            yield from documents


def utc_times(column: pa.Array) -> list[Any]:
    """The times of a column in microseconds; Arrow's own conversion takes ten times as long.

    Raises:
        OverflowError: one lies outside the years 1 to 9999.
    """
    return [
        None if value is None else _EPOCH + timedelta(microseconds=value)
        for value in column.cast(pa.int64()).to_pylist()
    ]


def _hashes(keys: pa.Array | pa.ChunkedArray) -> Rows:
    return np.fromiter(map(hash, keys.to_pylist()), np.int64, len(keys))


def _words(column: pa.Array) -> npt.NDArray[np.uint64]:
    """Hashes of 32 bytes as rows of four numbers, over the same memory."""
    count = column.offset + len(column)
    words = np.frombuffer(column.buffers()[1] or b"", np.uint64, count * 4).reshape(-1, 4)
    return words[column.offset :]


def _whole(column: pa.ChunkedArray, type_: pa.DataType) -> pa.Array:
    """A column as one array of its own memory, not a window on a larger one."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], type_)


def _mask(values: pa.Array) -> Mask:
    mask: Mask = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return mask
