"""What every adapter has in common: how it searches, and what it tells of a hit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from headwater.retrieval.hits import Hit, Mode
from headwater.retrieval.retriever import Retriever


@dataclass(frozen=True)
class Asked:
    """The arguments of `Retriever.search` that stay the same from question to question."""

    k: int = 5
    mode: Mode = "hybrid"
    as_of: str | datetime | None = None
    sources: Sequence[str] | None = None
    where: str | None = None
    allow: Sequence[str] | None = None
    max_staleness: timedelta | None = None
    changed_since: datetime | None = None
    rerank: int | None = None

    def search(self, retriever: Retriever, query: str) -> list[Hit]:
        """See `Retriever.search`."""
        return retriever.search(query, **vars(self))


def hit_id(hit: Hit) -> str:
    """The same for the same passage of the same version, in every snapshot that holds it."""
    return f"{hit.source}/{hit.key}@{hit.version_id}:{hit.start}-{hit.end}"


def told_of(hit: Hit) -> dict[str, Any]:
    """Everything about a hit but its text, as plain values, with how it is cited."""
    told = hit.as_dict()
    for name in ("text", "explain"):
        del told[name]
    told["heading_path"] = list(hit.heading_path)
    told["labels"] = list(hit.labels)
    told["others"] = [list(other) for other in hit.others]
    told["metadata"] = dict(hit.metadata)
    return {**told, "citation": hit.cite()}
