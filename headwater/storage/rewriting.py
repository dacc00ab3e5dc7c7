"""Tables without the rows of some documents: what an erasure writes in place of what it takes away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headwater.storage.embeddings import SPACE_KEY
from headwater.storage.objects import EMBEDDINGS, ObjectEntry, ObjectStore
from headwater.storage.subjects import Subjects
from headwater.storage.tables import CHUNKS, CLOSURES, CONTENTS, ROW_GROUP, VERSIONS

_DEFAULT_GROUP = 8192
_ORIGIN = "renamed_from"

_SCHEMAS: Final = {
    "versions.parquet": VERSIONS,
    "closures.parquet": CLOSURES,
    "contents.parquet": CONTENTS,
    "chunks.parquet": CHUNKS,
}


@dataclass(frozen=True)
class Rewritten:
    """What became of one object.

    Attributes:
        was: the object.
        now: what stands in its place; None where no row is left.
        removed: rows that are gone.
    """

    was: ObjectEntry
    now: ObjectEntry | None
    removed: int


def rewrite(
    objects: ObjectStore, entry: ObjectEntry, subjects: Subjects, *, keep: bool
) -> Rewritten | None:
    """Write an object anew without what is erased; None where it holds nothing of it.

    Args:
        objects: where it is, and where the new one goes.
        entry: a table of history, the quarantine, or a part of the embedding cache.
        subjects: what is erased.
        keep: whether anything needs the object; if not, it goes as a whole.

    Raises:
        CorruptObjectError: the object is damaged.
        StorageUnavailableError: the disk is full or read-only.
    """
    columns, doomed = _DOOMED[entry.kind]
    path = objects.path(entry)
    narrow = pq.read_table(path, columns=columns, partitioning=None)
    mask = doomed(narrow, subjects)
    removed = int(pc.sum(mask).as_py() or 0)
    if not removed and not _heirs(narrow, subjects):
        return None
    if not keep or removed == narrow.num_rows:
        return Rewritten(entry, None, removed)
    table = _without_origin(objects.read_table(entry).filter(pc.invert(mask)), subjects)
    if entry.kind == EMBEDDINGS:
        # What a merged part covers, it covers no more: one of those may be written again one day.
        space = {SPACE_KEY: (table.schema.metadata or {}).get(SPACE_KEY, b"")}
        table = table.replace_schema_metadata(space)
    if entry.kind in _SCHEMAS:
        # Parquet gives the items of a list another name, and equal rows must be equal bytes.
        table = table.cast(_SCHEMAS[entry.kind])
    group = ROW_GROUP if entry.kind in _SCHEMAS else _DEFAULT_GROUP
    return Rewritten(entry, objects.put_table(table, entry.kind, row_group_size=group), removed)


def _heirs(table: pa.Table, subjects: Subjects) -> bool:
    """Whether a document says that it once had the name of one that is erased."""
    if _ORIGIN not in table.column_names:
        return False
    return bool(pc.any(_named(table["source"], table[_ORIGIN], subjects)).as_py())


def _without_origin(table: pa.Table, subjects: Subjects) -> pa.Table:
    if _ORIGIN not in table.column_names:
        return table
    at, field = table.schema.get_field_index(_ORIGIN), table.schema.field(_ORIGIN)
    named = pc.fill_null(_named(table["source"], table[_ORIGIN], subjects), False)
    return table.set_column(
        at, field, pc.if_else(named, pa.scalar(None, field.type), table[_ORIGIN])
    )


def rewritable(kind: str) -> bool:
    """Whether an object of this kind holds rows that belong to documents."""
    return kind in _DOOMED


def _of_names(table: pa.Table, subjects: Subjects) -> pa.Array:
    return _named(table["source"], table["key"], subjects)


def _named(source: pa.ChunkedArray, key: pa.ChunkedArray, subjects: Subjects) -> pa.Array:
    joined = pc.binary_join_element_wise(source, key, "\0")
    wanted = pa.array([f"{source}\0{key}" for source, key in subjects.names], pa.string())
    return pc.is_in(joined, value_set=wanted)


def _of_contents(table: pa.Table, subjects: Subjects) -> pa.Array:
    return _among(table["content_hash"], subjects.contents)


def _of_texts(table: pa.Table, subjects: Subjects) -> pa.Array:
    return _among(table["text_hash"], subjects.texts)


def _among(column: pa.ChunkedArray, hashes: frozenset[bytes]) -> pa.Array:
    return pc.is_in(column, value_set=pa.array(sorted(hashes), pa.binary(32)))


Doomed = Callable[[pa.Table, Subjects], pa.Array]
_NAMES = (["source", "key"], _of_names)
_DOOMED: Final[dict[str, tuple[list[str], Doomed]]] = {
    "versions.parquet": (["source", "key", _ORIGIN], _of_names),
    "closures.parquet": _NAMES,
    "contents.parquet": (["content_hash"], _of_contents),
    "chunks.parquet": (["content_hash"], _of_contents),
    "quarantine.parquet": _NAMES,
    EMBEDDINGS: (["text_hash"], _of_texts),
}
"""Kind -> the columns that tell, and which rows are about the erased."""
