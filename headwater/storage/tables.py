"""The tables of a snapshot: their schemas, and DuckDB over exactly the files a manifest names.

History is append-only. A document's *version* says which content a key had; a *closure* ends a
version; nothing is updated in place. Text lives in `contents`, named by its hash, and its chunks
hang on that hash: a rename, a revert or a change of metadata writes neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from headwater.storage.manifest import Manifest
from headwater.storage.objects import ObjectEntry, ObjectStore

if TYPE_CHECKING:
    import duckdb

_TIME = pa.timestamp("us", tz="UTC")
_HASH = pa.binary(32)

ROW_GROUP = 1024
"""Rows in a row group of history: a hit reads the one group that holds its text."""

VERSIONS = pa.schema(
    [
        ("version_id", pa.string()),
        ("source", pa.string()),
        ("key", pa.string()),
        ("title", pa.string()),
        ("url", pa.string()),
        ("metadata", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("content_hash", _HASH),
        ("metadata_hash", _HASH),
        ("fingerprint", pa.string()),
        ("source_ts", _TIME),
        ("known_at", _TIME),
        ("changed_at", _TIME),
        ("seq", pa.int64()),
        ("renamed_from", pa.string()),
    ]
)
"""One row per version of a document. `metadata` is canonical JSON; `known_at` is the knowledge time
at which the version began and `seq` the snapshot; `changed_at` is when its *content* last changed:
the source's own time if it gave one, else the knowledge time. Sorted by source, key."""

CLOSURES = pa.schema(
    [
        ("version_id", pa.string()),
        ("source", pa.string()),
        ("key", pa.string()),
        ("op", pa.string()),
        ("known_at", _TIME),
        ("seq", pa.int64()),
    ]
)
"""One row per version that ended. `op`: `changed`, `removed` or `renamed`."""

CONTENTS = pa.schema([("content_hash", _HASH), ("chars", pa.int64()), ("text", pa.string())])
"""Each distinct text once; `content_hash` is the SHA-256 of its UTF-8, `chars` its length."""

CHUNKS = pa.schema(
    [
        ("content_hash", _HASH),
        ("ordinal", pa.int32()),
        ("text_hash", _HASH),
        ("heading_path", pa.list_(pa.string())),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("tokens", pa.int32()),
        ("text", pa.string()),
    ]
)
"""The chunks of each content. `start` and `end` count characters of the content's text, and
`text` is exactly that slice; `text_hash` is the SHA-256 of the normalised text: the key under which
its vector is cached and indexed."""

_LIVE = """
create view closed as select version_id from closures;
create view live as select v.* from versions v where v.version_id not in (select version_id from closed);
create view live_contents as select distinct content_hash from live;
create view live_chunks as select c.* from chunks c
    where c.content_hash in (select content_hash from live_contents);
"""


def version_id(source: str, key: str, content: bytes, metadata: bytes, seq: int) -> str:
    """The name of a version: 32 hex digits, the same in every rerun on the same parent."""
    digest = hashlib.sha256()
    for part in (source.encode(), key.encode(), content, metadata, str(seq).encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]


def open_tables(objects: ObjectStore, manifest: Manifest | None) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB over the tables of a snapshot.

    Its views are `versions`, `closures`, `contents`, `chunks` (all of the snapshot's history) and
    `live`, `live_contents`, `live_chunks` (what it holds now). Only the Parquet files that the manifest names are read, and only the columns a query touches.
    """
    import duckdb

    connection = duckdb.connect(
        config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    )
    connection.execute("set timezone='UTC'")
    for name, schema, entries in (
        ("versions", VERSIONS, manifest.versions if manifest else ()),
        ("closures", CLOSURES, manifest.closures if manifest else ()),
        ("contents", CONTENTS, manifest.contents if manifest else ()),
        ("chunks", CHUNKS, manifest.chunks if manifest else ()),
    ):
        _view(connection, objects, name, schema, entries)
    connection.execute(_LIVE)
    return connection


def _view(
    connection: duckdb.DuckDBPyConnection,
    objects: ObjectStore,
    name: str,
    schema: pa.Schema,
    entries: Sequence[ObjectEntry],
) -> None:
    if not entries:
        connection.register(f"empty_{name}", schema.empty_table())
        connection.execute(f"create view {name} as select * from empty_{name}")
        return
    paths = ", ".join("'" + str(objects.path(e)).replace("'", "''") + "'" for e in entries)
    columns = ", ".join(f'"{column}"' for column in schema.names)
    connection.execute(f"create view {name} as select {columns} from read_parquet([{paths}])")


def query(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: Sequence[Any] = (),
    schema: pa.Schema | None = None,
) -> pa.Table:
    """Run one query and take all of it as Arrow, cast to `schema` when given."""
    table: pa.Table = connection.sql(sql, params=list(parameters)).to_arrow_table()
    return table.cast(schema) if schema is not None else table


def count_live(objects: ObjectStore, manifest: Manifest) -> tuple[dict[str, int], int, int]:
    """Source -> live documents, and how many live chunks and distinct texts; all tables are read."""
    with open_tables(objects, manifest) as connection:
        found = connection.execute("select source, count(*) from live group by 1").fetchall()
        (row,) = connection.execute(
            "select count(*), count(distinct text_hash) from live join chunks using (content_hash)"
        ).fetchall()
    return {str(name): int(count) for name, count in found}, int(row[0]), int(row[1])


def with_counts(objects: ObjectStore, manifest: Manifest) -> Manifest:
    """The same manifest with everything it counts counted anew: documents, chunks, texts, refusals."""
    documents, chunks, texts = count_live(objects, manifest)
    return replace(
        manifest,
        sources={
            name: replace(state, documents=documents.get(name, 0))
            for name, state in manifest.sources.items()
        },
        counts={
            "documents": sum(documents.values()),
            "chunks": chunks,
            "texts": texts,
            "quarantined": manifest.quarantine.rows if manifest.quarantine else 0,
        },
    )


def live_versions(objects: ObjectStore, manifest: Manifest, columns: Sequence[str]) -> pa.Table:
    """Some columns of the live versions, without DuckDB: what a reader needs to start fast."""
    import pyarrow.compute as pc

    if not manifest.versions:
        return pa.schema([VERSIONS.field(c) for c in columns]).empty_table()
    wanted = [*columns, *({"version_id"} - set(columns))]
    table = pa.concat_tables(objects.read_table(e, wanted) for e in manifest.versions)
    if manifest.closures:
        closed = pa.concat_tables(objects.read_table(e, ["version_id"]) for e in manifest.closures)
        dead = closed["version_id"].combine_chunks()
        table = table.filter(pc.invert(pc.is_in(table["version_id"], value_set=dead)))
    return table.select(list(columns))
