"""A table or a query as a source: each row becomes a document.

Everything is read in one read-only transaction. With a cursor, the ceiling (the highest cursor
value) is read first and becomes the watermark; the next pull reads from the watermark, less the
lag, up to its own ceiling. Rows read twice are no change; a row that commits late is caught by the
lag. The first pull with a cursor, and one after the configuration changed, reads every row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from headwater.config import DatabaseConfig, expand
from headwater.errors import ConfigError, SourceDataError
from headwater.flows.sources.engines import Column, Session, open_session
from headwater.flows.sources.protocol import ExtractEnd, Pull, PullRequest, Window
from headwater.flows.sources.rendering import (
    Layout,
    binary_column,
    join_key,
    render_batch,
    signature,
    split_key,
    template_fields,
)

_KEYS_PER_STATEMENT = 100
_RENDERED_BY = ("table", "query", "key", "text", "title", "url", "metadata", "ignore")
_BOOKKEEPING = ("updated_at", "cursor")


@dataclass(frozen=True)
class _Plan:
    """What a pull reads: one WHERE with its parameters per statement, and how it ends."""

    wheres: tuple[tuple[str, tuple[Any, ...]], ...]
    complete: bool
    watermark: str | None
    note: str


class DatabaseSource:
    """Rows of a database; see `DatabaseConfig` for the options."""

    def __init__(self, name: str, config: DatabaseConfig, *, root: Path) -> None:
        """Keep the configuration; nothing is connected before a pull.

        Raises:
            ConfigError: a `${NAME}` of the DSN is not set, or the link template is wrong.
        """
        self.name = name
        self._config = config
        self._root = root
        self._dsn = expand(config.dsn, where=f"sources.{name}.dsn")
        template_fields(config.url or "")

    def pull(self, request: PullRequest) -> Pull:
        """Yield the rows the request asks for; see `Source.pull`.

        Raises:
            ConfigError: a window is asked for and no column says the source's time, or `cursor_lag`
                is set for a cursor that is no timestamp.
            SourceUnreachableError: the database does not answer.
            SourceDataError: the statement is refused, a configured column does not exist, or a
                rendered column is binary.
        """
        with open_session(self._dsn, self._root) as session:
            relation = self._relation(session)
            columns = {c.name: c for c in session.columns(relation, self._config.table)}
            layout = _layout(self._config, columns)
            plan = self._plan(session, relation, columns, request)
            rows = 0
            for where, parameters in plan.wheres:
                read = _Read(session, relation, self._config, columns, layout)
                for keys, values in read.rows(where, parameters):
                    rows += len(keys)
                    yield render_batch(keys, values, layout)
        return ExtractEnd(plan.complete, plan.watermark, note=f"{rows} rows{plan.note}")

    def _relation(self, session: Session) -> str:
        if self._config.table is not None:
            parts = re.findall(r'"(?:[^"]|"")+"|[^.]+', self._config.table)
            names = [p[1:-1].replace('""', '"') if p.startswith('"') else p for p in parts]
            return ".".join(session.quote(name) for name in names)
        query = session.escape((self._config.query or "").strip().rstrip(";"))
        # The line break ends a trailing comment of the query.
        return f"({query}\n) headwater_query"

    def _plan(
        self, session: Session, relation: str, columns: dict[str, Column], request: PullRequest
    ) -> _Plan:
        if request.keys is not None:
            wheres = _where_keys(session, columns, self._config.key, request.keys)
            return _Plan(wheres, False, request.watermark, f" for {len(request.keys)} keys")
        if request.window is not None:
            where = self._where_window(session, columns, request.window)
            return _Plan((where,), False, request.watermark, " of the window")
        if self._config.cursor is None:
            return _Plan((("", ()),), True, None, "")
        return self._plan_cursor(session, relation, columns[self._config.cursor], request.watermark)

    def _where_window(
        self, session: Session, columns: dict[str, Column], window: Window
    ) -> tuple[str, tuple[Any, ...]]:
        name = self._config.updated_at or self._config.cursor
        if name is None:
            raise ConfigError(
                "A window needs a column with the source's own time",
                obj=f"sources.{self.name}",
                todo="set 'updated_at' (or 'cursor') to a timestamp column",
            )
        column = columns[name]
        instant = session.instant(column)
        where = (
            f"{instant} >= {session.bound(column, 0)} AND {instant} < {session.bound(column, 1)}"
        )
        return where, (session.moment(window.start), session.moment(window.end))

    def _plan_cursor(
        self, session: Session, relation: str, column: Column, watermark: str | None
    ) -> _Plan:
        highest = session.cursor(column, f"MAX({session.quote(column.name)})")
        ceiling = next(session.batches(f"SELECT {highest} FROM {relation}"))[0][0]
        last = _read_watermark(watermark, self._signature)
        if ceiling is None:
            # Nothing carries a cursor value: read what is there, and start afresh next time.
            return _Plan((("", ()),), True, None, ", no cursor value")
        written = _write_watermark(ceiling, self._signature)
        if last is None:
            return _Plan((("", ()),), True, written, ", all")
        floor = self._floor(last)
        name = session.quote(column.name)
        where = (
            f"({name} >= {session.bound(column, 0)} AND {name} <= {session.bound(column, 1)})"
            f" OR {name} IS NULL"
        )
        return _Plan(((where, (floor, ceiling)),), False, written, f" since {floor}")

    def _floor(self, last: Any) -> Any:
        lag = self._config.cursor_lag
        if lag is None:
            return last
        try:
            return _earlier(last, lag)
        except (ValueError, TypeError, OverflowError):
            raise ConfigError(
                "'cursor_lag' needs a timestamp cursor",
                obj=f"sources.{self.name}.cursor: {self._config.cursor} (at {last!r})",
                todo="leave 'cursor_lag' out, or name a timestamp column as the cursor",
            ) from None

    @cached_property
    def _signature(self) -> str:
        config = self._config
        return signature(config.model_dump(include={*_RENDERED_BY, *_BOOKKEEPING, "labels"}))


class _Read:
    """The one SELECT of a pull and how its columns are told apart."""

    def __init__(
        self,
        session: Session,
        relation: str,
        config: DatabaseConfig,
        columns: dict[str, Column],
        layout: Layout,
    ) -> None:
        self._session = session
        self._keys = len(config.key)
        self._wanted = [columns[name] for name in _fetched(layout, config)]
        expressions = [session.text(columns[name]) for name in config.key]
        expressions += [session.value(column) for column in self._wanted]
        listed = ", ".join(f"{e} AS hw_{i}" for i, e in enumerate(expressions))
        self._select = f"SELECT {listed} FROM {relation}"

    def rows(
        self, where: str, parameters: Sequence[Any]
    ) -> Iterator[tuple[list[str | None], dict[str, Sequence[Any]]]]:
        """Yield the keys and, by name, the values of each batch."""
        sql = f"{self._select} WHERE {where}" if where else self._select
        for batch in self._session.batches(sql, parameters):
            keys = [join_key(parts) for parts in zip(*batch[: self._keys], strict=True)]
            values = zip(self._wanted, batch[self._keys :], strict=True)
            yield keys, {column.name: _read_column(column, data) for column, data in values}


def _layout(config: DatabaseConfig, columns: dict[str, Column]) -> Layout:
    named = [*config.key, *config.text, *config.metadata]
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
    chosen = config.text or tuple(name for name in columns if name not in apart)
    layout = Layout(
        text=tuple(name for name in chosen if name not in config.ignore),
        metadata=tuple(name for name in config.metadata if name not in config.ignore),
        title=config.title,
        updated_at=config.updated_at,
        url=config.url,
        labels=config.labels,
        bare=len(config.text) == 1,
    )
    for name in (*layout.text, *layout.metadata):
        if columns[name].form == "binary":
            raise binary_column(name)
    return layout


def _fetched(layout: Layout, config: DatabaseConfig) -> list[str]:
    names = [*layout.text, *layout.metadata, layout.title, layout.updated_at]
    names += [name for name in template_fields(config.url or "") if name != "key"]
    return [name for name in dict.fromkeys(names) if name is not None]


def _read_column(column: Column, values: Sequence[Any]) -> Sequence[Any]:
    if column.form == "json":
        return [_loads(value) for value in values]
    if column.form == "bool":
        return [bool(value) if value in (0, 1) else value for value in values]
    return values


def _loads(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _where_keys(
    session: Session, columns: dict[str, Column], names: tuple[str, ...], keys: frozenset[str]
) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    split = (split_key(key, len(names)) for key in sorted(keys))
    possible = iter([parts for parts in split if parts is not None])
    texts = [session.text(columns[name]) for name in names]
    wheres = []
    while some := list(islice(possible, _KEYS_PER_STATEMENT)):
        terms = []
        for row in range(len(some)):
            equal = [
                f"{text} = {session.parameter(row * len(names) + i)}"
                for i, text in enumerate(texts)
            ]
            terms.append(f"({' AND '.join(equal)})")
        wheres.append((" OR ".join(terms), tuple(part for parts in some for part in parts)))
    return tuple(wheres)


# --- watermarks -----------------------------------------------------------------------------------


def _write_watermark(value: Any, signed: str) -> str:
    kind, plain = "plain", value
    if isinstance(value, datetime):
        kind, plain = "datetime", value.isoformat()
    elif isinstance(value, date):
        kind, plain = "date", value.isoformat()
    elif isinstance(value, Decimal):
        kind, plain = "decimal", str(value)
    elif not isinstance(value, str | int | float):
        raise SourceDataError(
            "The cursor is of a type that cannot be kept",
            obj=type(value).__name__,
            todo="name a number, a text or a timestamp column as the cursor",
        )
    return json.dumps({"value": plain, "type": kind, "config": signed}, sort_keys=True)


def _read_watermark(watermark: str | None, signed: str) -> Any:
    """The cursor value; None when there is none, or rows were rendered in another way then."""
    try:
        data = json.loads(watermark or "null")
        if data["config"] != signed:
            return None
        return _KINDS[data["type"]](data["value"])
    except (ValueError, KeyError, TypeError, ArithmeticError):
        return None


_KINDS: dict[str, Any] = {
    "plain": lambda value: value,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "decimal": Decimal,
}


def _earlier(value: Any, lag: timedelta) -> Any:
    """`value - lag`; a text keeps its shape, cut to whole seconds so that it sorts below.

    Raises:
        ValueError: the text is no timestamp.
        TypeError: a number has no unit of time.
    """
    if not isinstance(value, str):
        return value - lag
    when = datetime.fromisoformat(value) - lag
    if len(value) == len("2000-01-01"):
        return when.date().isoformat()
    if when.tzinfo is not None and when.utcoffset() == timedelta(0):
        when = when.astimezone(UTC)
    return when.replace(tzinfo=None, microsecond=0).isoformat(sep=value[10])
