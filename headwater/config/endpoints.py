"""An endpoint of a model that speaks the OpenAI protocol: hosted, or a server of one's own."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from headwater.config.fields import Duration, Model


class EndpointConfig(Model):
    """Where a model is asked, and how patiently."""

    url: str = Field(
        pattern=r"^https?://[^\s?#@]+$", description="the base of the API: https://host/v1"
    )
    model: str = Field(min_length=1, description="the model's name there")
    # A variable's name and never the key: snapshots name the endpoint that embeds their queries.
    api_key: str | None = Field(
        None,
        pattern=r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$",
        description="${NAME}; none for a server that asks for none",
    )
    timeout: Duration = Field(timedelta(seconds=60), description="for a connection to say anything")
    retries: int = Field(
        3, ge=0, le=20, description="after 408, 409, 429 and 5xx, and lost connections"
    )
