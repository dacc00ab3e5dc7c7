"""Tables of a PDF without tags: where ruled lines make a grid, its cells are the table.

Only what is certain is used. A table takes the place of the lines that hold its very letters in its
very order; where they cannot be found so, the lines stay as they are. Nothing is lost or said twice.
"""

from __future__ import annotations

import ctypes
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from headwater.flows.sources.parsing.formats import encodable

_THIN = 3.0
_NEAR = 3.0
_MAX_OBJECTS = 5000
_MAX_RULES = 3000
_SQUARE = 20.0
_CROWD = 200
_LARGEST_PT = 5000.0
_MAX_CELLS = 5000
_PATH = 2
_BETWEEN = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class _Rule:
    """A ruled line, upright or level; all in points from the lower left corner."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def length(self) -> float:
        return max(self.right - self.left, self.top - self.bottom)

    @property
    def upright(self) -> bool:
        return self.right - self.left < self.top - self.bottom

    def squares(self) -> Iterator[tuple[int, int]]:
        """The squares of the page that the rule is in or near."""
        for x in range(
            int((self.left - _NEAR) // _SQUARE), int((self.right + _NEAR) // _SQUARE) + 1
        ):
            for y in range(
                int((self.bottom - _NEAR) // _SQUARE), int((self.top + _NEAR) // _SQUARE) + 1
            ):
                yield x, y

    def touches(self, other: _Rule) -> bool:
        return (
            self.left - _NEAR <= other.right
            and other.left - _NEAR <= self.right
            and self.bottom - _NEAR <= other.top
            and other.bottom - _NEAR <= self.top
        )


def with_tables(page: Any, text_page: Any, lines: list[str]) -> list[str]:
    """The lines of a page, those of a ruled table replaced by the table in markdown."""
    for group in _groups(_rules(page)):
        rows = _cells(group, text_page)
        if len(rows) > 1 and len(rows[0]) > 1:
            lines = _replaced(lines, rows)
    return lines


def _rules(page: Any) -> list[_Rule]:
    """Every ruled line of the page; a box counts as its four sides."""
    from pypdfium2 import raw

    count = raw.FPDFPage_CountObjects(page.raw)
    rules: list[_Rule] = []
    if count > _MAX_OBJECTS:
        return rules
    sides = [ctypes.c_float() for _ in range(4)]
    for at in range(count):
        thing = raw.FPDFPage_GetObject(page.raw, at)
        if raw.FPDFPageObj_GetType(thing) != _PATH:
            continue
        if not raw.FPDFPageObj_GetBounds(thing, *map(ctypes.byref, sides)):
            continue
        left, bottom, right, top = (side.value for side in sides)
        if min(right - left, top - bottom) <= _THIN:
            rules.append(_Rule(left, bottom, right, top))
        elif raw.FPDFPath_CountSegments(thing) in (4, 5):
            rules += [
                _Rule(left, bottom, right, bottom),
                _Rule(left, top, right, top),
                _Rule(left, bottom, left, top),
                _Rule(right, bottom, right, top),
            ]
        if len(rules) > _MAX_RULES:
            return []
    return [rule for rule in rules if _THIN < rule.length < _LARGEST_PT]


def _groups(rules: list[_Rule]) -> list[list[_Rule]]:
    """Rules that touch each other, directly or through others; groups from the top down."""
    squares: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for number, rule in enumerate(rules):
        for square in rule.squares():
            squares[square].append(number)
    free = [True] * len(rules)
    groups: list[list[_Rule]] = []
    for first in range(len(rules)):
        edge = [first] if free[first] else []
        free[first] = False
        group = []
        while edge:
            rule = rules[edge.pop()]
            group.append(rule)
            for square in rule.squares():
                near = squares[square]
                # So many lines in so small a square are a drawing.
                for number in near if len(near) <= _CROWD else ():
                    if free[number] and rules[number].touches(rule):
                        free[number] = False
                        edge.append(number)
        if group:
            groups.append(group)
    return sorted(groups, key=lambda group: -max(rule.top for rule in group))


def _cells(group: Sequence[_Rule], text_page: Any) -> list[list[str]]:
    """The rows of a grid, top down; a cell that spans columns has its text in the first."""
    columns = _merged(rule.left for rule in group if rule.upright)
    ends = _merged(rule.bottom for rule in group if not rule.upright)[::-1]
    if len(columns) < 3 or len(ends) < 3 or len(columns) * len(ends) > _MAX_CELLS:
        return []
    upright = [rule for rule in group if rule.upright]
    rows = []
    for top, bottom in pairwise(ends):
        row = [""] * (len(columns) - 1)
        start = 0
        for at, right in enumerate(columns[1:]):
            middle = (top + bottom) / 2
            closed = any(
                abs(rule.left - right) <= _NEAR and rule.bottom <= middle <= rule.top
                for rule in upright
            )
            if closed or at == len(row) - 1:
                content = text_page.get_text_bounded(columns[start], bottom, right, top)
                row[start] = " ".join(encodable(content).split())
                start = at + 1
        if any(row):
            rows.append(row)
    return rows


def _merged(places: Any) -> list[float]:
    """Places in order, those that are one within the width of a line taken once."""
    found: list[float] = []
    for place in sorted(places):
        if not found or place - found[-1] > _NEAR:
            found.append(place)
    return found


def _replaced(lines: list[str], rows: list[list[str]]) -> list[str]:
    """`lines` with the run that holds exactly the letters of `rows` replaced by a table."""
    wanted = _letters("".join("".join(row) for row in rows))
    if not wanted:
        return lines
    letters = [_letters(line) for line in lines]
    for first in range(len(lines)):
        if not letters[first] or not wanted.startswith(letters[first]):
            continue
        joined = ""
        for last in range(first, len(lines)):
            joined += letters[last]
            if joined == wanted:
                return [*lines[:first], "", *_markdown(rows), "", *lines[last + 1 :]]
            if not wanted.startswith(joined):
                break
    return lines


def _letters(text: str) -> str:
    return _BETWEEN.sub("", text)


def _markdown(rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    lines.insert(1, f"|{' --- |' * len(rows[0])}")
    return lines
