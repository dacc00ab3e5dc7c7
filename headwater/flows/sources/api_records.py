"""From the JSON of a reply to records: where they are, which are wanted, how they read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa

from headwater.config import ApiConfig
from headwater.flows.sources.api_values import MISSING, at, data_error, present
from headwater.flows.sources.protocol import PullRequest, Record, record_batch
from headwater.flows.sources.rendering import (
    BATCH_ROWS,
    Layout,
    render_batch,
    value_text,
    value_time,
)

_NOT_DELETED = frozenset({"", "false", "0", "no", "none", "null"})
_COMPARED = ("key", "text", "title", "url", "metadata", "state")

JsonRecord = dict[str, Any]


class RecordReader:
    """Reads the records of one API.

    Args:
        config: of the source.
    """

    def __init__(self, config: ApiConfig) -> None:
        self._config = config
        own = config.incremental and config.incremental.field
        self._time = own or config.updated_at

    def records(self, body: Any, url: str) -> list[JsonRecord]:
        """The records of a reply.

        Raises:
            SourceDataError: there is no list of objects where it should be.
        """
        path = self._config.records
        found = at(body, path) if path else body
        if not isinstance(found, list):
            where = f"'{path}'" if path else "the reply itself"
            raise data_error(
                f"The reply has no list of records at {where}", url, _offer(body, path)
            )
        for position, record in enumerate(found):
            if not isinstance(record, dict):
                raise data_error(f"Record {position} of the page is no object", url)
        return found

    def total(self, body: Any, url: str) -> int | None:
        """The reply's own count of all records, where one is configured.

        Raises:
            SourceDataError: there is no count.
        """
        path = self._config.pagination.total
        if path is None:
            return None
        total = at(body, path)
        if isinstance(total, str) and total.isdecimal():
            total = int(total)
        if not isinstance(total, int) or isinstance(total, bool):
            raise data_error(f"The reply has no count at '{path}'", url, "mend 'pagination.total'")
        return total

    def key(self, record: JsonRecord) -> str | None:
        """The record's key, None where it has none."""
        value = at(record, self._config.key)
        return None if value is MISSING or isinstance(value, dict | list) else value_text(value)

    def time(self, record: JsonRecord) -> datetime | None:
        """The record's own time (UTC), None where it has none."""
        return value_time(present(at(record, self._time))) if self._time else None

    def wanted(self, record: JsonRecord, request: PullRequest) -> bool:
        """Whether a narrowed pull asks for this record."""
        if request.keys is not None and self.key(record) not in request.keys:
            return False
        if request.window is None or self._config.updated_at is None:
            return True
        # Whether the bounds belong to the window differs from API to API; ours is half-open.
        when = value_time(present(at(record, self._config.updated_at)))
        return when is None or request.window.start <= when < request.window.end

    def render(self, records: list[JsonRecord]) -> Iterator[pa.RecordBatch]:
        """The records as batches; those that say they were deleted are `gone`.

        Raises:
            SourceDataError: a value cannot be rendered.
        """
        here: list[JsonRecord] = []
        gone: list[Record] = []
        for record in records:
            if self._is_deleted(record):
                gone.append(Record(self.key(record), state="gone"))
            else:
                here.append(record)
        for start in range(0, len(here), BATCH_ROWS):
            yield self._render(here[start : start + BATCH_ROWS])
        for start in range(0, len(gone), BATCH_ROWS):
            yield record_batch(gone[start : start + BATCH_ROWS])

    def _is_deleted(self, record: JsonRecord) -> bool:
        config = self._config
        if config.deleted is None:
            return False
        value = present(at(record, config.deleted))
        text = value_text(value) if not isinstance(value, dict | list) else str(bool(value))
        if config.deleted_values:
            return text in config.deleted_values
        return (text or "").strip().lower() not in _NOT_DELETED

    def _render(self, records: list[JsonRecord]) -> pa.RecordBatch:
        config = self._config
        names = config.text or _all_fields(records, config)
        layout = Layout(
            text=tuple(name for name in names if name not in config.ignore),
            metadata=tuple(name for name in config.metadata if name not in config.ignore),
            title=config.title,
            updated_at=config.updated_at,
            labels=config.labels,
            bare=len(config.text) == 1,
        )
        paths = {*layout.text, *layout.metadata, config.title, config.updated_at} - {None}
        kept = _without(records, config.ignore)
        columns = {str(path): [present(at(record, str(path))) for record in kept] for path in paths}
        if config.updated_at:
            columns[config.updated_at] = [present(at(r, config.updated_at)) for r in records]
        links: list[str | None] = [None] * len(records)
        if config.record_url:
            links = [value_text(present(at(r, config.record_url))) for r in records]
        return render_batch([self.key(r) for r in records], columns, layout, urls=links)


def rows_digest(batches: list[pa.RecordBatch]) -> str:
    """A hash of what the rows say, the source's own time left out.

    It is taken from the rendered rows: a volatile field that is ignored is no difference.
    """
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(batch.select(_COMPARED).serialize().to_pybytes())
    return digest.hexdigest()


def _all_fields(records: list[JsonRecord], config: ApiConfig) -> tuple[str, ...]:
    """Every field of the records but the configured others, by name.

    Sorted, because a server may write the fields of an object in another order each time.
    """
    apart = {config.key, config.updated_at, config.record_url, config.deleted}
    apart |= {*config.metadata, *config.ignore}
    return tuple(sorted({name for record in records for name in record} - apart))


def _without(records: list[JsonRecord], paths: tuple[str, ...]) -> list[JsonRecord]:
    """The records less the ignored paths, also where these lie inside a rendered object."""
    nested = [path for path in paths if "." in path]
    return [_drop(record, nested) for record in records] if nested else records


def _drop(record: JsonRecord, paths: list[str]) -> JsonRecord:
    kept = dict(record)
    for path in paths:
        head, _, rest = path.partition(".")
        if isinstance(kept.get(head), dict):
            kept[head] = _drop(kept[head], [rest]) if "." in rest else _less(kept[head], rest)
    return kept


def _less(value: JsonRecord, name: str) -> JsonRecord:
    return {key: item for key, item in value.items() if key != name}


def _offer(body: Any, path: str) -> str:
    if isinstance(body, dict):
        lists = [name for name, value in body.items() if isinstance(value, list)]
        return f"mend 'records'; lists in the reply: {', '.join(lists) or 'none'}"
    return "mend 'records'; '' stands for the reply itself" if path else "mend 'url' or 'records'"
