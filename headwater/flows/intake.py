"""From a source's batches to what is new: the step that streams, and never reads stored text.

An intake holds the keys that were seen and only those records that differ from the store; records
that are equal are forgotten batch by batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.errors import HeadwaterError, SourceDataError
from headwater.flows.sources.protocol import (
    RECORD_SCHEMA,
    ExtractEnd,
    KeyRange,
    Pull,
    PullRequest,
    Source,
)
from headwater.storage.changes import (
    Incoming,
    LiveDocument,
    content_hash,
    content_hashes,
    metadata_hashes,
)
from headwater.storage.live import LiveDocuments, Mask, Rows, utc_times
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


@dataclass(frozen=True, eq=False)
class Listed(AbstractSet[str]):
    """Keys that an extract listed: a mark for each live document, and the keys of no such one.

    Attributes:
        live: what the extract was compared with.
        marks: whether it listed the document; one per row of `live`.
        others: keys it listed besides.
    """

    live: LiveDocuments
    marks: Mask
    others: frozenset[str]

    def __contains__(self, key: object) -> bool:
        row = self.live.row_of(key)
        return bool(self.marks[row]) if row >= 0 else key in self.others

    def __iter__(self) -> Iterator[str]:
        yield from self.live.keys_at(np.flatnonzero(self.marks))
        yield from self.others

    def __len__(self) -> int:
        return int(np.count_nonzero(self.marks)) + len(self.others)

    @classmethod
    def _from_iterable(cls, keys: Iterable[Any]) -> frozenset[Any]:
        return frozenset(keys)

    def lacks(self, live: Mapping[str, LiveDocument]) -> list[str]:
        """The live keys that the extract did not list."""
        if live is self.live:
            return self.live.keys_at(np.flatnonzero(~self.marks))
        return [key for key in live if key not in self]


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
    seen: Listed
    gone: frozenset[str]
    records: tuple[Incoming, ...]
    refused: tuple[Refused, ...]
    duplicates: frozenset[str]

    def missing(self, live: Mapping[str, LiveDocument]) -> list[str]:
        """Live keys that this extract proves to be gone."""
        if self.end.complete and not self.end.unchanged:
            return self.seen.lacks(live)
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
    collected = _Collected(name, LiveDocuments.of(live), frozenset(labels), revalidate)
    pull = pull_checked(name, source, request)
    while True:
        try:
            batch = next(pull)
        except StopIteration as stop:
            return collected.finish(stop.value)
        try:
            collected.add(batch)
        except HeadwaterError:
            raise
        except Exception as error:
            raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> SourceDataError:
    return SourceDataError(
        f"The source failed with {type(error).__name__}", obj=name, todo=str(error)
    )


def pull_checked(name: str, source: Source, request: PullRequest) -> Pull:
    """Pull a source, and make sure of what it promised; records outside of a key range are left out.

    A pull that was narrowed ends partial and leaves the watermark where it was, whatever its source
    says.

    Raises:
        SourceError: the pull failed, or its batches or its end are not what they must be.
    """
    pull = source.pull(request)
    try:
        while True:
            batch = next(pull)
            if batch.schema != RECORD_SCHEMA:
                raise SourceDataError(
                    "The source yielded a batch of another schema",
                    obj=name,
                    todo="build batches with headwater.flows.sources.protocol.record_batch",
                )
            yield batch if request.key_range is None else _within(batch, request.key_range)
    except StopIteration as stop:
        end = stop.value
    except HeadwaterError:
        raise
    except Exception as error:
        # A source of another package may raise anything; it must not take the other sources along.
        raise _failed(name, error) from error
    finally:
        pull.close()
    if not isinstance(end, ExtractEnd):
        raise SourceDataError(
            "The source did not say how complete its extract is",
            obj=name,
            todo="a source's pull() must return an ExtractEnd",
        )
    if request.narrowed:
        end = replace(end, complete=False, unchanged=False, watermark=request.watermark)
    return end


def _within(batch: pa.RecordBatch, keys: KeyRange) -> pa.RecordBatch:
    inside = [key is not None and key in keys for key in batch.column("key").to_pylist()]
    return batch.filter(pa.array(inside, pa.bool_()))


class _Collected:
    def __init__(
        self, source: str, live: LiveDocuments, labels: frozenset[str], revalidate: bool
    ) -> None:
        self._source = source
        self._live = live
        self._labels = labels
        self._revalidate = revalidate
        self._listed = 0
        self._marks = np.zeros(len(live), np.bool_)
        self._others: set[str] = set()
        self._gone: set[str] = set()
        self._duplicates: set[str] = set()
        self._records: list[Incoming] = []
        self._refused: list[Refused] = []

    def add(self, batch: pa.RecordBatch) -> None:
        refused = built_in_failures(batch)
        rows = self._live.rows_of(batch.column("key"))
        self._see(batch, rows)
        if refused:
            records = batch.take(pa.array(list(refused), pa.int64())).to_pylist()
            for (row, reason), fields in zip(refused.items(), records, strict=True):
                self._refused.append(_refused(fields, reason, self._listed + row))
        kept = np.array(pc.fill_null(pc.equal(batch.column("state"), "present"), False))
        kept[list(refused)] = False
        self._listed += batch.num_rows
        if not kept.all():
            batch, rows = batch.filter(pa.array(kept)), rows[kept]
        self._compare(batch, rows)

    def _see(self, batch: pa.RecordBatch, rows: Rows) -> None:
        """Note the keys as listed or gone, and those listed before as duplicates."""
        keys = batch.column("key")
        known = rows[rows >= 0]
        ordered = np.sort(known)
        if (
            self._marks[known].any()
            or (ordered[1:] == ordered[:-1]).any()
            or pc.any(pc.equal(batch.column("state"), "gone")).as_py()
        ):
            places = list(range(batch.num_rows))
        else:
            # Nothing can occur twice or be gone but what is new to the store.
            self._marks[known] = True
            if len(known) == len(rows):
                return
            places = np.flatnonzero(rows < 0).tolist()
        states = batch.column("state")
        for place in places:
            if key := keys[place].as_py():
                self._see_one(key, int(rows[place]), gone=states[place].as_py() == "gone")

    def _see_one(self, key: str, row: int, *, gone: bool) -> None:
        if self._marks[row] if row >= 0 else key in self._others:
            self._duplicates.add(key)
        if gone:
            self._gone.add(key)
        elif row >= 0:
            self._marks[row] = True
        else:
            self._others.add(key)

    def _compare(self, batch: pa.RecordBatch, rows: Rows) -> None:
        """Keep the records that differ from the live documents at `rows`."""
        labels = self._labelled(batch.column("labels"))
        content = content_hashes(batch.column("text"))
        metadata = [text or "{}" for text in batch.column("metadata").to_pylist()]
        titles, urls = (batch.column(name).to_pylist() for name in ("title", "url"))
        hashes = metadata_hashes(titles, urls, metadata, labels)
        different = np.ones(len(rows), np.bool_)
        if not self._revalidate:
            different = ~self._live.same(rows, content, hashes, batch.column("fingerprint"))
        places = np.flatnonzero(different).tolist()
        if not places:
            return
        chosen = batch.take(pa.array(places))
        keys, texts, prints = (
            chosen.column(name).to_pylist() for name in ("key", "text", "fingerprint")
        )
        times = utc_times(chosen.column("source_ts"))
        for at, place in enumerate(places):
            self._records.append(
                Incoming(
                    key=keys[at],
                    text=texts[at],
                    title=titles[place],
                    url=urls[place],
                    metadata=metadata[place],
                    labels=labels[place],
                    source_ts=times[at],
                    fingerprint=prints[at],
                    content_hash=content[place],
                    metadata_hash=hashes[place],
                )
            )

    def _labelled(self, column: pa.Array) -> list[tuple[str, ...]]:
        """The labels of each record, those of the source among them, sorted."""
        if not pc.sum(pc.list_value_length(column)).as_py():
            return [tuple(sorted(self._labels))] * len(column)
        return [tuple(sorted(self._labels.union(own or ()))) for own in column.to_pylist()]

    def finish(self, end: ExtractEnd) -> Intake:
        seen = Listed(self._live, self._marks, frozenset(self._others))
        return Intake(
            source=self._source,
            end=end,
            listed=self._listed,
            seen=seen,
            gone=frozenset(key for key in self._gone if key not in seen),
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


def record_fields(record: Incoming) -> dict[str, object]:
    """The record as a row of `RECORD_SCHEMA`."""
    return {
        "key": record.key,
        "text": record.text,
        "title": record.title,
        "url": record.url,
        "metadata": record.metadata,
        "labels": list(record.labels),
        "source_ts": record.source_ts,
        "fingerprint": record.fingerprint,
        "state": "present",
        "error": None,
    }
