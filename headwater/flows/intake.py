"""From a source's batches to what is new: the step that streams, and never reads stored text.

An intake holds the keys that were seen and only those records that differ from the store; records
that are equal are forgotten batch by batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from headwater.errors import HeadwaterError, SourceDataError
from headwater.flows.sources.protocol import (
    RECORD_SCHEMA,
    ExtractEnd,
    PullRequest,
    Source,
)
from headwater.storage.changes import Incoming, LiveDocument, content_hash, metadata_hash
from headwater.validation.rows import built_in_failures
from headwater.validation.verdicts import Reason


@dataclass(frozen=True)
class Refused:
    """A record that cannot be used.

    Attributes:
        key: its own, or a made-up one that says where it stood in the extract.
        payload: its fields as they came, the text included.
        content_hash: of its text; None without one.
    """

    key: str
    payload: Mapping[str, Any]
    content_hash: bytes | None
    reason: Reason


@dataclass(frozen=True)
class Intake:
    """What one extract held, compared with the store.

    Attributes:
        source: the source's name.
        end: what the source said at the end.
        listed: how many records it listed.
        seen: their keys, refused ones included; one that occurs twice is in `duplicates` too.
        gone: keys the source says were deleted.
        records: those that differ from the store, and in a revalidation all of them.
        refused: records that cannot be used, with the reason.
        duplicates: keys that occurred more than once.
    """

    source: str
    end: ExtractEnd
    listed: int
    seen: frozenset[str]
    gone: frozenset[str]
    records: tuple[Incoming, ...]
    refused: tuple[Refused, ...]
    duplicates: frozenset[str]

    def missing(self, live: Mapping[str, LiveDocument]) -> list[str]:
        """Live keys that this extract proves to be gone."""
        if self.end.complete and not self.end.unchanged:
            return [key for key in live if key not in self.seen]
        return [key for key in live if key in self.gone]


def take_in(
    name: str,
    source: Source,
    request: PullRequest,
    live: Mapping[str, LiveDocument],
    *,
    labels: Iterable[str] = (),
    revalidate: bool = False,
) -> Intake:
    """Pull a source to its end and keep what differs.

    Args:
        name: the source's name.
        source: where to pull from.
        request: what to ask it for.
        live: what the store holds of it.
        labels: put on every record.
        revalidate: keep equal records too, because the expectations changed.

    Raises:
        SourceError: the pull failed; nothing of it counts.
    """
    pull = source.pull(request)
    collected = _Collected(name, live, frozenset(labels), revalidate)
    try:
        while True:
            collected.add(next(pull))
    except StopIteration as stop:
        end = stop.value
    except HeadwaterError:
        raise
    except Exception as error:
        # A source of another package may raise anything; it must not take the other sources along.
        raise SourceDataError(
            f"The source failed with {type(error).__name__}", obj=name, todo=str(error)
        ) from error
    finally:
        pull.close()
    if not isinstance(end, ExtractEnd):
        raise SourceDataError(
            "The source did not say how complete its extract is",
            obj=name,
            todo="a source's pull() must return an ExtractEnd",
        )
    return collected.finish(end)


class _Collected:
    def __init__(
        self,
        source: str,
        live: Mapping[str, LiveDocument],
        labels: frozenset[str],
        revalidate: bool,
    ) -> None:
        self._source = source
        self._live = live
        self._labels = labels
        self._revalidate = revalidate
        self._listed = 0
        self._seen: set[str] = set()
        self._gone: set[str] = set()
        self._duplicates: set[str] = set()
        self._records: list[Incoming] = []
        self._refused: list[Refused] = []

    def add(self, batch: pa.RecordBatch) -> None:
        if batch.schema != RECORD_SCHEMA:
            raise SourceDataError(
                "The source yielded a batch of another schema",
                obj=self._source,
                todo="build batches with headwater.flows.sources.protocol.record_batch",
            )
        refused = built_in_failures(batch)
        columns = [batch.column(field.name).to_pylist() for field in RECORD_SCHEMA]
        for row, values in enumerate(zip(*columns, strict=True)):
            key, state = values[0], values[8]
            if key:
                if key in self._seen:
                    self._duplicates.add(key)
                (self._gone if state == "gone" else self._seen).add(key)
            if row in refused:
                fields = dict(zip(RECORD_SCHEMA.names, values, strict=True))
                self._refused.append(_refused(fields, refused[row], self._listed + row))
            elif state == "present":
                self._keep(*values[:8])
        self._listed += batch.num_rows

    def _keep(
        self,
        key: str,
        text: str,
        title: str | None,
        url: str | None,
        metadata: str | None,
        labels: list[str] | None,
        source_ts: datetime | None,
        fingerprint: str | None,
    ) -> None:
        all_labels = tuple(sorted(self._labels.union(labels or ())))
        record = Incoming(
            key=key,
            text=text,
            title=title,
            url=url,
            metadata=metadata or "{}",
            labels=all_labels,
            source_ts=source_ts.astimezone(UTC) if source_ts else None,
            fingerprint=fingerprint,
            content_hash=content_hash(text),
            metadata_hash=metadata_hash(title, url, metadata or "{}", all_labels),
        )
        if self._revalidate or not record.same_as(self._live.get(key)):
            self._records.append(record)

    def finish(self, end: ExtractEnd) -> Intake:
        return Intake(
            source=self._source,
            end=end,
            listed=self._listed,
            seen=frozenset(self._seen),
            gone=frozenset(self._gone - self._seen),
            records=tuple(r for r in self._records if r.key not in self._duplicates),
            refused=tuple(self._refused),
            duplicates=frozenset(self._duplicates),
        )


def _refused(fields: Mapping[str, Any], reason: Reason, row: int) -> Refused:
    text = fields["text"]
    return Refused(
        key=fields["key"] or f"(no key, row {row + 1})",
        payload=fields,
        content_hash=content_hash(text) if text is not None else None,
        reason=reason,
    )
