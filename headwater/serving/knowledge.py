"""One knowledge base, opened to be asked by many threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

from headwater.config import KnowledgeBase
from headwater.errors import CorruptObjectError, StorageUnavailableError
from headwater.retrieval import Hit, Retriever
from headwater.retrieval.hits import Mode
from headwater.retrieval.query_log import QueryLog
from headwater.retrieval.verification import Verification
from headwater.serving.documents import Document, no_such_document, read_document
from headwater.serving.sight import Sight
from headwater.storage.feed import change_feed
from headwater.storage.history import LogEntry, log
from headwater.storage.lineage import VersionSpan, document_history
from headwater.storage.manifest import format_time
from headwater.storage.store import Store

if TYPE_CHECKING:
    from headwater.retrieval.answers import AnswerStream
    from headwater.retrieval.encoder import TextEncoder

T = TypeVar("T")


class Restricted(TypedDict, total=False):
    """What a search or an answer may be restricted to, as `Retriever.search` has it."""

    sources: Sequence[str] | None
    max_staleness: timedelta | None
    where: str | None
    changed_since: datetime | None
    mode: Mode


class Narrowed(Restricted, total=False):
    """What else a search may ask for."""

    explain: bool


@dataclass(frozen=True)
class SourceState:
    """How fresh one source is.

    Attributes:
        last_verified: when it last confirmed all of its documents; None when it never did.
        age_s: seconds since then; None when it never did.
        objective_s: `age_s` may be so much.
        fresh: whether it is no more.
        hold: why refreshes leave the source alone; empty when they do not.
    """

    source: str
    documents: int
    last_verified: datetime | None
    age_s: float | None
    objective_s: float
    fresh: bool
    hold: str


@dataclass(frozen=True)
class State:
    """The current snapshot, and how fresh its sources are."""

    name: str
    snapshot: str
    seq: int
    observed_at: datetime
    documents: int
    texts: int
    sources: tuple[SourceState, ...]

    @property
    def fresh(self) -> bool:
        """Whether every source meets its objective."""
        return all(source.fresh for source in self.sources)


@dataclass(frozen=True)
class Changes:
    """A part of a change feed.

    Attributes:
        before, after: names of the snapshots compared.
        total: changes between them.
        rows: of `headwater.storage.feed.FEED`, as plain values.
    """

    before: str
    after: str
    total: int
    rows: list[dict[str, Any]]


class Knowledge:
    """A knowledge base as the endpoints see it. Follows CURRENT; opened when there is something."""

    def __init__(self, kb: KnowledgeBase, *, encoder: TextEncoder | None = None) -> None:
        """Take a knowledge base; nothing is opened yet.

        Args:
            kb: which.
            encoder: embeds the queries, in place of the one in the snapshot.
        """
        self.kb = kb
        self._encoder = encoder
        self._lock = threading.Lock()
        self._retriever: Retriever | None = None
        self._store: Store | None = None
        self._seeing: Sight | None = None
        self._verification = Verification(kb.store)

    def warm(self) -> None:
        """Open the store and its encoder, so that the first caller does not wait for it.

        Raises:
            StorageUnavailableError: nothing is published yet.
            HeadwaterError: the store or its encoder cannot be opened.
        """
        self._searcher().warm()

    def search(
        self,
        query: str,
        k: int,
        *,
        allow: frozenset[str] | None,
        as_of: str | None = None,
        **narrowed: Unpack[Narrowed],
    ) -> tuple[str, list[Hit]]:
        """The snapshot that was searched, and the hits; see `Retriever.search`."""
        retriever = self._searcher()
        labels = None if allow is None else sorted(allow)
        hits = retriever.search(query, k, allow=labels, as_of=as_of, **narrowed)
        if hits:
            return hits[0].snapshot, hits
        return (self._opened().resolve(as_of).name() if as_of else retriever.snapshot), hits

    def answer(
        self,
        question: str,
        *,
        allow: frozenset[str] | None,
        as_of: str | None = None,
        **restricted: Unpack[Restricted],
    ) -> AnswerStream:
        """The passages that answer a question, and the model's words about them as they come."""
        from headwater.retrieval.answers import answer_stream

        config = self.kb.config
        return answer_stream(
            self._searcher(),
            question,
            config=config.answers,
            allow=None if allow is None else sorted(allow),
            as_of=as_of,
            freshness={name: source.freshness for name, source in config.sources.items()},
            **restricted,
        )

    def document(
        self, source: str, key: str, *, allow: frozenset[str] | None, as_of: str | None
    ) -> Document:
        """One document; raises NotFoundError where the snapshot has none for this caller."""
        return _steadily(lambda: self._document(source, key, allow, as_of))

    def _document(
        self, source: str, key: str, allow: frozenset[str] | None, as_of: str | None
    ) -> Document:
        store = self._opened()
        manifest = store.resolve(as_of)
        known_by = manifest.time if as_of else None
        verified = self._verification.last(manifest.sources, known_by=known_by)
        last = verified.get(source)
        found = read_document(store.objects, manifest, source, key, last_verified=last)
        if allow is not None and not self._sight(store).sees(
            allow, manifest, source, key, found.labels
        ):
            raise no_such_document(manifest, source, key)
        return found

    def versions(self, source: str, key: str) -> tuple[VersionSpan, ...]:
        """Every version the document ever had, oldest first; raises NotFoundError."""
        return document_history(self._opened(), source, key)

    def snapshots(self, limit: int) -> list[LogEntry]:
        """The published snapshots, newest first."""
        return log(self._opened(), limit=limit)

    def changes(
        self, since: str, ref: str, *, allow: frozenset[str] | None, limit: int, offset: int
    ) -> Changes:
        """What differs between two snapshots, as far as the caller may see it."""
        return _steadily(lambda: self._changes(since, ref, allow, limit, offset))

    def _changes(
        self, since: str, ref: str, allow: frozenset[str] | None, limit: int, offset: int
    ) -> Changes:
        store = self._opened()
        first, last = store.resolve(since), store.resolve(ref)
        before, after = first.name(), last.name()
        table = change_feed(store, before, after)
        if allow is None:
            rows, total = table.slice(offset, limit).to_pylist(), table.num_rows
        else:
            seen = self._sight(store).changes(allow, first, last, table.to_pylist())
            rows, total = seen[offset : offset + limit], len(seen)
        plain = [{**row, "known_at": format_time(row["known_at"])} for row in rows]
        return Changes(before, after, total, plain)

    def state(self, *, now: datetime | None = None) -> State:
        """The current snapshot, and how fresh each source is.

        Raises:
            StorageUnavailableError: nothing is published yet.
        """
        manifest = self._opened().resolve(None)
        when = now or datetime.now(UTC)
        configured = self.kb.config.sources
        names = [*configured, *(name for name in manifest.sources if name not in configured)]
        verified = self._verification.last(names)
        found = []
        for name in names:
            config, held = configured.get(name), manifest.sources.get(name)
            objective = config.freshness if config else timedelta(days=1)
            last = verified.get(name)
            found.append(
                SourceState(
                    name,
                    held.documents if held else 0,
                    last,
                    (when - last).total_seconds() if last else None,
                    objective.total_seconds(),
                    fresh=last is not None and when - last <= objective,
                    hold=held.hold if held else "",
                )
            )
        counts = manifest.counts
        return State(
            self.kb.config.name,
            manifest.name(),
            manifest.seq,
            manifest.time,
            counts.get("documents", 0),
            counts.get("texts", 0),
            tuple(found),
        )

    def close(self) -> None:
        """Let go of the files and the encoder."""
        with self._lock:
            if self._retriever is not None:
                self._retriever.close()

    def _opened(self) -> Store:
        """The store, once something is published in it."""
        if self._store is None and (self.kb.store / "FORMAT").is_file():
            self._store = Store.open(self.kb.store)
        if self._store is None or self._store.current_name() is None:
            raise StorageUnavailableError(
                "Nothing is published yet",
                obj=self.kb.config.name,
                todo="run 'headwater refresh' on the knowledge base, and ask again",
            )
        return self._store

    def _query_log(self) -> QueryLog | None:
        wanted = self.kb.config.query_log
        if not wanted.enabled:
            return None
        return QueryLog(self.kb.root, text=wanted.text, keep=wanted.keep)

    def _sight(self, store: Store) -> Sight:
        with self._lock:
            if self._seeing is None:
                self._seeing = Sight(store)
            return self._seeing

    def _searcher(self) -> Retriever:
        if self._retriever is None:
            with self._lock:
                if self._retriever is None:
                    self._opened()
                    self._retriever = Retriever.open(
                        self.kb.store, encoder=self._encoder, query_log=self._query_log()
                    )
        return self._retriever


def _steadily(read: Callable[[], T]) -> T:
    """What `read` gives; asked again where an erasure or a vacuum took what it was reading."""
    try:
        return read()
    except CorruptObjectError:
        return read()
