"""What is live in a snapshot, whatever its index is: its documents, and the chunks of their contents.

It is read from the tables of history. Where another snapshot was read before, only what was written
since is: rows of tables that both have are taken over, less what was closed meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from headwater.retrieval.catalogue import ALWAYS, Documents
from headwater.retrieval.columns import Texts, codes, fixed, micros, read_columns, value_of
from headwater.retrieval.segments import HASH, find
from headwater.storage.hashes import ordered
from headwater.storage.manifest import Manifest, parse_time
from headwater.storage.objects import ObjectEntry, ObjectStore

_VERSION: Final = ["version_id", "source", "key", "content_hash", "known_at"]
_CHUNK: Final = ["content_hash", "text_hash"]


@dataclass(frozen=True)
class Live:
    """What is live in a snapshot.

    Attributes:
        documents: the live ones.
        version: void[32] (d,): the version of each, by its name.
        contents: void[32] (n,), sorted: what they hold.
        chunk_row: int64 (c,), rising: rows of the snapshot's chunk tables, counted through all.
        content: int32 (c,): which of `contents` each chunk is of.
        text: void[32] (c,): its text.
        origin: int64 (c,): which chunk of the snapshot read before it is; -1 for none.
        versions, closures, chunks: the objects that this was read from.
    """

    documents: Documents
    version: np.ndarray
    contents: np.ndarray
    chunk_row: np.ndarray
    content: np.ndarray
    text: np.ndarray
    origin: np.ndarray
    versions: tuple[ObjectEntry, ...]
    closures: tuple[ObjectEntry, ...]
    chunks: tuple[ObjectEntry, ...]

    def texts(self) -> np.ndarray:
        """The distinct texts, sorted: void[32] (t,)."""
        return _distinct(self.text)


def read_live(objects: ObjectStore, manifest: Manifest, before: Live | None = None) -> Live:
    """Read what is live in a snapshot.

    Args:
        objects: where its tables are.
        manifest: of the snapshot.
        before: of a snapshot of the same store that was read already; None for none. Any will do,
            and the result is the same; one shortly before is worth most.

    Raises:
        CorruptObjectError: a table is missing or damaged.
    """
    known = before or _NOTHING
    closed = _closed_since(objects, known, manifest)
    if closed is None:
        known, closed = _NOTHING, _names(objects, manifest.closures)
    shared = _common(known.versions, manifest.versions)
    # Where old files were merged, what is read of them again may have been closed long ago.
    merged = shared < len(known.versions)
    ended = _names(objects, manifest.closures) if merged else closed
    first = _rows(manifest.versions[:shared])
    stays = (known.documents.version_row < first) & (find(closed, known.version) < 0)
    fresh = _fresh(objects, manifest.versions[shared:], ended, first)
    contents, code, new = _contents(known, known.documents.content[stays], fresh.content)
    documents, version = _documents(known, stays, fresh, code, contents)
    chunk_row, content, text, origin = _chunks(objects, known, manifest.chunks, code, contents, new)
    live = Live(
        documents,
        version,
        contents,
        chunk_row,
        content,
        text,
        origin,
        manifest.versions,
        manifest.closures,
        manifest.chunks,
    )
    _hold(documents, _held(objects, manifest))
    return live


# --- versions and closures ------------------------------------------------------------------------


def _common(first: Sequence[ObjectEntry], second: Sequence[ObjectEntry]) -> int:
    """With how many equal objects both begin."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


def _rows(entries: Sequence[ObjectEntry]) -> int:
    return sum(entry.rows for entry in entries)


def _closed_since(objects: ObjectStore, before: Live, manifest: Manifest) -> np.ndarray | None:
    """The versions that closed after `before`, and perhaps others, sorted: void[32] (n,).

    None where one that was closed is so no more: a rollback goes back.
    """
    old, new = set(before.closures), set(manifest.closures)
    closed = _names(objects, [entry for entry in manifest.closures if entry not in old])
    gone = _names(objects, [entry for entry in before.closures if entry not in new])
    return None if (find(closed, gone) < 0).any() else closed


def _names(objects: ObjectStore, closures: Sequence[ObjectEntry]) -> np.ndarray:
    """The versions that closures name, sorted: void[32] (n,)."""
    return ordered(_version_names(read_columns(objects, closures, ["version_id"])))


def _version_names(tables: Sequence[pa.Table]) -> np.ndarray:
    """The names of versions, which have 32 characters: void[32] (n,); a hash of any other."""
    pieces = [piece for table in tables for piece in table["version_id"].chunks if len(piece)]
    return np.concatenate([np.empty(0, dtype=HASH), *map(_names_in, pieces)])


def _names_in(piece: pa.Array) -> np.ndarray:
    _, stops, data = piece.buffers()
    at = np.frombuffer(stops, dtype=np.int32)[piece.offset : piece.offset + len(piece) + 1]
    if (np.diff(at) == HASH.itemsize).all():
        return np.frombuffer(data, dtype=HASH, count=len(piece), offset=int(at[0]))
    raw = [name.encode() for name in piece.to_pylist()]
    named = (n if len(n) == HASH.itemsize else hashlib.sha256(n).digest() for n in raw)
    return np.frombuffer(b"".join(named), dtype=HASH)


@dataclass(frozen=True)
class _Fresh:
    """Live rows of version tables in their order, as in `Documents`; `content` is the hash.

    The first row of the tables is number `first`.
    """

    first: int
    row: np.ndarray
    version: np.ndarray
    content: np.ndarray
    source: np.ndarray
    sources: list[str]
    known_at: np.ndarray
    keys: list[pa.Array]


def _fresh(
    objects: ObjectStore, entries: Sequence[ObjectEntry], ended: np.ndarray, first: int
) -> _Fresh:
    """The rows of some version tables, from number `first` on, that are not among `ended`."""
    tables = read_columns(objects, entries, _VERSION, encoded=["source"])
    names = _version_names(tables)
    live = np.flatnonzero(find(ended, names) < 0)
    source, sources = codes(tables, "source")
    return _Fresh(
        first=first,
        row=live + first,
        version=names[live],
        content=fixed(tables, "content_hash", HASH)[live],
        source=source[live],
        sources=sources,
        known_at=fixed(tables, "known_at", np.int64)[live],
        keys=[piece for table in tables for piece in table["key"].chunks],
    )


# --- contents and documents -----------------------------------------------------------------------


def _contents(
    before: Live, kept: np.ndarray, fresh: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The live contents.

    Args:
        before: what was live.
        kept: int32 (n,): contents of `before` that documents still hold.
        fresh: void[32] (m,): contents of the other documents.

    Returns:
        the contents, void[32], sorted; the place in them of each one of `before`, int32, -1 where
        it is gone; the places of those that were not live before, int64, rising.
    """
    used = np.zeros(len(before.contents), dtype=bool)
    used[kept] = True
    held = before.contents[used]
    added = _distinct(fresh)
    added = added[find(held, added) < 0]
    place = np.searchsorted(held, added)
    code = np.cumsum(used) - 1
    code += np.searchsorted(place, code, side="right")
    code[~used] = -1
    return np.insert(held, place, added), code.astype(np.int32), place + np.arange(len(place))


def _documents(
    before: Live, stays: np.ndarray, fresh: _Fresh, code: np.ndarray, contents: np.ndarray
) -> tuple[Documents, np.ndarray]:
    old = before.documents
    content = np.concatenate([code[old.content[stays]], find(contents, fresh.content)])
    # Stable: what holds one content stays in the order of the rows.
    order = np.argsort(content, kind="stable")
    sources = list(dict.fromkeys([*old.sources, *fresh.sources]))
    renumbered = np.array([sources.index(name) for name in fresh.sources], dtype=np.int32)

    def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        both: np.ndarray = np.concatenate([first[stays], second])[order]
        return both

    documents = Documents(
        version_row=joined(old.version_row, fresh.row),
        content=content[order].astype(np.int32),
        source=joined(old.source, renumbered[fresh.source]),
        sources=sources,
        known_at=joined(old.known_at, fresh.known_at),
        held_since=np.full(len(order), ALWAYS, dtype=np.int64),
        keys=old.keys.followed_by(fresh.keys, at=fresh.first),
    )
    return documents, joined(before.version, fresh.version)


# --- chunks ---------------------------------------------------------------------------------------


def _chunks(
    objects: ObjectStore,
    before: Live,
    entries: tuple[ObjectEntry, ...],
    code: np.ndarray,
    contents: np.ndarray,
    new: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The live chunks: row, content, text and origin, as in `Live`.

    Args:
        objects: where the tables are.
        before: what was live.
        entries: the chunk tables.
        code: int32: the place among `contents` of each content of `before`, -1 where it is gone.
        contents: void[32], sorted: what is live.
        new: int64, rising: places among `contents` of what was not live before.
    """
    shared = _common(before.chunks, entries)
    first = _rows(entries[:shared])
    stays = np.flatnonzero((before.chunk_row < first) & (code[before.content] >= 0))
    fresh = _chunks_of(objects, entries[shared:], contents, first)
    # A content that is live again has its chunks where they have been all along.
    back = new[~np.isin(new, fresh[1])]
    again = _chunks_of(objects, entries[:shared], contents[back] if shared else contents[:0], 0)
    row = np.concatenate([before.chunk_row[stays], again[0], fresh[0]])
    content = np.concatenate([code[before.content[stays]], back[again[1]], fresh[1]])
    text = np.concatenate([before.text[stays], again[2], fresh[2]])
    origin = np.full(len(row), -1, dtype=np.int64)
    origin[: len(stays)] = stays
    if len(again[0]):
        order = np.argsort(row, kind="stable")
        row, content, text, origin = row[order], content[order], text[order], origin[order]
    return row, content.astype(np.int32), text, origin


def _chunks_of(
    objects: ObjectStore, entries: Sequence[ObjectEntry], contents: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The chunks of some contents, sorted hashes, in chunk tables from row `first` on.

    Returns:
        their rows, int64, rising; the place of the content of each, int64; their texts, void[32].
    """
    tables = read_columns(objects, entries if len(contents) else (), _CHUNK)
    content = find(contents, fixed(tables, "content_hash", HASH))
    live = np.flatnonzero(content >= 0)
    return live + first, content[live], fixed(tables, "text_hash", HASH)[live]


def _distinct(hashes: np.ndarray) -> np.ndarray:
    """Each hash once, sorted: void[32]."""
    rows = ordered(hashes)
    first = np.ones(len(rows), dtype=bool)
    first[1:] = rows[1:] != rows[:-1]
    distinct: np.ndarray = rows[first]
    return distinct


# --- what is held back ----------------------------------------------------------------------------


def _held(objects: ObjectStore, manifest: Manifest) -> dict[tuple[str, str], int]:
    """Since when each document is held back, by source and key."""
    if manifest.quarantine is None:
        return {}
    (table,) = read_columns(objects, [manifest.quarantine], ["source", "key", "since"])
    held: dict[tuple[str, str], int] = {}
    for source, key, scalar in zip(
        table["source"].to_pylist(), table["key"].to_pylist(), table["since"], strict=True
    ):
        since = value_of(scalar)
        when = micros(parse_time(since) if isinstance(since, str) else since)
        held[source, key] = min(when, held.get((source, key), ALWAYS))
    return held


def _hold(documents: Documents, held: dict[tuple[str, str], int]) -> None:
    """Note since when documents are held back."""
    if not held:
        return
    rows = documents.keys.among({key for _, key in held})
    for document in np.flatnonzero(np.isin(documents.version_row, rows)).tolist():
        since = held.get(documents.name(document))
        if since is not None:
            documents.held_since[document] = since


_NO_HASHES: Final = np.empty(0, dtype=HASH)
_NO_ROWS: Final = np.empty(0, dtype=np.int64)
_NO_CODES: Final = np.empty(0, dtype=np.int32)
_NOTHING: Final = Live(
    Documents(_NO_ROWS, _NO_CODES, _NO_CODES, [], _NO_ROWS, _NO_ROWS, Texts([])),
    version=_NO_HASHES,
    contents=_NO_HASHES,
    chunk_row=_NO_ROWS,
    content=_NO_CODES,
    text=_NO_HASHES,
    origin=_NO_ROWS,
    versions=(),
    closures=(),
    chunks=(),
)
"""What is live before anything was read."""
