"""Hits: what a search returns, with everything that a reader needs to judge it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from headwater.storage.manifest import format_time

Mode = Literal["hybrid", "dense", "lexical"]
"""How passages are looked for: by meaning (dense), by words (lexical), or by both."""
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Explanation:
    """Where a hit came from; for those who operate a knowledge base.

    Attributes:
        snapshot: that was searched.
        segment: of the index that holds the text: the start of its vectors' hash, or
            `embedding cache` where the snapshot let go of its index.
        found_by: graph, exact (a scan), or cache (a scan without a segment); words where only the
            search for words found it.
        score: before any reranking.
        cosine: of the text's vector and the query's, -1 to 1; None where only words were asked for.
        bm25: of the text and the query's words, above 0; None where the search for words did not
            have it among its candidates.
        dense_rank, lexical_rank: its place in either search, from 1; None where it had none.
        selectivity: what share of the documents that the caller may see passed the filters, 0 to 1.
    """

    snapshot: str
    segment: str
    found_by: str
    score: float
    cosine: float | None
    bm25: float | None
    dense_rank: int | None
    lexical_rank: int | None
    selectivity: float


@dataclass(frozen=True)
class Hit:
    """A passage that answers a query.

    Attributes:
        text: of the chunk: `start` to `end` of the document's text.
        score: what hits are ordered by: the sum of reciprocal ranks in a hybrid search (comparable
            within one reply alone), the cosine in a dense one, BM25 in a lexical one, the
            reranker's in a reranked one.
        source, key: the document.
        version_id: of the document.
        title, url: of the document; None when the source gave none.
        heading_path: the headings above the chunk, outermost first.
        start, end: characters of the document's text.
        snapshot: the name of the snapshot that was searched.
        changed_at: when the document's content last changed.
        verified_at: when the source last confirmed it.
        source_ts: the source's own time of the record, if it gave one.
        labels: of the document.
        metadata: of the document.
        held_back: a newer state of the document waits in quarantine; this is the last good one.
        others: (source, key) of the other live documents that hold the same text.
        cosine: similarity of the text's vector and the query's, -1 to 1; None in a lexical search.
        bm25: relevance by the words that text and query share, above 0; None in a dense search, and
            where the text shares none or too few.
        rerank: the reranker's score; None without one.
        explain: where it came from; None unless that was asked for.
    """

    text: str
    score: float
    source: str
    key: str
    version_id: str
    title: str | None
    url: str | None
    heading_path: tuple[str, ...]
    start: int
    end: int
    snapshot: str
    changed_at: datetime
    verified_at: datetime
    source_ts: datetime | None
    labels: tuple[str, ...]
    metadata: Mapping[str, Any]
    held_back: bool
    others: tuple[tuple[str, str], ...]
    cosine: float | None = None
    bm25: float | None = None
    rerank: float | None = None
    explain: Explanation | None = None

    def as_dict(self) -> dict[str, Any]:
        """The hit as plain values that JSON can hold; times are RFC 3339 in UTC."""
        # Not `asdict`, which copies every value to its depth: a page of hits would take ten times as long.
        plain = {k: format_time(v) if isinstance(v, datetime) else v for k, v in vars(self).items()}
        return {**plain, "explain": asdict(self.explain) if self.explain else None}

    def cite(self) -> str:
        """A short citation: document, snapshot, when it changed and was last confirmed."""
        changed, verified = (f"{t:%Y-%m-%d %H:%MZ}" for t in (self.changed_at, self.verified_at))
        return (
            f"[{self.source}/{self.key} @ {self.snapshot}, changed {changed}, verified {verified}]"
        )
