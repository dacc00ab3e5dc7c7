"""What makes vectors of texts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from headwater.config.endpoints import EndpointConfig
from headwater.config.fields import Model


class EmbeddingConfig(Model):
    """Which backend embeds the chunks; the vectors of equal spaces are shared between backends."""

    backend: str = Field("auto", description="auto, openvino, sentence-transformers or openai")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="of sentence-transformers")
    endpoint: EndpointConfig | None = Field(None, description="for the backend openai")
