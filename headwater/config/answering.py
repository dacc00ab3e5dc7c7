"""What answers are written with."""

from __future__ import annotations

from pydantic import Field

from headwater.config.endpoints import EndpointConfig
from headwater.config.fields import Model


class AnswersConfig(Model):
    """How a question is answered from what a search found."""

    endpoint: EndpointConfig | None = Field(
        None, description="what writes; without it the grounded prompt is returned"
    )
    context_tokens: int = Field(3000, ge=100, description="of the passages shown to the model")
