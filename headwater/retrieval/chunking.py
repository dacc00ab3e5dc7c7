"""Cutting a document into chunks whose boundaries survive edits.

A document is read as atoms (headings, blocks, lines, sentences). Where it is longer than a chunk may
be, it is cut at the boundary of the best priority - structure first, then a hash of the atom that
would start the chunk - and both halves are cut again. The order of cuts does not depend on
position, so an edit disturbs only its own neighbourhood and the rest of the document keeps its
chunks, and with them its vectors. Chunks never overlap.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from headwater.retrieval.normalisation import normalise, without_surrogates
from headwater.retrieval.tokens import Tokenizer

CHUNKER_ID: Final = "tree/1"

_BLOCK, _LINE, _SENTENCE, _PIECE, _UNDER_HEADING = 7, 8, 9, 10, 11
# A block up to this many tokens stays whole; measured best between stability and even sizes.
_WHOLE_BLOCK: Final = 64
# One token may stand for an unknown word of any length: so many characters always count as one.
_CHARS_PER_TOKEN: Final = 16
_LONGEST_HEADING: Final = 400
# Long enough for a word of any language; a longer one is data.
_LONGEST_WORD: Final = 64

_ATX: Final = re.compile(r" {0,3}(#{1,6})[ \t]+(?=\S)")
_SETEXT: Final = re.compile(r" {0,3}(={3,}|-{3,})\s*$")
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})(.*)$", re.DOTALL)
_LINE_WISE: Final = re.compile(r"\s*(?:[-*+•|>]|\d{1,3}[.)])\s|\s*\||\t| {4}")
_SENTENCE_END: Final = re.compile(r"[.!?…][\"'”’)\]]{0,4}\s+|[。！？]+[”’」』）]{0,4}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """The retrieval unit cut from a document.

    Attributes:
        ordinal: its place among the chunks of the document, from 0.
        text: `document[start:end]`, without blanks at either end.
        start: offset of its first character in the document.
        end: offset after its last character.
        heading_path: the headings it stands under, outermost first.
        tokens: of `normalise(text)`, special tokens left out.
    """

    ordinal: int
    text: str
    start: int
    end: int
    heading_path: tuple[str, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class _Atom:
    start: int
    end: int
    level: int
    weight: int = 0
    key: int = 0
    heading: str = ""


@dataclass(frozen=True, slots=True)
class _Block:
    """A run of lines: `spans` are its non-blank lines, without the blanks at their ends."""

    spans: tuple[tuple[int, int], ...]
    level: int = _BLOCK
    heading: str = ""
    fenced: bool = False


def chunk(
    text: str, *, tokenizer: Tokenizer, max_tokens: int, min_tokens: int = 64
) -> tuple[Chunk, ...]:
    """Cut `text` into chunks of at most `max_tokens` tokens.

    Every character that is not blank is in exactly one chunk, and the same text always gives the
    same chunks. Lone surrogates are replaced by U+FFFD; offsets stay those of `text`.

    Args:
        text: the document, plain or markdown.
        tokenizer: of the embedding model.
        max_tokens: the limit, special tokens not counted (`Space.max_tokens`).
        min_tokens: cuts keep at least this distance from each other where they can.
    """
    text = without_surrogates(text)
    atoms = _atoms(text, tokenizer, max_tokens)
    if not atoms:
        return ()
    spans = _cut(atoms, max_tokens, min(min_tokens, max(1, max_tokens // 3)))
    return tuple(_finish(text, atoms, spans, tokenizer, max_tokens))


# --- the structure of a text ----------------------------------------------------------------------


def _blocks(text: str) -> Iterator[_Block]:
    lines = text.splitlines(keepends=True)
    starts = list(accumulate(map(len, lines), initial=0))
    fences = _fences(lines)
    open_spans: list[tuple[int, int]] = []
    index = 0

    def span(number: int) -> tuple[int, int]:
        line = lines[number]
        left = len(line) - len(line.lstrip())
        return starts[number] + left, starts[number] + len(line.rstrip())

    while index < len(lines):
        line = lines[index]
        if not line or line.isspace():
            following, block = index + 1, None
        elif index in fences:
            following = fences[index] + 1
            inside = range(index, following)
            block = _Block(tuple(span(n) for n in inside if not lines[n].isspace()), fenced=True)
        else:
            level, title, following = _heading(lines, index, first=not open_spans)
            if not level:
                open_spans.append(span(index))
                index = following
                continue
            inside = range(index, following)
            block = _Block(tuple(span(n) for n in inside), level=level, heading=title)
        if open_spans:
            yield _Block(tuple(open_spans))
            open_spans.clear()
        if block is not None:
            yield block
        index = following
    if open_spans:
        yield _Block(tuple(open_spans))


def _heading(lines: Sequence[str], index: int, *, first: bool) -> tuple[int, str, int]:
    """The level (0: no heading), the title, and the line that follows."""
    line = lines[index]
    if len(line) > _LONGEST_HEADING:
        return 0, "", index + 1
    match = _ATX.match(line)
    if match:
        title = line[match.end() :].rstrip()
        bare = title.rstrip("#")
        closed = bare[-1:].isspace()
        return len(match[1]), normalise(bare if closed else title), index + 1
    if first and index + 1 < len(lines) and len(lines[index + 1]) <= _LONGEST_HEADING:
        under = _SETEXT.match(lines[index + 1])
        if under and not _SETEXT.match(line) and not _LINE_WISE.match(line):
            return (1 if under[1][0] == "=" else 2), normalise(line), index + 2
    return 0, "", index + 1


def _fences(lines: Sequence[str]) -> dict[int, int]:
    """First to last line of every closed code fence; one never closed is plain text.

    Otherwise a single deleted fence would turn the rest of the document inside out.
    """
    marks: list[tuple[int, str, bool]] = []
    for number, line in enumerate(lines):
        match = _FENCE.match(line) if line.lstrip(" ")[:1] in ("`", "~") else None
        if match and not (match[1][0] == "`" and "`" in match[2]):
            marks.append((number, match[1], not match[2].strip()))
    found: dict[int, int] = {}
    hopeless = {"`": len(lines) + 1_000_000_000, "~": len(lines) + 1_000_000_000}
    at = 0
    while at < len(marks):
        number, mark, _ = marks[at]
        at += 1
        if len(mark) >= hopeless[mark[0]]:
            continue
        for later in range(at, len(marks)):
            last, other, bare = marks[later]
            if bare and other[0] == mark[0] and len(other) >= len(mark):
                found[number] = last
                at = later + 1
                break
        else:
            hopeless[mark[0]] = len(mark)
    return found


# --- atoms ----------------------------------------------------------------------------------------


def _atoms(text: str, tokenizer: Tokenizer, limit: int) -> list[_Atom]:
    """The atoms of `text`, none above `limit`, each with its weight and its cut priority."""
    blocks = list(_blocks(text))
    parts = [list(_parts(text, block)) for block in blocks]
    weights = iter(_weigh(text, [part for group in parts for part in group], tokenizer))
    atoms: list[_Atom] = []
    after_heading = False
    for block, group in zip(blocks, parts, strict=True):
        sizes = [next(weights) for _ in group]
        if sum(sizes) <= min(_WHOLE_BLOCK, limit):
            group, sizes = [(group[0][0], group[-1][1])], [sum(sizes)]
        inner = _LINE if block.fenced or _by_line(text, block) else _SENTENCE
        for index, ((start, end), size) in enumerate(zip(group, sizes, strict=True)):
            level = inner if index else block.level
            if after_heading and not block.heading:
                level = _UNDER_HEADING
            after_heading = bool(block.heading)
            title = "" if index else block.heading
            for piece in _fit(
                text, _Atom(start, end, level, size, heading=title), tokenizer, limit
            ):
                atoms.append(_with_key(text, piece))
    return atoms


def _by_line(text: str, block: _Block) -> bool:
    """Whether lines, not sentences, are the units: lists, tables, indented code."""
    hits = sum(bool(_LINE_WISE.match(text, _line_start(text, s), e)) for s, e in block.spans)
    return 2 * hits > len(block.spans)


def _line_start(text: str, start: int) -> int:
    """Up to eight blanks before `start`: indentation tells code from prose."""
    floor = max(0, start - 8)
    while start > floor and text[start - 1] in " \t":
        start -= 1
    return start


def _parts(text: str, block: _Block) -> Iterator[tuple[int, int]]:
    if block.heading or block.fenced or _by_line(text, block):
        yield from ((s, e) for s, e in block.spans if e > s)
    else:
        yield from _sentences(text, block.spans[0][0], block.spans[-1][1])


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    at = start
    for match in _SENTENCE_END.finditer(text, start, end):
        yield from _stripped(text, at, match.end())
        at = match.end()
    yield from _stripped(text, at, end)


def _stripped(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    piece = text[start:end]
    body = piece.strip()
    if body:
        left = start + len(piece) - len(piece.lstrip())
        yield left, left + len(body)


def _weigh(text: str, spans: Sequence[tuple[int, int]], tokenizer: Tokenizer) -> list[int]:
    bodies = [normalise(text[start:end]) for start, end in spans]
    counts = tokenizer.count(bodies)
    return [max(n, -(-len(b) // _CHARS_PER_TOKEN)) for n, b in zip(counts, bodies, strict=True)]


def _fit(text: str, atom: _Atom, tokenizer: Tokenizer, limit: int) -> list[_Atom]:
    """`atom` itself, or the pieces of one that is longer than a chunk may be."""
    if atom.weight <= limit:
        return [atom]
    spans = list(_sentences(text, atom.start, atom.end))
    weights = _weigh(text, spans, tokenizer)
    done: list[tuple[int, int, int]] = []
    level = _SENTENCE
    for (start, end), weight in zip(spans, weights, strict=True):
        if weight <= limit:
            done.append((start, end, weight))
        else:
            level = _PIECE
            done.extend(_pieces(text, start, end, tokenizer, limit))
    return [
        _Atom(s, e, level if index else atom.level, w, heading="" if index else atom.heading)
        for index, (s, e, w) in enumerate(done)
    ]


def _pieces(
    text: str, start: int, end: int, tokenizer: Tokenizer, limit: int
) -> list[tuple[int, int, int]]:
    """A run without sentence ends, cut where words end, and long words cut by characters."""
    size = min(_WHOLE_BLOCK, limit)
    # A character may take up to four tokens (a byte each).
    longest = max(1, min(_LONGEST_WORD, limit // 4))
    # Words are packed up to a hash-picked one, so that the cuts re-synchronise after an edit.
    words: list[tuple[int, int]] = []
    for match in re.finditer(r"\S+", text[start:end]):
        left, right = start + match.start(), start + match.end()
        cuts = _word_cuts(text, left, right, tokenizer, longest) if right - left > longest else []
        words.extend(pairwise([left, *cuts, right]))
    weights = _weigh(text, words, tokenizer)
    done: list[tuple[int, int, int]] = []
    for (left, right), weight in zip(words, weights, strict=True):
        fresh = not done or done[-1][2] + weight > size
        if not fresh and done[-1][2] >= size // 4:
            fresh = hashlib.blake2b(text[left:right].encode(), digest_size=1).digest()[0] < 16
        if fresh:
            done.append((left, right, weight))
        else:
            done[-1] = (done[-1][0], right, done[-1][2] + weight)
    return done


def _word_cuts(text: str, left: int, right: int, tokenizer: Tokenizer, longest: int) -> list[int]:
    """Where to cut a word nobody can read: between tokens, at most `longest` characters apart."""
    ends = [left + end for _, end in tokenizer.offsets(text[left:right])]
    cuts: list[int] = []
    at = left
    while right - at > longest:
        index = bisect_right(ends, at + longest) - 1
        at = ends[index] if index >= 0 and ends[index] > at else at + longest
        cuts.append(at)
    return [cut for cut in cuts if cut < right]


def _with_key(text: str, atom: _Atom) -> _Atom:
    body = normalise(text[atom.start : atom.end]).encode()
    low = int.from_bytes(hashlib.blake2b(body, digest_size=7).digest(), "big")
    key = atom.level << 56 | low
    return _Atom(atom.start, atom.end, atom.level, atom.weight, key, atom.heading)


# --- cutting --------------------------------------------------------------------------------------


def _cut(atoms: Sequence[_Atom], limit: int, margin: int) -> list[tuple[int, int]]:
    """Half-open runs of atoms, in order, each of at most `limit` tokens."""
    sums = list(accumulate((atom.weight for atom in atoms), initial=0))
    if sums[-1] <= limit:
        return [(0, len(atoms))]
    best = _Lowest(np.array([atom.key for atom in atoms], dtype=np.uint64))
    done: list[tuple[int, int]] = []
    stack = [(0, len(atoms))]
    while stack:
        first, last = stack.pop()
        if last - first == 1 or sums[last] - sums[first] <= limit:
            done.append((first, last))
            continue
        # The cut keeps its distance from both ends; a huge atom may leave no such place.
        low = max(first + 1, bisect_left(sums, sums[first] + margin, first, last))
        high = min(last, bisect_right(sums, sums[last] - margin, first, last))
        at = best.between(low, high) if low < high else best.between(first + 1, last)
        stack.append((at, last))
        stack.append((first, at))
    return done


class _Lowest:
    """Which index of a range has the lowest key, in constant time (a sparse table).

    A scan per cut would take quadratic time on a document of equal lines.
    """

    def __init__(self, keys: npt.NDArray[np.uint64]) -> None:
        self._keys = keys
        self._rows = [np.arange(len(keys), dtype=np.int32)]
        step = 1
        while 2 * step <= len(keys):
            row = self._rows[-1]
            left, right = row[: len(row) - step], row[step:]
            self._rows.append(np.where(keys[right] < keys[left], right, left))
            step *= 2

    def between(self, low: int, high: int) -> int:
        """The leftmost lowest index in `[low, high)`, which must not be empty."""
        power = (high - low).bit_length() - 1
        row = self._rows[power]
        left, right = int(row[low]), int(row[high - (1 << power)])
        return right if self._keys[right] < self._keys[left] else left


def _finish(
    text: str,
    atoms: Sequence[_Atom],
    spans: Sequence[tuple[int, int]],
    tokenizer: Tokenizer,
    limit: int,
) -> Iterator[Chunk]:
    spans, counts = _verified(text, atoms, spans, tokenizer, limit)
    path: list[tuple[int, str]] = []
    for ordinal, ((first, last), tokens) in enumerate(zip(spans, counts, strict=True)):
        shown: tuple[str, ...] | None = None
        for atom in atoms[first:last]:
            if atom.heading:
                while path and path[-1][0] >= atom.level:
                    path.pop()
                path.append((atom.level, atom.heading))
            elif shown is None:
                shown = tuple(title for _, title in path)
        if shown is None:
            shown = tuple(title for _, title in path)
        start, end = atoms[first].start, atoms[last - 1].end
        yield Chunk(ordinal, text[start:end], start, end, shown, tokens)


def _verified(
    text: str,
    atoms: Sequence[_Atom],
    spans: Sequence[tuple[int, int]],
    tokenizer: Tokenizer,
    limit: int,
) -> tuple[list[tuple[int, int]], list[int]]:
    """Count each chunk as it will be embedded and cut those again that joining made longer."""
    done: list[tuple[int, int]] = []
    todo = list(spans)
    counts: dict[tuple[int, int], int] = {}
    while todo:
        bodies = [normalise(text[atoms[i].start : atoms[j - 1].end]) for i, j in todo]
        again: list[tuple[int, int]] = []
        for (i, j), count in zip(todo, tokenizer.count(bodies), strict=True):
            if count <= limit or j - i == 1:
                done.append((i, j))
                counts[i, j] = count
            else:
                inner = _Lowest(np.array([a.key for a in atoms[i:j]], dtype=np.uint64))
                at = i + inner.between(1, j - i)
                again += [(i, at), (at, j)]
        todo = again
    done.sort()
    return done, [counts[span] for span in done]
