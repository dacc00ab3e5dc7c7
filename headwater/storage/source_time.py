"""What was true at a time of the sources' own clocks, as far as it was ever known."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import pyarrow as pa

from headwater.storage.lineage import distinct
from headwater.storage.objects import ObjectEntry, ObjectStore
from headwater.storage.store import Store
from headwater.storage.tables import CLOSURES, VERSIONS, query

_COLUMNS = ["source", "key", "version_id", "title", "url", "content_hash", "source_ts", "known_at",
            "seq", "renamed_from"]  # fmt: skip

TRUE_AT = pa.schema(
    [*(VERSIONS.field(name) for name in _COLUMNS), pa.field("withdrawn", pa.bool_())]
)
"""One row per document that was true at a time, sorted by source and key. `withdrawn`: a rollback
left this version behind, so the current snapshot's history does not hold it."""

_TRUE_AT = """
with newest as (
    select * from versions where source_ts <= $1
    qualify row_number() over (partition by source, key order by source_ts desc, seq desc, current desc) = 1
)
select {columns}, not current as withdrawn from newest n
where not exists (
    select 1 from closures c
    where c.version_id = n.version_id and c.op in ('removed', 'renamed') and c.known_at <= $1
      and (c.current or not n.current)
)
order by source, key
"""


def true_at(store: Store, when: datetime) -> pa.Table:
    """The versions that were true at the source time `when`, as a table of `TRUE_AT`.

    Of each document: the version with the latest `source_ts` that is not after `when`, among all
    versions that were ever known, however late they became known. Documents of sources that give no
    time are left out. Sources do not date deletions and renames: these count from the knowledge
    time at which they were seen, so a document may be listed a little longer than it was true.

    Raises:
        NotFoundError: nothing is published.
    """
    import duckdb

    # A version may stand in two files: with its branch merged, and as the current snapshot has it.
    chain = list(store.chain()) or [store.resolve(None)]
    with duckdb.connect(config={"autoload_known_extensions": False}) as connection:
        connection.execute("set timezone='UTC'")
        for kind, schema, names in (
            ("versions", VERSIONS, _COLUMNS),
            ("closures", CLOSURES, ["version_id", "op", "known_at"]),
        ):
            current = {entry.name for entry in getattr(chain[0], kind)}
            entries = distinct(chain, kind).values()
            fields = pa.schema([schema.field(name) for name in names])
            connection.register(kind, _read(store.objects, entries, fields, current))
        moment = when if when.tzinfo else when.replace(tzinfo=UTC)
        sql = _TRUE_AT.format(columns=", ".join(_COLUMNS))
        return query(connection, sql, [moment], TRUE_AT)


def _read(
    objects: ObjectStore, entries: Iterable[ObjectEntry], schema: pa.Schema, current: set[str]
) -> pa.Table:
    tables = [schema.append(pa.field("current", pa.bool_())).empty_table()]
    for entry in entries:
        table = objects.read_table(entry, schema.names).select(schema.names)
        held = pa.repeat(pa.scalar(entry.name in current), table.num_rows)
        tables.append(table.append_column("current", held))
    return pa.concat_tables(tables)
