"""HTML, by lxml: the main content of a page as markdown.

Converters that take a whole page keep its navigation, which then is found by every search. Here
the content is `<main>`, `[role=main]`, the only `<article>`, `div.document` or else `<body>`, less
nav, aside, footer, form, script and style. Links keep their words only, and emphasis its text:
both are noise to an embedding. The tree is walked by events, as its depth is the document's choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from headwater.errors import MissingExtraError, ParseError
from headwater.flows.sources.parsing import ParsedDocument
from headwater.flows.sources.parsing.decoding import (
    AUTO,
    byte_order_mark,
    decode,
    decode_naming,
)
from headwater.flows.sources.parsing.text import escape_marks

_DROPPED = frozenset(
    {
        "nav",
        "aside",
        "footer",
        "form",
        "script",
        "style",
        "noscript",
        "template",
        "iframe",
        "svg",
        "math",
        "object",
        "select",
        "button",
        "head",
        "title",
    }
)
_DROPPED_ROLES = frozenset({"navigation", "search", "contentinfo"})
_DROPPED_CLASSES = frozenset({"headerlink", "linenos", "navheader", "navfooter"})
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset(
    {
        "address",
        "article",
        "blockquote",
        "body",
        "caption",
        "center",
        "dd",
        "details",
        "dialog",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "header",
        "hgroup",
        "hr",
        "html",
        "li",
        "main",
        "ol",
        "p",
        "section",
        "summary",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "tr",
        "ul",
    }
)
_CONTENT = (
    "//main",
    "//*[@role='main']",
    "//article",
    "//div[contains(@class,'document')]",
    "//body",
)
_NOT_IN_CELLS = frozenset({"table", "pre", "ul", "ol", "dl", *_HEADINGS})
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_LANGUAGE = re.compile(r"(?:language|highlight|lang)-([\w+#-]{1,20})")


def parse_html(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """The main content as markdown.

    The encoding is the byte order mark's, else the page's own `<meta charset>`, else `encoding`.
    With AUTO a page is read as a browser does: NUL characters are dropped, and what fits no
    encoding at all is taken for windows-1252.
    """
    page, about = _decode(data, name=name, encoding=encoding)
    text, title = html_to_markdown(page, name=name)
    return ParsedDocument(text, title, about)


def html_to_markdown(page: str, *, name: str) -> tuple[str, str | None]:
    """The main content of a page, and its first heading or else its title.

    Raises:
        ParseError: the page cannot be read to its end.
    """
    tree = _read(page, name=name)
    if tree is None:
        return "", None
    writer = _Writer()
    for root in _candidates(tree):
        writer = _Writer()
        writer.walk(root)
        if writer.text:
            break
    return writer.text, writer.title or _flat(tree.find(".//title")) or None


def _decode(data: bytes, *, name: str, encoding: str) -> tuple[str, dict[str, str]]:
    if encoding == AUTO and byte_order_mark(data) is None and b"\x00" in data[1::2][:4096]:
        try:
            return decode_naming(data, name=name, encoding=AUTO)
        except ParseError:
            data = data.replace(b"\x00", b"")
    declared = _CHARSET.search(data[:2048])
    if declared and not byte_order_mark(data):
        own = declared[1].decode("ascii", "replace").lower()
        # A page whose <meta> could be read as ASCII is not UTF-16, whatever it says: HTML says so too.
        own = "utf-8" if own.startswith(("utf-16", "utf16", "utf-32", "utf32")) else own
        try:
            return decode(data, name=name, encoding=own), {}
        except (LookupError, ParseError):
            pass
    try:
        return decode_naming(data, name=name, encoding=encoding)
    except ParseError:
        if encoding != AUTO or byte_order_mark(data):
            raise
    page = data.replace(b"\x00", b"").decode("cp1252", "replace")
    return page.replace("\r\n", "\n").replace("\r", "\n"), {"encoding": "cp1252"}


def _read(text: str, *, name: str) -> Any:
    try:
        from lxml import etree
    except ImportError:
        raise MissingExtraError.of("lxml", "pipeline") from None
    parser = etree.HTMLParser(
        encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True, no_network=True
    )
    try:
        tree = etree.fromstring(text.encode("utf-8", "replace"), parser)
    except etree.LxmlError as error:
        if not text.strip():
            return None
        raise ParseError("The page cannot be read", obj=name, todo=str(error)[:300]) from None
    # The parser stops at a depth of 2,048 and hands over what came before, as if that were all.
    fatal = next((entry for entry in parser.error_log if entry.level_name == "FATAL"), None)
    if fatal is not None:
        raise ParseError("The page cannot be read to its end", obj=name, todo=fatal.message[:300])
    return tree


def _candidates(tree: Any) -> Iterator[Any]:
    """Where the content may be, best first."""
    for path in _CONTENT:
        found = tree.xpath(path)
        if path.startswith("//div"):
            found = [one for one in found if "document" in one.get("class", "").split()]
        if len(found) == 1 or (found and path != "//article"):
            yield found[0]
    yield tree


def _is_dropped(element: Any) -> bool:
    if element.tag in _DROPPED or not isinstance(element.tag, str):
        return True
    attributes = element.attrib
    return bool(attributes) and (
        attributes.get("role") in _DROPPED_ROLES
        or "hidden" in attributes
        or not _DROPPED_CLASSES.isdisjoint(attributes.get("class", "").split())
    )


def _raw(element: Any) -> str:
    """All the text below `element`, with its line breaks."""
    from lxml import etree

    if element is None:
        return ""
    parts = []
    walk = etree.iterwalk(element, events=("start", "end"))
    for event, one in walk:
        if event == "start":
            if one is not element and _is_dropped(one):
                walk.skip_subtree()
            else:
                parts.append("\n" if one.tag == "br" else one.text or "")
        elif one is not element:
            parts.append(one.tail or "")
    return "".join(parts)


def _flat(element: Any) -> str:
    return " ".join(_raw(element).split())


class _Writer:
    """Collects markdown while the events of a tree pass by.

    Attributes:
        title: the first heading.
    """

    def __init__(self) -> None:
        self.title: str | None = None
        self._blocks: list[str] = []
        self._tight = False
        self._inline: list[str] = []
        self._quotes = 0
        self._lists: list[int | None] = []
        self._items: list[_Item] = []

    @property
    def text(self) -> str:
        """The markdown so far."""
        return "".join(self._blocks).strip("\n")

    def walk(self, root: Any) -> None:
        """Take in everything below `root`."""
        from lxml import etree

        walk = etree.iterwalk(root, events=("start", "end"))
        # One entry per open element: whether its end still has to be handled.
        open_elements: list[bool] = []
        for event, element in walk:
            if event == "start":
                inside = not (element is not root and _is_dropped(element)) and self._start(element)
                open_elements.append(inside)
                if inside:
                    self._inline.append(element.text or "")
                else:
                    walk.skip_subtree()
            else:
                if open_elements.pop():
                    self._end(element)
                if element is not root:
                    self._inline.append(element.tail or "")
        self._flush()

    def _start(self, element: Any) -> bool:
        """Handle a start tag; False when the element is done with as a whole."""
        tag = element.tag
        if tag in _HEADINGS:
            self._heading(_HEADINGS[tag], _flat(element))
        elif tag == "pre":
            self._fence(element)
        elif tag == "table" and _is_data(element):
            self._block(_table(element))
        elif tag == "br":
            self._inline.append("\x01")
        elif tag == "img":
            self._inline.append(f" {element.get('alt', '')} ")
        elif tag in ("code", "kbd", "samp", "tt") and element.find(".//pre") is None:
            self._inline.append(_code(_flat(element)))
        else:
            if tag in _BLOCKS:
                self._flush()
                self._open(element)
            return True
        return False

    def _open(self, element: Any) -> None:
        tag = element.tag
        if tag == "blockquote":
            self._quotes += 1
        elif tag == "ul":
            self._lists.append(None)
        elif tag == "ol":
            start = element.get("start", "1")
            self._lists.append(int(start) if start.isdecimal() and len(start) < 9 else 1)
        elif tag == "li":
            number = self._lists[-1] if self._lists else None
            if number is not None:
                self._lists[-1] = number + 1
            self._items.append(_Item("- " if number is None else f"{number}. "))

    def _end(self, element: Any) -> None:
        tag = element.tag
        if tag not in _BLOCKS:
            return
        self._flush()
        if tag == "blockquote":
            self._quotes -= 1
        elif tag in ("ul", "ol"):
            self._lists.pop()
            self._tight = self._tight and bool(self._lists)
        elif tag == "li":
            self._items.pop()

    def _flush(self) -> None:
        """End the paragraph that the inline text so far makes."""
        if self._inline:
            joined = "".join(self._inline)
            self._inline.clear()
            lines = (" ".join(line.split()) for line in joined.split("\x01"))
            self._block("\n".join(escape_marks(line) for line in lines if line))

    def _heading(self, level: int, text: str) -> None:
        self._flush()
        if text:
            self.title = self.title or text
            self._append(f"{'#' * level} {text}", tight=False)

    def _fence(self, element: Any) -> None:
        self._flush()
        code = _raw(element).strip("\n")
        if not code.strip():
            return
        ticks = max((len(run) for run in re.findall(r"`{3,}", code)), default=2) + 1
        fence = "`" * ticks
        self._block(f"{fence}{_language(element)}\n{code}\n{fence}", flush=False)

    def _block(self, text: str, *, flush: bool = True) -> None:
        """Append `text` below the open list items and quotes."""
        if flush:
            self._flush()
        if not text.strip():
            return
        indent = " " * min(sum(len(item.marker) for item in self._items), 40)
        lines = [indent + line if line else line for line in text.split("\n")]
        item = self._items[-1] if self._items else None
        tight = item is not None and item.pending
        if item is not None and item.pending:
            lines[0] = indent[: len(indent) - len(item.marker)] + item.marker + lines[0].lstrip(" ")
            item.pending = False
        if self._quotes:
            mark = "> " * min(self._quotes, 10)
            lines = [(mark + line).rstrip() for line in lines]
        self._append("\n".join(lines), tight=tight)

    def _append(self, text: str, *, tight: bool) -> None:
        if self._blocks:
            self._blocks.append("\n" if tight and self._tight else "\n\n")
        self._blocks.append(text)
        self._tight = tight


class _Item:
    """An open list item; `pending` until its marker is written."""

    def __init__(self, marker: str) -> None:
        self.marker = marker
        self.pending = True


def _language(element: Any) -> str:
    """The language of a code block, where `<pre>`, its `<code>` or a parent names it."""
    around = [element, element.find("code"), element.getparent()]
    around.append(around[2].getparent() if around[2] is not None else None)
    for one in around:
        if one is not None and (match := _LANGUAGE.search(one.get("class", ""))):
            return "" if match[1] in ("default", "none", "text") else match[1]
    return ""


def _code(text: str) -> str:
    if not text:
        return ""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _is_data(table: Any) -> bool:
    """Whether a table holds data, rather than the layout of a page."""
    return next((one for one in table.iter(*_NOT_IN_CELLS) if one is not table), None) is None


def _table(table: Any) -> str:
    rows = [
        [_flat(cell).replace("|", "\\|") for cell in row.iterchildren("td", "th")]
        for row in table.iter("tr")
    ]
    rows = [row for row in rows if any(row)]
    if not rows:
        return ""
    width = max(len(row) for row in rows)
    lines = [f"| {' | '.join(row + [''] * (width - len(row)))} |" for row in rows]
    lines.insert(1, f"|{' --- |' * width}")
    caption = _flat(table.find("caption"))
    return "\n".join([caption, "", *lines] if caption else lines)
