"""A table or a query as a source: each row becomes a document.

A pull is one read-only session. A strategy decides which rows are read (see `strategies`), from
what the last published pull left behind (see `watermarks`); all of them are read in one snapshot of
the database, batch by batch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.config import DatabaseConfig, expand
from headwater.errors import ConfigError
from headwater.flows.sources.drift import column_drift
from headwater.flows.sources.engines import open_session
from headwater.flows.sources.engines.session import Session
from headwater.flows.sources.protocol import ExtractEnd, Pull, PullRequest, Window
from headwater.flows.sources.rendering import signature, template_fields
from headwater.flows.sources.rows import Condition, Rows, unchanged
from headwater.flows.sources.strategies import STRATEGIES, Asked, Known, PullPlan
from headwater.flows.sources.watermarks import Watermark, read_watermark, write_watermark

_RENDERED_BY = (
    *("table", "query", "key", "text", "template", "title", "url", "metadata", "ignore"),
    *("updated_at", "cursor", "labels"),
)


class DatabaseSource:
    """Rows of a database; see `DatabaseConfig` for the options."""

    def __init__(self, name: str, config: DatabaseConfig, *, root: Path) -> None:
        """Keep the configuration; nothing is connected before a pull.

        Raises:
            ConfigError: a `${NAME}` of the DSN is not set, or a template is wrong.
        """
        self.name = name
        self._config = config
        self._root = root
        self._dsn = expand(config.dsn, where=f"sources.{name}.dsn")
        template_fields(config.url or "")
        template_fields(config.template or "")

    @property
    def counts_partial_runs(self) -> bool:
        """Whether every so many runs list all keys."""
        return self._config.keyset_every is not None

    def pull(self, request: PullRequest) -> Pull:
        """Yield the rows the request asks for; see `Source.pull`.

        Raises:
            ConfigError: a window is asked for and no column says the source's time, the lag does
                not fit the cursor, or the database lacks what the strategy needs.
            SourceUnreachableError: the database does not answer, or not in time.
            SourceDataError: the statement is refused, a configured column does not exist, or a
                rendered column is binary.
        """
        timeout = self._config.statement_timeout
        with open_session(self._dsn, self._root, statement_timeout=timeout) as session:
            relation = self._relation(session)
            rows = Rows(session, relation, self._config)
            last = read_watermark(request.watermark)
            if request.keys is not None or request.window is not None:
                session.begin()
                count = yield from _counted(self._narrowed(rows, request))
                return ExtractEnd(False, request.watermark, note=f"{count} rows, as asked for")
            known = self._known(rows, request, last)
            asked = Asked(session, relation, rows.columns)
            plan = STRATEGIES[self._config.chosen_strategy](known, asked)
            count = yield from _counted(_planned(rows, plan, request, known.signature))
        before = last.columns if last else ()
        drift = column_drift(before, rows.rendered)
        return ExtractEnd(
            plan.complete,
            write_watermark(plan.watermark),
            note="; ".join(p for p in (f"{count} rows", drift.sentence(), plan.note) if p),
            columns=rows.rendered,
            columns_before=before,
        )

    def _relation(self, session: Session) -> str:
        if self._config.table is not None:
            parts = re.findall(r'"(?:[^"]|"")+"|[^.]+', self._config.table)
            names = [p[1:-1].replace('""', '"') if p.startswith('"') else p for p in parts]
            return ".".join(session.quote(name) for name in names)
        query = session.escape((self._config.query or "").strip().rstrip(";"))
        # The line break ends a trailing comment of the query.
        return f"({query}\n) headwater_query"

    def _known(self, rows: Rows, request: PullRequest, last: Watermark | None) -> Known:
        config = self._config
        described = config.model_dump(include=set(_RENDERED_BY))
        signed = signature({**described, "columns": rows.rendered})
        if last is not None and (last.strategy, last.signature) != (config.chosen_strategy, signed):
            last = None
        return Known(
            config=config,
            source=self.name,
            signature=signed,
            columns=rows.rendered,
            last=last,
            fingerprints=bool(request.known),
            partial_runs=request.partial_runs,
        )

    def _narrowed(self, rows: Rows, request: PullRequest) -> Iterator[pa.RecordBatch]:
        if request.keys is not None:
            yield from rows.records_named(request.keys)
        elif request.window is not None:
            yield from rows.records(self._within(rows, request.window))

    def _within(self, rows: Rows, window: Window) -> Condition:
        name = self._config.updated_at or self._config.cursor
        if name is None:
            raise ConfigError(
                "A window needs a column with the source's own time",
                obj=f"sources.{self.name}",
                todo="set 'updated_at' (or 'cursor') to a timestamp column",
            )
        session, column = rows.session, rows.columns[name]
        instant = session.instant(column)
        return Condition(
            f"{instant} >= {session.bound(column, 0)} AND {instant} < {session.bound(column, 1)}",
            (session.moment(window.start), session.moment(window.end)),
        )


def _counted(batches: Iterator[pa.RecordBatch]) -> Generator[pa.RecordBatch, None, int]:
    """Pass the batches on; returns how many rows they had."""
    count = 0
    for batch in batches:
        count += batch.num_rows
        yield batch
    return count


def _planned(
    rows: Rows, plan: PullPlan, request: PullRequest, signed: str
) -> Iterator[pa.RecordBatch]:
    prefix = signed if plan.watermark.strategy == "rowhash" else None
    if plan.rows is None:
        yield from _by_hash(rows, request.known, signed)
        return
    yield from rows.records(plan.rows, prefix=prefix)
    if plan.listed is not None:
        yield from _by_key(rows, plan.listed, request.current)


def _by_hash(rows: Rows, known: Mapping[str, str], signed: str) -> Iterator[pa.RecordBatch]:
    """List every row with its hash, and read those that are not known by it."""
    wanted: set[str] = set()
    for keys, prints in rows.keys(Condition(), prefix=signed):
        assert prints is not None
        pairs = zip(keys.to_pylist(), prints.to_pylist(), strict=True)
        same = [key is None or known.get(key) == value for key, value in pairs]
        yield from _split(keys, np.array(same, np.bool_), wanted, prints)
    yield from rows.records_of(wanted, prefix=signed)


def _by_key(rows: Rows, others: Condition, current: Collection[str]) -> Iterator[pa.RecordBatch]:
    """List the keys of the other rows, and read those of no document that is up to date."""
    wanted: set[str] = set()
    for keys, _ in rows.keys(others):
        same = [key is None or key in current for key in keys.to_pylist()]
        yield from _split(keys, np.array(same, np.bool_), wanted, None)
    yield from rows.records_of(wanted)


def _split(
    keys: pa.Array, same: np.ndarray, wanted: set[str], prints: pa.Array | None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows that are the same as unchanged; note the keys of the others."""
    mask = pa.array(same)
    wanted.update(keys.filter(pc.invert(mask)).to_pylist())
    kept = keys.filter(mask)
    if len(kept):
        yield unchanged(kept, None if prints is None else prints.filter(mask))
