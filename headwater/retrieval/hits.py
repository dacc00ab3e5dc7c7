"""Hits: what a search returns, with everything that a reader needs to judge it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from headwater.storage.manifest import format_time


@dataclass(frozen=True)
class Hit:
    """A passage that answers a query.

    Attributes:
        text: of the chunk: `start` to `end` of the document's text.
        score: cosine similarity to the query, -1 to 1.
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

    def as_dict(self) -> dict[str, Any]:
        """The hit as plain values that JSON can hold; times are RFC 3339 in UTC."""
        plain = asdict(self)
        return {k: format_time(v) if isinstance(v, datetime) else v for k, v in plain.items()}

    def cite(self) -> str:
        """A short citation: document, snapshot, when it changed and was last confirmed."""
        changed, verified = (f"{t:%Y-%m-%d %H:%MZ}" for t in (self.changed_at, self.verified_at))
        return (
            f"[{self.source}/{self.key} @ {self.snapshot}, changed {changed}, verified {verified}]"
        )
