"""Files that LibreOffice wrote: what their author structured is there in markdown.

The files and the script that makes them are in the folder `office`.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from headwater.errors import ParseError
from headwater.flows.sources.parsing import ParsedDocument
from headwater.flows.sources.parsing.formats import BY_SUFFIX, finish
from headwater.flows.sources.parsing.worker import ParserWorker

_OFFICE = Path(__file__).with_name("office")

_HANDBOOK = """# River gauge handbook

Every gauge reports the water level in centimetres.

## Stations

| Station | Level | Kept by |
| --- | --- | --- |
| Ostermühle | 214 | the miller of the lower mill |
| Old weir | 87 | nobody |

## Alarm

Two stages are told apart.

### First stage

At 300 cm the ferry stops, and the harbour office is called.

- call the lock keeper
- close the gate

### Second stage

At 420 cm the lower town is warned by siren."""


def _parsed(name: str, data: bytes | None = None) -> ParsedDocument:
    given = (_OFFICE / name).read_bytes() if data is None else data
    fmt = BY_SUFFIX[name.rpartition(".")[2]]
    return finish(fmt.parser()(given, name=name, encoding="auto"), name=name)


@pytest.mark.parametrize("name", ["handbook.docx", "handbook.odt", "handbook.pdf"])
def test_headings_lists_and_tables_survive(name: str) -> None:
    """Word, OpenDocument and tagged PDF say the same in markdown."""
    parsed = _parsed(name)
    assert parsed.text == _HANDBOOK
    assert parsed.title == "River gauge handbook"


def test_a_pdf_says_where_its_pages_begin() -> None:
    """`page_starts` are offsets into the text, so that a span tells its page."""
    parsed = _parsed("handbook.pdf")
    assert parsed.metadata["pages"] == 2
    first, second = parsed.metadata["page_starts"]
    assert first == 0
    assert parsed.text[second:].startswith("### Second stage")


def test_a_pdf_without_tags_follows_its_outline_and_its_rules() -> None:
    """Headings come from the outline, at its levels, and tables from ruled lines."""
    parsed = _parsed("handbook-plain.pdf")
    said = _HANDBOOK.replace("called.\n\n- call", "called.\n• call").replace(
        "\n- close", "\n• close"
    )
    assert parsed.text == said
    assert parsed.text[parsed.metadata["page_starts"][1] :].startswith("### Second stage")


def _ruled(cells: list[tuple[float, float, str]], rules: list[tuple[float, ...]]) -> bytes:
    """A page of texts at places, with ruled lines (x, y, width, height)."""
    shown = "".join(f"BT /F1 10 Tf {x} {y} Td ({text}) Tj ET " for x, y, text in cells)
    drawn = "".join(f"{' '.join(map(str, rule))} re f " for rule in rules)
    stream = f"{shown}{drawn}"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R /Resources 6 0 R >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        "<< /Font << /F1 5 0 R >> >>",
    ]
    body = "".join(f"{n} 0 obj\n{one}\nendobj\n" for n, one in enumerate(objects, 1))
    return f"%PDF-1.7\n{body}trailer\n<< /Size 7 /Root 1 0 R >>\n%%EOF\n".encode()


_LEVEL = [(50.0, y, 200.0, 0.5) for y in (700.0, 680.0, 660.0)]
_UPRIGHT = [(x, 660.0, 0.5, 40.0) for x in (50.0, 150.0, 250.0)]


def test_a_cell_that_spans_columns_keeps_its_text() -> None:
    """Where a line between two columns is missing, the text is in the first of them, uncut."""
    cells = [(55, 720, "Before"), (55, 685, "Levels of both gauges in spring"), (55, 665, "214")]
    cells += [(155, 665, "87"), (55, 640, "After")]
    upright = [(150.0, 660.0, 0.5, 20.0), *_UPRIGHT[::2]]
    text = _parsed("a.pdf", _ruled(cells, [*_LEVEL, *upright])).text
    assert text == (
        "Before\n\n| Levels of both gauges in spring |  |\n| --- | --- |\n| 214 | 87 |\n\nAfter"
    )


def test_lines_that_are_no_table_lose_nothing() -> None:
    """Cells written in another order than they are read stay lines, each letter once."""
    cells = [(155, 685, "b"), (55, 665, "c"), (55, 685, "a"), (155, 665, "d"), (55, 640, "After")]
    text = _parsed("a.pdf", _ruled(cells, [*_LEVEL, *_UPRIGHT])).text
    assert sorted(ch for ch in text if ch.isalnum()) == sorted("abcdAfter")


def test_a_drawing_of_thousands_of_lines_costs_little() -> None:
    """Hatching is no table, and holds nobody up."""
    hatch = [(50 + at % 90 * 0.2, 600 + at // 90 * 4.0, 0.1, 3.5) for at in range(2900)]
    with ParserWorker(deadline_s=10) as worker:
        given = _ruled([(55, 720, "A map")], hatch)
        parsed = worker.parse(BY_SUFFIX["pdf"], given, name="a.pdf", encoding="auto")
    assert parsed.text == "A map"


def test_slides_keep_titles_lists_tables_and_notes() -> None:
    """Each slide is a section; what the speaker says is a quote below it."""
    parsed = _parsed("talk.pptx")
    assert parsed.text == (
        "# Why gauges drift\n\n- Silt settles at the foot\n  - most of it in spring\n"
        "- The staff sinks\n\n> **Notes:** Tell the story of the gauge that showed dry land during "
        "the flood.\n\n# Corrections of 2024\n\n| Gauge | Offset |\n| --- | --- |\n"
        "| Ostermühle | +3 cm |"
    )
    assert parsed.title == "Why gauges drift"
    assert parsed.metadata["pages"] == 2
    assert parsed.text[parsed.metadata["page_starts"][1] :].startswith("# Corrections")


def test_sheets_become_headings_and_tables() -> None:
    """Each sheet is a section with a table; dates and numbers read as they are shown."""
    assert _parsed("levels.xlsx").text == (
        "## Levels\n\n| Day | Ostermühle | Old weir |\n| --- | --- | --- |\n"
        "| 2024-03-01 | 214 | 87.5 |\n| 2024-03-02 | 220 | 90 |\n\n"
        "## People\n\n| Gauge | Kept by |\n| --- | --- |\n| Ostermühle | the miller |\n"
        "| Old weir | nobody |"
    )


@pytest.mark.parametrize("name", ["handbook.docx", "handbook.odt", "levels.xlsx", "talk.pptx"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_half_a_package_is_refused(name: str, share: float) -> None:
    """A file that was cut short is not half published."""
    data = (_OFFICE / name).read_bytes()
    with pytest.raises(ParseError, match="cannot be read"):
        _parsed(name, data[: int(len(data) * share)])


def test_a_protected_file_is_refused_by_name() -> None:
    """Office wraps what a password protects; the reason says so."""
    with pytest.raises(ParseError, match="password"):
        _parsed("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600)


def _repacked(name: str, part: str, content: bytes) -> bytes:
    """The package with one part replaced."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(_OFFICE / name) as old,
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for one in old.infolist():
            new.writestr(one.filename, content if one.filename == part else old.read(one))
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("handbook.docx", "word/document.xml"),
        ("handbook.odt", "content.xml"),
        ("talk.pptx", "ppt/slides/slide1.xml"),
        ("levels.xlsx", "xl/worksheets/sheet1.xml"),
    ],
)
def test_a_bomb_in_a_package_is_refused(name: str, part: str) -> None:
    """A small package that unpacks to hundreds of megabytes costs neither time nor memory."""
    bomb = _repacked(name, part, b"<a>" + b" " * 300_000_000 + b"</a>")
    assert len(bomb) < 1_000_000
    fmt = BY_SUFFIX[name.rpartition(".")[2]]
    with ParserWorker(deadline_s=20, memory_bytes=700 << 20) as worker, pytest.raises(ParseError):
        worker.parse(fmt, bomb, name=name, encoding="auto")


def test_entities_of_a_package_are_not_followed(tmp_path: Path) -> None:
    """A slide cannot make its reader read a file of the machine."""
    secret = tmp_path / "secret"
    secret.write_text("TOP-SECRET")
    slide = (
        f'<!DOCTYPE p [<!ENTITY x SYSTEM "file://{secret}">]>'
        '<p:sld xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
        'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main"><p:cSld><p:spTree>'
        "<p:sp><p:txBody><a:p><a:r><a:t>shown &x;</a:t></a:r></a:p></p:txBody></p:sp>"
        "</p:spTree></p:cSld></p:sld>"
    )
    text = _parsed(
        "talk.pptx", _repacked("talk.pptx", "ppt/slides/slide1.xml", slide.encode())
    ).text
    assert "shown" in text
    assert "SECRET" not in text
