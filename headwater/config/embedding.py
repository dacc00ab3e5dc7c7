"""What makes vectors of texts."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from headwater.config.endpoints import EndpointConfig
from headwater.config.fields import Model


class EmbeddingEndpoint(EndpointConfig):
    """An endpoint that embeds: hosted, or a server of one's own."""

    retries: int = Field(
        8, ge=0, le=20, description="after 408, 409, 429 and 5xx, and lost connections"
    )
    dimensions: int | None = Field(
        None, ge=1, le=65536, description="asked of models that shorten their vectors"
    )
    max_tokens: int = Field(512, ge=16, description="of a text; what is longer is cut there")
    tokenizer: str | None = Field(
        None, description="path of the model's tokenizer.json; without it tokens are estimated"
    )
    query_prompt: str = Field("", description="put before a query, as some models ask for")
    document_prompt: str = Field("", description="put before a chunk")
    batch: int = Field(64, ge=1, le=2048, description="texts of a request")
    parallel: int = Field(4, ge=1, le=64, description="requests at once")
    requests_per_minute: float | None = Field(None, gt=0, description="no more than so many begin")


class EmbeddingConfig(Model):
    """Which backend embeds the chunks; the vectors of equal spaces are shared between backends."""

    backend: Literal["auto", "openvino", "sentence-transformers", "openai"] = Field(
        "auto", description="openai is any endpoint that speaks its protocol"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where many texts are embedded; auto takes a GPU that torch sees"
    )
    endpoint: EmbeddingEndpoint | None = Field(None, description="for the backend openai")

    price_per_million_tokens: float | None = Field(
        None, ge=0, description="what embedding costs, for estimates; in whatever money you pay"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.backend == "openai" and self.endpoint is None:
            raise ValueError("the backend openai needs 'endpoint', with url and model")
        if self.endpoint is not None and self.backend not in ("auto", "openai"):
            raise ValueError(f"the backend {self.backend} uses no 'endpoint'")
        if self.backend == "openvino" and self.device == "cuda":
            raise ValueError("openvino runs on the processor; for a GPU leave 'backend' out")
        return self
