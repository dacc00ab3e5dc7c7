"""What answers are written with."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from headwater.config.endpoints import EndpointConfig
from headwater.config.fields import Duration, Model


class AnswersConfig(Model):
    """How a question is answered from what a search found."""

    endpoint: EndpointConfig | None = Field(
        None, description="what writes; without it the grounded prompt is returned"
    )
    passages: int = Field(8, ge=1, le=100, description="shown to the model at most")
    context_tokens: int = Field(3000, ge=100, description="of all passages shown to the model")
    answer_tokens: int = Field(800, ge=16, description="of the answer at most")
    temperature: float = Field(0.0, ge=0, le=2)
    min_cosine: float | None = Field(
        None, ge=-1, le=1, description="when no passage is nearer, nothing is asked: an abstention"
    )
    stream: bool = Field(True, description="off for an endpoint that cannot")
    deadline: Duration = Field(timedelta(minutes=2), description="for one answer, retries included")
