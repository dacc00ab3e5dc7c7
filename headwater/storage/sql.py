"""SQL over one snapshot: read-only, and with no way out.

DuckDB gets no file and no network: it reads Arrow datasets over exactly the objects that the manifest
names, each checked against its name first, and its own access to the outside is off and locked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import pyarrow as pa

from headwater.errors import ConfigError
from headwater.storage.manifest import Manifest, parse_time
from headwater.storage.objects import ObjectEntry, ObjectStore
from headwater.storage.store import Store
from headwater.storage.tables import CHUNKS, CLOSURES, CONTENTS, VERSIONS

if TYPE_CHECKING:
    import duckdb

MEMORY = "2GB"

_TIME = pa.timestamp("us", tz="UTC")

SNAPSHOTS = pa.schema(
    [
        ("name", pa.string()),
        ("seq", pa.int64()),
        ("parent", pa.string()),
        ("cause", pa.string()),
        ("restores", pa.string()),
        ("observed_at", _TIME),
        ("created_at", _TIME),
        ("run_id", pa.string()),
        ("documents", pa.int64()),
        ("chunks", pa.int64()),
        ("texts", pa.int64()),
        ("quarantined", pa.int64()),
    ]
)
"""The snapshot that is asked and all before it, oldest first."""

SOURCES = pa.schema(
    [
        ("name", pa.string()),
        ("kind", pa.string()),
        ("documents", pa.int64()),
        ("watermark", pa.string()),
        ("hold", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("licence", pa.string()),
    ]
)
"""The sources as the snapshot remembers them."""

_VIEWS = """
create view versions as select * replace (lower(hex(content_hash)) as content_hash,
    lower(hex(metadata_hash)) as metadata_hash) from raw_versions;
create view closures as from raw_closures;
create view raw_live as select * from raw_versions
    where version_id not in (select version_id from raw_closures);
create view documents as select v.source, v.key, v.title, v.url, c.text, c.chars, v.metadata,
    v.labels, v.source_ts, v.changed_at, v.known_at, v.seq, v.renamed_from, v.version_id,
    lower(hex(v.content_hash)) as content_hash
    from raw_live v join raw_contents c using (content_hash);
create view chunks as select v.source, v.key, c.ordinal, c.heading_path, c.text, c.tokens,
    c."start", c."end", lower(hex(c.text_hash)) as text_hash,
    lower(hex(c.content_hash)) as content_hash, v.version_id
    from raw_live v join raw_chunks c using (content_hash);
"""

# `lock_configuration` comes last: nothing after it can be changed, by any statement.
_SANDBOX = (
    "set timezone='UTC'",
    "set enable_progress_bar=false",
    f"set memory_limit='{MEMORY}'",
    "set temp_directory=''",
    "set allow_community_extensions=false",
    "set allow_persistent_secrets=false",
    "set enable_external_access=false",
    "set lock_configuration=true",
)


def run_sql(
    store: Store,
    statement: str,
    *,
    as_of: str | None = None,
    more: Mapping[str, pa.Table] | None = None,
    timeout_s: float | None = None,
) -> pa.Table:
    """Answer one question about a snapshot in SQL.

    The tables: `documents` and `chunks` (live, with text), `versions` and `closures` (the whole
    history of the snapshot), `snapshots` and `sources`. Hashes are hex. A query holds at most
    `MEMORY` at a time and never spills to the disk.

    Args:
        store: that holds the snapshot.
        statement: one SELECT, FROM, WITH, VALUES, EXPLAIN, DESCRIBE, SUMMARIZE or SHOW.
        as_of: as for `Store.resolve`.
        more: further tables by name.
        timeout_s: give up after so many seconds; None for never.

    Returns:
        The result. Of columns with the same name, the later ones are numbered.

    Raises:
        ConfigError: the statement is none of these, is wrong, wants out of the sandbox, or takes
            too long or too much memory; the message is DuckDB's.
        NotFoundError: no such snapshot.
        CorruptObjectError: an object is damaged.
        KeyboardInterrupt: the user had enough.
    """
    import duckdb

    manifest = store.resolve(as_of)
    # DuckDB has no word for half a surrogate pair.
    statement = statement.encode("utf-8", "backslashreplace").decode()
    with _connect(store, manifest, more or {}) as connection:
        try:
            table = _answer(connection, _only_question(connection, statement), timeout_s)
        except TimeoutError:
            raise ConfigError(
                f"The query took longer than {timeout_s:g} s", todo="narrow it, or allow more time"
            ) from None
        except duckdb.Error as error:
            raise _refused(str(error)) from None
    return table.rename_columns(_distinct(table.column_names))


def _only_question(connection: duckdb.DuckDBPyConnection, statement: str) -> duckdb.Statement:
    """The one statement, if it asks and changes nothing."""
    import duckdb

    found = connection.extract_statements(statement)
    asking = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
    if len(found) != 1 or found[0].type not in asking:
        names = ", ".join(s.type.name.replace("_", " ") for s in found) or "nothing"
        raise ConfigError(
            "Exactly one question is allowed",
            obj=names,
            todo="write one SELECT, FROM, WITH, VALUES, EXPLAIN, DESCRIBE, SUMMARIZE or SHOW",
        )
    return found[0]


def _refused(message: str) -> ConfigError:
    outside = "disabled by configuration" in message or "disabled through configuration" in message
    todo = (
        "a query sees the snapshot's tables and nothing else: no files, no network, no extensions"
        if outside
        else "'SHOW TABLES' and 'DESCRIBE documents' tell what there is"
    )
    return ConfigError("The query cannot be answered", obj=message.strip(), todo=todo)


def _distinct(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        fresh, number = name, 1
        while fresh in found:
            fresh, number = f"{name}_{number}", number + 1
        found.append(fresh)
    return found


def _answer(
    connection: duckdb.DuckDBPyConnection, question: duckdb.Statement, timeout_s: float | None
) -> pa.Table:
    """Run a query where Ctrl-C and the clock can end it.

    DuckDB does not look for signals while it makes Arrow tables, so another thread waits for it.
    """
    with ThreadPoolExecutor(1, "sql") as pool:
        answer = pool.submit(lambda: connection.sql(question).to_arrow_table())
        try:
            return answer.result(timeout_s)
        finally:
            # An interrupt that comes before the query has begun is lost; so it is repeated.
            while not answer.done():
                connection.interrupt()
                wait([answer], timeout=0.05)


def _connect(
    store: Store, manifest: Manifest, more: Mapping[str, pa.Table]
) -> duckdb.DuckDBPyConnection:
    import duckdb

    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        }
    )
    for name, schema in (
        ("versions", VERSIONS),
        ("closures", CLOSURES),
        ("contents", CONTENTS),
        ("chunks", CHUNKS),
    ):
        entries: tuple[ObjectEntry, ...] = getattr(manifest, name)
        connection.register(f"raw_{name}", _dataset(store.objects, entries, schema))
    connection.execute(_VIEWS)
    tables = {"snapshots": _snapshots(store, manifest), "sources": _sources(manifest), **more}
    for name, table in tables.items():
        connection.register(name, table)
    for setting in _SANDBOX:
        connection.execute(setting)
    return connection


def _dataset(
    objects: ObjectStore, entries: Sequence[ObjectEntry], schema: pa.Schema
) -> pa.Table | pa.dataset.Dataset:
    import pyarrow.dataset as ds

    if not entries:
        return schema.empty_table()
    return ds.dataset([str(objects.path(e)) for e in entries], schema=schema, format="parquet")


def _snapshots(store: Store, manifest: Manifest) -> pa.Table:
    line = [manifest]
    while line[-1].parent:
        line.append(store.manifest(line[-1].parent))
    rows = [
        {
            "name": m.name(),
            **{n: getattr(m, n) for n in ("seq", "parent", "cause", "restores", "run_id")},
            "observed_at": m.time,
            "created_at": parse_time(m.created_at),
            **{n: m.counts.get(n, 0) for n in ("documents", "chunks", "texts", "quarantined")},
        }
        for m in reversed(line)
    ]
    return pa.Table.from_pylist(rows, schema=SNAPSHOTS)


def _sources(manifest: Manifest) -> pa.Table:
    rows = [
        {
            "name": name,
            "labels": list(state.labels),
            **{n: getattr(state, n) for n in SOURCES.names if n not in ("name", "labels")},
        }
        for name, state in manifest.sources.items()
    ]
    return pa.Table.from_pylist(rows, schema=SOURCES)
