"""reStructuredText: titles, tables, code and the field list at the top, as markdown says them."""

from __future__ import annotations

import re
from typing import Any

from headwater.flows.sources.parsing import ParsedDocument
from headwater.flows.sources.parsing.decoding import decode_naming

_ADORNMENTS = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_FIELD = re.compile(r":([^:\n]{1,100}):(?:[ \t]+(.*))?$")
_DIRECTIVE = re.compile(r"\.\.[ \t]+([\w-]+)::[ \t]*(.*)$")
_SIMPLE = re.compile(r"=+(?:[ \t]+=+)+[ \t]*$")
_GRID = re.compile(r"\+(?:[-=]+\+)+[ \t]*$")
_LABEL = re.compile(r"\.\.[ \t]+_[^\n]*:[ \t]*$")
_CODE = frozenset({"code", "code-block", "sourcecode"})


def parse_rst(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """Titles become markdown headings, tables markdown tables, code blocks fences; all else stays.

    The level of an underline is, as in reStructuredText, the order in which its style first occurs.
    Fields before or right after the title (`:author: …`) become metadata.
    """
    text, about = decode_naming(data, name=name, encoding=encoding)
    writer = _Writer(text.split("\n"))
    writer.run()
    return ParsedDocument(writer.text, writer.title, {**writer.fields, **about})


class _Writer:
    """Walks the lines once.

    Attributes:
        title: the first title.
        fields: of the list at the top.
    """

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._at = 0
        self._levels: dict[tuple[str, bool], int] = {}
        self._out: list[str] = []
        self.title: str | None = None
        self.fields: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """The markdown so far."""
        return "\n".join(self._out).strip("\n")

    def run(self) -> None:
        """Take in every line."""
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if _LABEL.match(line):
                self._at += 1
            elif not (self._title() or self._field(line) or self._table(line) or self._code(line)):
                self._out.append(line)
                self._at += 1

    def _title(self) -> bool:
        found = _title_at(self._lines, self._at)
        if found is None:
            return False
        text, style, used = found
        level = self._levels.setdefault(style, len(self._levels) + 1)
        self._out.append(f"{'#' * min(level, 6)} {text}")
        self.title = self.title or text
        self._at += used
        self._gap()
        return True

    def _field(self, line: str) -> bool:
        """A field of the list at the top: nothing but one title may have come before."""
        found = _FIELD.match(line)
        written = [one for one in self._out if one.strip()]
        if found is None or len(written) > (1 if self.title else 0):
            return False
        parts = [found[2] or ""]
        self._at += 1
        while self._at < len(self._lines) and self._lines[self._at].startswith((" ", "\t")):
            parts.append(self._lines[self._at].strip())
            self._at += 1
        self.fields[found[1].strip().lower()] = " ".join(parts).strip()
        self._gap()
        return True

    def _table(self, line: str) -> bool:
        stripped = line.strip()
        if _GRID.match(stripped):
            rows, used = _grid(self._lines[self._at :])
        elif _SIMPLE.match(stripped):
            rows, used = _simple(self._lines[self._at :])
        else:
            return False
        if not rows:
            return False
        self._out += _markdown(rows)
        self._at += used
        self._gap()
        return True

    def _code(self, line: str) -> bool:
        found = _DIRECTIVE.match(line)
        if found is None or found[1] not in _CODE:
            return False
        at = self._at + 1
        while at < len(self._lines) and re.match(r"[ \t]+:[\w-]+:", self._lines[at]):
            at += 1
        start = at
        while at < len(self._lines) and (
            not self._lines[at].strip() or self._lines[at].startswith((" ", "\t"))
        ):
            at += 1
        body = _dedent(self._lines[start:at])
        if not body:
            return False
        ticks = max((len(run) for run in re.findall(r"`{3,}", "\n".join(body))), default=2) + 1
        self._out += ["`" * ticks + found[2].strip(), *body, "`" * ticks]
        self._at = at
        self._gap()
        return True

    def _gap(self) -> None:
        """One blank line, whatever follows."""
        while self._at < len(self._lines) and not self._lines[self._at].strip():
            self._at += 1
        if self._out and self._out[-1]:
            self._out.append("")


def _dedent(lines: list[str]) -> list[str]:
    full = [line for line in lines if line.strip()]
    if not full:
        return []
    margin = min(len(line) - len(line.lstrip()) for line in full)
    return "\n".join(line[margin:].rstrip() for line in lines).strip("\n").split("\n")


def _grid(lines: list[str]) -> tuple[list[list[str]], int]:
    """The rows of a grid table and its lines; no rows where cells span, which markdown cannot say."""
    margin = len(lines[0]) - len(lines[0].lstrip())
    edges = [at for at, ch in enumerate(lines[0].strip()) if ch == "+"]
    rows: list[list[str]] = []
    cells: list[list[str]] = [[] for _ in edges[1:]]
    used = 0
    for used, line in enumerate(lines, 1):
        body = line[margin:].rstrip()
        if _GRID.match(body):
            if [at for at, ch in enumerate(body) if ch == "+"] != edges:
                return [], 0
            if any(any(part) for part in cells):
                rows.append([" ".join(" ".join(part).split()) for part in cells])
                cells = [[] for _ in edges[1:]]
        elif body.startswith("|") and len(body) > edges[-1]:
            if any(body[at] != "|" for at in edges):
                return [], 0
            for cell, start, end in zip(cells, edges, edges[1:], strict=False):
                cell.append(body[start + 1 : end].strip())
        else:
            used -= 1
            break
    return rows, used


def _simple(lines: list[str]) -> tuple[list[list[str]], int]:
    """The rows of a simple table and its lines; no rows when it has no end."""
    margin = len(lines[0]) - len(lines[0].lstrip())
    first = lines[0].strip()
    spans = [(found.start(), found.end()) for found in re.finditer("=+", first)]
    rules = 1
    rows: list[list[str]] = []
    for used, line in enumerate(lines[1:], 2):
        body = line[margin:].rstrip()
        if _SIMPLE.match(body):
            rules += 1
            following = lines[used].strip() if used < len(lines) else ""
            if rules > 2 or not following:
                return rows, used
        elif body and set(body) <= {"-", " "}:
            return [], 0
        elif body:
            row = [
                body[start : None if end == spans[-1][1] else end].strip() for start, end in spans
            ]
            if rows and not row[0]:
                rows[-1] = [
                    " ".join(f"{a} {b}".split()) for a, b in zip(rows[-1], row, strict=True)
                ]
            else:
                rows.append(row)
    return [], 0


def _markdown(rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    lines.insert(1, f"|{' --- |' * len(rows[0])}")
    return lines


def _title_at(lines: list[str], at: int) -> tuple[str, tuple[str, bool], int] | None:
    """The title that starts at line `at`: its text, its style and how many lines it takes."""
    if at and lines[at - 1].strip():
        return None
    here, below, third, fourth = (*lines[at : at + 4], "", "", "", "")[:4]
    if _is_adornment(here):
        # A blank line must follow, or a table of one column would be taken for a title.
        framed = below.strip() and third.rstrip() == here.rstrip() and not fourth.strip()
        if framed and not _is_adornment(below) and len(here.rstrip()) >= len(below.strip()):
            return below.strip(), (here[0], True), 3
        return None
    if not here.strip() or here[0].isspace() or here.startswith(".. ") or not _is_adornment(below):
        return None
    if len(below.rstrip()) < min(4, len(here.strip())):
        return None
    return here.strip(), (below[0], False), 2


def _is_adornment(line: str) -> bool:
    line = line.rstrip()
    return len(line) > 1 and line[0] in _ADORNMENTS and line == line[0] * len(line)
