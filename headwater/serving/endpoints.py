"""The endpoints: one method each, which says what is asked and what becomes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Request
from fastapi import Path as InPath
from fastapi import Query as InUrl
from fastapi.responses import Response, StreamingResponse

from headwater.errors import HeadwaterError
from headwater.retrieval.hits import Mode
from headwater.serving.door import CALLER
from headwater.serving.gate import Gate
from headwater.serving.keys import Caller
from headwater.serving.knowledge import Knowledge, State
from headwater.serving.metrics import CONTENT_TYPE, Metrics
from headwater.serving.models import (
    MOST_CHANGES,
    MOST_HITS,
    MOST_SNAPSHOTS,
    MOST_SOURCES,
    AliveReply,
    AnswerAsk,
    AnswerReply,
    ChangesReply,
    DocumentReply,
    Name,
    ProblemReply,
    Query,
    Ref,
    SearchAsk,
    SearchReply,
    SnapshotsReply,
    Staleness,
    StatusReply,
    Time,
    Where,
)
from headwater.serving.problems import ProblemError, dump_json, needs_full_sight, problem_of
from headwater.storage.manifest import format_time

if TYPE_CHECKING:
    from headwater.retrieval.answers import AnswerStream

Made = tuple[int, bytes]
"""Status and body of a reply."""

Allow = frozenset[str] | None
"""The caller's labels, as `Retriever.search` takes them."""

_COUNTS: Final = ("documents", "chunks", "texts", "quarantined")

_PROBLEMS: Final = {
    400: "the request cannot be answered as it stands",
    401: "no key, or one that is not known",
    403: "the key does not see enough for this",
    404: "no such snapshot, source or document",
    413: "the body is too large",
    422: "a parameter is wrong",
    500: "the store is damaged, or a bug",
    502: "the model that writes answers failed",
    503: "nothing published yet, busy, or the machine lacks something: Retry-After",
    504: "it took too long",
}


class Endpoints:
    """What can be asked of a knowledge base."""

    def __init__(
        self, knowledge: Knowledge, metrics: Metrics, *, work: Gate, watch: Gate, models: Gate
    ) -> None:
        """Answer from `knowledge`.

        Args:
            knowledge: what is asked.
            metrics: counts, and is shown.
            work: the threads for questions.
            watch: the threads for figures, which a flood of questions leaves free.
            models: the threads that wait for a model, which may take minutes.
        """
        self._knowledge = knowledge
        self._metrics = metrics
        self._work = work
        self._watch = watch
        self._models = models

    def router(self) -> APIRouter:
        """The endpoints by path."""
        router = APIRouter()
        for path, method, endpoint, model in (
            ("/search", "POST", self.search, SearchReply),
            ("/search", "GET", self.search_by_url, SearchReply),
            ("/answer", "POST", self.answer, AnswerReply),
            ("/documents/{source}/{key:path}", "GET", self.read_document, DocumentReply),
            ("/snapshots", "GET", self.list_snapshots, SnapshotsReply),
            ("/snapshots/{ref}/changes", "GET", self.list_changes, ChangesReply),
            ("/status", "GET", self.status, StatusReply),
            ("/healthz", "GET", self.alive, AliveReply),
        ):
            router.add_api_route(
                path,
                endpoint,
                methods=[method],
                response_model=model,
                operation_id=endpoint.__name__,
                responses=_documented(but=503) if endpoint == self.status else _documented(),
            )
        router.add_api_route(
            "/metrics",
            self.measured,
            methods=["GET"],
            operation_id="metrics",
            response_class=Response,
            responses={200: {"content": {"text/plain": {}}}, **_documented()},
        )
        return router

    async def search(self, request: Request, ask: SearchAsk) -> Response:
        """The passages nearest in meaning to a query, now or as of a snapshot."""
        return await self._answer(partial(self._search, _caller(request).allow, ask))

    async def search_by_url(
        self,
        request: Request,
        q: Annotated[Query, InUrl(description="a question or some words")],
        k: Annotated[int, InUrl(ge=1, le=MOST_HITS, description="passages at most")] = 5,
        source: Annotated[
            list[Name] | None, InUrl(max_length=MOST_SOURCES, description="only of these")
        ] = None,
        as_of: Annotated[Ref | None, InUrl(description="search this snapshot")] = None,
        max_staleness: Annotated[
            Staleness | None, InUrl(description="confirmed this lately: 15m, 6h, 1d")
        ] = None,
        where: Annotated[Where | None, InUrl(description="a filter")] = None,
        changed_since: Annotated[Time | None, InUrl(description="changed later")] = None,
        mode: Annotated[
            Mode, InUrl(description="by meaning and words, meaning, or words")
        ] = "hybrid",
        explain: bool = False,
    ) -> Response:
        """The same as POST /search, for a browser's address bar."""
        ask = SearchAsk.model_construct(
            query=q,
            k=k,
            sources=source,
            as_of=as_of,
            max_staleness=max_staleness,
            where=where,
            changed_since=changed_since,
            mode=mode,
            explain=explain,
        )
        return await self._answer(partial(self._search, _caller(request).allow, ask))

    async def answer(self, request: Request, ask: AnswerAsk) -> Response:
        """An answer with checked citations, from the configured model; without one, the prompt."""
        pieces = await self._work.run(partial(self._asked, _caller(request).allow, ask))
        if ask.stream:
            return StreamingResponse(self._events(pieces), media_type="text/event-stream")
        return _reply(200, await self._models.run(lambda: dump_json(pieces.answer.as_dict())))

    async def _events(self, pieces: AnswerStream) -> AsyncIterator[bytes]:
        """Pieces of the text, and then the answer; or what went wrong meanwhile."""
        reading = iter(pieces)
        try:
            while (piece := await self._models.run(lambda: next(reading, None))) is not None:
                yield _event("text", dump_json({"text": piece}))
            yield _event("answer", dump_json(pieces.answer.as_dict()))
        except HeadwaterError as error:
            self._metrics.problem(error.kind)
            yield _event("problem", problem_of(error).body())
        finally:
            pieces.close()

    async def read_document(
        self,
        request: Request,
        source: Annotated[str, InPath(max_length=100)],
        key: Annotated[str, InPath(max_length=4096, description="may hold slashes")],
        as_of: Annotated[Ref | None, InUrl(description="as this snapshot held it")] = None,
        versions: Annotated[bool, InUrl(description="list every version it ever had")] = False,
    ) -> Response:
        """A document: its text, and all that is known about it."""
        allow = _caller(request).allow
        if versions and allow is not None:
            raise ProblemError(needs_full_sight("versions=true"))
        return await self._answer(partial(self._document, allow, source, key, as_of, versions))

    async def list_snapshots(
        self, request: Request, limit: Annotated[int, InUrl(ge=1, le=MOST_SNAPSHOTS)] = 20
    ) -> Response:
        """The published snapshots, newest first."""
        return await self._answer(partial(self._snapshots, _caller(request).allow, limit))

    async def list_changes(
        self,
        request: Request,
        ref: Annotated[Ref, InPath(description="the later snapshot; 'current' will do")],
        since: Annotated[Ref, InUrl(description="the snapshot that the consumer knows")],
        limit: Annotated[int, InUrl(ge=1, le=MOST_CHANGES)] = 1000,
        offset: Annotated[int, InUrl(ge=0, le=2**40)] = 0,
    ) -> Response:
        """The change feed: the documents that differ between two snapshots."""
        allow = _caller(request).allow
        return await self._answer(partial(self._changes, allow, since, ref, limit, offset))

    async def status(self, request: Request) -> Response:
        """How fresh each source is: 200 when all meet their objective, 503 when one does not."""
        _check_full_sight(request)
        status, body = await self._watch.run(self._status)
        return _reply(status, body)

    async def measured(self, request: Request) -> Response:
        """Figures for Prometheus, as text."""
        _check_full_sight(request)
        text = await self._watch.run(self._metrics.text)
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    async def alive(self) -> Response:
        """Whether the process answers; says nothing about the knowledge base."""
        return _reply(200, dump_json({"alive": True}))

    # --- in a thread --------------------------------------------------------------------------

    async def _answer(self, make: Callable[[], Made]) -> Response:
        status, body = await self._work.run(make)
        return _reply(status, body)

    def _search(self, allow: Allow, ask: SearchAsk) -> Made:
        snapshot, hits = self._knowledge.search(
            ask.query,
            ask.k,
            allow=allow,
            as_of=ask.as_of,
            sources=ask.sources,
            max_staleness=ask.max_staleness,
            where=ask.where,
            changed_since=ask.changed_since,
            mode=ask.mode,
            explain=ask.explain,
        )
        self._metrics.query(len(hits))
        return 200, dump_json({"snapshot": snapshot, "hits": [hit.as_dict() for hit in hits]})

    def _asked(self, allow: Allow, ask: AnswerAsk) -> AnswerStream:
        return self._knowledge.answer(
            ask.question,
            allow=allow,
            as_of=ask.as_of,
            sources=ask.sources,
            max_staleness=ask.max_staleness,
            where=ask.where,
            changed_since=ask.changed_since,
            mode=ask.mode,
        )

    def _document(
        self, allow: Allow, source: str, key: str, as_of: str | None, versions: bool
    ) -> Made:
        told = self._knowledge.document(source, key, allow=allow, as_of=as_of).as_dict()
        spans = self._knowledge.versions(source, key) if versions else None
        told["versions"] = [span.as_dict() for span in spans] if spans is not None else None
        return 200, dump_json(told)

    def _snapshots(self, allow: Allow, limit: int) -> Made:
        found = [entry.as_dict() for entry in self._knowledge.snapshots(limit)]
        if allow is not None:
            found = [{**entry, **dict.fromkeys(_COUNTS)} for entry in found]
        return 200, dump_json({"snapshots": found})

    def _changes(self, allow: Allow, since: str, ref: str, limit: int, offset: int) -> Made:
        found = self._knowledge.changes(since, ref, allow=allow, limit=limit, offset=offset)
        end = offset + len(found.rows)
        told = {
            "before": found.before,
            "after": found.after,
            "total": found.total,
            "next_offset": end if found.rows and end < found.total else None,
            "changes": found.rows,
        }
        return 200, dump_json(told)

    def _status(self) -> Made:
        state = self._knowledge.state()
        return (200 if state.fresh else 503), dump_json(_told(state))


def _caller(request: Request) -> Caller:
    found: Caller = request.scope[CALLER]
    return found


def _check_full_sight(request: Request) -> None:
    if _caller(request).allow is not None:
        raise ProblemError(needs_full_sight(request.url.path))


def _told(state: State) -> dict[str, Any]:
    sources = [
        {k: format_time(v) if isinstance(v, datetime) else v for k, v in asdict(source).items()}
        for source in state.sources
    ]
    plain = {**asdict(state), "observed_at": format_time(state.observed_at)}
    return {**plain, "fresh": state.fresh, "sources": sources}


def _event(name: str, data: bytes) -> bytes:
    """A server-sent event; JSON has no line breaks of its own."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def _reply(status: int, body: bytes) -> Response:
    return Response(body, status_code=status, media_type="application/json")


def _documented(*, but: int = 0) -> dict[int | str, dict[str, Any]]:
    """The problems, for the OpenAPI document."""
    found: dict[int | str, dict[str, Any]] = {
        status: {"model": ProblemReply, "description": text} for status, text in _PROBLEMS.items()
    }
    if but:
        found[but] = {
            "model": StatusReply | ProblemReply,
            "description": "a source misses its objective, or nothing is published yet",
        }
    return found
