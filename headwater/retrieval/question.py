"""What one search asks: the arguments of `Retriever.search`, checked and frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from headwater.errors import ConfigError, ModelError
from headwater.retrieval.filters import Expression, parse
from headwater.retrieval.hits import MODES, Mode
from headwater.retrieval.visibility import Restriction
from headwater.storage.manifest import Encoder, format_time


@dataclass(frozen=True)
class Question:
    """A search.

    Attributes:
        text: what is asked.
        k: how many passages.
        mode: what is looked for.
        ref: the snapshot; None for the one that is served.
        asked: what may be returned, but for what moves with the clock.
        max_staleness: how long ago a document may have been confirmed; None for any time.
        explain: say of each hit where it came from.
    """

    text: str
    k: int
    mode: Mode
    ref: str | None
    asked: Restriction
    max_staleness: timedelta | None
    explain: bool

    @property
    def dense(self) -> bool:
        """Whether it is looked for by meaning."""
        return self.mode != "lexical"

    @property
    def words(self) -> str | None:
        """What is looked for by words; None for nothing."""
        return None if self.mode == "dense" else self.text


def restriction(
    sources: Sequence[str] | None,
    where: str | Expression | None,
    allow: Sequence[str] | None,
    changed_since: datetime | None,
) -> Restriction:
    """What a search may return.

    Raises:
        ConfigError: the filter cannot be read, or the labels are no list of texts.
    """
    return Restriction(
        sources=None if sources is None else frozenset(sources),
        where=_expression(where),
        allow=_labels(allow),
        changed_since=_aware(changed_since) if changed_since else None,
    )


def check_question(query: str, k: int, mode: str) -> None:
    """Refuse what cannot be answered.

    Raises:
        ConfigError: the query is empty or no text, `k` is no number or below 1, or there is no such
            mode.
    """
    if not isinstance(query, str):
        raise ConfigError("A query is a text", obj=repr(query)[:100], todo="ask in words")
    if not isinstance(k, int):
        raise ConfigError("k is a whole number", obj=repr(k)[:100], todo="write 5")
    if not query.strip():
        raise ConfigError("The query is empty", todo="ask for something")
    if k < 1:
        raise ConfigError("Too few passages are asked for", obj=f"k={k}", todo="ask for 1")
    if mode not in MODES:
        raise ConfigError(
            "There is no such way to search", obj=str(mode), todo=f"one of: {', '.join(MODES)}"
        )


def check_reranked(k: int, rerank: int, *, possible: bool) -> None:
    """Refuse a reranking that cannot be done.

    Raises:
        ConfigError: there is no reranker, or it would order fewer passages than are asked for.
    """
    if not possible:
        raise ConfigError(
            "There is nothing to rerank with",
            obj=f"rerank={rerank}",
            todo="give Retriever.open a reranker",
        )
    if rerank < k:
        raise ConfigError(
            "Fewer passages are reranked than asked for",
            obj=f"rerank={rerank}, k={k}",
            todo=f"rerank at least {k}; 50 is usual",
        )


def check_vectors(vectors: np.ndarray, encoder: Encoder) -> None:
    """Refuse what an encoder made of one query, where it is no vector of the snapshot's space.

    Raises:
        ModelError: it has another shape, a number in it is not finite, or all are 0.
    """
    shape, wanted = np.shape(vectors), (1, encoder.dim)
    if shape != wanted:
        wrong = f"{shape} in place of {wanted}"
    elif not np.isfinite(vectors).all():
        wrong = "a number in it is not finite"
    elif not np.any(vectors):
        wrong = "it has no direction"
    else:
        return
    raise ModelError(
        "The encoder gave no vector of the snapshot's space",
        obj=f"{encoder.model}: {wrong}",
        todo="give Retriever.open the encoder that the snapshot was built with, or none",
    )


def reference(as_of: str | datetime | None) -> str | None:
    """A snapshot as the store names it; a time without a zone is UTC."""
    return format_time(_aware(as_of)) if isinstance(as_of, datetime) else as_of


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _expression(where: str | Expression | None) -> Expression | None:
    if where is None or isinstance(where, Expression):
        return where
    if not isinstance(where, str):
        raise ConfigError(
            "A filter is a text or an expression", obj=repr(where), todo="see docs/filters.md"
        )
    return parse(where)


def _labels(allow: Sequence[str] | None) -> frozenset[str] | None:
    if isinstance(allow, str) or not all(isinstance(label, str) for label in allow or ()):
        raise ConfigError(
            "The caller's labels are a list of texts", obj=repr(allow), todo="write ['staff']"
        )
    return None if allow is None else frozenset(allow)
