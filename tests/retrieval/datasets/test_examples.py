"""Which examples a section gives."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headwater.config import DatasetConfig
from headwater.retrieval.datasets.examples import Examples, build_examples, split_of
from headwater.retrieval.datasets.sections import Section

BIRTH = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = DatasetConfig(min_tokens=1, test_share=0.5)


def section(key: str = "a", text: str = "some words here", **changes: Any) -> Section:
    """A section at character 100 of a document."""
    base = Section(
        source="docs",
        key=key,
        origin=key,
        version_id="v",
        title=f"Title {key}",
        kind="documents",
        licence="MIT",
        ordinal=0,
        text_hash=hashlib.sha256(text.encode()).digest(),
        heading_path=(),
        start=100,
        end=100 + len(text),
        tokens=len(text.split()),
        text=text,
        since=BIRTH,
        checks=7,
        confirmed_at=BIRTH,
    )
    return replace(base, **changes)


def payloads(found: Examples, recipe: str) -> list[Any]:
    """The rows of a recipe, both splits."""
    return [e.payload for rows in found.rows[recipe].values() for e in rows]


def test_the_heading_is_the_query_and_not_in_the_answer() -> None:
    """Headings a chunk opens with become the query; the positive is the verbatim rest."""
    text = "# Install\n\n## On Linux\n\nRun the script.\n"
    found = build_examples([section(text=text, heading_path=("Install",))], CONFIG)
    (row,) = payloads(found, "pairs")
    assert row == {"anchor": "Title a: Install: On Linux", "positive": "Run the script."}
    assert list(row) == ["anchor", "positive"]
    (example,) = (e for rows in found.rows["pairs"].values() for e in rows)
    assert text[example.start - 100 : example.end - 100] == "Run the script."


def test_underlined_headings_are_headings_and_front_matter_is_not() -> None:
    """Setext headings are taken off; a rule at the top is left alone."""
    assert section(text="Install\n=======\nRun it.").body == "Run it."
    assert section(text="Install\n=======\nRun it.").headings == ("Install",)
    assert section(text="---\nRun it.\n---\nmore").body_start == 0


def test_instructions_answer_with_what_the_context_says() -> None:
    """The answer stands word for word in the question's context; roles alternate."""
    found = build_examples([section(text="# Limits\n\nAt most 5 users.")], CONFIG)
    (row,) = payloads(found, "instructions")
    system, user, assistant = row["messages"]
    assert list(row) == ["messages"]
    assert [m["role"] for m in (system, user, assistant)] == ["system", "user", "assistant"]
    assert assistant["content"] == "At most 5 users."
    assert assistant["content"] in user["content"]
    assert 'What does "Title a" say about "Limits"?' in user["content"]


def test_rows_are_asked_for_by_title_and_fields() -> None:
    """A rendered row's query names its title and its fields."""
    row = section(text="Unit price: 5\nColour: red", kind="database", title="Chair")
    found = build_examples([row], CONFIG)
    assert payloads(found, "pairs")[0]["anchor"] == "Chair: Unit price, Colour"
    question = payloads(found, "instructions")[0]["messages"][1]["content"]
    assert 'What is recorded about "Chair"?' in question


def test_every_rejection_is_counted_with_its_reason() -> None:
    """Unsettled, unlicensed, empty, short, unnamed and repeated sections are counted."""
    config = DatasetConfig(min_tokens=3, licences=("MIT",), recipes=("pairs",))
    found = build_examples(
        [
            section("a", "one good text"),
            section("b", "one good text"),
            section("c", "another good text", why="not settled yet"),
            section("d", "a third good text", licence="GPL-3.0-only"),
            section("e", "a fourth good text", licence=None),
            section("f", "# Only a heading\n"),
            section("g", "short"),
            section("h", "no title at all", title=""),
            section("a", "second chunk of a", ordinal=1),
        ],
        config,
    )
    assert found.count == 1
    assert found.rejections == {
        "all": {
            "fewer than 3 tokens": 1,
            "its licence is not asked for: GPL-3.0-only": 1,
            "its licence is not asked for: none is named": 1,
            "not settled yet": 1,
            "nothing below its heading": 1,
        },
        "pairs": {
            "an earlier section answers the same query": 1,
            "no title and no heading to ask by": 1,
            "the same text is in the set already": 1,
        },
    }


keys = st.text("abcdef", min_size=1, max_size=4)
documents = st.dictionaries(keys, st.integers(0, 9), min_size=1, max_size=12)


def splits(found: Examples) -> dict[str, str]:
    """Text -> split."""
    return {
        row.payload["text"].rpartition("\n")[2]: split
        for split, rows in found.rows["text"].items()
        for row in rows
    }


@given(documents, documents)
def test_splits_are_sticky(old: dict[str, int], new: dict[str, int]) -> None:
    """Documents that come later move no text to the other split, even where they repeat it."""
    first = [section(k, f"text number {n}") for k, n in old.items()]
    later = [
        section(k, f"text number {n}", ordinal=1, since=BIRTH + timedelta(days=1))
        for k, n in new.items()
    ]
    before, after = (splits(build_examples(s, CONFIG)) for s in (first, first + later))
    assert before.items() <= after.items()


@given(documents)
def test_one_text_is_in_one_split(found: dict[str, int]) -> None:
    """A text that many documents hold gives one example, where its first document belongs."""
    sections = [section(k, f"text number {n}") for k, n in found.items()]
    rows = build_examples(sections, CONFIG).rows["text"]
    texts = [e.payload["text"].rpartition("\n")[2] for split in rows.values() for e in split]
    assert sorted(texts) == sorted({f"text number {n}" for n in found.values()})
    for split, examples in rows.items():
        for example in examples:
            same = [k for k, n in found.items() if example.section.text.endswith(f" {n}")]
            assert split == split_of("docs", min(same), 0.5)


def test_a_renamed_document_stays_in_its_split() -> None:
    """The split follows the first key."""
    for number in range(20):
        renamed = section(f"new{number}", origin=f"old{number}")
        (split,) = (s for s, rows in build_examples([renamed], CONFIG).rows["text"].items() if rows)
        assert split == split_of("docs", f"old{number}", 0.5)


def test_the_share_of_the_test_split_is_kept() -> None:
    """About the asked share of many documents is held out; none when none is asked for."""
    held = sum(split_of("docs", f"{n}.md", 0.1) == "test" for n in range(2000))
    assert 150 < held < 250
    assert all(split_of("docs", f"{n}.md", 0.0) == "train" for n in range(50))
