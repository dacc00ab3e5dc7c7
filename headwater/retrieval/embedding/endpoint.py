"""An endpoint that speaks the OpenAI protocol: hosted, or a server of one's own.

It may be slow, ask to wait, or lie: what it sends is taken only if it is one finite vector of the
right length for every text. And the model behind its name may be exchanged at any moment, so that
every request carries a text whose vector is known already.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any, Final, Self

import numpy as np

from headwater.config import EmbeddingEndpoint
from headwater.errors import EndpointError, HeadwaterError, ModelError
from headwater.retrieval.embedding.canary import CANARY_TEXTS, SAME_MODEL
from headwater.retrieval.embedding.protocol import in_groups
from headwater.retrieval.encoder import Vectors
from headwater.retrieval.endpoints import endpoint_client, refusal
from headwater.retrieval.normalisation import normalise
from headwater.retrieval.space import Space
from headwater.retrieval.tokens import Tokenizer

_SENTINEL: Final = 1
"""Which of the canary texts every request carries: a short sentence."""


class EndpointEmbedder:
    """Vectors from an endpoint.

    Args:
        endpoint: where, and how patiently.
        space: of the model; `dim` 0 takes what the first reply has.
        tokenizer: `tokenizer.json`; texts longer than the space's `max_tokens` are cut there.

    Raises:
        MissingExtraError: the package `openai` is not installed.
        ConfigError: the variable that holds the key is not set.
        ModelError: the tokenizer cannot be read.
    """

    def __init__(self, endpoint: EmbeddingEndpoint, space: Space, tokenizer: bytes) -> None:
        self.space = space
        self._endpoint = endpoint
        self._tokenizer = Tokenizer(tokenizer)
        self._prompt = space.document_prompt
        self._known: Vectors | None = None
        self._client: Any = endpoint_client(endpoint)
        self._pace = Pace(endpoint.requests_per_minute)

    def expecting(self, canary: Vectors) -> Self:
        """The same, refusing replies of another model than the one that gave these canary vectors.

        Args:
            canary: float32 (texts, dim), as `canary_vectors` returned it.
        """
        other = copy(self)
        other._known = canary[_SENTINEL]
        return other

    def with_prompt(self, prompt: str) -> Self:
        """The same, for texts that another prompt is put before."""
        other = copy(self)
        other._prompt = prompt
        return other

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`.

        Raises:
            EndpointError: it cannot be reached, refuses, is too slow, or sends what is no vector of
                the space for every text.
            ModelError: it is another model than before.
        """
        size = self._endpoint.batch
        batches = [texts[first : first + size] for first in range(0, len(texts), size)]
        if not batches:
            return np.empty((0, self.space.dim), dtype=np.float32)
        if len(batches) == 1:
            return self._asked(batches[0])
        with ThreadPoolExecutor(min(self._endpoint.parallel, len(batches))) as pool:
            return np.concatenate(list(pool.map(self._asked, batches)))

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        """See `Embedder.embed`; a group is as many requests as may run at once."""
        yield from in_groups(self, texts, self._endpoint.batch * self._endpoint.parallel)

    def _asked(self, texts: Sequence[str]) -> Vectors:
        wanted: dict[str, Any] = {"model": self._endpoint.model, "encoding_format": "float"}
        if self._endpoint.dimensions:
            wanted["dimensions"] = self._endpoint.dimensions
        shown = [self._prompt + self._short(normalise(text)) for text in texts]
        if self._known is not None:
            shown.append(self.space.document_prompt + normalise(CANARY_TEXTS[_SENTINEL]))
        self._pace.wait()
        try:
            raw = self._client.embeddings.with_raw_response.create(input=shown, **wanted)
            body = json.loads(raw.text if isinstance(raw.text, str) else raw.text())
        except HeadwaterError:
            raise
        except ValueError:
            raise self._unusable("what it sent is no reply of the protocol") from None
        except Exception as error:  # noqa: BLE001
            # Whatever the client and the other side's bytes made of it, it is one failed request.
            raise refusal(error, self._endpoint) from None
        vectors = self._read(body, len(shown))
        if self._known is not None and not float(vectors[-1] @ self._known) >= SAME_MODEL:
            raise ModelError(
                "The endpoint has another model than before under the same name",
                obj=f"{self._endpoint.model} at {self._endpoint.url}",
                todo="restore it, or build the index anew with: headwater refresh --new-model",
            )
        return vectors[: len(texts)]

    def _short(self, text: str) -> str:
        offsets = self._tokenizer.offsets(text)
        limit = self.space.max_tokens
        return text if len(offsets) <= limit else text[: offsets[limit - 1][1]]

    def _read(self, body: Any, count: int) -> Vectors:
        """The vectors of a reply, in the order of the texts, L2-normalised."""
        try:
            rows = {int(item["index"]): item["embedding"] for item in body["data"]}
            vectors = np.array([rows[index] for index in range(count)], dtype=np.float32)
        except (TypeError, KeyError, ValueError, OverflowError):
            raise self._unusable(f"there is not one vector for each of {count} texts") from None
        if vectors.ndim != 2 or vectors.shape[1] != (self.space.dim or vectors.shape[1]):
            raise self._unusable(f"vectors of {vectors.shape[1:]} in place of {self.space.dim}")
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or not norms.all():
            raise self._unusable("a vector is zero, infinite or no number")
        return np.asarray(vectors / norms, dtype=np.float32)

    def _unusable(self, why: str) -> EndpointError:
        return EndpointError(
            "The endpoint's vectors cannot be used",
            obj=f"{self._endpoint.model} at {self._endpoint.url}",
            todo=f"{why}; see embedding.endpoint in headwater.yaml",
        )


class Pace:
    """Holds requests back so that no more than so many begin in a minute.

    Args:
        per_minute: None holds nothing back.
        clock: seconds, for tests.
        sleep: for tests.
    """

    def __init__(
        self,
        per_minute: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._between = 60 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._next = clock()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Wait for one's turn; several threads take turns in the order they came."""
        with self._lock:
            turn = max(self._next, self._clock())
            self._next = turn + self._between
        if (left := turn - self._clock()) > 0:
            self._sleep(left)
