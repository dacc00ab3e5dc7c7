"""The statements of a pull, and how what they return becomes records."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headwater.config import DatabaseConfig
from headwater.errors import ConfigError, SourceDataError
from headwater.flows.sources.columnar import JsonTexts, Values
from headwater.flows.sources.drift import ColumnTypes
from headwater.flows.sources.engines.session import Column, Session
from headwater.flows.sources.protocol import RECORD_SCHEMA
from headwater.flows.sources.rendering import (
    Layout,
    binary_column,
    join_keys,
    render_batch,
    split_key,
    template_fields,
)

_KEYS_PER_STATEMENT = 200
_MOST_KEYS = 10_000
"""Above so many keys, one pass over all rows costs less than asking for each."""


@dataclass(frozen=True)
class Condition:
    """A WHERE and its parameters; an empty one means all rows."""

    where: str = ""
    parameters: tuple[Any, ...] = ()


class Rows:
    """Reads the rows of one relation in one session.

    Attributes:
        columns: name -> column, of the relation.
        rendered: the columns that the records are made from, in the order of the relation.
    """

    def __init__(self, session: Session, relation: str, config: DatabaseConfig) -> None:
        """Learn the columns.

        Raises:
            SourceDataError: the statement is refused, a configured column does not exist, or a
                rendered column is binary.
        """
        self.session = session
        self.relation = relation
        self.columns = {c.name: c for c in session.columns(relation, config.table)}
        self._config = config
        self._layout = _layout(config, self.columns)
        self._keys = [self.columns[name] for name in config.key]
        self._wanted = [self.columns[name] for name in _fetched(self._layout, config)]
        named = {*config.key, *(c.name for c in self._wanted), config.cursor}
        self.rendered: ColumnTypes = tuple(
            (c.name, c.kind) for c in self.columns.values() if c.name in named
        )

    def records(
        self,
        condition: Condition,
        *,
        only: Collection[str] | None = None,
        prefix: str | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows as records.

        Args:
            condition: which rows.
            only: of these, the ones under these keys; all when None.
            prefix: put before the hash of a row, as its fingerprint; None for no fingerprint.
        """
        expressions = [self.session.text(column) for column in self._keys]
        expressions += [self.session.value(column) for column in self._wanted]
        if prefix is not None:
            expressions.append(self._hash())
        for batch in self._select(expressions, condition):
            held = iter(batch)
            keys = join_keys(list(islice(held, len(self._keys))), self._config.key)
            values = {c.name: _values(c, next(held)) for c in self._wanted}
            prints = None if prefix is None else _prefixed(prefix, next(held))
            found = render_batch(keys, values, self._layout, fingerprints=prints)
            if only is not None:
                chosen = [key in only for key in found.column("key").to_pylist()]
                found = found.filter(pa.array(chosen, pa.bool_()))
            if found.num_rows:
                yield found

    def keys(
        self, condition: Condition, *, prefix: str | None = None
    ) -> Iterator[tuple[pa.Array, pa.Array | None]]:
        """Yield the keys alone, with the fingerprints when a prefix is given; see `records`."""
        expressions = [self.session.text(column) for column in self._keys]
        if prefix is not None:
            expressions.append(self._hash())
        for batch in self._select(expressions, condition):
            parts = len(self._keys)
            keys = join_keys(batch[:parts], self._config.key)
            yield keys, None if prefix is None else _prefixed(prefix, batch[parts])

    def records_of(
        self, keys: Collection[str], *, prefix: str | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows under keys that this session listed."""
        if len(keys) > _MOST_KEYS:
            yield from self.records(Condition(), only=keys, prefix=prefix)
            return
        for condition in self._conditions(keys, listed=True):
            yield from self.records(condition, prefix=prefix)

    def records_named(self, keys: Collection[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows under keys that a person named: they may be anything."""
        for condition in self._conditions(keys, listed=False):
            yield from self.records(condition)

    def _conditions(self, keys: Collection[str], *, listed: bool) -> Iterator[Condition]:
        equal = self.session.same_key if listed else self._same_text
        count = len(self._keys)
        split = (split_key(key, count) for key in sorted(keys))
        possible = iter([parts for parts in split if parts is not None])
        while some := list(islice(possible, _KEYS_PER_STATEMENT)):
            terms = [
                " AND ".join(equal(c, row * count + i) for i, c in enumerate(self._keys))
                for row in range(len(some))
            ]
            where = " OR ".join(f"({term})" for term in terms)
            yield Condition(where, tuple(part for parts in some for part in parts))

    def _same_text(self, column: Column, index: int) -> str:
        return f"{self.session.text(column)} = {self.session.parameter(index)}"

    def _hash(self) -> str:
        volatile = {self._layout.updated_at, *self._config.ignore}
        found = self.session.row_hash([c for c in self._wanted if c.name not in volatile])
        if found is None:
            raise ConfigError(
                "This database has no hash that rows could be compared by",
                obj="strategy: rowhash",
                todo="leave 'strategy' out: every row is read then, and compared here",
            )
        return found

    def _select(self, expressions: Sequence[str], condition: Condition) -> Iterator[list[Any]]:
        listed = ", ".join(f"{e} AS hw_{i}" for i, e in enumerate(expressions))
        sql = f"SELECT {listed} FROM {self.relation}"
        if condition.where:
            sql = f"{sql} WHERE {condition.where}"
        yield from self.session.batches(sql, condition.parameters)


def unchanged(keys: pa.Array, fingerprints: pa.Array | None = None) -> pa.RecordBatch:
    """Records that say of these keys that they are there, and as they were."""
    rows = len(keys)
    given = {"key": keys, "state": pa.array(["unchanged"] * rows, pa.string())}
    if fingerprints is not None:
        given["fingerprint"] = fingerprints
    arrays = [given.get(field.name, pa.nulls(rows, field.type)) for field in RECORD_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=RECORD_SCHEMA)


def _prefixed(prefix: str, hashes: Any) -> pa.Array:
    held = hashes if isinstance(hashes, pa.Array) else pa.array(hashes, pa.string())
    return pc.binary_join_element_wise(pa.scalar(f"{prefix}:"), held, pa.scalar(""))


def _values(column: Column, values: Any) -> Values:
    if column.form == "json":
        return JsonTexts(values)
    if column.form == "bool" and not isinstance(values, pa.Array):
        return [bool(value) if value in (0, 1) else value for value in values]
    found: Values = values
    return found


def _layout(config: DatabaseConfig, columns: Mapping[str, Column]) -> Layout:
    placed = [name for name in template_fields(config.template or "") if name != "key"]
    named = [*config.key, *config.text, *placed, *config.metadata]
    named += [c for c in (config.title, config.cursor, config.updated_at) if c is not None]
    named += [c for c in template_fields(config.url or "") if c != "key"]
    missing = [name for name in dict.fromkeys(named) if name not in columns]
    if missing:
        raise SourceDataError(
            "A configured column does not exist",
            obj=", ".join(missing),
            todo=f"the columns are {', '.join(columns)}",
        )
    apart = {*config.key, *config.metadata, *config.ignore, config.cursor, config.updated_at}
    every = tuple(name for name in columns if name not in apart)
    chosen = config.text or (tuple(placed) if config.template is not None else every)
    layout = Layout(
        text=tuple(name for name in chosen if name not in config.ignore),
        metadata=tuple(name for name in config.metadata if name not in config.ignore),
        title=config.title,
        updated_at=config.updated_at,
        url=config.url,
        labels=config.labels,
        bare=len(config.text) == 1,
        template=config.template,
    )
    for name in (*layout.text, *layout.metadata):
        if columns[name].form == "binary":
            raise binary_column(name)
    return layout


def _fetched(layout: Layout, config: DatabaseConfig) -> list[str]:
    names = [*layout.text, *layout.metadata, layout.title, layout.updated_at]
    names += [name for name in template_fields(config.url or "") if name != "key"]
    return [name for name in dict.fromkeys(names) if name is not None]
