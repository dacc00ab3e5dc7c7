"""What is kept for how long, how erasures are certified, and what datasets are cut from."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from headwater.config.fields import Duration, Model, Texts, listed


class DatasetConfig(Model):
    """What a fine-tuning dataset is cut from, and when a chunk counts as settled."""

    sources: Texts = Field((), description="all when empty")
    recipes: Annotated[
        tuple[Literal["pairs", "instructions", "text"], ...], BeforeValidator(listed)
    ] = (
        "pairs",
        "instructions",
        "text",
    )
    settled_for: Duration = Field(
        timedelta(days=30), description="unchanged for at least this long"
    )
    min_checks: int = Field(5, ge=1, description="confirmed by at least this many refreshes")
    test_share: float = Field(0.1, ge=0, lt=1)
    min_tokens: int = Field(16, ge=1)
    stale_above: float = Field(0.05, gt=0, le=1, description="share contradicted that means stale")
    licences: Texts = Field((), description="only these SPDX names; all when empty")


class RetentionConfig(Model):
    """How long past snapshots stay: all of late, then the newest of each hour, day and month.

    The current snapshot, its parent, tags, pins and what released datasets were cut from stay
    whatever this says. What stays for longer than `index_for` lets go of its index, which is most
    of its bytes: it is then searched exactly, with vectors from the embedding cache, and a rollback
    to it builds the index anew. The current snapshot, its parent and pins keep theirs.
    """

    all_for: Duration = Field(timedelta(days=1), description="every snapshot, for this long")
    hourly_for: Duration = Field(timedelta(days=7), description="one an hour, for this long")
    daily_for: Duration = Field(timedelta(days=90), description="one a day, for this long")
    monthly_for: Duration | None = Field(
        None, description="one a month, for this long; for ever when left out"
    )
    index_for: Duration = Field(
        timedelta(hours=6),
        description="index of past snapshots; later they are searched exactly, from the embedding"
        " cache",
    )
    grace: Duration = Field(
        timedelta(hours=1), description="from marking an object until it is deleted"
    )

    @model_validator(mode="after")
    def _in_order(self) -> RetentionConfig:
        tiers = (self.all_for, self.hourly_for, self.daily_for, self.monthly_for)
        spans = [span for span in tiers if span is not None]
        if spans != sorted(spans):
            raise ValueError("expected all_for <= hourly_for <= daily_for <= monthly_for")
        return self


class ErasureConfig(Model):
    """How erasures are certified."""

    signing_key: str | None = Field(
        None, description="an Ed25519 private key, a PEM file; ${NAME} may stand for the path"
    )
