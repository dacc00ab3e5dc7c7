"""What the query log tells: how much is asked, what is not found, what should always be. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from headwater.retrieval.query_log import Asked

GOOD_COSINE: Final = 0.40
"""Above this a hit is taken for an answer. Measured with the default model: of questions that a
knowledge base can answer 1.5 to 3.3 % have no nearer hit, of such that belong to another one all."""


@dataclass(frozen=True)
class Volumes:
    """How much is asked.

    Attributes:
        queries, distinct: in all.
        without_good_hit: queries whose nearest hit is not near, or that have none.
        days: day -> queries.
        sources: source -> queries that had a hit of it.
        hits: source -> hits of it.
        p50_ms, p95_ms: how long a search took.
    """

    queries: int
    distinct: int
    without_good_hit: int
    days: Mapping[str, int]
    sources: Mapping[str, int]
    hits: Mapping[str, int]
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Question:
    """A question that was asked, once or often.

    Attributes:
        query: its keyed hash.
        text: its words, where they are kept.
        times: how often.
        cosine: of its nearest hit when it was last asked; None without one.
        documents: `source/key` of what was found first, each time it was asked.
    """

    query: str
    text: str | None
    times: int
    cosine: float | None
    documents: tuple[str, ...]


def volumes(lines: Iterable[Asked], *, good: float = GOOD_COSINE) -> Volumes:
    """How much is asked, of which sources, and how often without success."""
    listed = list(lines)
    times = [line.ms for line in listed]
    hits: Counter[str] = Counter()
    for line in listed:
        hits.update(line.sources)
    return Volumes(
        queries=len(listed),
        distinct=len({line.query for line in listed}),
        without_good_hit=sum(not is_good(line, good) for line in listed),
        days=dict(sorted(Counter(line.at[:10] for line in listed).items())),
        sources=dict(Counter(source for line in listed for source in line.sources).most_common()),
        hits=dict(hits.most_common()),
        p50_ms=float(np.percentile(times, 50)) if times else 0.0,
        p95_ms=float(np.percentile(times, 95)) if times else 0.0,
    )


def is_good(line: Asked, good: float = GOOD_COSINE) -> bool:
    """Whether a search found something near; one for words alone, whether it found anything."""
    if line.cosine is None:
        return line.found > 0
    return line.cosine >= good


def unanswered(lines: Iterable[Asked], *, good: float = GOOD_COSINE) -> list[Question]:
    """Questions without a good hit when they were last asked, the most frequent first.

    Restricted searches do not count: what they did not find may be there for others.
    """
    asked = _by_query(line for line in lines if not line.restricted and not line.past)
    return [_question(group) for group in asked if not is_good(group[-1], good)]


def settled(lines: Iterable[Asked], *, times: int = 2, good: float = GOOD_COSINE) -> list[Question]:
    """Questions with words that found the same document first whenever they were asked, well.

    Candidates for golden queries: asked by people, answered steadily.

    Args:
        lines: of the log.
        times: asked at least so often.
        good: the least cosine.
    """
    asked = _by_query(line for line in lines if not line.restricted and not line.past)
    found = []
    for group in asked:
        first = {line.top[0] for line in group if line.top}
        steady = len(first) == 1 and all(line.top and is_good(line, good) for line in group)
        if len(group) >= times and group[-1].text and steady:
            found.append(_question(group))
    return found


def _by_query(lines: Iterable[Asked]) -> list[Sequence[Asked]]:
    """Lines of the same question together, the most frequent question first."""
    groups: defaultdict[str, list[Asked]] = defaultdict(list)
    for line in lines:
        groups[line.query].append(line)
    return sorted(groups.values(), key=lambda group: (-len(group), group[-1].query))


def _question(group: Sequence[Asked]) -> Question:
    last = group[-1]
    documents = tuple(dict.fromkeys(line.top[0] for line in group if line.top))
    return Question(last.query, last.text, len(group), last.cosine, documents)
