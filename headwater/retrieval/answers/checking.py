"""Does an answer say what its passages say? Mechanical checks, before anybody believes it. Pure.

They find invented citations, quotes that are in no cited passage, numbers that are in none, and
statements that share next to no word with what they cite. They do not prove that an answer is right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from headwater.retrieval.hits import Hit

_FENCED: Final = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_CITATION: Final = re.compile(r"\[(\d{1,4}(?:\s*[,;–-]\s*\d{1,4})*)\](?!\()")
_AFTER_STOP: Final = re.compile(r"([.!?…][\"”')]*)(\s*)((?:\[\d[\d\s,;–-]*\]\s*)+)")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?…\]])\s+(?=[^\s\[])|\n+")
_NUMBER: Final = re.compile(r"\d+(?:[.,:/-]\d+)*")
_QUOTE: Final = re.compile(r"[\"“]([^\"“”]{8,})[\"”]")
_WORD: Final = re.compile(r"[^\W\d_]{4,}")
_STEM: Final = 5
_LEAST_SHARE: Final = 0.3
_LEAST_WORDS: Final = 4
_WIDEST_RANGE: Final = 100


@dataclass(frozen=True)
class Checked:
    """What was found about an answer.

    Attributes:
        cited: numbers of passages, in the order of their first citation.
        invented: numbers that no passage has.
        misquoted: words in quotes that stand in none of the passages cited for them.
        unsupported: statements with a number that no passage cited for them holds, or with fewer
            than a third of their longer words in them.
        uncited: statements without any citation.
    """

    cited: tuple[int, ...]
    invented: tuple[int, ...]
    misquoted: tuple[str, ...]
    unsupported: tuple[str, ...]
    uncited: tuple[str, ...]

    @property
    def grounded(self) -> bool:
        """Whether it cites, and nothing of it failed a check."""
        failed = (self.invented, self.misquoted, self.unsupported, self.uncited)
        return bool(self.cited) and not any(failed)


def check(text: str, passages: Sequence[Hit]) -> Checked:
    """Check an answer against the passages it was written from.

    Args:
        text: of the answer.
        passages: number n is `passages[n - 1]`.
    """
    cited: dict[int, None] = {}
    invented: dict[int, None] = {}
    misquoted: list[str] = []
    unsupported: list[str] = []
    uncited: list[str] = []
    for sentence in sentences(text):
        numbers = citations(sentence)
        known = [n for n in numbers if 1 <= n <= len(passages)]
        cited.update(dict.fromkeys(known))
        invented.update(dict.fromkeys(n for n in numbers if n not in known))
        statement = _CITATION.sub("", sentence).strip()
        if known:
            held = [_all_of(passages[n - 1]) for n in known]
            misquoted += [q for q in _QUOTE.findall(statement) if not _stands(q, held)]
            if not _supported(statement, held):
                unsupported.append(statement)
        elif not numbers and len(statement.split()) >= _LEAST_WORDS:
            uncited.append(statement)
    return Checked(
        tuple(cited), tuple(invented), tuple(misquoted), tuple(unsupported), tuple(uncited)
    )


def citations(text: str) -> list[int]:
    """The numbers in `[1]`, `[1, 3]` and `[2-4]`, in their order; none of those in code."""
    found: list[int] = []
    for match in _CITATION.finditer(_FENCED.sub(" ", text)):
        for part in re.split(r"\s*[,;]\s*", match[1]):
            ends = [int(n) for n in re.split(r"\s*[–-]\s*", part)]
            if len(ends) == 2 and 0 <= ends[1] - ends[0] < _WIDEST_RANGE:
                found += range(ends[0], ends[1] + 1)
            else:
                found += ends
    return list(dict.fromkeys(found))


def sentences(text: str) -> list[str]:
    """The statements of a text, each with the citations that follow it; code is left out."""
    plain = _FENCED.sub(" ", text)
    # "It leaves at nine. [1]" cites for the sentence before.
    joined = _AFTER_STOP.sub(lambda m: f" {m[3].strip()}{m[1]} ", plain)
    return [part.strip() for part in _SENTENCE_END.split(joined) if re.search(r"\w", part)]


def _all_of(hit: Hit) -> str:
    times = f"{hit.changed_at:%Y-%m-%d} {hit.verified_at:%Y-%m-%d}"
    return _plain(" ".join((hit.title or "", hit.key, *hit.heading_path, hit.text, times)))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _stands(quote: str, held: Iterable[str]) -> bool:
    wanted = _plain(quote).strip(" .,;:…")
    return any(wanted in text for text in held)


def _supported(statement: str, held: Sequence[str]) -> bool:
    whole = " ".join(held)
    numbers = set(_NUMBER.findall(whole))
    parts = {piece for number in numbers for piece in re.split(r"\D", number)}
    if any(n not in numbers and n not in parts for n in _NUMBER.findall(statement)):
        return False
    words = {word[:_STEM] for word in _WORD.findall(statement.casefold())}
    known = {word[:_STEM] for word in _WORD.findall(whole)}
    return not words or len(words & known) >= _LEAST_SHARE * len(words)
