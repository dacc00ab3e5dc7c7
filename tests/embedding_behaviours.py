"""What the test server of the OpenAI protocol does when it is asked for embeddings."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from chat_server import send

from headwater.retrieval.embedding import HashEmbedder


def embeds(
    dim: int = 32,
    *,
    turned: int = 0,
    shuffled: bool = False,
    scale: float = 1.0,
    noise: float = 0.0,
):
    """Vectors of the model-free twin; `turned` gives those of another model."""
    twin = HashEmbedder(dim)
    random = np.random.default_rng(5)

    def behave(handler, asked):
        texts = [text[turned:] for text in asked["input"]]
        rows = (twin.encode(texts) * scale + random.normal(size=dim) * noise).tolist()
        send(handler, 200, reply(rows, shuffled=shuffled))

    return behave


def embeds_wrongly(what: str):
    """A reply that is one of the protocol and cannot be used."""
    twin = HashEmbedder()

    def behave(handler, asked):
        rows: list[Any] = twin.encode(asked["input"]).tolist()
        if what == "nan":
            rows[0][0] = math.nan
        elif what == "infinite":
            rows[0][0] = math.inf
        elif what == "zero":
            rows[0] = [0.0] * 32
        elif what == "short":
            rows.pop()
        elif what == "ragged":
            rows[0].pop()
        elif what == "longer":
            rows = [[*row, 0.5] for row in rows]
        elif what == "words":
            rows[0] = "a vector"
        send(handler, 200, reply(rows))

    return behave


def reply(rows: list[Any], *, shuffled: bool = False) -> str:
    """A reply of the protocol; its items may come in another order than the texts."""
    items = [{"object": "embedding", "index": n, "embedding": row} for n, row in enumerate(rows)]
    body = {"object": "list", "model": "m", "data": items[::-1] if shuffled else items}
    return json.dumps(body | {"usage": {"prompt_tokens": 1, "total_tokens": 1}})
