"""What every kind of source has."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field, model_validator

from headwater.config.fields import Duration, Model, Texts


class DeletionGuard(Model):
    """How much of a source may vanish in one refresh before a person must look.

    Deletions are withheld when more than `max(max_count, max_share * size)` records are missing.
    """

    max_count: int = Field(10, ge=0, description="this many may always go")
    max_share: float = Field(0.10, ge=0, le=1, description="or this share of the source")


class ContentShrink(Model):
    """How many documents may be replaced by stubs in one refresh before a person must look.

    Their changes are withheld when more than `max(max_count, max_share * size)` documents shrink
    to less than `below` of their length, or all become one and the same text.
    """

    max_count: int = Field(10, ge=0, description="this many may always shrink")
    max_share: float = Field(0.10, ge=0, le=1, description="or this share of the source")
    below: float = Field(0.5, gt=0, lt=1, description="of its former length, and it shrank")
    min_chars: int = Field(200, ge=0, description="shorter documents may shrink freely")


class SchemaDrift(Model):
    """How many records may lose the same field in one refresh before a person must look.

    Their changes are withheld when more than `max(max_count, max_share * size)` records lose a
    field that they had: a column was renamed, dropped or emptied.
    """

    max_count: int = Field(10, ge=0, description="this many may always lose it")
    max_share: float = Field(0.5, ge=0, le=1, description="or this share of the source")


class Schedule(Model):
    """When a deployment runs: exactly one of `every` and `cron`."""

    every: Duration | None = Field(None, description="an interval: 15m, 6h, 1d")
    cron: str | None = Field(None, description="a cron line in UTC: '0 * * * *'")

    @model_validator(mode="after")
    def _one_of(self) -> Schedule:
        if (self.every is None) == (self.cron is None):
            raise ValueError("expected exactly one of 'every' and 'cron'")
        return self


class SourceOptions(Model):
    """What every kind of source has."""

    freshness: Duration = Field(
        timedelta(days=1), description="the objective: verified no longer ago than this"
    )
    suite: str | None = Field(
        None, description="the expectations, a file; suites/<source>.json when left out"
    )
    labels: Texts = Field((), description="put on every record of the source")
    licence: str | None = Field(None, description="SPDX name, carried into datasets")
    deletion_guard: DeletionGuard = DeletionGuard()
    content_shrink: ContentShrink = ContentShrink()
    schema_drift: SchemaDrift = SchemaDrift()
    parallel_windows: int | None = Field(
        None, ge=1, le=64, description="windows of a backfill that may be read at once"
    )
    schedule: Schedule | None = Field(None, description="its own, beside the knowledge base's")
