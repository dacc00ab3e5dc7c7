"""What a source is: one method that yields record batches and says how complete they were.

Your own source in a few lines::

    class Greetings:
        def pull(self, request):
            yield record_batch([Record(key="en", text="hello"), Record(key="fr", text="bonjour")])
            return ExtractEnd(complete=True)
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

RECORD_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("text", pa.string()),
        pa.field("title", pa.string()),
        pa.field("url", pa.string()),
        pa.field("metadata", pa.string()),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("source_ts", pa.timestamp("us", tz="UTC")),
        pa.field("fingerprint", pa.string()),
        pa.field("state", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)
"""One row per record.

`key` names the record within its source; a null or empty key goes to quarantine. `text` is markdown
or plain text. `metadata` is a JSON object. `fingerprint` is the source's own cheap proof that
nothing changed (a hash of a file's bytes and its parser); null when it has none; that of an
`unreadable` record is remembered with the refusal. `state` is one of `STATES`; `error` says why an
`unreadable` record has no text.
"""

STATES = ("present", "unchanged", "gone", "unreadable")
"""`present`: here it is. `unchanged`: seen, and its fingerprint is the known one (no text is sent).
`gone`: the source says it was deleted. `unreadable`: it is there but could not be read."""


@dataclass(frozen=True)
class Record:
    """One record, for sources that build them one by one."""

    key: str | None
    text: str | None = None
    title: str | None = None
    url: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    source_ts: datetime | None = None
    fingerprint: str | None = None
    state: str = "present"
    error: str | None = None


@dataclass(frozen=True)
class Window:
    """A half-open range `[start, end)` of the source's own time, for backfills (UTC)."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class KeyRange:
    """A half-open range `[start, end)` of keys, for backfills; None leaves a side open.

    Where the bounds are whole numbers, keys are compared as numbers and others are outside;
    otherwise by code points.
    """

    start: str | None = None
    end: str | None = None

    @property
    def numeric(self) -> bool:
        """Whether keys are compared as numbers."""
        bounds = [bound for bound in (self.start, self.end) if bound is not None]
        return bool(bounds) and all(_NUMBER.fullmatch(bound) for bound in bounds)

    def __contains__(self, key: str) -> bool:
        if not self.numeric:
            return (self.start or "") <= key and (self.end is None or key < self.end)
        if not _NUMBER.fullmatch(key):
            return False
        low = self.start is None or int(self.start) <= int(key)
        return low and (self.end is None or int(key) < int(self.end))


_NUMBER = re.compile(r"-?[0-9]{1,400}")


@dataclass(frozen=True)
class PullRequest:
    """What the refresh asks a source for.

    Attributes:
        watermark: what the last published extract returned, or None for the first.
        known: key -> fingerprint of every live document of the source that has one. A source may
            answer `unchanged` for a key whose fingerprint is still the same.
        refused: key -> fingerprint and reason of records that came `unreadable` and wait in
            quarantine. A source may yield them again for the same fingerprint without trying.
        current: keys of the live documents that are as the source last sent them: those with a
            newer version in quarantine are not among them. A source that only lists a key may
            answer `unchanged` for it.
        partial_runs: how many runs ended since one confirmed every record; counted for a source that
            says `counts_partial_runs = True`. While it is above 0 the documents are not what the
            watermark's extract was: a part of a later one may have been taken in.
        keys: only these keys (`--key`); None for all. Such an extract is never complete.
        window: only this range of source time (a backfill). Such an extract is never complete.
        key_range: only this range of keys (a backfill). Such an extract is never complete. A source
            need not narrow its reading: whoever pulls leaves out what is outside.
    """

    watermark: str | None = None
    known: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    current: Collection[str] = frozenset()
    partial_runs: int = 0
    keys: frozenset[str] | None = None
    window: Window | None = None
    key_range: KeyRange | None = None

    @property
    def narrowed(self) -> bool:
        """Whether less than the whole source is asked for."""
        return not (self.keys is None and self.window is None and self.key_range is None)


@dataclass(frozen=True)
class ExtractEnd:
    """What a source says once it has yielded everything.

    Attributes:
        complete: every record of the source was listed. Only then may absence mean deletion.
        watermark: given back as `PullRequest.watermark` next time, once this extract is published.
        note: one line for the run log ("3 pages, 304 not modified").
        unchanged: the source proved that nothing at all changed (HTTP 304): the extract confirms
            every live document without listing it.
        columns: name and type of the columns the records were made from, where there are such.
        columns_before: those of the last published extract (`sources.drift.column_drift` tells what
            became of them); empty when nothing is known of one.
    """

    complete: bool
    watermark: str | None = None
    note: str = ""
    unchanged: bool = False
    columns: tuple[tuple[str, str], ...] = ()
    columns_before: tuple[tuple[str, str], ...] = ()


Pull = Generator[pa.RecordBatch, None, ExtractEnd]


@runtime_checkable
class Source(Protocol):
    """A place knowledge is pulled from.

    A class may also say `parallel_windows = N`: so many windows of a backfill may be pulled at
    once, each by an object of its own. It is 1 where nothing is said. And it may say
    `counts_partial_runs = True`, where it needs `PullRequest.partial_runs`: that reads the run log.
    """

    def pull(self, request: PullRequest) -> Pull:
        """Yield batches of `RECORD_SCHEMA` (at most some thousand rows each), return the end.

        Raises:
            SourceUnreachableError: no answer; a retry may help.
            SourceDataError: an answer that cannot be used. Whatever was yielded is discarded.
        """
        ...


def record_batch(records: Iterable[Record]) -> pa.RecordBatch:
    """Put records into one batch of `RECORD_SCHEMA`."""
    rows = [
        {
            "key": r.key,
            "text": r.text,
            "title": r.title,
            "url": r.url,
            "metadata": canonical_json(r.metadata),
            "labels": list(r.labels),
            "source_ts": r.source_ts,
            "fingerprint": r.fingerprint,
            "state": r.state,
            "error": r.error,
        }
        for r in records
    ]
    return pa.RecordBatch.from_pylist(rows, schema=RECORD_SCHEMA)


def canonical_json(value: Mapping[str, Any]) -> str:
    """The one JSON text of `value`: keys sorted, no spaces, so that equal values hash equally."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
