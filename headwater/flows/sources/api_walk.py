"""Reading the pages of an API until what was read is one state of it.

Pages are separate replies, and records change between them: an insertion shifts a record to a page
that was read already, a deletion shifts one off a page that is still to come. What is read once may
lack a record that was there all the time, and nothing in it need show that.

So a list of several pages is read again, and believed when both readings agree, page by page: then
no page changed from its first reading to its second, and at the moment between the two readings all
of them were true at once. A server with ETags is asked for the second reading by these. A reading
that agrees with the last published one needs no second.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from headwater.config.apis import Pagination
from headwater.errors import SourceDataError, SourceError
from headwater.flows.sources.api_pages import PageSeen, Step, Style
from headwater.flows.sources.api_records import JsonRecord, RecordReader, rows_digest
from headwater.flows.sources.api_values import data_error, parse_reply
from headwater.flows.sources.http import Reply, Validators
from headwater.flows.sources.protocol import RECORD_SCHEMA
from headwater.flows.sources.urls import shown

READINGS = 4
"""A list that never holds still is read this often."""

_IN_MEMORY = 16_000_000

Asked = tuple[str, bytes | None]
"""What a page was asked with: its URL, and the body of a POST."""


class Spool:
    """Batches that wait until it is known which reading counts; large ones wait on the disk."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def put(self, batches: list[pa.RecordBatch]) -> tuple[int, int]:
        """Keep `batches`; where they are."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, RECORD_SCHEMA) as writer:
            for batch in batches:
                writer.write_batch(batch)
        data = sink.getvalue()
        start = self._file.seek(0, 2)
        self._file.write(data)
        return start, len(data)

    def get(self, place: tuple[int, int]) -> Iterator[pa.RecordBatch]:
        """The batches at a place."""
        start, size = place
        self._file.seek(start)
        yield from pa.ipc.open_stream(self._file.read(size))


@dataclass(frozen=True)
class Page:
    """A page that was read.

    Attributes:
        asked: what it was asked with.
        validators: to ask again with.
        sha256: of the body.
        digest: of its rendered rows.
        place: of these in the spool.
        records: on the page.
        keys: of these.
        total: the reply's own count of all records.
        newest: the newest time of a record.
        step: where the next page is.
    """

    asked: Asked
    validators: Validators
    sha256: str
    digest: str
    place: tuple[int, int]
    records: int
    keys: frozenset[str]
    total: int | None
    newest: datetime | None
    step: Step | None


@dataclass
class Reading:
    """One reading of all pages.

    Attributes:
        pages: in their order.
        repeated: keys that are on more than one page.
        moved: the total was not the same on every page.
        error: what cannot be, unless records moved meanwhile.
        broken_off: the pages stopped making sense, and the rest was not read.
    """

    pages: list[Page] = field(default_factory=list)
    repeated: set[str] = field(default_factory=set)
    moved: bool = False
    error: SourceDataError | None = None
    broken_off: bool = False

    @property
    def sound(self) -> bool:
        """Whether nothing in the reading contradicts the rest of it."""
        return not (self.repeated or self.moved or self.error)

    @property
    def digests(self) -> list[str]:
        """What the pages say, one hash each."""
        return [page.digest for page in self.pages]

    @property
    def digest(self) -> str:
        """What all pages say."""
        return hashlib.sha256(" ".join(self.digests).encode()).hexdigest()

    @property
    def records(self) -> int:
        """On all pages."""
        return sum(page.records for page in self.pages)

    @property
    def keys(self) -> set[str]:
        """Of all records."""
        return {key for page in self.pages for key in page.keys}

    @property
    def newest(self) -> datetime | None:
        """The newest time of a record."""
        return max((page.newest for page in self.pages if page.newest), default=None)


@dataclass(frozen=True)
class Listing:
    """What was made of the readings.

    Attributes:
        reading: the one that counts.
        doubt: why it may lack a record; empty when it is one state of the API.
        same: it is what the last published listing was.
        torn: no two readings agree, so that its pages may be of different moments.
    """

    reading: Reading
    doubt: str = ""
    same: bool = False
    torn: bool = False


class PageReader:
    """Reads lists of pages.

    Args:
        ask: sends a step, or the first request for None; conditional with validators.
        identify: what a step is asked with.
        reader: of records.
        style: of paging.
        pagination: its options.
        keep: which records are wanted.
        spool: where rows wait.
        start_over: called before each reading.
    """

    def __init__(
        self,
        *,
        ask: Callable[[Step, Validators], Reply],
        identify: Callable[[Step], Asked],
        reader: RecordReader,
        style: Style,
        pagination: Pagination,
        keep: Callable[[JsonRecord], bool],
        spool: Spool,
        start_over: Callable[[], None],
    ) -> None:
        self._ask = ask
        self._identify = identify
        self._reader = reader
        self._style = style
        self._pagination = pagination
        self._keep = keep
        self._spool = spool
        self._start_over = start_over

    def read(self, first: Step, *, known_digest: str = "", reply: Reply | None = None) -> Listing:
        """Read until a reading is sure to be one state, or `READINGS` times.

        Args:
            first: how the first page is asked for.
            known_digest: of the last published listing.
            reply: the first page, where it is at hand.

        Raises:
            SourceUnreachableError: the first reading failed.
            SourceDataError: it cannot be used, or two readings agree on what cannot be.
        """
        reading = self._read_once(first, {}, reply)
        if reading.sound and known_digest and reading.digest == known_digest:
            return Listing(reading, same=True)
        if len(reading.pages) == 1:
            if reading.error is not None:
                raise reading.error
            return Listing(reading)
        if reading.sound and self._pagination.stable:
            return Listing(reading)
        earlier: set[str] = set()
        for _ in range(READINGS - 1):
            try:
                again = self._read_once(first, {page.asked: page for page in reading.pages}, None)
            except SourceError as error:
                if reading.broken_off:
                    raise
                doubt = f"it could not be read twice ({_first_line(error)})"
                return Listing(reading, doubt, torn=True)
            if again.digests == reading.digests:
                return self._settled(again, earlier)
            earlier |= reading.keys
            reading = again
        if reading.broken_off and reading.error is not None:
            raise reading.error
        doubt = f"records changed or moved during each of {READINGS} readings"
        return Listing(reading, doubt, torn=True)

    def _settled(self, reading: Reading, earlier: set[str]) -> Listing:
        """The listing of a reading that agrees with the one before.

        What an `earlier` reading of this pull had is not deleted by this pull: it went while the
        pages were read, or a page was passed over twice alike. The next pull decides.
        """
        if reading.error is not None:
            raise reading.error
        doubt = ""
        if lost := earlier - reading.keys:
            doubt = f"records went while the pages were read: {len(lost)}"
        elif reading.repeated:
            doubt = f"keys on more than one page: {len(reading.repeated)}"
        elif reading.moved:
            doubt = "the total is not the same on every page"
        return Listing(reading, doubt)

    def _read_once(self, first: Step, before: dict[Asked, Page], reply: Reply | None) -> Reading:
        self._start_over()
        reading = Reading()
        seen: set[Asked] = set()
        keys: set[str] = set()
        step: Step | None = first
        while step is not None:
            asked = self._identify(step)
            if asked in seen:
                raise data_error("The pages lead back to one already read", asked[0])
            seen.add(asked)
            page = self._page(step, before.get(asked), reply, reading)
            reply = None
            last = reading.pages[-1] if reading.pages else None
            reading.pages.append(page)
            reading.repeated |= keys & page.keys
            keys |= page.keys
            reading.moved |= last is not None and page.total != last.total
            if last is not None and page.records and page.sha256 == last.sha256:
                reading.error = data_error(
                    "Two pages in a row are identical",
                    asked[0],
                    "check 'pagination.param' and 'style'",
                )
                reading.broken_off = True
                return reading
            step = page.step
        total = reading.pages[-1].total
        if total is not None and not reading.moved and total != reading.records:
            reading.error = SourceDataError(
                f"The API counts {total} records and listed {reading.records}",
                obj=shown(reading.pages[0].asked[0]),
                todo="run again; if it stays, check 'pagination' and 'pagination.total'",
            )
        return reading

    def _page(self, step: Step, before: Page | None, reply: Reply | None, reading: Reading) -> Page:
        if reply is None:
            reply = self._ask(step, self._proof(before))
        if reply.not_modified and before is not None:
            return before
        body = parse_reply(reply)
        records = self._reader.records(body, reply.url)
        total = self._reader.total(body, reply.url)
        count = reading.records + len(records)
        batches = list(self._reader.render([r for r in records if self._keep(r)]))
        times = [when for r in records if (when := self._reader.time(r)) is not None]
        seen = PageSeen(
            url=reply.url,
            body=body,
            next_url=reply.next_url,
            records=len(records),
            last=records[-1] if records else None,
            pages=len(reading.pages) + 1,
            count=count,
            met=total is not None and count >= total,
        )
        return Page(
            asked=self._identify(step),
            validators=reply.validators,
            sha256=hashlib.sha256(reply.body).hexdigest(),
            digest=rows_digest(batches),
            place=self._spool.put(batches),
            records=len(records),
            keys=frozenset(key for b in batches for key in b.column("key").to_pylist() if key),
            total=total,
            newest=max(times, default=None),
            step=self._style.after(seen),
        )

    def _proof(self, before: Page | None) -> Validators:
        """What the second reading may ask with.

        Not a time of modification, which counts whole seconds; and not for a page that leads
        nowhere, as the link to a new page may stand in a header, which no ETag speaks for.
        """
        if before is None or (before.step is None and self._pagination.style == "link"):
            return Validators()
        return Validators(etag=before.validators.etag)


def rows_of(listing: Listing, spool: Spool) -> Iterator[pa.RecordBatch]:
    """The rows of a listing, each key once unless its rows contradict each other.

    In a torn reading, a key on several pages has moved from one to the other: what was read last
    counts. In any other, two rows that differ are handed on for the quarantine to hold.
    """
    pages = listing.reading.pages
    twice = set(listing.reading.repeated)
    if twice and not listing.torn:
        twice -= _contradicting(pages, twice, spool)
    later: list[set[str]] = [set() for _ in pages]
    for place in range(len(pages) - 2, -1, -1):
        later[place] = later[place + 1] | (pages[place + 1].keys & twice)
    for page, dropped in zip(pages, later, strict=True):
        for batch in spool.get(page.place):
            if dropped:
                kept = pc.invert(pc.is_in(batch.column("key"), pa.array(sorted(dropped))))
                batch = batch.filter(kept)
            if batch.num_rows:
                yield batch


def _contradicting(pages: list[Page], keys: set[str], spool: Spool) -> set[str]:
    """Those of `keys` whose rows on different pages are not the same."""
    found: dict[str, Any] = {}
    different = set()
    for page in pages:
        if not page.keys & keys:
            continue
        for batch in spool.get(page.place):
            for row in batch.filter(
                pc.is_in(batch.column("key"), pa.array(sorted(keys)))
            ).to_pylist():
                if found.setdefault(row["key"], row) != row:
                    different.add(row["key"])
    return different


def _first_line(error: SourceError) -> str:
    return error.what[:1].lower() + error.what[1:]
