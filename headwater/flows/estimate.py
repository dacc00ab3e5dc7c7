"""What a backfill would do and cost: its windows are read and judged, and nothing is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headwater.config import KnowledgeBase
from headwater.flows.ahead import Wanted
from headwater.flows.backfill import Backfill, SharedEncoding, Throttle, request_of
from headwater.flows.collected import BackfillFolder, Collected
from headwater.flows.encoding import Encoding, EncodingOpener, open_encoding
from headwater.flows.pricing import Price, price_of
from headwater.flows.refresh import Progress, silent
from headwater.flows.window_run import Ahead, WindowRun
from headwater.storage.store import Store


@dataclass(frozen=True)
class Estimate:
    """What a backfill would do.

    Attributes:
        windows: of the backfill.
        read: windows that were read for this; the rest is taken to be like them.
        records: listed by the source.
        new: records that the store does not hold.
        changed: records that would replace others.
        stale: records left out because the store knows them newer.
        reading_s: seconds to read the windows one after the other.
        price: of the embedding.
    """

    windows: int
    read: int
    records: int
    new: int
    changed: int
    stale: int
    reading_s: float
    price: Price

    @property
    def seconds(self) -> float | None:
        """From start to end; None when the speed of embedding is not known."""
        embedding = self.price.seconds
        return None if embedding is None else self.reading_s + embedding

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__ if name != "price"},
            "price": self.price.as_dict(),
            "seconds": self.seconds,
        }


def estimate_backfill(
    kb: KnowledgeBase,
    asked: Backfill,
    *,
    sample: int | None = None,
    encoding: EncodingOpener = open_encoding,
    progress: Progress = silent,
) -> Estimate:
    """Read a backfill's windows and say what publishing them would do and cost.

    Texts that several windows share are counted once. Nothing is published, and what was read is
    thrown away.

    Args:
        kb: the knowledge base.
        asked: the backfill.
        sample: read only so many windows, evenly spread, and multiply; all when None.
        encoding: how texts become vectors.
        progress: told about windows.

    Raises:
        SourceError: a window cannot be read.
    """
    numbers = _spread(len(asked.spans), sample)
    tally = _Tally()
    with tempfile.TemporaryDirectory() as scratch:
        reader = _Reader(kb, asked, BackfillFolder(Path(scratch), "estimate"), encoding)
        for done, number in enumerate(numbers):
            progress("estimate", done, len(numbers))
            tally.add(*reader.read(number))
        wanted = Wanted(list(tally.texts), list(tally.texts.values()), tally.tokens)
        price = price_of(kb, wanted, reader.encoding)
    factor = len(asked.spans) / len(numbers)
    return Estimate(
        windows=len(asked.spans),
        read=len(numbers),
        records=round(tally.records * factor),
        new=round(tally.new * factor),
        changed=round(tally.changed * factor),
        stale=round(tally.stale * factor),
        reading_s=round(tally.seconds * factor, 3),
        price=replace(
            price, texts=round(price.texts * factor), tokens=round(price.tokens * factor)
        ),
    )


class _Reader:
    """Reads windows and looks at what they would do."""

    def __init__(
        self, kb: KnowledgeBase, asked: Backfill, folder: BackfillFolder, opener: EncodingOpener
    ) -> None:
        self._kb = kb
        self._asked = asked
        self._folder = folder
        self._shared = SharedEncoding(opener)
        self._store = Store.create(kb.store)
        self._throttle = Throttle(asked.pace)
        self.encoding: Encoding | None = None

    def read(self, number: int) -> tuple[Collected, Ahead, int]:
        """Read one window: what was collected, what it would do, and how many records are stale."""
        asked, kb = self._asked, self._kb
        self._throttle.rest()
        current = self._store.current()
        found = self._folder.collect(
            number,
            asked.open(kb),
            request_of(asked.spans[number]),
            name=asked.source,
            since_seq=current.seq if current else 0,
            watch=self._throttle.count,
        )
        span = asked.spans[number]
        run = WindowRun(kb, asked.source, [span], self._folder, [found], encoding=self._shared)
        ahead = run.look_ahead(dry_run=True)
        self.encoding = ahead.encoding or self.encoding
        self._folder.discard(number)
        return found, ahead, len(run.stale)


class _Tally:
    """Sums over windows; a text that several share is counted once."""

    def __init__(self) -> None:
        self.texts: dict[bytes, str] = {}
        self.tokens = self.records = self.new = self.changed = self.stale = 0
        self.seconds = 0.0

    def add(self, found: Collected, ahead: Ahead, stale: int) -> None:
        wanted = ahead.wanted
        pairs = zip(wanted.hashes, wanted.texts, strict=True)
        fresh = {h: text for h, text in pairs if h not in self.texts}
        if fresh:
            self.tokens += round(wanted.tokens * len(fresh) / len(wanted.hashes))
        self.texts |= fresh
        self.records += found.records
        self.new += sum(len(change.added) for change in ahead.changes)
        self.changed += sum(len(c.changed) + len(c.touched) for c in ahead.changes)
        self.stale += stale
        self.seconds += found.seconds


def _spread(total: int, sample: int | None) -> Sequence[int]:
    """Which windows to read: all, or so many evenly over the range, the middle ones of each part."""
    if sample is None or sample >= total:
        return range(total)
    count = max(1, sample)
    return [(2 * at + 1) * total // (2 * count) for at in range(count)]
