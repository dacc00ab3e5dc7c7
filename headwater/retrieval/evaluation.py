"""How good a ranking is, by judgements: nDCG, recall and reciprocal rank. Pure.

The three agree with `trec_eval`, which the BEIR figures are computed with: a judgement above zero is
relevant, and the gain of a document is its judgement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

Judgements = Mapping[str, int]
"""Document -> how relevant it is to one query; zero and below is not relevant."""

NDCG_AT = 10
RECALL_AT = 100
MRR_AT = 10


@dataclass(frozen=True)
class Scores:
    """Means over the queries that have a relevant document, each 0 to 1.

    Attributes:
        ndcg: at 10.
        recall: at 100.
        mrr: at 10.
        queries: how many.
    """

    ndcg: float
    recall: float
    mrr: float
    queries: int


def ndcg(ranked: Sequence[str], judged: Judgements, k: int = NDCG_AT) -> float:
    """Normalised discounted cumulative gain at `k`: DCG of the ranking over DCG of the best one.

    DCG@k = sum over ranks i = 1..k of rel_i / log2(i + 1). Järvelin and Kekäläinen, "Cumulated
    gain-based evaluation of IR techniques", ACM TOIS 20(4), 2002, with the discount and the linear
    gain of trec_eval's `ndcg_cut`.

    Args:
        ranked: distinct documents, best first.
        judged: of the query.
        k: ranks that count.

    Returns:
        0 to 1; 0 where nothing is relevant.
    """
    gains = [max(0, judged.get(document, 0)) for document in ranked[:k]]
    best = sorted((rel for rel in judged.values() if rel > 0), reverse=True)[:k]
    return _dcg(gains) / _dcg(best) if best else 0.0


def recall(ranked: Sequence[str], judged: Judgements, k: int = RECALL_AT) -> float:
    """Recall at `k`: the share of the relevant documents among the first `k`.

    |relevant ∩ first k| / |relevant|: trec_eval's `recall`; Manning, Raghavan and Schütze,
    "Introduction to Information Retrieval", 2008, section 8.3. 0 where nothing is relevant.
    """
    relevant = _relevant(judged)
    return len(relevant.intersection(ranked[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranked: Sequence[str], judged: Judgements, k: int = MRR_AT) -> float:
    """One over the rank of the first relevant document, 0 when none is among the first `k`.

    Its mean over queries is MRR@k: Voorhees, "The TREC-8 Question Answering Track Report", 1999;
    the cut as in MS MARCO.
    """
    relevant = _relevant(judged)
    ranks = (rank for rank, document in enumerate(ranked[:k], 1) if document in relevant)
    return 1 / next(ranks, np.inf)


def score(runs: Mapping[str, Sequence[str]], judgements: Mapping[str, Judgements]) -> Scores:
    """The means over all queries that have a relevant document.

    Args:
        runs: query -> documents, best first; a query that is not there found nothing.
        judgements: query -> its judgements.
    """
    asked = [query for query in sorted(judgements) if _relevant(judgements[query])]
    rows = [(runs.get(query, ()), judgements[query]) for query in asked]
    if not rows:
        return Scores(0.0, 0.0, 0.0, 0)
    values = [[ndcg(*row), recall(*row), reciprocal_rank(*row)] for row in rows]
    means = np.mean(np.array(values, dtype=np.float64), axis=0)
    return Scores(float(means[0]), float(means[1]), float(means[2]), len(rows))


def rank_documents(hits: Iterable[tuple[str, float]]) -> list[str]:
    """From ranked passages to ranked documents: a document's rank is that of its best passage.

    Args:
        hits: (document, score), best first. Documents of equal score are ordered by their name, so
            that no accident of storage decides.

    Returns:
        distinct documents, best first.
    """
    runs = groupby(hits, key=lambda hit: hit[1])
    ordered = (document for _, run in runs for document in sorted({name for name, _ in run}))
    return list(dict.fromkeys(ordered))


def _dcg(gains: Sequence[int]) -> float:
    return float(np.sum(np.array(gains) / np.log2(np.arange(2, len(gains) + 2))))


def _relevant(judged: Judgements) -> set[str]:
    return {document for document, rel in judged.items() if rel > 0}
