"""An extract is compared with the store by columns, and the answer is that of going row by row."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import SourceDataError
from headwater.flows.intake import Intake, Refused, take_in
from headwater.flows.sources.protocol import RECORD_SCHEMA, ExtractEnd, PullRequest
from headwater.storage.changes import Incoming, LiveDocument, content_hash, metadata_hash
from headwater.storage.live import LiveDocuments
from headwater.validation.rows import built_in_failures

T0 = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = ["a", "b", "c", "d", "e", "\u00e9"]
TEXTS = ["one", "two", "three"]
TITLES = [None, "", 'T "1" \\ \u00e9\x7f']
METADATA = [None, "", "{}", '{"a":1}', '{"a":[{"b":null}]}']

Row = dict[str, object]


# --- the reference: one row after the other, in Python's own collections ---------------------------


@dataclass
class RowByRow:
    """What `take_in` does, said in the plainest way."""

    live: dict[str, LiveDocument]
    labels: frozenset[str]
    revalidate: bool
    listed: int = 0
    seen: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    duplicates: set[str] = field(default_factory=set)
    records: list[Incoming] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def add(self, batch: pa.RecordBatch) -> None:
        refused = built_in_failures(batch)
        for number, row in enumerate(batch.to_pylist()):
            key, state = row["key"], row["state"]
            if key:
                if key in self.seen:
                    self.duplicates.add(key)
                (self.gone if state == "gone" else self.seen).add(key)
            if number in refused:
                text = row["text"]
                self.refused.append(
                    Refused(
                        key=key or f"(no key, row {self.listed + number + 1})",
                        payload=row,
                        content_hash=None if text is None else content_hash(text),
                        reason=refused[number],
                    )
                )
            elif state == "present":
                self._keep(row)
        self.listed += batch.num_rows

    def _keep(self, row: Row) -> None:
        labels = tuple(sorted(self.labels.union(row["labels"] or ())))
        metadata = row["metadata"] or "{}"
        hashed = json.dumps([row["title"], row["url"], metadata, sorted(labels)])
        record = Incoming(
            key=row["key"],
            text=row["text"],
            title=row["title"],
            url=row["url"],
            metadata=metadata,
            labels=labels,
            source_ts=row["source_ts"].astimezone(UTC) if row["source_ts"] else None,
            fingerprint=row["fingerprint"],
            content_hash=hashlib.sha256(row["text"].encode()).digest(),
            metadata_hash=hashlib.sha256(hashed.encode()).digest(),
        )
        if self.revalidate or not record.same_as(self.live.get(record.key)):
            self.records.append(record)

    def agrees_with(self, found: Intake) -> None:
        assert found.listed == self.listed
        assert set(found.seen) == self.seen and len(found.seen) == len(self.seen)
        assert bool(found.seen) == bool(self.seen)
        assert all((k in found.seen) == (k in self.seen) for k in [*KEYS, None, "nowhere"])
        assert found.seen | found.gone == self.seen | self.gone
        assert found.gone == self.gone - self.seen
        assert found.duplicates == self.duplicates
        assert found.records == tuple(r for r in self.records if r.key not in self.duplicates)
        assert found.refused == tuple(self.refused)
        if found.end.complete and not found.end.unchanged:
            missing = [key for key in self.live if key not in self.seen]
        else:
            missing = [key for key in self.live if key in self.gone - self.seen]
        assert found.missing(self.live) == found.missing(LiveDocuments.of(self.live)) == missing
        assert found.missing(found.seen.live) == missing


# --- random stores and extracts --------------------------------------------------------------------


def row(key: str | None, text: str | None = "one", **others: object) -> Row:
    blank = dict.fromkeys(RECORD_SCHEMA.names) | {"state": "present"}
    return blank | {"key": key, "text": text} | others


def batch_of(rows: list[Row]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=RECORD_SCHEMA)


good_rows = st.builds(
    row,
    st.sampled_from(KEYS),
    st.sampled_from(TEXTS),
    title=st.sampled_from(TITLES),
    url=st.sampled_from([None, "u"]),
    metadata=st.sampled_from(METADATA),
    labels=st.sampled_from([None, [], ["x"], ["y", "x"]]),
    source_ts=st.sampled_from([None, T0, datetime(2, 1, 1, tzinfo=timezone(timedelta(hours=2)))]),
    fingerprint=st.sampled_from([None, "", "f"]),
)
any_rows = st.builds(
    lambda good, changes: good | changes,
    good_rows,
    st.fixed_dictionaries(
        {},
        optional={
            "key": st.sampled_from([None, "", " ", "a\0", "k" * 1025]),
            "text": st.sampled_from([None, "", " \n", "x\0y"]),
            "metadata": st.sampled_from(["[1]", "x", '{"a":}', '{"a":NaN}', '{"a":"\\ud800"}']),
            "state": st.sampled_from(["gone", "unchanged", "unreadable", "other"]),
            "error": st.just("broken"),
        },
    ),
)


@st.composite
def extracts(draw: st.DrawFn) -> tuple[list[Row], list[list[Row]]]:
    """Rows the store was made of, and batches of which most hold just the same."""
    stored = draw(st.lists(good_rows, max_size=6, unique_by=lambda one: one["key"]))
    rows = good_rows if draw(st.booleans()) else any_rows
    if stored:
        rows = st.one_of(st.sampled_from(stored), st.sampled_from(stored), rows)
    return stored, draw(st.lists(st.lists(rows, max_size=7), max_size=4))


def live_of(stored: list[Row], labels: frozenset[str]) -> dict[str, LiveDocument]:
    incoming = RowByRow({}, labels, revalidate=False)
    incoming.add(batch_of(stored))
    return {
        r.key: LiveDocument(f"v-{r.key}", r.content_hash, r.metadata_hash, r.fingerprint, T0)
        for r in incoming.records
    }


class Ready:
    """A source whose batches are ready."""

    def __init__(self, batches: list[pa.RecordBatch], end: ExtractEnd) -> None:
        self.batches, self.end = batches, end

    def pull(self, request):
        yield from self.batches
        return self.end


@settings(max_examples=300)
@given(
    extract=extracts(),
    labels=st.sampled_from([(), ("s",), ("x", "s")]),
    stored_labels=st.sampled_from([None, ("s",)]),
    revalidate=st.booleans(),
    end=st.builds(ExtractEnd, complete=st.booleans(), unchanged=st.sampled_from([False, True])),
    in_columns=st.booleans(),
)
def test_columns_find_what_going_row_by_row_finds(
    extract, labels, stored_labels, revalidate, end, in_columns
):
    """Whatever an extract holds, in however many batches, nothing differs from the plain reading."""
    stored, batches = extract
    live = live_of(stored, frozenset(labels if stored_labels is None else stored_labels))
    expected = RowByRow(live, frozenset(labels), revalidate)
    ready = [batch_of(rows) for rows in batches]
    for batch in ready:
        expected.add(batch)
    found = take_in(
        "s",
        Ready(ready, end),
        PullRequest(),
        LiveDocuments.of(live) if in_columns else live,
        labels=labels,
        revalidate=revalidate,
    )
    expected.agrees_with(found)


def test_a_slice_of_a_larger_batch_is_read_as_what_it_is():
    """Rows outside a slice are no part of the extract, though they share its memory."""
    whole = batch_of([row(k, f"text of {k}", title=k) for k in "abcdef"])
    live = live_of([row(k, f"text of {k}", title=k) for k in "abd"], frozenset())
    source = Ready([whole.slice(1, 2), whole.slice(3, 1)], ExtractEnd(complete=True))
    found = take_in("s", source, PullRequest(), live)
    assert [r.key for r in found.records] == ["c"]
    assert found.missing(live) == ["a"]
    assert found.records[0].content_hash == content_hash("text of c")
    assert found.records[0].metadata_hash == metadata_hash("c", None, "{}", ())


def test_a_text_that_is_no_utf8_fails_its_source_alone():
    """Bytes that Arrow passes off as text are the source's error, not a crash."""
    columns = batch_of([row("a")]).columns
    columns[1] = pa.array([b"\xff\xfe"]).cast(pa.binary()).view(pa.string())
    batch = pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA)
    with pytest.raises(SourceDataError, match="The source failed"):
        take_in("s", Ready([batch], ExtractEnd(complete=True)), PullRequest(), {})
