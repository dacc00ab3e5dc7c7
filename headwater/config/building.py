"""How an index is built from what was pulled, and what a candidate must show to be published."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from headwater.config.fields import Model, Severity

Language = Literal[
    "none",
    "arabic",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hungarian",
    "italian",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
]


class ChunkingConfig(Model):
    """Sizes of chunks in tokens of the embedding model. A change re-embeds everything."""

    max_tokens: int | None = Field(None, ge=32, description="the model's own limit when left out")
    min_tokens: int = Field(64, ge=1)


class IndexConfig(Model):
    """When a segment gets a graph, and when segments are merged."""

    graph_from: int = Field(4000, ge=2, description="rows below which the exact scan is faster")
    max_flat_segments: int = Field(4, ge=1)
    max_dead_share: float = Field(0.2, gt=0, lt=1)
    language: Language = Field(
        "english", description="whose word endings the search for words ignores; or none"
    )
    recall: float = Field(0.98, gt=0, le=1, description="recall@10 that ef is calibrated to")


class GatesConfig(Model):
    """When a candidate's search results stop its publication; a `warning` only reports.

    A critical gate that fails keeps the candidate, unpublished, until `headwater publish --override`.
    """

    golden_share: float = Field(
        0.9, ge=0, le=1, description="of the queries in golden.yaml must find what they expect"
    )
    golden_severity: Severity = "critical"
    change_queries: int = Field(
        20, ge=0, le=40, description="documents asked for of what changed; 0 asks for none"
    )
    change_recall: float = Field(
        0.9,
        ge=0,
        le=1,
        description="of the new texts must be among the ten nearest to their opening",
    )
    change_severity: Severity = "warning"
    old_text_severity: Severity = Field(
        "critical", description="when a search still finds a text that is gone"
    )
    graph_recall: float | None = Field(
        None,
        ge=0,
        le=1,
        description="recall@10 of a new graph; 0.05 below index.recall if left out",
    )
    graph_severity: Severity = "critical"
