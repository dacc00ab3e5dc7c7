"""An endpoint of a model that speaks the OpenAI protocol: hosted, or a server of one's own."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from headwater.config.fields import Duration, Model


class EndpointConfig(Model):
    """Where a model is asked, and how patiently."""

    url: str = Field(description="the base of the API: https://host/v1")
    model: str = Field(description="the model's name there")
    api_key: str | None = Field(None, description="${NAME}; none for a server that asks for none")
    timeout: Duration = Field(timedelta(seconds=60), description="for one request")
    retries: int = Field(
        4, ge=0, le=20, description="after 408, 409, 429, 5xx and lost connections"
    )
