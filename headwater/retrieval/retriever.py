"""The door for applications: open a store, search it, keep up with what is published."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from headwater.errors import (
    ConfigError,
    CorruptObjectError,
    HeadwaterError,
    ModelError,
    NotFoundError,
)
from headwater.retrieval.encoders import open_query_encoder
from headwater.retrieval.filters import Expression
from headwater.retrieval.hits import Hit, Mode
from headwater.retrieval.query_log import QueryLog
from headwater.retrieval.question import (
    Question,
    check_question,
    check_reranked,
    check_vectors,
    reference,
    restriction,
)
from headwater.retrieval.reranking import Reranker, reranked
from headwater.retrieval.snapshot_view import Loaded, SnapshotView
from headwater.retrieval.verification import Verification
from headwater.retrieval.visibility import LabelsNow
from headwater.storage.manifest import Encoder, Manifest
from headwater.storage.pins import Lease
from headwater.storage.redactions import redaction_names
from headwater.storage.store import Store

if TYPE_CHECKING:
    from headwater.retrieval.encoder import TextEncoder

log = logging.getLogger(__name__)

_PAST_VIEWS = 4
_RETRY_S = 10.0
"""How long a snapshot that could not be opened is left alone."""


class Retriever:
    """Searches a knowledge base, and follows what is published.

    Safe to share between threads, and across a fork: the child opens its own files at its first
    search. Nothing is written unless `open` is asked for a pin, so a read-only store will do. Make
    one with `open`.
    """

    def __init__(
        self,
        root: Path,
        *,
        as_of: str | None,
        encoder: TextEncoder | None,
        pin: bool = False,
        reranker: Reranker | None = None,
        query_log: QueryLog | None = None,
    ) -> None:
        self._root = root
        self._as_of = as_of
        self._pins = pin
        self._given = encoder
        self._reranker = reranker
        self._query_log = query_log
        self._given_space: str | None = None
        self._current: SnapshotView | None = None
        self._pin: SnapshotView | None = None
        self._closed = False
        self._begin()
        _OPEN.add(self)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        as_of: str | datetime | None = None,
        encoder: TextEncoder | None = None,
        pin: bool = False,
        reranker: Reranker | None = None,
        query_log: QueryLog | None = None,
    ) -> Retriever:
        """Open a knowledge base for searching.

        Args:
            path: the knowledge base's folder, or its store.
            as_of: stay on this snapshot: a name, a number, a tag or a time; None follows what is
                current.
            encoder: embeds the queries, in place of the one in the snapshot.
            pin: keep a vacuum from the snapshot that is served, by a lease in the store that lasts
                an hour after a search. Where the store is read-only, and without it, the vacuum's
                grace must do.
            reranker: orders candidates again, in searches that ask for it.
            query_log: remembers what was asked; None remembers nothing.

        Raises:
            NotFoundError: there is no store, nothing is published, or no such snapshot.
            CorruptObjectError: an object of the snapshot is missing or damaged.
        """
        folder = Path(path)
        root = folder if (folder / "FORMAT").is_file() else folder / "store"
        retriever = cls(
            root,
            as_of=reference(as_of),
            encoder=encoder,
            pin=pin,
            reranker=reranker,
            query_log=query_log,
        )
        view = retriever._pinned() or retriever._latest()
        if retriever._lease:
            retriever._lease.hold(view.name)
            if as_of is not None:
                # Asked again: it may have expired before the pin was there to be seen.
                retriever._store.resolve(view.name)
        if view.manifest.encoder:
            retriever._given_space = view.manifest.encoder.fingerprint
        return retriever

    @property
    def snapshot(self) -> str:
        """The name of the snapshot that a search would answer from now."""
        return (self._pinned() or self._latest()).name

    @property
    def manifest(self) -> Manifest:
        """The manifest of that snapshot."""
        return (self._pinned() or self._latest()).manifest

    def manifest_of(self, as_of: str | datetime | None) -> Manifest:
        """The manifest of a snapshot: a name, a number, a tag or a time; None for what is served.

        Raises:
            NotFoundError: there is no such snapshot.
        """
        ref = reference(as_of)
        return self.manifest if ref is None else self._past(ref).manifest

    def search(
        self,
        query: str,
        k: int = 5,
        *,
        as_of: str | datetime | None = None,
        sources: Sequence[str] | None = None,
        max_staleness: timedelta | None = None,
        where: str | Expression | None = None,
        allow: Sequence[str] | None = None,
        changed_since: datetime | None = None,
        mode: Mode = "hybrid",
        rerank: int | None = None,
        explain: bool = False,
    ) -> list[Hit]:
        """The passages that answer `query` best.

        Args:
            query: a question or some words; words in double quotes count more as a phrase.
            k: how many passages at most; fewer only where fewer are live and allowed, or, in a
                lexical search, share a word with the query.
            as_of: search this snapshot instead: a name, a number, a tag or a time.
            sources: only documents of these; None for all.
            max_staleness: only documents confirmed within this time: before now, or before the
                snapshot's own time where a past one is searched.
            where: only documents for which this filter is true: `docs/filters.md` has the language.
            allow: the caller's labels: only documents whose labels, in the snapshot and now, are
                all among them, and once labels are in use only those that have some; None for a
                caller who may see everything.
            changed_since: only documents that changed later; UTC unless it says otherwise.
            mode: look for its meaning (`dense`), for its words (`lexical`), or for both (`hybrid`),
                fused by reciprocal ranks.
            rerank: have the reranker order so many candidates, at least `k`; None for none.
            explain: say of each hit where it came from.

        Returns:
            the best first, one per distinct text.

        Raises:
            ConfigError: the query is empty, `k` is below 1, there is no such mode, a reranker is
                asked for and there is none, the filter cannot be read or does not fit the
                documents, or the retriever is closed.
            NotFoundError: no such snapshot or source.
            ModelError: the snapshot's encoder cannot be opened.
            CorruptObjectError: an object is missing or damaged.
        """
        began = time.perf_counter()
        check_question(query, k, mode)
        if rerank is not None:
            check_reranked(k, rerank, possible=self._reranker is not None)
        asked = restriction(sources, where, allow, changed_since)
        question = Question(
            query, rerank or k, mode, reference(as_of), asked, max_staleness, explain
        )
        try:
            hits = self._search(question)
        except (CorruptObjectError, NotFoundError):
            if not self._forget_erased():
                raise
            # An erasure took away what this search was reading; what is left can be asked again.
            hits = self._search(question)
        if rerank is not None and self._reranker is not None:
            scores = self._reranker.scores(query, [hit.text for hit in hits])
            hits = reranked(hits, scores)[:k]
        if self._query_log is not None:
            self._query_log.record(
                query,
                hits,
                mode=mode,
                snapshot=hits[0].snapshot if hits else "",
                k=k,
                restricted=not asked.unbounded or max_staleness is not None,
                past=as_of is not None,
                seconds=time.perf_counter() - began,
            )
        return hits

    def warm(self) -> None:
        """Load what the first search would have to wait for; asks and logs nothing.

        Raises:
            HeadwaterError: as a search.
        """
        view = self._pinned() or self._latest()
        if view.texts:
            self._vector(view.manifest, "headwater")
            view.open_words()

    def _search(self, question: Question) -> list[Hit]:
        self._forget_erased()
        asked, ref = question.asked, question.ref
        past = self._past(ref) if ref is not None else self._pinned()
        view = past or self._latest()
        if self._lease and ref is None:
            self._lease.hold(view.name)
        known_by = past.manifest.time if past else None
        verified = self._verification.last(view.manifest.sources, known_by=known_by)
        if question.max_staleness is not None:
            since = (known_by or datetime.now(UTC)) - question.max_staleness
            asked = replace(asked, verified_since=since)
        if past and asked.allow is not None:
            asked = replace(asked, now=self._labels_now(past))
        if not view.texts:
            return []
        # Before the query is embedded: what is wrong with the question costs nothing.
        view.check(asked)
        return view.search(
            self._vector(view.manifest, question.text) if question.dense else None,
            question.k,
            words=question.words,
            last_verified=verified,
            restriction=asked,
            explain=question.explain,
        )

    def close(self) -> None:
        """Let go of the files, the encoder and the pin. Searching again raises ConfigError."""
        self._closed = True
        if self._lease:
            self._lease.release()
        self._current = self._pin = None
        self._views.clear()
        self._encoders.clear()

    def __enter__(self) -> Self:
        """The retriever itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    # --- views --------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start with nothing opened: at first, and in the child of a fork."""
        self._redacted = redaction_names(self._root)
        self._store = Store(self._root)
        self._loaded = Loaded(self._store.objects)
        self._verification = Verification(self._root)
        self._lease = Lease(self._root) if self._pins else None
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._current = None
        self._pin = None
        self._refused: tuple[str, float] = ("", 0.0)
        self._views: OrderedDict[str, SnapshotView] = OrderedDict()
        self._names: dict[tuple[str, str | None], str] = {}
        self._encoders: dict[tuple[str, ...], TextEncoder] = {}
        self._now: LabelsNow | None = None

    def _forget_erased(self) -> bool:
        """Let go of everything opened before the last erasure; returns whether there was one."""
        names = redaction_names(self._root)
        if names == self._redacted:
            return False
        with self._opening, self._lock:
            if names != self._redacted:
                self._redacted = names
                self._store = Store(self._root)
                self._loaded = Loaded(self._store.objects)
                self._current = self._pin = None
                self._views.clear()
                self._names.clear()
                self._now = None
        return True

    def _pinned(self) -> SnapshotView | None:
        """The view that `open` was asked to stay on, or None when it follows what is current."""
        if self._as_of is None:
            return None
        self._check_open()
        if self._pin is None:
            self._pin = self._past(self._as_of)
            self._as_of = self._pin.name
        return self._pin

    def _latest(self) -> SnapshotView:
        """The view of CURRENT; the one before while another thread opens the new one."""
        self._check_open()
        view = self._current
        if view is None:
            return self._first()
        if not self._moved(view) or not self._opening.acquire(blocking=False):
            return view
        try:
            # Asked again under the lock: another thread may have been there, and be further on.
            view = self._current or view
            name = self._moved(view)
            return self._advance(view, name) if name else view
        finally:
            self._opening.release()

    def _moved(self, view: SnapshotView) -> str | None:
        """The name of what is current, when that is another snapshot than `view`."""
        try:
            name = self._store.current_name()
        except HeadwaterError as error:
            log.warning("still serving %s: %s", view.name, error)
            return None
        return name if name != view.name else None

    def _first(self) -> SnapshotView:
        with self._opening:
            if self._current is None:
                store = Store.open(self._root)
                manifest = store.resolve(None)
                self._current = SnapshotView(self._loaded, manifest, manifest.name())
            return self._current

    def _advance(self, view: SnapshotView, name: str) -> SnapshotView:
        """Swap to the snapshot `name`; keep `view` when that cannot be opened."""
        refused, when = self._refused
        if name == refused and time.monotonic() - when < _RETRY_S:
            return view
        try:
            manifest = self._store.manifest(name)
            fresh = SnapshotView(self._loaded, manifest, name, before=view)
            if fresh.texts and _key(manifest.encoder) != _key(view.manifest.encoder):
                self._vector(manifest, "headwater")
        except Exception as error:  # noqa: BLE001
            # Whatever is wrong with the new snapshot, the old one still answers.
            self._refused = (name, time.monotonic())
            log.warning("still serving %s: %s cannot be opened: %s", view.name, name, error)
            return view
        self._current = fresh
        return fresh

    def _past(self, ref: str) -> SnapshotView:
        self._check_open()
        at = (ref, self._store.pointer(ref))
        name = self._names.get(at)
        manifest = None
        if name is None:
            manifest = Store.open(self._root).resolve(ref)
            name = manifest.name()
            with self._lock:
                if len(self._names) >= 64:
                    self._names.clear()
                self._names[at] = name
        current = self._current
        if current is not None and current.name == name:
            return current
        with self._lock:
            view = self._views.get(name)
            if view is None:
                view = self._views[name] = self._view(manifest or self._store.resolve(name), name)
            self._views.move_to_end(name)
            while len(self._views) > _PAST_VIEWS:
                self._views.popitem(last=False)
            return view

    def _view(self, manifest: Manifest, name: str) -> SnapshotView:
        """A past snapshot, opened; asked for again where a vacuum took it away meanwhile."""
        try:
            return SnapshotView(self._loaded, manifest, name)
        except (CorruptObjectError, OSError):
            again = self._store.resolve(name)
            if again.segments == manifest.segments:
                raise
            return SnapshotView(self._loaded, again, name)

    def _labels_now(self, view: SnapshotView) -> LabelsNow | None:
        """The labels of what is current, where `view` is another snapshot.

        Raises:
            HeadwaterError: what is current cannot be read, so that nobody knows who may see what.
        """
        name = self._store.current_name()
        if name is None or name == view.name:
            return None
        found = self._now
        if found is None or found.snapshot != name:
            found = LabelsNow(self._store.objects, self._store.manifest(name), name)
            self._now = found
        return found

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("The retriever is closed", todo="open another one")

    # --- the query's vector -------------------------------------------------------------------

    def _vector(self, manifest: Manifest, query: str) -> np.ndarray:
        """The query in the embedding space of a snapshot: float32 (dim,)."""
        encoder = manifest.encoder
        if encoder is None:
            raise ModelError("The snapshot names no encoder", obj=manifest.name())
        vectors = self._encoder(encoder).encode([query])
        check_vectors(vectors, encoder)
        return np.asarray(vectors[0], dtype=np.float32)

    def _encoder(self, encoder: Encoder) -> TextEncoder:
        if self._given is not None and self._given_space in (None, encoder.fingerprint):
            return self._given
        key = _key(encoder)
        found = self._encoders.get(key)
        if found is None:
            found = open_query_encoder(encoder, self._store.objects)
            found = self._encoders.setdefault(key, found)
        return found


def _key(encoder: Encoder | None) -> tuple[str, ...]:
    if encoder is None:
        return ()
    files = (f"{role}:{entry.sha256}" for role, entry in sorted(encoder.files.items()))
    return (encoder.backend, encoder.fingerprint, *files)


_OPEN: weakref.WeakSet[Retriever] = weakref.WeakSet()
_INHERITED: list[object] = []


def _begin_again() -> None:
    """In the child of a fork: locks may be held by threads that no longer exist."""
    for retriever in _OPEN:
        # Kept, not dropped: to destroy what had threads of its own could wait for them for ever.
        _INHERITED.append(dict(vars(retriever)))
        retriever._begin()


os.register_at_fork(after_in_child=_begin_again)
