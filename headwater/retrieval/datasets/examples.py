"""Examples by fixed recipes: every word of an answer stands in the chunk it came from.

Pure and deterministic. A section that gives no example is counted under its reason. Train or test is
decided by the document, and stays when other documents come and go.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwater.config import DatasetConfig
from headwater.retrieval.datasets.sections import Section

TRAIN, TEST = "train", "test"

_INSTRUCTION = (
    "Answer with a passage from the context, word for word. "
    "Do not add anything that the context does not say."
)


@dataclass(frozen=True)
class Example:
    """One row of a training file.

    Attributes:
        payload: exactly the columns that trainers expect, in their order.
        section: what it was cut from.
        start, end: the span of its verbatim text in the document, in characters.
    """

    payload: Mapping[str, Any]
    section: Section
    start: int
    end: int


@dataclass(frozen=True)
class Examples:
    """All rows of a dataset.

    Attributes:
        rows: recipe -> split -> examples, by source, key and place in the document.
        rejections: recipe, or `all` for what no recipe may use -> reason -> sections.
    """

    rows: Mapping[str, Mapping[str, tuple[Example, ...]]]
    rejections: Mapping[str, Mapping[str, int]]

    @property
    def count(self) -> int:
        """Rows in all files."""
        return sum(len(rows) for splits in self.rows.values() for rows in splits.values())


def pair(section: Section) -> dict[str, Any] | None:
    """Title and headings (or field names) as the query, the body as what it should find."""
    if not section.label:
        return None
    return {"anchor": section.label, "positive": section.body}


def instruction(section: Section) -> dict[str, Any]:
    """A question about the section, the section as its context, the passage as the answer."""
    if section.is_row:
        question = f'What is recorded about "{section.name}"?'
    elif section.headings:
        question = f'What does "{section.name}" say about "{section.headings[-1]}"?'
    else:
        question = f'What does "{section.name}" say here?'
    context = f"Context ({section.label or section.key}):\n{section.body}"
    return {
        "messages": [
            {"role": "system", "content": _INSTRUCTION},
            {"role": "user", "content": f"{context}\n\nQuestion: {question}"},
            {"role": "assistant", "content": section.body},
        ]
    }


def plain_text(section: Section) -> dict[str, Any]:
    """The body below its title and headings."""
    head = ": ".join(part for part in (section.title.strip(), *section.headings) if part)
    return {"text": f"{head}\n\n{section.body}" if head else section.body}


RECIPES: Mapping[str, Callable[[Section], dict[str, Any] | None]] = {
    "pairs": pair,
    "instructions": instruction,
    "text": plain_text,
}


def split_of(source: str, key: str, test_share: float) -> str:
    """`train` or `test`: decided by the document's name alone."""
    digest = hashlib.sha256(f"{source}/{key}".encode()).digest()
    return TEST if int.from_bytes(digest[:8], "big") < test_share * 2**64 else TRAIN


def build_examples(sections: Iterable[Section], config: DatasetConfig) -> Examples:
    """Apply the recipes of `config` to every live section of its sources.

    Sections that may not be used still decide which document a shared text belongs to and which
    section a query means, so that one chunk's change leaves the examples of the others alone.
    """
    found = sorted(sections, key=lambda s: (s.source, s.key, s.ordinal))
    splits = _splits(found, config.test_share)
    asked = _first_by_label(found)
    rejections: dict[str, Counter[str]] = {"all": Counter()}
    usable = []
    for section in found:
        reason = _refusal(section, config)
        if reason:
            rejections["all"][reason] += 1
        else:
            usable.append(section)
    usable.sort(key=_seniority)
    rows: dict[str, dict[str, tuple[Example, ...]]] = {}
    for recipe in config.recipes:
        examples, rejections[recipe] = _apply(recipe, usable, asked)
        rows[recipe] = _by_split(examples, splits)
    return Examples(rows, {k: dict(sorted(v.items())) for k, v in rejections.items() if v})


def _refusal(section: Section, config: DatasetConfig) -> str:
    if section.why:
        return section.why
    if config.licences and section.licence not in config.licences:
        return f"its licence is not asked for: {section.licence or 'none is named'}"
    if not section.body.strip():
        return "nothing below its heading"
    if section.tokens < config.min_tokens:
        return f"fewer than {config.min_tokens} tokens"
    return ""


def _apply(
    recipe: str, usable: Sequence[Section], asked: Mapping[str, Section]
) -> tuple[list[Example], Counter[str]]:
    make, rejected = RECIPES[recipe], Counter[str]()
    examples, bodies = list[Example](), set[bytes]()
    for section in usable:
        payload = make(section)
        if payload is None:
            rejected["no title and no heading to ask by"] += 1
        elif recipe == "pairs" and asked[section.label] is not section:
            rejected["an earlier section answers the same query"] += 1
        elif section.body_hash in bodies:
            rejected["the same text is in the set already"] += 1
        else:
            bodies.add(section.body_hash)
            start = section.start + section.body_start
            examples.append(Example(payload, section, start, start + len(section.body)))
    return examples, rejected


def _by_split(
    examples: Sequence[Example], splits: Mapping[bytes, str]
) -> dict[str, tuple[Example, ...]]:
    ordered = sorted(examples, key=lambda e: (e.section.source, e.section.key, e.section.ordinal))
    return {
        split: tuple(e for e in ordered if splits[e.section.body_hash] == split)
        for split in (TRAIN, TEST)
    }


def _splits(found: Sequence[Section], test_share: float) -> dict[bytes, str]:
    """The split of each text: that of the document that has held it longest."""
    splits: dict[bytes, str] = {}
    for section in sorted(found, key=_seniority):
        if section.body_hash not in splits:
            splits[section.body_hash] = split_of(section.source, section.origin, test_share)
    return splits


def _first_by_label(found: Sequence[Section]) -> dict[str, Section]:
    first: dict[str, Section] = {}
    for section in found:
        first.setdefault(section.label, section)
    return first


def _seniority(section: Section) -> tuple[Any, ...]:
    return section.since, section.source, section.origin, section.key, section.ordinal
