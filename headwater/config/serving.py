"""Who may ask, how much, and what answers are written with."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from headwater.config.fields import NAME, Duration, Model, Texts


class ServingKey(Model):
    """Who may ask `headwater serve`. The key itself is nowhere, only its hash."""

    name: str = Field(pattern=NAME)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the key; see serve --new-key")
    labels: Texts | None = Field(None, description="what it may see; all when left out")


class ServingConfig(Model):
    """Who may ask over HTTP, and how much."""

    # Not `keys`: what has that attribute looks like a mapping, and Prefect calls it.
    api_keys: tuple[ServingKey, ...] = Field(
        (), description="without any, this machine alone may ask"
    )
    max_body_bytes: int = Field(1_000_000, ge=1024, description="of a request")
    max_concurrent: int = Field(64, ge=1, description="requests taken in at once")
    timeout: Duration = Field(timedelta(seconds=30), description="for one request")


class QueryLogConfig(Model):
    """What is remembered of what was asked; nothing, unless it is switched on."""

    enabled: bool = Field(False, description="keep counts, and a keyed hash of each question")
    text: bool = Field(False, description="keep the questions' own words too")
    keep: Duration = Field(timedelta(days=90), description="how long")
