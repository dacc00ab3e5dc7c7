"""The live texts of a view that share words with a query, best first by BM25.

Statistics (how rare a word is, how long a text) are those of all rows of the segments, dead ones
and such as the caller may not see included; which texts are returned is decided by the mask alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from headwater.retrieval.lexical import FIELD, analyzer
from headwater.retrieval.normalisation import normalise

if TYPE_CHECKING:
    import tantivy

_PHRASE: Final = re.compile(r'"([^"]+)"')
_LONGEST_QUERY: Final = 20_000
_MOST_WORDS: Final = 128
"""Of a query; a question has a dozen, and each costs a look at its postings."""
_BITS: Final = 32
"""As many as number a document within its segment."""


@dataclass(frozen=True)
class WordIndex:
    """The words of a view.

    Attributes:
        index: over all its segments, or over its live texts alone.
        name: of the analyzer.
        rows: int64 per segment of the index: the view's row of each of its documents, or of the
            first one where they follow each other.
    """

    index: tantivy.Index
    name: str
    rows: Sequence[int | np.ndarray]

    def search(self, query: str, n: int, allowed: np.ndarray) -> list[tuple[int, float]]:
        """The `n` best allowed rows and their BM25 scores, above 0.

        Args:
            query: any text; nothing in it is syntax but double quotes, which make a phrase count.
            n: how many at most.
            allowed: bool (rows of the view,).
        """
        asked = self._query(query)
        searcher = self.index.searcher()
        share = np.count_nonzero(allowed) / max(1, len(allowed))
        if asked is None or not share:
            return []
        limit = math.ceil(n / share * 1.5) + 8
        while True:
            hits = searcher.search(asked, limit=min(limit, searcher.num_docs), count=False).hits
            # One number for each: a tuple of two would take longer than the search.
            places = (place.segment_ord << _BITS | place.doc for _, place in hits)
            rows = self._rows(np.fromiter(places, dtype=np.int64, count=len(hits)))
            best = np.flatnonzero(allowed[rows])[:n].tolist()
            if len(best) == n or len(hits) < limit:
                return [(int(rows[at]), hits[at][0]) for at in best]
            limit *= 8

    def _rows(self, places: np.ndarray) -> np.ndarray:
        """The view's rows of documents of the index: int64 (n,).

        Args:
            places: int64 (n,): the segment of each, and in the lower bits its number there.
        """
        segment, found = places >> _BITS, places & ((1 << _BITS) - 1)
        for number, rows in enumerate(self.rows):
            own = segment == number
            found[own] = found[own] + rows if isinstance(rows, int) else rows[found[own]]
        return found

    def _query(self, text: str) -> tantivy.Query | None:
        """Any of the words, and quoted phrases once more as such; None without a word."""
        import tantivy

        text, cut = normalise(text[:_LONGEST_QUERY]), analyzer(self.name)
        schema = self.index.schema
        # "To be or not to be" has nothing but words of the list, and is asked all the same.
        asked = analyzer(self.name, stopped=True).analyze(text) or cut.analyze(text)
        words = list(dict.fromkeys(asked))[:_MOST_WORDS]
        parts = [tantivy.Query.term_query(schema, FIELD, word) for word in words]
        for phrase in _PHRASE.findall(text):
            quoted = cut.analyze(phrase)[:_MOST_WORDS]
            if len(quoted) > 1:
                parts.append(tantivy.Query.phrase_query(schema, FIELD, quoted))
        if not parts:
            return None
        return tantivy.Query.boolean_query([(tantivy.Occur.Should, part) for part in parts])
