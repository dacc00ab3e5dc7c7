"""Is an answer ever stale? Real histories replayed, and asked what was true now and then.

A hit is judged by the document it comes from and the value that the passage, or the document's
metadata, has for the question. fresh@1: the first hit is of the right document and has the value
that is true at the asked revision. stale@10: among the first ten is a passage of the right document
that has another value, or any value where there is none: a row that is gone, for instance.

Both are asked of headwater, of the exact search of what the revision holds and nothing else, and of
two controls that must fail: an index that never removes, and the current index asked about the past.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from benchmarks.corpora import ABSENT, SHARED
from benchmarks.exact import Passage, RememberedVectors
from benchmarks.figures import Figure, skipped
from benchmarks.temporal_base import Revision, replayed, revisions
from benchmarks.temporal_corpora import CORPORA, QUESTIONS, Corpus, Question, Truth
from headwater.retrieval import Retriever
from headwater.retrieval.encoders import open_query_encoder
from headwater.retrieval.hits import Hit, Mode
from headwater.storage.store import Store

_K: Final = 10
_MODES: Final[tuple[Mode, ...]] = ("hybrid", "dense")
_CONTROL: Final = 20.0
"""Percent of the questions that an index that never removes must answer stale, or nothing is seen."""

When = Literal["current", "as of"]
_WHENS: Final[tuple[When, ...]] = ("current", "as of")


@dataclass
class Tally:
    """Questions asked of one index, and how they were answered.

    Attributes:
        asked: all.
        answerable: of them, those that have an answer; only these can be fresh.
        fresh: whose first hit has it.
        stale: with a stale value among the hits.
        shared: sum of the shares of the hits that exact search has too.
    """

    asked: int = 0
    answerable: int = 0
    fresh: int = 0
    stale: int = 0
    shared: float = 0.0

    def add(self, *, answerable: bool, fresh: bool, stale: bool, shared: float) -> None:
        """Count one question."""
        self.asked += 1
        self.answerable += answerable
        self.fresh += fresh
        self.stale += stale
        self.shared += shared

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Tally(*(mine + theirs for mine, theirs in pairs))

    @property
    def fresh_share(self) -> float:
        """fresh@1."""
        return self.fresh / max(1, self.answerable)

    @property
    def stale_share(self) -> float:
        """stale@10."""
        return self.stale / max(1, self.asked)

    @property
    def shared_share(self) -> float:
        """What share of the hits exact search has too."""
        return self.shared / max(1, self.asked)


_Place = tuple[str, Mode, When, str]
"""What was asked, how, about when, and the corpus."""


@dataclass
class Found:
    """What all corpora gave.

    Attributes:
        tallies: see `_Place`; what was asked is headwater, alone, everything or now.
        left_out: corpus -> questions whose history says what the corpus does not.
    """

    tallies: dict[_Place, Tally] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def tally(self, asked: str, mode: Mode, when: When, corpus: str) -> Tally:
        """The tally of one place, made at its first use."""
        return self.tallies.setdefault((asked, mode, when, corpus), Tally())

    def total(self, asked: str, mode: Mode, when: When) -> Tally:
        """Over all corpora."""
        total = Tally()
        for corpus in CORPORA:
            total = total.plus(self.tally(asked, mode, when, corpus.name))
        return total

    def by_corpus(self, asked: str, mode: Mode, when: When, what: str) -> str:
        """`what` of a tally in percent, for each corpus."""
        shares = ((c.name, getattr(self.tally(asked, mode, when, c.name), what)) for c in CORPORA)
        return ", ".join(f"{name} {share:.1%}" for name, share in shares)


def measure(work: Path) -> Iterator[Figure]:
    """fresh@1 and stale@10, now and as of the past, beside exact search and the controls."""
    if not QUESTIONS.is_dir() or not (SHARED / "replay.py").is_file():
        yield skipped("temporal questions", ABSENT)
        return
    found = Found()
    for corpus in CORPORA:
        _ask_all(replayed(work, corpus), corpus, found)
    for mode in _MODES:
        for when in _WHENS:
            yield from _figures(found, mode, when)
    yield from _controls(found)


def _ask_all(root: Path, corpus: Corpus, found: Found) -> None:
    """Ask every index every question at every replayed revision."""
    questions = corpus.questions()
    store = Store.open(root / "store")
    encoder = store.resolve(None).encoder
    assert encoder is not None
    vectors = RememberedVectors(open_query_encoder(encoder, store.objects))
    vectors.encode([question.query for question in questions])
    with Retriever.open(root, encoder=vectors) as retriever:
        for revision in revisions(root, corpus):
            last = revision.number == corpus.revisions[-1]
            for question in questions:
                if question.asked_at(revision.number):
                    _ask(retriever, vectors, corpus, revision, question, found, last=last)


def _ask(
    retriever: Retriever,
    vectors: RememberedVectors,
    corpus: Corpus,
    revision: Revision,
    question: Question,
    found: Found,
    *,
    last: bool,
) -> None:
    truth = corpus.truth(question, revision.number, revision.documents)
    if not truth.agreed:
        found.left_out[corpus.name] += 1
        return
    query, when = question.query, _WHENS[0] if last else _WHENS[1]
    vector = vectors.encode([query])[0]
    for mode in _MODES:
        hits = retriever.search(query, _K, mode=mode, as_of=None if last else revision.time)
        answers = {
            "headwater": _passages(hits),
            "alone": revision.alone.search(query, vector, _K, mode),
            "everything": revision.everything.search(query, vector, _K, mode),
        }
        if not last:
            answers["now"] = _passages(retriever.search(query, _K, mode=mode))
        exact = {passage.text for passage in answers["alone"]}
        for asked, passages in answers.items():
            tally = found.tally(asked, mode, when, corpus.name)
            shared = len(exact & {passage.text for passage in passages}) / max(1, len(exact))
            judge(tally, corpus, question, truth, passages, shared=shared)


def _passages(hits: Sequence[Hit]) -> list[Passage]:
    """Hits as the other indexes give them."""
    return [
        Passage(hit.text, (hit.key, *(key for _, key in hit.others)), hit.metadata) for hit in hits
    ]


def judge(
    tally: Tally,
    corpus: Corpus,
    question: Question,
    truth: Truth,
    passages: Sequence[Passage],
    *,
    shared: float,
) -> None:
    """Count what an index answered a question with.

    Args:
        tally: where to.
        corpus: says what a passage says.
        question: that was asked.
        truth: what is true at the revision that was asked about.
        passages: the hits, best first.
        shared: what share of the hits of exact search is among them.
    """
    said = [_said(corpus, question, passage) for passage in passages]
    answer = truth.answer
    tally.add(
        answerable=answer is not None,
        fresh=answer is not None and said[:1] == [{answer}],
        stale=any(value != answer for values in said for value in values),
        shared=shared,
    )


def _said(corpus: Corpus, question: Question, passage: Passage) -> set[str]:
    """The values that a passage has for a question; none where it is of another document."""
    if question.document not in passage.owners:
        return set()
    # Of several documents with the same text a hit tells the metadata of the first alone.
    first = passage.owners[0] == question.document
    return corpus.said(question, passage.text, passage.metadata if first else {})


def _figures(found: Found, mode: Mode, when: When) -> Iterator[Figure]:
    ours, exact = (found.total(asked, mode, when) for asked in ("headwater", "alone"))
    note = found.by_corpus("headwater", mode, when, "fresh_share")
    what = f"{when}, {mode}"
    yield Figure(
        f"{what}: fresh@1",
        100 * ours.fresh_share,
        "%",
        note=f"{ours.answerable:,} questions; {note}",
    )
    yield Figure(
        "  less that of exact search",
        100 * (ours.fresh_share - exact.fresh_share),
        "points",
        least=-1.0,
        most=1.0,
        note=f"over that revision alone; {found.by_corpus('alone', mode, when, 'fresh_share')}",
    )
    yield Figure(
        "  hits that exact search has too",
        100 * ours.shared_share,
        "%",
        note=found.by_corpus("headwater", mode, when, "shared_share"),
    )
    yield Figure(
        "  stale@10",
        100 * ours.stale_share,
        "%",
        most=0,
        note=f"{ours.stale} of {ours.asked:,} questions",
    )


def _controls(found: Found) -> Iterator[Figure]:
    """What must fail, or the metric sees nothing."""
    never = "an index that never removes"
    for mode in _MODES:
        yield _control(found, f"{never}, current, {mode}", "everything", mode, "current")
    for mode in _MODES:
        yield _control(found, f"{never}, as of, {mode}", "everything", mode, "as of")
    for mode in _MODES:
        yield _control(found, f"the current index about the past, {mode}", "now", mode, "as of")
    note = "the corpus says something else than the question's history, or cannot be read"
    left = ", ".join(f"{corpus} {count}" for corpus, count in found.left_out.items()) or "none"
    yield Figure(
        "questions left out", sum(found.left_out.values()), note=f"{left}: {note}", digits=0
    )


def _control(found: Found, what: str, asked: str, mode: Mode, when: When) -> Figure:
    """A control has a target where most of the history lies before the question."""
    tally = found.total(asked, mode, when)
    by_corpus = found.by_corpus(asked, mode, when, "stale_share")
    return Figure(
        f"control, {what}: stale@10",
        100 * tally.stale_share,
        "%",
        least=_CONTROL if when == "current" else None,
        note=f"{by_corpus}; fresh@1 {tally.fresh_share:.1%}",
    )
