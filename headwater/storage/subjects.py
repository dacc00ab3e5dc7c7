"""Which documents an erasure is about, and what of them nobody else holds.

A subject is a document under all the names it ever had. Its texts go with it, but for those that
another document held at any time: they stay for that one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from headwater.errors import ConfigError
from headwater.storage.objects import ObjectEntry, ObjectStore
from headwater.storage.tables import CHUNKS, CONTENTS, VERSIONS

if TYPE_CHECKING:
    import duckdb

Name = tuple[str, str]
"""Source and key."""

_QUARANTINE = pa.schema([("source", pa.string()), ("key", pa.string())])

_SANDBOX = (
    "set timezone='UTC'",
    "set temp_directory=''",
    "set enable_external_access=false",
    "set lock_configuration=true",
)

_SUBJECTS = """
create view subjects as select v.source, v.key, v.title, v.url, v.metadata, v.labels, v.source_ts,
    v.known_at, v.changed_at, v.seq, c.text
    from versions v left join contents c using (content_hash);
"""

# `held` is what any version of another document holds, in any snapshot that can be opened.
_CONTENTS = """
create table erased_contents as
    select distinct content_hash from versions
    where (source, key) in (select source, key from names)
      and content_hash not in (select content_hash from held);
create table erased_texts as
    select distinct text_hash from chunks
    where content_hash in (select content_hash from erased_contents)
      and text_hash not in (select text_hash from needed_chunks
                            where content_hash not in (select content_hash from erased_contents));
"""

_HELD = """
create table held as select distinct content_hash from needed_versions
    where (source, key) not in (select source, key from names);
"""


@dataclass(frozen=True)
class Disk:
    """The objects that can hold something of a document.

    Attributes:
        objects: of the store.
        found: every object on the disk.
        needed: names of those that a snapshot which can be opened needs, or the evidence.
    """

    objects: ObjectStore
    found: Sequence[ObjectEntry]
    needed: Collection[str]

    def of(self, kind: str, *, needed: bool = False) -> list[ObjectEntry]:
        """The objects of one kind: all of them, or the needed ones."""
        return [e for e in self.found if e.kind == kind and (not needed or e.name in self.needed)]


@dataclass(frozen=True)
class Subjects:
    """What is to be erased.

    Attributes:
        names: every source and key, sorted.
        contents, texts: hashes that only these documents ever held.
        holders: other documents that hold a content of theirs, sorted.
        kept_contents, kept_texts: hashes of theirs that stay because of others.
    """

    names: tuple[Name, ...]
    contents: frozenset[bytes]
    texts: frozenset[bytes]
    holders: tuple[Name, ...]
    kept_contents: frozenset[bytes]
    kept_texts: frozenset[bytes]

    def __bool__(self) -> bool:
        return bool(self.names)


def find_subjects(
    disk: Disk, names: Iterable[Name] = (), *, where: str = "", follow_renames: bool = True
) -> Subjects:
    """Look through all of history, and what lies beside it, for documents.

    Args:
        disk: the objects.
        names: documents by source and key.
        where: documents by an SQL condition over source, key, title, url, metadata, labels, text,
            source_ts, known_at, changed_at and seq of each version there ever was.
        follow_renames: what had another name before or after is the same document.

    Returns:
        what was found; names that were never known are left out.

    Raises:
        ConfigError: `where` is wrong, or wants out of the sandbox.
        CorruptObjectError: an object is damaged; what it holds cannot be known.
    """
    with _open(disk) as connection:
        found = set(names) & _known(connection)
        if where:
            found |= _matching(connection, where)
        if follow_renames:
            found = _with_other_names(connection, found)
        return _describe(connection, found)


def _open(disk: Disk) -> duckdb.DuckDBPyConnection:
    import duckdb

    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        }
    )
    for name, schema, kind, needed in (
        ("versions", VERSIONS, "versions.parquet", False),
        ("needed_versions", VERSIONS, "versions.parquet", True),
        ("contents", CONTENTS, "contents.parquet", False),
        ("chunks", CHUNKS, "chunks.parquet", False),
        ("needed_chunks", CHUNKS, "chunks.parquet", True),
        ("quarantine", _QUARANTINE, "quarantine.parquet", False),
    ):
        connection.register(name, _dataset(disk, schema, kind, needed))
    for statement in (_SUBJECTS, *_SANDBOX):
        connection.execute(statement)
    return connection


def _dataset(
    disk: Disk, schema: pa.Schema, kind: str, needed: bool
) -> pa.Table | pa.dataset.Dataset:
    import pyarrow.dataset as ds

    entries = disk.of(kind, needed=needed)
    if not entries:
        return schema.empty_table()
    paths = [str(disk.objects.path(entry)) for entry in entries]
    return ds.dataset(paths, schema=schema, format="parquet")


def _known(connection: duckdb.DuckDBPyConnection) -> set[Name]:
    return set(
        connection.execute(
            "select source, key from versions union select source, key from quarantine"
        ).fetchall()
    )


def _matching(connection: duckdb.DuckDBPyConnection, where: str) -> set[Name]:
    import duckdb

    question = f"select distinct source, key from subjects where ({where}\n)"
    try:
        statements = connection.extract_statements(question)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise ConfigError(
                "Exactly one condition is allowed", obj=where, todo="join them by 'and' or 'or'"
            )
        return set(connection.execute(statements[0]).fetchall())
    except duckdb.Error as error:
        raise ConfigError(
            "The condition cannot be used",
            obj=str(error).strip(),
            todo="write what may stand after WHERE, over source, key, title, url, metadata, "
            "labels, text, source_ts, known_at, changed_at and seq",
        ) from None


def _with_other_names(connection: duckdb.DuckDBPyConnection, found: set[Name]) -> set[Name]:
    rows = connection.execute(
        "select distinct source, key, renamed_from from versions where renamed_from is not null"
    ).fetchall()
    beside: dict[Name, set[Name]] = {}
    for source, key, before in rows:
        beside.setdefault((source, key), set()).add((source, before))
        beside.setdefault((source, before), set()).add((source, key))
    todo, reached = list(found), set(found)
    while todo:
        fresh = beside.get(todo.pop(), set()) - reached
        reached |= fresh
        todo += fresh
    return reached


def _describe(connection: duckdb.DuckDBPyConnection, found: set[Name]) -> Subjects:
    names = pa.table(
        {
            "source": pa.array([source for source, _ in sorted(found)], pa.string()),
            "key": pa.array([key for _, key in sorted(found)], pa.string()),
        }
    )
    connection.register("names", names)
    connection.execute(_HELD)
    connection.execute(_CONTENTS)
    holders = connection.execute(
        "select distinct source, key from needed_versions where content_hash in "
        "(select content_hash from versions where (source, key) in (select source, key from names))"
        " and (source, key) not in (select source, key from names) order by all"
    ).fetchall()
    kept_contents = _hashes(
        connection,
        "select distinct content_hash from versions "
        "where (source, key) in (select source, key from names) "
        "and content_hash in (select content_hash from held)",
    )
    kept_texts = _hashes(
        connection,
        "select distinct text_hash from chunks where content_hash in "
        "(select content_hash from versions where (source, key) in (select source, key from names))"
        " and text_hash not in (select text_hash from erased_texts)",
    )
    return Subjects(
        tuple(sorted(found)),
        _hashes(connection, "select content_hash from erased_contents"),
        _hashes(connection, "select text_hash from erased_texts"),
        tuple((source, key) for source, key in holders),
        kept_contents,
        kept_texts,
    )


def _hashes(connection: duckdb.DuckDBPyConnection, statement: str) -> frozenset[bytes]:
    return frozenset(bytes(row[0]) for row in connection.execute(statement).fetchall())
