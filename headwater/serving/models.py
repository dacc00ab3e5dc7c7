"""What is sent and received, typed: the source of /openapi.json."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from headwater.config import parse_duration
from headwater.retrieval.hits import Mode

MOST_HITS: Final = 1000
MOST_QUERY_CHARS: Final = 10_000
MOST_SOURCES: Final = 100
MOST_CHANGES: Final = 10_000
MOST_SNAPSHOTS: Final = 1000

_LONGEST = timedelta(days=36_500)


def _staleness(value: object) -> timedelta:
    found = parse_duration(value)
    if found > _LONGEST:
        raise ValueError("expected a duration of at most 36500d")
    return found


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("expected a time within the years 1 to 9999, in UTC") from None


def _reference(text: str) -> str:
    """Refuse a time that UTC has no room for; what else it may name, the store knows."""
    try:
        datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError:
        raise ValueError("expected a time within the years 1 to 9999, in UTC") from None
    except ValueError:
        pass
    return text


Staleness = Annotated[
    timedelta,
    BeforeValidator(_staleness),
    WithJsonSchema({"type": "string", "examples": ["15m", "6h", "1d 12h", "2w"]}),
]
"""A duration as text: units s, m, h, d and w."""

Ref = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_reference)]
"""A snapshot: `current`, a name or the start of one, a number, a tag, or a time (RFC 3339)."""

Time = Annotated[datetime, AfterValidator(_in_utc)]
"""RFC 3339; UTC where it names no zone."""

Where = Annotated[str, Field(min_length=1, max_length=MOST_QUERY_CHARS)]
Query = Annotated[str, Field(min_length=1, max_length=MOST_QUERY_CHARS)]
Name = Annotated[str, Field(min_length=1, max_length=100)]


class SearchAsk(BaseModel):
    """A search."""

    model_config = ConfigDict(extra="forbid")

    query: Query = Field(description="a question or some words")
    k: int = Field(5, ge=1, le=MOST_HITS, description="passages at most")
    sources: list[Name] | None = Field(
        None, min_length=1, max_length=MOST_SOURCES, description="only documents of these"
    )
    as_of: Ref | None = Field(None, description="search this snapshot; the current one if left out")
    max_staleness: Staleness | None = Field(
        None, description="only documents that were confirmed this lately: 15m, 6h, 1d"
    )
    where: Where | None = Field(None, description="a filter: docs/filters.md has the language")
    changed_since: Time | None = Field(None, description="only documents that changed later")
    mode: Mode = Field("hybrid", description="by meaning and words, by meaning, or by words")
    explain: bool = Field(False, description="say of each hit where it came from")


class AnswerAsk(BaseModel):
    """A question to be answered from what a search finds."""

    model_config = ConfigDict(extra="forbid")

    question: Query = Field(description="in a person's words")
    sources: list[Name] | None = Field(
        None, min_length=1, max_length=MOST_SOURCES, description="only documents of these"
    )
    as_of: Ref | None = Field(None, description="from this snapshot; the current one if left out")
    max_staleness: Staleness | None = Field(None, description="only what was confirmed this lately")
    where: Where | None = Field(None, description="a filter: docs/filters.md has the language")
    changed_since: Time | None = Field(None, description="only documents that changed later")
    mode: Mode = Field("hybrid", description="how passages are looked for")
    stream: bool = Field(False, description="as server-sent events: text …, then answer or problem")


class ExplainReply(BaseModel):
    """Where a hit came from."""

    snapshot: str
    segment: str
    found_by: str
    score: float
    cosine: float | None
    bm25: float | None
    dense_rank: int | None
    lexical_rank: int | None
    selectivity: float


class HitReply(BaseModel):
    """A passage, with what is needed to judge it."""

    text: str = Field(description="start to end of the document's text")
    score: float = Field(description="what the hits of this reply are ordered by")
    source: str
    key: str
    version_id: str
    title: str | None
    url: str | None
    heading_path: list[str]
    start: int
    end: int
    snapshot: str = Field(description="the snapshot that was searched")
    changed_at: datetime = Field(description="when the document's content last changed")
    verified_at: datetime = Field(description="when its source last confirmed it")
    source_ts: datetime | None
    labels: list[str]
    metadata: dict[str, Any]
    held_back: bool = Field(description="a newer state waits in quarantine")
    others: list[tuple[str, str]] = Field(description="source and key of more with the same text")
    cosine: float | None = Field(description="by meaning, -1 to 1; null in a lexical search")
    bm25: float | None = Field(description="by words; null where none are shared, and to labels")
    rerank: float | None
    explain: ExplainReply | None = None


class SearchReply(BaseModel):
    """Hits, best first, all of one snapshot."""

    snapshot: str
    hits: list[HitReply]


class PassageReply(HitReply):
    """A hit as the model was shown it."""

    number: int


class ChecksReply(BaseModel):
    """What the checks found about an answer."""

    cited: list[int]
    invented: list[int] = Field(description="cited, and not there")
    misquoted: list[str]
    unsupported: list[str] = Field(description="statements that their passages do not hold")
    uncited: list[str]


class AnswerReply(BaseModel):
    """An answer, what it stands on, and what is wrong with it."""

    question: str
    answer: str | None = Field(description="null where it abstains, or no model is configured")
    abstained: bool = Field(description="the knowledge does not hold the answer")
    asked: bool = Field(description="whether a model was asked")
    grounded: bool = Field(description="it cites passages, is whole, and passed every check")
    citations: list[int]
    checks: ChecksReply
    warnings: list[str]
    passages: list[PassageReply]
    left_out: int = Field(description="hits for which the prompt had no room")
    prompt: list[dict[str, str]]
    snapshot: str
    as_of: datetime
    model: str | None
    finish_reason: str | None
    usage: dict[str, int]


class VersionReply(BaseModel):
    """A version of a document, for one stretch of snapshots that held it."""

    version_id: str
    key: str
    title: str | None
    began: str
    known_from: datetime
    from_seq: int
    ended: str
    known_until: datetime | None
    until_seq: int | None
    source_ts: datetime | None
    changed_at: datetime
    content_hash: str
    renamed_from: str | None


class DocumentReply(BaseModel):
    """A document as one snapshot holds it."""

    source: str
    key: str
    title: str | None
    url: str | None
    text: str
    metadata: dict[str, Any]
    labels: list[str]
    version_id: str
    content_hash: str
    known_at: datetime
    changed_at: datetime
    verified_at: datetime
    source_ts: datetime | None
    held_back: bool
    snapshot: str
    versions: list[VersionReply] | None = Field(
        None, description="all that ever were, when versions=true is asked for; read one by as_of"
    )


class SnapshotReply(BaseModel):
    """A published snapshot; a caller with labels is told no counts."""

    name: str
    seq: int
    observed_at: datetime
    cause: str
    restores: str
    documents: int | None
    chunks: int | None
    texts: int | None
    quarantined: int | None
    expired: bool
    tags: list[str]


class SnapshotsReply(BaseModel):
    """The published snapshots, newest first."""

    snapshots: list[SnapshotReply]


class ChangeReply(BaseModel):
    """A document that differs."""

    source: str
    key: str
    op: str = Field(description="added, changed, metadata, renamed or removed")
    before_version_id: str | None
    after_version_id: str | None
    renamed_from: str | None
    known_at: datetime
    seq: int


class ChangesReply(BaseModel):
    """What a consumer that knows `before` must do to be at `after`.

    Ask for a further part with the names given here, whatever was published meanwhile.
    """

    before: str
    after: str
    total: int
    next_offset: int | None = Field(description="of the next part; null when this is the last")
    changes: list[ChangeReply]


class SourceReply(BaseModel):
    """How fresh a source is."""

    source: str
    documents: int
    last_verified: datetime | None
    age_s: float | None
    objective_s: float
    fresh: bool
    hold: str


class StatusReply(BaseModel):
    """The current snapshot, and how fresh its sources are."""

    name: str
    fresh: bool = Field(description="whether every source meets its objective")
    snapshot: str
    seq: int
    observed_at: datetime
    documents: int
    texts: int
    sources: list[SourceReply]


class AliveReply(BaseModel):
    """The process answers."""

    alive: bool


class ProblemReply(BaseModel):
    """A request that failed: what, which object, and what to do next."""

    error: str = Field(description="the kind: stable, made for programs")
    what: str
    object: str
    todo: str
