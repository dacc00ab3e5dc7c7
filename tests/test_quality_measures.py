"""What the measurements of quality call fresh and stale, on passages written here."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.exact import ExactIndex, Passage
from benchmarks.fusion import Candidates, by_one, by_ranks, by_weights
from benchmarks.temporal import Tally, judge
from benchmarks.temporal_corpora import CORPORA, Document, Question, Truth, spread
from headwater.retrieval.lexical import analyzer_name

CORPUS = {corpus.name: corpus for corpus in CORPORA}
COMPANY = Question("Which sector?", "ACME", "ACME", "GICS Sector", ((0, "Tools"), (4, "Energy")))
MEMBER = Question("A member?", "ACME", "ACME", "member", ((0, "yes"), (4, "no")))
STATUS = Question("What status?", "one.md", "1", "status", ((0, "Draft"), (4, "Final")))
RELEASE = Question("Latest of 1.9?", "lamp.md", "1.9", "latest", ((0, "1.9.4"), (4, "1.9.5")))
TABLE = "releases[0].releaseCycle: 1.9\nreleases[0].latest: {}\n\nreleases[1].latest: 7"


def row(sector: str) -> Passage:
    """A company in a sector."""
    return Passage(f"Symbol: ACME\nGICS Sector: {sector}", ("ACME",))


def judged(corpus: str, question: Question, answer: str | None, *passages: Passage) -> Tally:
    """The tally of one question that was answered with these passages."""
    tally = Tally()
    judge(tally, CORPUS[corpus], question, Truth(answer, True), passages, shared=1.0)
    return tally


def outcome(tally: Tally) -> tuple[int, int]:
    """Fresh and stale."""
    return tally.fresh, tally.stale


@pytest.mark.parametrize(
    ("corpus", "question", "answer", "true", "old"),
    [
        ("sp500", COMPANY, "energy", row("Energy"), row("Tools")),
        (
            "eips",
            STATUS,
            "final",
            Passage("A lamp.", ("one.md",), {"status": "Final"}),
            Passage("A lamp.", ("one.md",), {"status": "Draft"}),
        ),
        (
            "endoflife",
            RELEASE,
            "1.9.5",
            Passage(TABLE.format("1.9.5"), ("lamp.md",)),
            Passage(TABLE.format("1.9.4"), ("lamp.md",)),
        ),
    ],
)
def test_a_value_is_fresh_or_stale_wherever_a_corpus_says_it(corpus, question, answer, true, old):
    """In a row, in metadata, in a table of a page: the first hit is fresh, any old one is stale."""
    assert outcome(judged(corpus, question, answer, true)) == (1, 0)
    assert outcome(judged(corpus, question, answer, true, old)) == (1, 1)
    assert outcome(judged(corpus, question, answer, old, true)) == (0, 1)
    assert outcome(judged(corpus, question, answer)) == (0, 0)


def test_a_passage_of_another_document_is_neither():
    """Whatever it says; and of a shared text the metadata belongs to the first document alone."""
    other = Passage("GICS Sector: Tools", ("OTHER",))
    assert outcome(judged("sp500", COMPANY, "energy", other)) == (0, 0)
    shared = Passage("A lamp.", ("a.md", "one.md"), {"status": "Draft"})
    assert outcome(judged("eips", STATUS, "final", shared)) == (0, 0)


def test_a_row_that_is_gone_makes_every_passage_of_it_stale():
    """Nothing can be fresh then, and the question does not count among those that can."""
    tally = judged("sp500", MEMBER, None, row("Tools"))
    assert outcome(tally) == (0, 1) and (tally.asked, tally.answerable) == (1, 0)
    assert outcome(judged("sp500", MEMBER, "yes", row("Tools"))) == (1, 0)


def test_a_release_that_the_passage_does_not_name_says_nothing():
    """The value alone tells a reader nothing."""
    continued = Passage("releases[0].latest: 1.9.4", ("lamp.md",))
    assert outcome(judged("endoflife", RELEASE, "1.9.5", continued)) == (0, 0)


def test_truth_is_what_history_and_corpus_agree_on():
    """A history that goes on after its row has gone is silent; one that contradicts is left out."""
    corpus = CORPUS["sp500"]
    held = {"ACME": Document(row("Energy").text, {})}
    assert corpus.truth(COMPANY, 5, held) == Truth("energy", True)
    assert corpus.truth(COMPANY, 3, held) == Truth("tools", False)
    assert corpus.truth(COMPANY, 5, {}) == Truth(None, True)
    assert corpus.truth(MEMBER, 5, {}) == Truth(None, True)


def test_revisions_are_spread_evenly():
    """Both ends are among them."""
    assert spread(0, 188, 7) == (0, 31, 63, 94, 125, 157, 188)


def test_the_exact_search_finds_by_vector_and_by_word():
    """The yardstick itself, over three passages."""
    passages = [Passage(text, (text[0],)) for text in ("a lamp", "b lamp post", "c harbour")]
    index = ExactIndex(passages, np.eye(3, dtype=np.float32), analyzer_name("english"))
    asked = np.array([0.0, 0.6, 0.8], dtype=np.float32)
    assert [row for row, _ in index.dense(asked, 2)] == [2, 1]
    assert [row for row, _ in index.lexical("posts", 3)] == [1]
    assert index.search("post", asked, 1, "hybrid") == [passages[1]]


def test_weights_go_from_one_search_to_the_other():
    """All of the weight on one side gives the order of that side; ranks stand between."""
    found = Candidates([(0, 0.9), (1, 0.5)], [(2, 7.0), (1, 3.0)], {0: 0.9, 1: 0.5, 2: 0.1})

    def order(fuse):
        scores = fuse(found)
        return sorted(scores, key=lambda row: -scores[row])

    for normal in ("min-max", "z"):
        assert order(by_weights(normal, 1.0)) == [0, 1, 2]
        assert order(by_weights(normal, 0.0))[:2] == [2, 1]
    assert order(by_ranks(10))[0] == 1
    assert order(by_one("dense")) == [0, 1] and order(by_one("lexical")) == [2, 1]
