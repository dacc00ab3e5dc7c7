"""What an agent may do with a knowledge base: five tools, which only look.

Their names and descriptions are written for a model, which knows nothing else about headwater. What
goes wrong is told in words that it can act on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final, TypeVar

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from headwater import __version__
from headwater.config import parse_duration
from headwater.errors import ConfigError, HeadwaterError
from headwater.retrieval.hits import Hit, Mode
from headwater.serving.door import CALLER
from headwater.serving.gate import Gate
from headwater.serving.knowledge import Knowledge, State
from headwater.serving.problems import Problem, ProblemError, problem_of
from headwater.storage.manifest import format_time

T = TypeVar("T")
Allow = frozenset[str] | None

_MOST_HITS: Final = 50
_MOST_QUERY: Final = 10_000
_MOST_CHARACTERS: Final = 50_000
_MOST_CHANGES: Final = 500
_MOST_SNAPSHOTS: Final = 200
_AT_ONCE: Final = 8

_INSTRUCTIONS: Final = """\
The knowledge base '{name}': documents that change, each with the time of its last change and the
time its source last confirmed it. Search first; read a whole document where a passage is not enough.
Cite what you use by the 'citation' of its passage. What is not found here is not known here: say so.
To see what was known at an earlier time, pass as_of (a date such as 2026-11-01, a snapshot's name or
number, or a tag) to search and read_document; what_changed tells what differs between two times."""

AsOf = Annotated[
    str | None,
    Field(
        description="what was known then: a date or time (2026-11-01), a snapshot's name or number,"
        " or a tag; the present if left out",
        max_length=200,
    ),
]


class Passage(BaseModel):
    """A passage that a search found."""

    text: str
    citation: str = Field(description="cite the passage with this")
    source: str
    key: str = Field(description="with source, what read_document wants")
    title: str | None
    section: str = Field(description="the headings above the passage")
    url: str | None
    changed_at: str = Field(description="when the document's content last changed")
    verified_at: str = Field(description="when its source last confirmed it")
    held_back: bool = Field(description="a newer version failed validation and is not shown")
    score: float
    metadata: dict[str, Any]


class Found(BaseModel):
    """What a search found, best first."""

    snapshot: str
    passages: list[Passage]


class DocumentPart(BaseModel):
    """A document, or a part of a long one."""

    source: str
    key: str
    title: str | None
    url: str | None
    text: str
    offset: int
    total_characters: int
    next_offset: int | None = Field(description="where to go on reading; null at the end")
    changed_at: str
    verified_at: str
    snapshot: str
    metadata: dict[str, Any]


class SnapshotLine(BaseModel):
    """A published state of the knowledge base."""

    name: str
    number: int
    time: str = Field(description="what was known then")
    cause: str
    tags: list[str]


class Snapshots(BaseModel):
    """The published states, newest first."""

    snapshots: list[SnapshotLine]


class Change(BaseModel):
    """A document that differs between two snapshots."""

    change: str = Field(description="added, changed, renamed or removed")
    source: str
    key: str
    renamed_from: str | None


class Changed(BaseModel):
    """What differs between two snapshots."""

    before: str
    after: str
    total: int
    next_offset: int | None
    changes: list[Change]


class SourceLine(BaseModel):
    """How fresh one source is."""

    source: str
    documents: int
    last_verified: str | None
    fresh: bool
    hold: str


class Status(BaseModel):
    """Whether the knowledge is fresh."""

    snapshot: str
    time: str
    documents: int
    fresh: bool
    sources: list[SourceLine]


class KnowledgeTools:
    """The tools over one knowledge base.

    Args:
        knowledge: what is asked.
        allow: the labels of a caller that brings no key; None sees everything.
    """

    def __init__(self, knowledge: Knowledge, *, allow: Allow = None) -> None:
        self._knowledge = knowledge
        self._allow = allow
        config = knowledge.kb.config.serving
        self._gate = Gate(
            "agents",
            threads=_AT_ONCE,
            limit=config.max_concurrent,
            timeout_s=config.timeout.total_seconds(),
        )
        root = knowledge.kb.root
        self._hidden = tuple(f"{path}{os.sep}" for path in {root.resolve(), root.absolute()})

    def state(self) -> State:
        """The current snapshot, and how fresh each source is."""
        return self._knowledge.state()

    def close(self) -> None:
        """Let go of the knowledge base."""
        self._gate.close()
        self._knowledge.close()

    def server(self) -> MCPServer[Any]:
        """The server that offers them."""
        name = self._knowledge.kb.config.name
        made: MCPServer[Any] = MCPServer(
            f"headwater-{name}",
            title=f"headwater: {name}",
            version=__version__,
            instructions=_INSTRUCTIONS.format(name=name),
            log_level="WARNING",
        )
        looks = ToolAnnotations(
            read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
        )
        for tool in (
            self.search,
            self.read_document,
            self.list_snapshots,
            self.what_changed,
            self.status,
        ):
            made.tool(annotations=looks)(tool)
        return made

    async def search(
        self,
        ctx: Context[Any, Any],
        query: Annotated[
            str,
            Field(
                description="a question or some words; exact names and codes are found too",
                max_length=_MOST_QUERY,
            ),
        ],
        k: Annotated[int, Field(ge=1, le=_MOST_HITS, description="passages at most")] = 5,
        as_of: AsOf = None,
        sources: Annotated[
            list[str] | None, Field(description="only these sources", max_length=100)
        ] = None,
        where: Annotated[
            str | None,
            Field(
                description="a filter such as: key like 'faq/%' and meta.year >= 2024",
                max_length=_MOST_QUERY,
            ),
        ] = None,
        max_staleness: Annotated[
            str | None, Field(description="only what was confirmed this lately: 15m, 6h, 1d")
        ] = None,
        mode: Annotated[
            Mode, Field(description="hybrid: meaning and words; dense: meaning; lexical: words")
        ] = "hybrid",
    ) -> Found:
        """Find the passages of the knowledge base that answer a question, best first."""
        staleness = _duration(max_staleness) if max_staleness else None
        ask = partial(
            self._knowledge.search,
            query,
            k,
            allow=self._labels(ctx),
            as_of=as_of,
            sources=sources,
            where=where,
            max_staleness=staleness,
            mode=mode,
        )
        snapshot, hits = await self._run(ask)
        return Found(snapshot=snapshot, passages=[_passage(hit) for hit in hits])

    async def read_document(
        self,
        ctx: Context[Any, Any],
        source: Annotated[str, Field(description="as a passage names it", max_length=100)],
        key: Annotated[str, Field(description="as a passage names it", max_length=4096)],
        as_of: AsOf = None,
        offset: Annotated[int, Field(ge=0, description="characters to skip")] = 0,
        length: Annotated[
            int, Field(ge=1, le=_MOST_CHARACTERS, description="characters to read")
        ] = 20_000,
    ) -> DocumentPart:
        """Read a document that a passage came from, whole or in parts."""
        ask = partial(self._knowledge.document, source, key, allow=self._labels(ctx), as_of=as_of)
        found = await self._run(ask)
        end = offset + length
        told = found.as_dict()
        return DocumentPart(
            source=source,
            key=key,
            title=told["title"],
            url=told["url"],
            text=found.text[offset:end],
            offset=offset,
            total_characters=len(found.text),
            next_offset=end if end < len(found.text) else None,
            changed_at=told["changed_at"],
            verified_at=told["verified_at"],
            snapshot=told["snapshot"],
            metadata=told["metadata"],
        )

    async def list_snapshots(
        self,
        limit: Annotated[int, Field(ge=1, le=_MOST_SNAPSHOTS, description="at most")] = 20,
    ) -> Snapshots:
        """List the published states of the knowledge base, newest first: what as_of can name."""
        entries = await self._run(partial(self._knowledge.snapshots, limit))
        return Snapshots(
            snapshots=[
                SnapshotLine(
                    name=entry.name,
                    number=entry.seq,
                    time=format_time(entry.observed_at),
                    cause=entry.cause,
                    tags=list(entry.tags),
                )
                for entry in entries
            ]
        )

    async def what_changed(
        self,
        ctx: Context[Any, Any],
        since: Annotated[
            str, Field(description="a date or time, or a snapshot", min_length=1, max_length=200)
        ],
        until: Annotated[
            str, Field(description="a later one; the present if left out", max_length=200)
        ] = "current",
        limit: Annotated[int, Field(ge=1, le=_MOST_CHANGES)] = 100,
        offset: Annotated[int, Field(ge=0)] = 0,
    ) -> Changed:
        """Tell which documents were added, changed, renamed or removed between two times."""
        ask = partial(
            self._knowledge.changes,
            since,
            until,
            allow=self._labels(ctx),
            limit=limit,
            offset=offset,
        )
        found = await self._run(ask)
        end = offset + len(found.rows)
        return Changed(
            before=found.before,
            after=found.after,
            total=found.total,
            next_offset=end if found.rows and end < found.total else None,
            changes=[
                Change(
                    change=row["op"],
                    source=row["source"],
                    key=row["key"],
                    renamed_from=row["renamed_from"],
                )
                for row in found.rows
            ],
        )

    async def status(self, ctx: Context[Any, Any]) -> Status:
        """Tell how fresh the knowledge is: per source, when it was last confirmed."""
        if self._labels(ctx) is not None:
            raise ToolError("This caller sees some documents only, and the status tells of all")
        state = await self._run(self._knowledge.state)
        return Status(
            snapshot=state.snapshot,
            time=format_time(state.observed_at),
            documents=state.documents,
            fresh=state.fresh,
            sources=[
                SourceLine(
                    source=source.source,
                    documents=source.documents,
                    last_verified=format_time(source.last_verified)
                    if source.last_verified
                    else None,
                    fresh=source.fresh,
                    hold=source.hold,
                )
                for source in state.sources
            ],
        )

    def _labels(self, ctx: Context[Any, Any]) -> Allow:
        """What the caller may see: what its key says, or what the server was started with."""
        scope = getattr(ctx.request_context.request, "scope", None)
        caller = scope.get(CALLER) if scope else None
        return self._allow if caller is None or caller.allow is None else caller.allow

    async def _run(self, work: Callable[[], T]) -> T:
        """The result of blocking work, done in a thread.

        Raises:
            ToolError: it failed, took too long, or too much is asked at once, in words that a
                model can act on.
        """
        try:
            return await self._gate.run(work)
        except HeadwaterError as error:
            raise _told(problem_of(error, hide=self._hidden)) from None
        except ProblemError as error:
            raise _told(error.problem) from None


def _told(problem: Problem) -> ToolError:
    what = f"{problem.what}: {problem.obj}" if problem.obj else problem.what
    return ToolError(". ".join(part for part in (what, problem.todo) if part))


def _passage(hit: Hit) -> Passage:
    told = hit.as_dict()
    return Passage(
        text=hit.text,
        citation=hit.cite(),
        source=hit.source,
        key=hit.key,
        title=hit.title,
        section=" > ".join(hit.heading_path),
        url=hit.url,
        changed_at=told["changed_at"],
        verified_at=told["verified_at"],
        held_back=hit.held_back,
        score=hit.score,
        metadata=dict(hit.metadata),
    )


def _duration(text: str) -> Any:
    try:
        return parse_duration(text)
    except ValueError as error:
        told = ConfigError("max_staleness cannot be read", obj=text[:100], todo=str(error))
        raise ToolError(f"{told.what}: {told.obj}. {told.todo}") from None
