"""Parsers: bytes in, markdown or a reason out."""

from __future__ import annotations

import io
import json
import os
import signal
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import ParseError
from headwater.flows.sources.parsing import ParsedDocument, formats, worker
from headwater.flows.sources.parsing.formats import BY_NAME, BY_SUFFIX, finish

_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
_TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_MAIN = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
_RELATIONS_TYPE = "application/vnd.openxmlformats-package.relationships+xml"


def _parse(fmt: str, data: bytes | str, *, encoding: str = "utf-8") -> ParsedDocument:
    raw = data.encode(encoding) if isinstance(data, str) else data
    return finish(BY_NAME[fmt].parser()(raw, name="given", encoding=encoding), name="given")


def _refused(fmt: str, data: bytes | str, *, encoding: str = "utf-8") -> str:
    with pytest.raises(ParseError) as caught:
        _parse(fmt, data, encoding=encoding)
    return f"{caught.value.what}: {caught.value.todo}"


def _docx(*paragraphs: tuple[str, str]) -> bytes:
    body = "".join(
        f'<w:p><w:pPr><w:pStyle w:val="{style}"/></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>'
        for style, text in paragraphs
    )
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{_TYPES}"><Default Extension="rels" ContentType='
        f'"{_RELATIONS_TYPE}"/><Override PartName="/word/document.xml" ContentType="{_MAIN}"/>'
        "</Types>",
        "_rels/.rels": f'<Relationships xmlns="{_RELATIONS}"><Relationship Id="r1" '
        f'Type="{_OFFICE}" Target="word/document.xml"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{_W}"><w:body>{body}</w:body></w:document>',
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, f'<?xml version="1.0" encoding="UTF-8"?>{content}')
    return packed.getvalue()


def _pdf(pages: list[list[str]], outline: list[tuple[str, int]] = (), title: str = "") -> bytes:  # type: ignore[assignment]
    """A minimal PDF: one text line per string, outline entries as (title, page from 0)."""
    first_page, first_entry = 5, 5 + 2 * len(pages)
    kids = " ".join(f"{first_page + 2 * at} 0 R" for at in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R /Outlines 4 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Type /Outlines /First {first_entry} 0 R /Last {first_entry + len(outline) - 1} 0 R "
        f"/Count {len(outline)} >>"
        if outline
        else "<< /Type /Outlines >>",
    ]
    for at, lines in enumerate(pages):
        shown = "".join(f"({line}) Tj 0 -20 Td " for line in lines)
        stream = f"BT /F1 12 Tf 50 750 Td {shown}ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {first_page + 2 * at + 1}"
            " 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    for at, (text, page) in enumerate(outline):
        follows = f"/Next {first_entry + at + 1} 0 R " if at + 1 < len(outline) else ""
        objects.append(
            f"<< /Title ({text}) /Parent 4 0 R {follows}/Dest [{first_page + 2 * page} 0 R /Fit] >>"
        )
    objects.append(f"<< /Title ({title}) >>")
    out = b"%PDF-1.4\n"
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{content}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    count = len(objects) + 1
    return out + (
        f"xref\n0 {count}\n0000000000 65535 f \n{table}trailer\n"
        f"<< /Size {count} /Root 1 0 R /Info {count - 1} 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    ).encode("latin-1")


# --- text -----------------------------------------------------------------------------------------


def test_front_matter_becomes_metadata_and_leaves_the_text() -> None:
    """Scalars, and lists of them, are metadata, dates as ISO text; its title wins."""
    page = "---\ntitle: Own\ndate: 2024-05-06\nn: 3\ntags: [a, b]\nempty:\n---\n\n# Other\n\nbody\n"
    parsed = _parse("markdown", page)
    assert parsed.text == "# Other\n\nbody"
    assert parsed.title == "Own"
    assert parsed.metadata == {"title": "Own", "date": "2024-05-06", "n": 3, "tags": ["a", "b"]}


def test_tables_of_the_front_matter_are_part_of_the_text() -> None:
    """A table of releases is what such a page is about; it must be found."""
    table = "releases:\n  - {cycle: '3.1', eol: 2027-01-02, lts: true}\n  - cycle: '3.0'\nlinks:\n  home: /x\n"
    parsed = _parse("markdown", f"---\ntitle: Own\n{table}---\nbody\n")
    assert parsed.text == (
        "body\n\nreleases[0].cycle: 3.1\nreleases[0].eol: 2027-01-02\nreleases[0].lts: True"
        "\n\nreleases[1].cycle: 3.0\n\nlinks.home: /x"
    )
    assert _parse("markdown", f"---\n{table}---\n").text.startswith("releases[0].cycle")


@pytest.mark.parametrize("leaf", ["[{a: lol}]", "[{}]"])
def test_aliases_that_never_end_are_text(leaf: str) -> None:
    """A short block that expands without end costs little and loses nothing."""
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 12))
    page = f"---\nl0: &l0 {leaf}\n{levels}---\nbody"
    assert _parse("markdown", page).text == page


@pytest.mark.parametrize(
    "page",
    [
        "---\na: [1\n---\nbody",
        "---\n- a list\n---\nbody",
        "---\nd: 2024-99-99\n---\nbody",
        "---\nnever: closed\nbody",
        "---\n" + "[" * 60_000 + "\n---\nbody",
        "---\n" + "a: b\n" * 20_000 + "---\nbody",
    ],
)
def test_broken_front_matter_is_text(page: str) -> None:
    """Front matter that is no YAML mapping, endless, huge or hostile loses nothing."""
    parsed = _parse("markdown", page)
    assert parsed.text == page
    assert parsed.metadata == {}


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("text\n\n## Second *level* ##\n", "Second *level"),
        ("```\n# a comment\n```\n# Real { #anchor }\n", "Real"),
        ("Set *ext*\n=======\n", "Set *ext"),
        ("#hashtag\n\n# [Linked](x.md) words\n", "Linked words"),
        ("no heading\n", None),
    ],
)
def test_the_title_is_the_first_heading(page: str, title: str | None) -> None:
    """The first heading outside of code titles a document."""
    assert _parse("markdown", page).title == title


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_the_byte_order_mark_wins(encoding: str) -> None:
    """A file that names its encoding is read in it, whatever is configured."""
    data = "zwölf Öfen".encode(encoding)
    parsed = BY_NAME["text"].parser()(data, name="given", encoding="cp1252")
    assert parsed.text == "zwölf Öfen"


def test_a_wrong_encoding_names_the_byte() -> None:
    """Bytes of another encoding are refused with their offset, never replaced."""
    assert "byte 2" in _refused("text", b"zw\xf6lf")
    assert _parse("text", "zwölf", encoding="cp1252").text == "zwölf"


def test_a_nul_looks_binary() -> None:
    """Text with a NUL is refused."""
    assert "looks binary" in _refused("markdown", b"a\x00b")


def test_rst_titles_become_headings() -> None:
    """Underlined titles get the level of their style; tables and code stay."""
    page = (
        "=====\nGuide\n=====\n\nintro::\n\n   code\n   ----\n\nPart\n----\n\nSub\n~~~\n\n"
        "=====\nA\n=====\n1\n=====\n\nLast\n----\nx\n"
    )
    parsed = _parse("rst", page)
    assert parsed.title == "Guide"
    assert [line for line in parsed.text.split("\n") if line.startswith("#")] == [
        "# Guide",
        "## Part",
        "### Sub",
        "## Last",
    ]
    assert "   code\n   ----" in parsed.text
    assert "=====\nA\n=====\n1\n=====" in parsed.text


@given(st.text())
@settings(max_examples=60, deadline=None)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """No text makes a parser of text raise anything but ParseError, and none loses a word."""
    data = text.encode("utf-8", "replace")
    for fmt in ("markdown", "rst", "text", "csv", "tsv", "json", "jsonl"):
        try:
            parsed = _parse(fmt, data)
        except ParseError:
            continue
        parsed.text.encode()
        if fmt == "text":
            assert parsed.text.split() == data.decode().split()


# --- rows and objects -----------------------------------------------------------------------------


def test_csv_rows_become_blocks() -> None:
    """Each row is a block of `header: value` lines; empty values are left out."""
    parsed = _parse("csv", 'name;rate\n"Basic; old";3.10\nplus;\n\nx;1;extra\n')
    assert (
        parsed.text
        == "name: Basic; old\nrate: 3.10\n\nname: plus\n\nname: x\nrate: 1\ncolumn 3: extra"
    )


def test_csv_with_an_open_quote_is_refused() -> None:
    """A quote that never closes would swallow the rest of the file."""
    assert "line" in _refused("csv", 'a,b\n1,"2\n3,4\n')


def test_tsv_keeps_commas() -> None:
    """Tabs separate, commas belong to the value."""
    assert _parse("tsv", "a\tb\n1,5\t2\n").text == "a: 1,5\nb: 2"


def test_json_becomes_path_lines() -> None:
    """Each scalar is a line with its path; numbers keep their digits, doubled names both values."""
    page = '{"a": {"b": [1.10, true, null, ""]}, "n": 1e400, "n": "x"}'
    assert _parse("json", page).text == "a.b[0]: 1.10\na.b[1]: true\nn: 1e400\nn: x"


@pytest.mark.parametrize(
    ("fmt", "data", "why"),
    [
        ("json", '{\n"a": 1,\n}', "line 3"),
        ("json", "NaN", "NaN"),
        ("json", "[" * 200_000, "nested"),
        ("json", "{}", "no text"),
        ("jsonl", '{"a": 1}\n\n{"a": \n', "line 3"),
    ],
)
def test_bad_json_names_the_line(fmt: str, data: str, why: str) -> None:
    """What is no JSON, or holds nothing, is refused with its place."""
    assert why in _refused(fmt, data)


def test_jsonl_lines_become_blocks() -> None:
    """Each line is a block."""
    assert _parse("jsonl", '{"a": 1, "b": 2}\n{"a": 3}\n').text == "a: 1\nb: 2\n\na: 3"


def test_lone_surrogates_do_not_leave_a_parser() -> None:
    """JSON can spell half a character; what comes out can be encoded."""
    assert _parse("json", r'{"a": "x\ud800y", "b": "\u0000z"}').text == "a: x\ufffdy\nb: z"


def test_a_small_file_that_grows_without_bound_is_refused() -> None:
    """Deep paths over many values would multiply a file."""
    deep = '{"k' + "k" * 5000 + '":'
    page = deep * 8 + "[" + ",".join("1" * 1 for _ in range(4000)) + "]" + "}" * 8
    assert "too large" in _refused("json", page)


# --- markup ---------------------------------------------------------------------------------------

_PAGE = """<!doctype html><html><head><meta charset="utf-8"><title>Site</title></head><body>
<nav><a href="/">Home</a></nav><header>banner</header>
<main><h1>Install<a class="headerlink" href="#i">¶</a></h1>
<p>Run <code>pip install x</code> and <b>wait</b>.<br>Then <a href="y">go on</a>.</p><!-- note -->
<ul><li>one</li><li>two<ol start="3"><li>three</li></ol></li></ul>
<div class="highlight-python"><pre><span>def f():</span>
    return 1</pre></div>
<table><tr><th>Name</th><th>Rate</th></tr><tr><td>a|b</td><td>3 <i>%</i></td></tr></table>
<table><tr><td><h2>Cell</h2><p># not a heading</p></td></tr></table>
<script>bad()</script>tail</main><footer>foot</footer></body></html>"""


def test_html_keeps_the_main_content_as_markdown() -> None:
    """Headings, lists, code and tables survive; navigation, footers and scripts do not."""
    parsed = _parse("html", _PAGE)
    assert parsed.title == "Install"
    assert parsed.text == (
        "# Install\n\nRun `pip install x` and wait.\nThen go on.\n\n- one\n- two\n  3. three\n\n"
        "```python\ndef f():\n    return 1\n```\n\n| Name | Rate |\n| --- | --- |\n| a\\|b | 3 % |\n\n"
        "## Cell\n\n\\# not a heading\n\ntail"
    )


def test_html_without_a_main_element_uses_the_body() -> None:
    """The body stands in, and `<title>` where there is no heading."""
    parsed = _parse(
        "html", "<title>T</title><nav>menu</nav><p>a</p><article>b</article><article>c</article>"
    )
    assert parsed.text == "a\n\nb\n\nc"
    assert parsed.title == "T"


def test_html_reads_the_declared_charset() -> None:
    """`<meta charset>` says how the page is encoded; UTF-16 there is a lie that HTML knows."""
    page = '<meta charset="cp1252"><p>zwölf</p>'
    assert _parse("html", page.encode("cp1252")).text == "zwölf"
    assert _parse("html", page.replace("cp1252", "utf-16le").encode()).text == "zwölf"


def test_html_that_is_cut_for_its_depth_is_refused() -> None:
    """The parser stops at some depth; what came before must not pass for the whole."""
    assert "to its end" in _refused("html", "<p>start</p>" + "<div>" * 200_000 + "deep")
    assert _parse("html", "<div>" * 1500 + "deep").text == "deep"


# --- office and pdf -------------------------------------------------------------------------------


def test_docx_keeps_its_headings() -> None:
    """Heading styles become markdown headings."""
    parsed = _parse(
        "docx", _docx(("Heading1", "Leave"), ("Normal", "25 days."), ("Heading2", "Sick"))
    )
    assert parsed.title == "Leave"
    assert parsed.text == "# Leave\n\n25 days.\n\n## Sick"


def test_a_broken_docx_is_refused() -> None:
    """Neither half a file nor a bomb is text."""
    whole = _docx(("Normal", "words"))
    assert "cannot be read" in _refused("docx", whole[: len(whole) // 2])


def test_pdf_takes_its_headings_from_the_outline() -> None:
    """An outline entry replaces the line that says it, or opens its page."""
    pages = [["1 Scope", "This is the scope and it", "goes on."], ["over the page."], ["Terms"]]
    parsed = _parse("pdf", _pdf(pages, [("Scope", 0), ("Hidden", 1), ("Terms", 2)], "The Rules"))
    assert parsed.text == (
        "# Scope\n\nThis is the scope and it\ngoes on.\n\n# Hidden\n\nover the page.\n\n# Terms"
    )
    assert parsed.title == "The Rules"
    assert parsed.metadata == {"pages": 3, "page_starts": [0, 44, 70]}
    assert parsed.text[70:] == "# Terms"


def test_pdf_drops_running_lines() -> None:
    """Heads and feet that only differ in digits are left out; the same words inside a page stay."""
    pages = [
        [
            "The Rules",
            f"{'abcde'[at]} one",
            "x",
            f"{'abcde'[at]} two",
            "y",
            f"{'abcde'[at]} three",
            f"page {at}",
        ]
        for at in range(5)
    ]
    pages[2][3] = "The Rules"
    text = _parse("pdf", _pdf(pages)).text
    assert text.count("The Rules") == 1
    assert "page" not in text
    assert "e three" in text


def test_a_pdf_without_text_is_refused() -> None:
    """A scan has no text, and says so."""
    assert "scan" in _refused("pdf", _pdf([[]]))
    assert "cannot be opened" in _refused("pdf", b"%PDF-1.4 nothing")


# --- the worker -----------------------------------------------------------------------------------


def test_the_worker_answers_as_the_parser_does() -> None:
    """A document is the same from either side of the pipe, and one child serves many."""
    data = _docx(("Heading1", "Leave"))
    with worker.ParserWorker() as one:
        first = one.parse(BY_NAME["docx"], data, name="a", encoding="utf-8")
        pid = one.pid
        second = one.parse(BY_NAME["html"], _PAGE.encode(), name="b", encoding="utf-8")
        assert one.pid == pid
    assert first == BY_NAME["docx"].parser()(data, name="a", encoding="utf-8")
    assert second == BY_NAME["html"].parser()(_PAGE.encode(), name="b", encoding="utf-8")


def test_a_refusal_crosses_the_pipe() -> None:
    """What the parser says against a document reaches the quarantine."""
    with worker.ParserWorker() as one, pytest.raises(ParseError) as caught:
        one.parse(BY_NAME["html"], b"\xff\xfe\xff", name="a", encoding="utf-8")
    assert "utf-16" in caught.value.what


def test_a_document_that_hangs_is_given_up(tmp_path: Path) -> None:
    """After the deadline the child is killed, and the next document gets another."""
    with worker.ParserWorker(deadline_s=1.0) as one:
        one.parse(BY_NAME["html"], b"<p>warm</p>", name="a", encoding="utf-8")
        hung = one.pid
        assert hung is not None
        os.kill(hung, signal.SIGSTOP)
        with pytest.raises(ParseError, match="too long"):
            one.parse(BY_NAME["html"], b"<p>x</p>", name="b", encoding="utf-8")
        assert one.parse(BY_NAME["html"], b"<p>y</p>", name="c", encoding="utf-8").text == "y"
        assert one.pid != hung


def test_a_child_that_dies_is_replaced() -> None:
    """A document is not blamed for the end of a child that others used before."""
    with worker.ParserWorker() as one:
        one.parse(BY_NAME["html"], b"<p>warm</p>", name="a", encoding="utf-8")
        assert one.pid is not None
        os.kill(one.pid, signal.SIGKILL)
        assert one.parse(BY_NAME["html"], b"<p>x</p>", name="b", encoding="utf-8").text == "x"


def test_a_bomb_stays_below_the_bound() -> None:
    """A small PDF that unpacks to much more than the bound is refused, and the worker goes on."""
    packed = zlib.compress(zlib.compress(b" " * 400_000_000, 9), 9)
    page = (
        b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n"
        b"2 0 obj\n<< /Type /Pages /Count 1 /Kids [3 0 R] >>\nendobj\n"
        b"3 0 obj\n<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R >>\nendobj\n"
        b"4 0 obj\n<< /Filter [/FlateDecode /FlateDecode] /Length LENGTH >>\nstream\n"
    ).replace(b"LENGTH", b"%d" % len(packed)) + (
        packed + b"\nendstream\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n"
    )
    with worker.ParserWorker(deadline_s=20, memory_bytes=700 << 20) as one:
        with pytest.raises(ParseError):
            one.parse(BY_NAME["pdf"], page, name="bomb", encoding="utf-8")
        assert one.parse(BY_NAME["html"], b"<p>on</p>", name="c", encoding="utf-8").text == "on"


def test_the_child_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the child holds nothing but what a Python needs."""
    monkeypatch.setenv("TOKEN", "secret")
    with worker.ParserWorker() as one:
        one.parse(BY_NAME["html"], b"<p>x</p>", name="a", encoding="utf-8")
        environment = Path(f"/proc/{one.pid}/environ")
        if not environment.exists():
            pytest.skip("this system shows no environment of a process")
        assert b"secret" not in environment.read_bytes()


def test_a_parser_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No parser keeps a cache of what it read: an erasure would not find it."""
    for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    with worker.ParserWorker() as one:
        one.parse(BY_NAME["docx"], _docx(("Normal", "words")), name="a", encoding="auto")
        one.parse(BY_NAME["pdf"], _pdf([["words"]]), name="b", encoding="auto")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_text_that_grows_without_bound_does_not_leave_the_child(tmp_path: Path) -> None:
    """What is refused for its size is refused where it grew: this process never holds it."""
    deep = '{"k' + "k" * 5000 + '":'
    page = deep * 8 + "[" + ",".join("1" for _ in range(4000)) + "]" + "}" * 8
    with worker.ParserWorker() as one, pytest.raises(ParseError, match="too large"):
        one.parse(BY_NAME["json"], page.encode(), name="a", encoding="auto")


def test_the_parser_of_an_archive_is_all_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new version of any parser reads what is compressed again."""
    before = BY_NAME["gzip"].parser_id("auto")
    newer = [replace(one, revision=99) if one.name == "rst" else one for one in formats.FORMATS]
    monkeypatch.setattr(formats, "FORMATS", tuple(newer))
    assert BY_NAME["gzip"].parser_id("auto") != before


def test_every_suffix_has_one_parser_that_loads() -> None:
    """The registry names parsers that exist, and no suffix twice."""
    assert sum(len(one.suffixes) for one in BY_NAME.values()) == len(BY_SUFFIX)
    for one in BY_NAME.values():
        assert callable(one.parser())
        json.dumps(one.parser_id("utf-8"))
