"""Few rows of many: what a commit asks of history, at the cost of narrow columns.

Columns stay in Arrow; what is not asked for never becomes an object of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headwater.storage.objects import ObjectEntry, ObjectStore
from headwater.storage.tables import CHUNKS

PAIRS = pa.schema([CHUNKS.field("content_hash"), CHUNKS.field("text_hash")])
"""Which content has which text as a chunk."""

_TEXTS = pa.schema([CHUNKS.field("text_hash"), CHUNKS.field("text")])


def rows_with(
    objects: ObjectStore,
    entries: Sequence[ObjectEntry],
    column: str,
    wanted: pa.Array,
    *,
    schema: pa.Schema,
) -> pa.Table:
    """The rows of some objects whose `column` holds one of `wanted`.

    Args:
        objects: where they are.
        entries: Parquet objects.
        column: one of the columns of `schema`; of the others, only row groups with a hit are read.
        wanted: values of that column's type.
        schema: the columns to return.

    Raises:
        CorruptObjectError: one of them is missing or damaged.
    """
    found = [schema.empty_table()]
    for entry in entries if len(wanted) else ():
        table = objects.read_table(entry, [column])
        hits = pc.is_in(table[column], value_set=wanted)
        if len(schema) == 1:
            found.append(table.filter(hits).cast(schema))
        elif pc.any(hits).as_py():
            found.append(_rest(objects, entry, hits.to_numpy(), schema))
    return pa.concat_tables(found)


def chunk_pairs(objects: ObjectStore, entries: Sequence[ObjectEntry]) -> pa.Table:
    """The two hashes of every chunk, as `PAIRS`: 64 bytes in memory for each.

    Raises:
        CorruptObjectError: an object is missing or damaged.
    """
    tables = [objects.read_table(entry, PAIRS.names).cast(PAIRS) for entry in entries]
    return pa.concat_tables([PAIRS.empty_table(), *tables])


def texts_named(
    objects: ObjectStore, chunks: Sequence[ObjectEntry], wanted: Sequence[bytes]
) -> dict[bytes, str]:
    """Text hash -> the text of a chunk that has it; hashes that no chunk has are left out.

    Args:
        objects: where they are.
        chunks: the newest are looked through first, and the others only for what is left.
        wanted: text hashes.

    Raises:
        CorruptObjectError: an object is missing or damaged.
    """
    found: dict[bytes, str] = {}
    left = set(wanted)
    for entry in reversed(chunks):
        if not left:
            break
        asked = pa.array(sorted(left), _TEXTS.field("text_hash").type)
        table = rows_with(objects, [entry], "text_hash", asked, schema=_TEXTS)
        found.update(zip(table["text_hash"].to_pylist(), table["text"].to_pylist(), strict=True))
        left -= found.keys()
    return found


def among(table: pa.Table, column: str, wanted: pa.Array) -> pa.Table:
    """The rows of a table whose `column` holds one of `wanted`."""
    return table.filter(pc.is_in(table[column], value_set=wanted))


def _rest(
    objects: ObjectStore, entry: ObjectEntry, hits: np.ndarray, schema: pa.Schema
) -> pa.Table:
    """Columns of the rows that `hits` (bool, one per row) marks; other row groups are not read."""
    with pq.ParquetFile(objects.path(entry)) as file:
        rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        starts = np.cumsum([0, *rows[:-1]])
        groups = np.flatnonzero(np.add.reduceat(hits, starts, dtype=np.int64)).tolist()
        table = file.read_row_groups(groups, columns=schema.names)
    kept = np.concatenate([hits[starts[i] : starts[i] + rows[i]] for i in groups])
    return table.select(schema.names).cast(schema).filter(pa.array(kept))
