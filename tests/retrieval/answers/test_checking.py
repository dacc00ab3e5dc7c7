"""The pure parts: which passages fit, what a citation is, what a statement stands on."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.retrieval.answers.checking import check, citations, sentences
from headwater.retrieval.answers.prompt import build_prompt, estimated_tokens, within
from headwater.retrieval.hits import Hit

DAY = datetime(2026, 11, 1, tzinfo=UTC)


def hit(text, key="a.md", **more):
    """A passage."""
    return Hit(
        text=text, score=1.0, source="docs", key=key, version_id="v", title=None, url=None,
        heading_path=(), start=0, end=len(text), snapshot="s", changed_at=DAY, verified_at=DAY,
        source_ts=None, labels=(), metadata={}, held_back=False, others=(), **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("a [1] b [2][3]", [1, 2, 3]),
        ("a [1, 3; 2]", [1, 3, 2]),
        ("a [2-4] and [2–3]", [2, 3, 4]),
        ("a [4-2]", [4, 2]),
        ("a [1](http://x) link", []),
        ("an `x[1]` and\n```\ny[2]\n```\nand [3]", [3]),
        ("```\nnever closed [1]", []),
        ("[0] [9999] [12345]", [0, 9999]),
        ("[one] [] [ 1 ]", []),
        ("[1-9999]", [1, 9999]),
    ],
)
def test_what_a_citation_is(text, numbers):
    """Numbers in square brackets, lists and short ranges; no links, no code."""
    assert citations(text) == numbers


@given(st.text(max_size=300))
def test_any_answer_can_be_checked(text):
    """Whatever a model says, the checks say something about it."""
    found = check(text, [hit("one"), hit("two", "b.md")])
    assert set(found.cited) <= {1, 2} and not set(found.invented) & {1, 2}
    assert set(citations(text)) >= {*found.cited, *found.invented}


def test_a_citation_after_the_stop_belongs_to_the_sentence_before():
    """Both ways of writing it are in use."""
    assert sentences("It leaves. [1] It returns [2]. Why?") == [
        "It leaves [1].",
        "It returns [2].",
        "Why?",
    ]
    found = check("The lamp is old. [1] The lamp is green [1].", [hit("the lamp is old and green")])
    assert found.grounded


@pytest.mark.parametrize(
    ("statement", "supported"),
    [
        ("The tank holds 1,200 litres", True),
        ("The tank holds 1,300 litres", False),
        ("The tank was built on 2024-03-05", True),
        ("The tank was built in 2024", True),
        ("The tank changed on 2026-11-01", True),
        ("Elephants migrate across northern deserts", False),
        ("Tanks holding litres", True),
    ],
)
def test_a_statement_stands_on_the_numbers_and_words_of_its_passage(statement, supported):
    """Every number must be there, and a third of the longer words, endings aside."""
    passage = hit("The tank holds 1,200 litres. It was built on 2024-03-05.")
    assert check(f"{statement} [1].", [passage]).grounded is supported


def test_a_quote_must_stand_in_a_passage_that_is_cited_for_it():
    """Case and spaces aside."""
    passages = [hit("Tickets are\nsold on Board."), hit("Nothing is sold.", "b.md")]
    assert check('It says "tickets are sold on board" [1].', passages).misquoted == ()
    assert check('It says "tickets are sold on board" [2].', passages).misquoted


@given(st.lists(st.integers(1, 3000), max_size=12), st.integers(100, 4000))
def test_the_budget_holds_and_the_order_stays(sizes, budget):
    """Never more than the budget; the best passage whenever it fits; each whole."""
    hits = [hit("x" * size, f"{number}.md") for number, size in enumerate(sizes)]
    prompt = build_prompt("why?", hits, tokens=budget, as_of=DAY)
    assert prompt.tokens <= budget and prompt.left_out == len(hits) - len(prompt.passages)
    places = [hits.index(passage) for passage in prompt.passages]
    assert places == sorted(places)
    user = prompt.messages[1]["content"]
    assert all(f"\n\n{passage.text}\n</" in user for passage in prompt.passages)
    if hits and within(hits[:1], budget):
        assert prompt.passages[0] == hits[0]


@given(st.text(max_size=200))
def test_a_token_is_at_most_three_bytes_in_the_estimate(text):
    """The estimate grows with the text and is never below a third of its bytes."""
    assert 3 * estimated_tokens(text) >= len(text.encode("utf-8", "replace"))
