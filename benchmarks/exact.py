"""A search that shares no snapshot, no tombstone and no graph with headwater: the yardstick.

It is given passages and searches all of them: by a product with every vector, and by words in an
index of its own. Given what a snapshot should hold it is the exact search of that snapshot; given
everything that was ever held it is the index that never removes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import tantivy

from headwater.retrieval.encoder import TextEncoder, Vectors
from headwater.retrieval.hits import Mode
from headwater.retrieval.lexical import ANALYZER, FIELD, analyzer
from headwater.retrieval.normalisation import normalise
from headwater.retrieval.ranking import Ranked, ranked
from headwater.retrieval.vector_search import Found
from headwater.retrieval.word_search import WordIndex

DEPTH: Final = 100
"""Candidates of either half of a hybrid search, as `headwater.retrieval.snapshot_view` has them."""
_HEAP: Final = 200_000_000
_BLOCK: Final = 16
"""Rows that BLAS multiplies in one go: so few that it does so in this thread, and wakes no other."""


@dataclass(frozen=True)
class Passage:
    """A text that can be found, and the documents that hold it.

    Attributes:
        text: of the chunk.
        owners: keys of the documents; `metadata` is that of the first.
        metadata: of the document.
    """

    text: str
    owners: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)


class ExactIndex:
    """Passages, searched one by one.

    Args:
        passages: in the order in which equally good ones are returned.
        vectors: of them, float32 (n, dim), L2-normalised.
        analyzer_name: how words are cut.
    """

    def __init__(self, passages: Sequence[Passage], vectors: Vectors, analyzer_name: str) -> None:
        self.passages = passages
        self._vectors = np.pad(vectors, ((0, -len(vectors) % _BLOCK), (0, 0)))
        self._words = WordIndex(_word_index(passages, analyzer_name), analyzer_name, [0])
        self._all = np.ones(len(passages), dtype=bool)

    def dense(self, vector: np.ndarray, n: int) -> list[tuple[int, float]]:
        """The `n` nearest passages and their cosines, best first. vector: float32 (dim,)."""
        blocks = self._vectors.reshape(-1, _BLOCK, len(vector))
        scores = np.matmul(blocks, vector).ravel()[: len(self.passages)]
        n = min(n, len(scores))
        bar = np.partition(scores, len(scores) - n)[len(scores) - n]
        rows = np.flatnonzero(scores >= bar)
        order = rows[np.argsort(-scores[rows], kind="stable")][:n]
        return [(int(row), float(scores[row])) for row in order]

    def lexical(self, query: str, n: int) -> list[tuple[int, float]]:
        """The `n` passages that share most with the words of a query, and their BM25 scores."""
        return self._words.search(query, n, self._all)

    def cosines(self, vector: np.ndarray, rows: Sequence[int]) -> dict[int, float]:
        """The cosines of some passages. vector: float32 (dim,)."""
        return {row: float(self._vectors[row] @ vector) for row in rows}

    def search(self, query: str, vector: np.ndarray, k: int, mode: Mode) -> list[Passage]:
        """The `k` best passages: of both halves the best `DEPTH`, fused as headwater does."""
        if mode == "dense":
            return [self.passages[row] for row, _ in self.dense(vector, k)]
        if mode == "lexical":
            return [self.passages[row] for row, _ in self.lexical(query, k)]
        return [self.passages[found.row] for found in self._hybrid(query, vector, k)]

    def _hybrid(self, query: str, vector: np.ndarray, k: int) -> list[Ranked]:
        near = [Found(row, score, "exact") for row, score in self.dense(vector, DEPTH)]
        worded = self.lexical(query, DEPTH)
        seen = {found.row for found in near}
        rest = self.cosines(vector, [row for row, _ in worded if row not in seen])
        return ranked(k, dense=near, lexical=worded, cosines=rest)


class RememberedVectors:
    """An encoder that embeds every text once, so that all searches ask with the same vectors."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._known: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known.update(zip(new, self._encoder.encode(new), strict=True))
        return np.stack([self._known[text] for text in texts])


def _word_index(passages: Sequence[Passage], name: str) -> tantivy.Index:
    """An index of words in memory: passage n is document n of its one segment."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field(FIELD, stored=False, tokenizer_name=ANALYZER, index_option="position")
    index = tantivy.Index(builder.build())
    index.register_tokenizer(ANALYZER, analyzer(name))
    writer = index.writer(heap_size=_HEAP, num_threads=1)
    for passage in passages:
        document = tantivy.Document()
        document.add_text(FIELD, normalise(passage.text))
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    return index
