"""How well the default settings find what people judged relevant: SciFact, as `headwater eval` does it.

Nothing is ever tuned on it. What was measured elsewhere with the same model on whole abstracts is
told beside each figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.corpora import ABSENT, SHARED
from benchmarks.figures import Figure, skipped
from headwater.flows.evaluate import evaluate
from headwater.retrieval.chunking import CHUNKER_ID
from headwater.retrieval.evaluation import Scores
from headwater.retrieval.hits import Mode
from headwater.storage.manifest import FORMAT

SCIFACT: Final = SHARED / "ir" / "scifact"
_MODES: Final[tuple[Mode, ...]] = ("dense", "lexical", "hybrid")
_LEAST: Final[dict[Mode, float]] = {"dense": 0.640, "hybrid": 0.715}
_ANCHORS: Final[dict[Mode, str]] = {
    "dense": "exact search over whole abstracts: 0.6451",
    "lexical": "bm25s over whole abstracts, k1=1.5 b=0.75: 0.6863; k1=0.9 b=0.4: 0.6762",
    "hybrid": "reciprocal ranks of those two: 0.7165",
}


def kept_scifact(work: Path) -> Path:
    """Where the index of SciFact is kept between runs."""
    return work / f"scifact-format-{FORMAT}-{CHUNKER_ID.replace('/', '-')}"


def measure(work: Path) -> Iterator[Figure]:
    """nDCG@10, Recall@100 and MRR@10 of every way to search."""
    if not SCIFACT.is_dir():
        yield skipped("quality, scifact", ABSENT)
        return
    found = evaluate(SCIFACT, keep=kept_scifact(work), modes=_MODES)
    size = f"{found.documents:,} abstracts, {found.texts:,} passages"
    for mode in _MODES:
        yield from _figures(mode, found.scores[mode], size)


def _figures(mode: Mode, scores: Scores, size: str) -> Iterator[Figure]:
    note = f"{scores.queries} queries, {size}; {_ANCHORS[mode]}"
    least = _LEAST.get(mode)
    yield Figure(f"scifact, {mode}: nDCG@10", scores.ndcg, least=least, note=note, digits=4)
    yield Figure("  Recall@100", scores.recall, digits=4)
    yield Figure("  MRR@10", scores.mrr, digits=4)
