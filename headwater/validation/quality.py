"""The quality gates: what the answers of a candidate's index say about publishing it. Pure.

Details name documents and lines of `golden.yaml`, never a text: a manifest outlives what it tells of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headwater.storage.manifest import Gate

GOLDEN_GATE = "golden-queries"
CHANGE_GATE = "new-text-found"
WORDS_GATE = "new-words-found"
OLD_TEXT_GATE = "old-text-gone"
GRAPH_GATE = "graph-recall"

_NAMED = 5


@dataclass(frozen=True)
class Outcome:
    """How one question to the candidate went.

    Attributes:
        name: what was asked for: a line of `golden.yaml`, or a document.
        passed: whether it was found, or is gone, as it should.
    """

    name: str
    passed: bool


def golden_queries(outcomes: Sequence[Outcome], *, share: float, severity: str) -> Gate:
    """Whether at least `share` (0 to 1) of the golden queries found what they expect."""
    return _share(GOLDEN_GATE, outcomes, share, severity, "golden queries found what they expect")


def new_text_found(outcomes: Sequence[Outcome], *, share: float, severity: str, k: int) -> Gate:
    """Whether at least `share` (0 to 1) of the new texts are found by their opening.

    Args:
        outcomes: one per document that was asked for.
        share: the bar.
        severity: of the gate.
        k: how many hits were looked at.
    """
    return _share(
        CHANGE_GATE,
        outcomes,
        share,
        severity,
        f"new texts are among the {k} nearest to their opening",
    )


def new_words_found(outcomes: Sequence[Outcome], *, share: float, severity: str, k: int) -> Gate:
    """The same of a search for the words of the opening."""
    what = f"new texts are among the {k} that share most words with their opening"
    return _share(WORDS_GATE, outcomes, share, severity, what)


def old_text_gone(outcomes: Sequence[Outcome], *, severity: str) -> Gate:
    """Whether no search, by meaning or by words, finds a text that the candidate no longer holds."""
    return _share(OLD_TEXT_GATE, outcomes, 1.0, severity, "old texts are found no more")


def graph_recall(found: float, *, bar: float, severity: str, graphs: int, queries: int) -> Gate:
    """Whether the new graphs find what the exact scan finds.

    Args:
        found: recall@10 of the worst of them, 0 to 1.
        bar: what it must reach.
        severity: of the gate.
        graphs: how many were asked.
        queries: how many questions each of them was asked.
    """
    detail = (
        f"recall@10 {found:.3f} over {queries} queries, the worst of {graphs}; at least {bar:g}"
    )
    return Gate(GRAPH_GATE, found >= bar, severity, detail)


def _share(name: str, outcomes: Sequence[Outcome], share: float, severity: str, what: str) -> Gate:
    good = sum(outcome.passed for outcome in outcomes)
    # Counted, not divided: 0.9 of 10 is exactly 9.
    passed = good >= round(share * len(outcomes), 6)
    missed = _listed(outcome.name for outcome in outcomes if not outcome.passed)
    bar = f", at least {share:g} must" if not passed else ""
    return Gate(name, passed, severity, f"{good} of {len(outcomes)} {what}{bar}{missed}")


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return f"; not: {', '.join(every[:_NAMED])}{more}" if every else ""
