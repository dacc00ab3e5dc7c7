"""Backfills: a source's past, window by window, beside the schedule and never over what is newer.

Each window is read without a claim, judged and embedded without a claim, and published under one
that lasts as long as building the snapshot does. A backfill that was killed goes on where it was.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

from headwater.config import KnowledgeBase
from headwater.errors import ConfigError
from headwater.flows.collected import FOLDER, BackfillFolder, Collected
from headwater.flows.encoding import Encoding, EncodingOpener, open_encoding
from headwater.flows.outdated import OBSERVED
from headwater.flows.pricing import note_speed
from headwater.flows.refresh import Progress, silent
from headwater.flows.report import RefreshReport
from headwater.flows.sources.protocol import PullRequest, Source, Window
from headwater.flows.sources.registry import open_source
from headwater.flows.window_run import WindowRun
from headwater.flows.windows import Span, plan_windows
from headwater.storage import files
from headwater.storage.manifest import Encoder
from headwater.storage.objects import ObjectStore
from headwater.storage.store import Store

__all__ = ["Backfill", "BackfillStep", "Pace", "backfill", "plan_windows", "run_backfill"]

_BUSY_PATIENCE_S = 600.0
_READ_AGAIN = 3


@dataclass(frozen=True)
class Pace:
    """How hard a backfill may press its source.

    Attributes:
        records_per_s: read at most so many, over all windows read at once; None for no limit.
        pause_s: rest so long before each window.
        parallel: windows read at once, as far as the configuration, or else the class of the source, allows
            it (`parallel_windows`).
    """

    records_per_s: float | None = None
    pause_s: float = 0.0
    parallel: int = 1


@dataclass(frozen=True)
class Backfill:
    """What a backfill is asked for.

    Attributes:
        source: whose past.
        spans: its windows, in the order in which they are published.
        publish: a snapshot for each window, or one at the end.
        pace: how hard to press the source.
        approved: kind of gate -> changes that may pass in each run; a ceiling.
        restart: forget what an earlier attempt has done.
        opened: opens the source; None for what the configuration says.
    """

    source: str
    spans: tuple[Span, ...]
    publish: Literal["window", "end"] = "window"
    pace: Pace = Pace()
    approved: Mapping[str, int] = field(default_factory=dict)
    restart: bool = False
    opened: Callable[[], Source] | None = None

    def open(self, kb: KnowledgeBase) -> Source:
        """The source, opened anew: windows that are read at once share none.

        Raises:
            ConfigError: as `open_source`.
        """
        if self.opened is not None:
            return self.opened()
        return open_source(self.source, kb.source(self.source), root=kb.root)


@dataclass(frozen=True)
class BackfillStep:
    """A window that was read or published.

    Attributes:
        number: of the window, from 1; of the last one when all are published at once.
        total: windows of the backfill.
        spans: what the step covered.
        records: listed by the source.
        stale: records left out because the store knows them newer.
        report: of the publication; None where a window was only read.
        left_s: estimated seconds to the end; None before anything is known.
    """

    number: int
    total: int
    spans: tuple[Span, ...]
    records: int
    stale: int = 0
    report: RefreshReport | None = None
    left_s: float | None = None


def run_backfill(
    kb: KnowledgeBase,
    asked: Backfill,
    *,
    encoding: EncodingOpener = open_encoding,
    progress: Progress = silent,
) -> Iterator[BackfillStep]:
    """Backfill a source, yielding a step for each window.

    Windows that an earlier attempt published are passed over, and those that it read are not read
    again. Deletions are never inferred. A window whose publication a gate stopped ends it.

    Raises:
        ConfigError: there are no windows, or the pace makes no sense.
        BusyError: the same backfill is at work, or other runs held the source for ten minutes.
        HeadwaterError: the source or the store failed; what was done stays done.
    """
    if not asked.spans:
        raise ConfigError("A backfill needs a window", obj=asked.source)
    pace = asked.pace
    slow = pace.records_per_s is not None and pace.records_per_s <= 0
    if slow or pace.parallel < 1 or pace.pause_s < 0:
        raise ConfigError("A backfill's pace must be above zero", obj=str(pace))
    folder = folder_of(kb, asked)
    lock = kb.root / FOLDER / f"{folder.name}.lock"
    with files.locked(lock, holder=f"this backfill of {asked.source}"):
        if asked.restart:
            folder.finish()
        work = _Work(kb, asked, folder, SharedEncoding(encoding), progress)
        yield from work.steps()


def folder_of(kb: KnowledgeBase, asked: Backfill) -> BackfillFolder:
    """Where a backfill keeps what it has read; another one for other windows or configurations."""
    config = kb.source(asked.source).model_dump(mode="json")
    told = {
        "source": asked.source,
        "config": config,
        "spans": [repr(span) for span in asked.spans],
        "publish": asked.publish,
    }
    return BackfillFolder(kb.root, told)


def backfill(
    kb: KnowledgeBase,
    source: str,
    windows: tuple[Window, ...],
    *,
    encoding: EncodingOpener = open_encoding,
    progress: Progress = silent,
) -> Iterator[tuple[Window, RefreshReport]]:
    """Backfill windows of time one after the other; each that finds something publishes a snapshot.

    Raises:
        HeadwaterError: as `run_backfill`; the windows already done stay published.
    """
    for step in run_backfill(kb, Backfill(source, windows), encoding=encoding, progress=progress):
        (window,) = step.spans
        assert step.report is not None and isinstance(window, Window)
        yield window, step.report


def request_of(span: Span) -> PullRequest:
    """What a source is asked for a window."""
    if isinstance(span, Window):
        return PullRequest(window=span)
    return PullRequest(key_range=span)


class _Work:
    """The state of one attempt."""

    def __init__(
        self,
        kb: KnowledgeBase,
        asked: Backfill,
        folder: BackfillFolder,
        encoding: EncodingOpener,
        progress: Progress,
    ) -> None:
        self.kb = kb
        self.asked = asked
        self.folder = folder
        self._encoding = encoding
        self._progress = progress
        self._throttle = Throttle(asked.pace)
        self._began = time.monotonic()
        self._done = folder.done()
        self._left = [n for n in range(len(asked.spans)) if n not in self._done]
        self._store = Store.create(kb.store)

    def steps(self) -> Iterator[BackfillStep]:
        """Do what is left, and clean up once all of it is done."""
        each = self.asked.publish == "window"
        finished = 0
        waiting: list[Collected] = []
        with self._reading() as windows:
            for found in windows:
                finished += 1
                if not each:
                    waiting.append(found)
                    yield self._step(found, finished)
                    continue
                step = self._published([found], finished)
                yield step
                if not _went_through(step):
                    return
                self.folder.mark_done(found.number)
        if waiting:
            step = self._published(waiting, finished)
            yield step
            if not _went_through(step):
                return
        self._progress("backfill", len(self.asked.spans), len(self.asked.spans))
        self.folder.finish()

    def _step(self, found: Collected, finished: int) -> BackfillStep:
        total = len(self.asked.spans)
        self._progress("backfill", total - len(self._left) + finished, total)
        spent = time.monotonic() - self._began
        return BackfillStep(
            found.number + 1,
            total,
            (self.asked.spans[found.number],),
            found.records,
            left_s=round(spent / finished * (len(self._left) - finished), 1),
        )

    # --- reading --------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[Iterator[Collected]]:
        """The windows that are left, in order; some are read ahead at the same time."""
        ready = [self.folder.collected(number) for number in self._left]
        workers = self._workers() if None in ready else 1
        with ThreadPoolExecutor(workers, thread_name_prefix="backfill") as pool:
            try:
                yield self._ahead(pool, workers)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _ahead(self, pool: ThreadPoolExecutor, workers: int) -> Iterator[Collected]:
        pending: deque[Future[Collected]] = deque()
        waiting = deque(self._left)
        while waiting or pending:
            while waiting and len(pending) < workers:
                pending.append(pool.submit(self._collect, waiting.popleft()))
            yield pending.popleft().result()

    def _workers(self) -> int:
        allowed = self.kb.source(self.asked.source).parallel_windows
        if allowed is None:
            allowed = getattr(self.asked.open(self.kb), "parallel_windows", 1)
        return max(1, min(self.asked.pace.parallel, int(allowed), len(self._left)))

    def _collect(self, number: int, *, anew: bool = False) -> Collected:
        found = None if anew else self.folder.collected(number)
        if found is not None:
            return found
        self._throttle.rest()
        current = self._store.current()
        return self.folder.collect(
            number,
            self.asked.open(self.kb),
            request_of(self.asked.spans[number]),
            name=self.asked.source,
            since_seq=current.seq if current else 0,
            watch=self._throttle.count,
        )

    # --- publishing -----------------------------------------------------------------------------

    def _published(self, windows: Sequence[Collected], finished: int) -> BackfillStep:
        """Publish windows; one that another run overtook is read again first."""
        windows = list(windows)
        for attempt in range(_READ_AGAIN):
            run, report = self._publish(windows)
            overtaken = [key for key, why in run.stale.items() if why == OBSERVED]
            if not overtaken or len(windows) > 1 or attempt == _READ_AGAIN - 1:
                break
            # What was left out may be newer than what that run read: only a new reading can tell.
            windows = [self._collect(windows[0].number, anew=True)]
        step = self._step(windows[-1], finished)
        return replace(
            step,
            spans=tuple(self.asked.spans[w.number] for w in windows),
            records=sum(w.records for w in windows),
            stale=len(run.stale),
            report=report,
        )

    def _publish(self, windows: Sequence[Collected]) -> tuple[WindowRun, RefreshReport]:
        deadline = time.monotonic() + _BUSY_PATIENCE_S
        while True:
            run = WindowRun(
                self.kb,
                self.asked.source,
                [self.asked.spans[window.number] for window in windows],
                self.folder,
                windows,
                encoding=self._encoding,
                progress=self._progress,
                approved=self.asked.approved,
            )
            self._embed(run)
            report = run.publish()
            busy = any(entry.outcome == "busy" for entry in report.sources)
            if not busy or time.monotonic() > deadline:
                return run, report
            time.sleep(1.0)

    def _embed(self, run: WindowRun) -> None:
        began = time.monotonic()
        ahead = run.embed_ahead()
        if ahead.encoding is not None:
            spent = time.monotonic() - began
            note_speed(self.kb, ahead.encoding, ahead.wanted, seconds=spent)


def _went_through(step: BackfillStep) -> bool:
    """Whether nothing of the step waits for a person or was refused."""
    return step.report is not None and step.report.exit_code == 0


class Throttle:
    """Keeps the readers of a source, together, to a pace."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def count(self, records: int) -> None:
        """Wait until so many records may have been read."""
        if self._pace.records_per_s is None:
            return
        with self._lock:
            self._free_at = (
                max(self._free_at, time.monotonic()) + records / self._pace.records_per_s
            )
            until = self._free_at
        time.sleep(max(0.0, until - time.monotonic()))

    def rest(self) -> None:
        """Wait before a window."""
        if self._pace.pause_s:
            time.sleep(self._pace.pause_s)


class SharedEncoding:
    """Opens an encoding once for all windows: a model takes seconds to load."""

    def __init__(self, opener: EncodingOpener) -> None:
        self._opener = opener
        self._opened: dict[str, Encoding] = {}

    def __call__(
        self,
        kb: KnowledgeBase,
        parent: Encoder | None,
        objects: ObjectStore,
        *,
        new_model: bool,
        dry_run: bool,
    ) -> Encoding:
        """As `EncodingOpener`; the same again while the parent's encoder is the same."""
        key = f"{parent!r} {new_model} {dry_run}"
        if key not in self._opened:
            found = self._opener(kb, parent, objects, new_model=new_model, dry_run=dry_run)
            self._opened[key] = replace(found, embedder=cache(found.embedder))
        return self._opened[key]
