"""Damaged and trick files: for each, what a person finds who opens it in an ordinary viewer.

The expectations were written by looking: PDFs in poppler and pdfium, office files in LibreOffice,
pages in a browser's terms, the rest in an editor. What a viewer shows as text must be there; what
it refuses, or shows as a blank page, must be in quarantine with a reason that helps.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from headwater.config import DocumentsConfig
from headwater.flows.sources.conformance import pull_all
from headwater.flows.sources.documents import DocumentsSource
from headwater.flows.sources.parsing.worker import MEMORY_BYTES, ParserWorker
from headwater.flows.sources.protocol import PullRequest

_HOSTILE = Path(__file__).parents[4] / "shared" / "corpora" / "hostile"
pytestmark = pytest.mark.skipif(not _HOSTILE.is_dir(), reason="the hostile corpus is not here")

TEXT = {
    "csv/csv-spectrum__empty_crlf.csv": "a: 2\nb: 3\nc: 4",
    "csv/csv-spectrum__escaped_quotes.csv": 'b: ha "ha" ha',
    "csv/csv-spectrum__simple_crlf.csv": "a: 1\nb: 2\nc: 3",
    "json/JSONTestSuite__i_number_very_big_negative_int.json": "-237462374673276894279832749832423",
    "json/JSONTestSuite__y_object_duplicated_key.json": "a: b\na: c",
    "json/JSONTestSuite__y_object_duplicated_key_and_value.json": "a: b\na: b",
    "json/JSONTestSuite__y_string_nonCharacterInUTF-8_U_FFFF.json": "\uffff",
    "manifest.json": "files: 64",
    "office-html-xml/tika__EmbeddedPDF.docx": "Test Document with embedded pdf’s:",
    "office-html-xml/tika__testBrokenHTMLContainingRFC822.html": "# A heading\n\nSome text",
    "office-html-xml/tika__testEML_embedded_xhtml_and_img.eml": "This is a test\n\nUsing inline",
    # Two pages in Windows-1256 Arabic and UTF-8 that name the encoding in odd ways.
    "office-html-xml/tika__testHTMLNoisyMetaEncoding_2.html": "وأعرب الاتحاد الجزائري",
    "office-html-xml/tika__testHTMLNoisyMetaEncoding_3.html": "وأعرب الاتحاد الجزائري",
    "office-html-xml/tika__testHTML_charset_utf16le.html": "This is a sample text",
    "office-html-xml/tika__testIgnoreCharset.txt": "ACTIVE AGE\n\nBALM",
    "office-html-xml/tika__testPDFEmbeddingAndEmbedded.docx": "Outer_haystack",
    "office-html-xml/tika__testRTFInvalidUnicode.rtf": "Unpaired hi",
    "office-html-xml/tika__testWORD_emptyParaInTextbox.docx": "| Počet citácií WOS, Scopus |",
    "office-html-xml/tika__testWORD_missing_ooxml_bean1.docx": "b",
    # Bytes of a mail, damaged: a browser shows it all the same.
    "office-html-xml/tika__test_ignore_IBM420.html": "Hi, Luis, good morning.",
    "office-html-xml/tika__test_recursive_embedded.docx": "embed_0",
    # Its four form fields hold these; the page itself is blank.
    "pdf/pdf.js__PDFBOX-3148-2-fuzzed.pdf": "1\n2\n3\n4",
    "pdf/pdf.js__bug1020858.pdf": "Bug 1020858",
    "pdf/pdf.js__bug1250079.pdf": "Bug 1250079",  # the trailer is cut off
    "pdf/pdf.js__bug1606566.pdf": "Bug 1606566",  # the first line is missing
    "pdf/pdf.js__bug1871353.pdf": "B",  # free text put on a blank page
    "pdf/pdf.js__bug766086.pdf": "Bug 766086 - relative links",
    "pdf/pdf.js__bug850854.pdf": "Bug 850854",
    "pdf/pdf.js__bug893730.pdf": "ðöéáþæíúý",
    "pdf/pdf.js__encrypted-attachment.pdf": "Example",
    "pdf/pdf.js__helloworld-bad.pdf": "Hello, world!",
    "pdf/pdf.js__pdfjsbad1586.pdf": "pdf.js test",
    "pdf/pdf.js__poppler-67295-0.pdf": "TestString123",
    "pdf/pdf.js__poppler-91414-0-53.pdf": "foobar",
    "pdf/pdf.js__poppler-91414-0-54.pdf": "foobar",
    "pdf/pdf.js__scan-bad.pdf": "pdf.js",
    "pdf/pdf.js__xref_command_missing.pdf": "Reduced test-case",
}
"""What a viewer shows, and a search must find."""

REASON = {
    "json/JSONTestSuite__i_string_invalid_utf-8.json": "not utf-8: byte 2",
    "json/JSONTestSuite__i_string_lone_utf8_continuation_byte.json": "not utf-8: byte 2",
    "json/JSONTestSuite__i_structure_UTF-8_BOM_empty_object.json": "holds no text",
    "json/JSONTestSuite__n_array_incomplete.json": "not valid JSON: line 1, column 5",
    "json/JSONTestSuite__n_number_NaN.json": "NaN is no JSON value",
    "json/JSONTestSuite__n_object_trailing_comma.json": "not valid JSON: line 1, column 9",
    "json/JSONTestSuite__n_string_invalid_utf8_after_escape.json": "not utf-8: byte 3",
    "json/JSONTestSuite__n_structure_no_data.json": "holds no text",
    "json/JSONTestSuite__n_structure_null-byte-outside-string.json": "looks binary",
    "json/JSONTestSuite__n_structure_open_array_object.json": "nested too deeply",
    "office-html-xml/tika__quine.gz": "nested too deeply",  # it unpacks to itself, for ever
    "office-html-xml/tika__testEXCEL_embeddedPDF_mac.xlsx": "holds no text",  # one empty sheet
    "office-html-xml/tika__testEXCEL_protected_passtika.xlsx": "password",
    "office-html-xml/tika__testODTEncrypted.odt": "password",
    "office-html-xml/tika__testPDF_malformedXFA.pdf": "holds no text",
    "office-html-xml/tika__testPassword4Spaces.pdf": "password",
    "office-html-xml/tika__testWORD_protected_passtika.docx": "password",
    "pdf/pdf.js__GHOSTSCRIPT-698804-1-fuzzed.pdf": "holds no text",
    "pdf/pdf.js__PDFBOX-4352-0.pdf": "holds no text",
    # The first of its two pages can be read; half of a document would pass for the whole.
    "pdf/pdf.js__Pages-tree-refs.pdf": "page 2 cannot be read",
    # Beautiful to look at; its text is numbers of glyphs, which pdftotext prints as nonsense.
    "pdf/pdf.js__ThuluthFeatures.pdf": "not made of characters",
    "pdf/pdf.js__bug1980958.pdf": "cannot be opened",
    "pdf/pdf.js__empty.pdf": "holds no text",
    "pdf/pdf.js__poppler-742-0-fuzzed.pdf": "cannot be opened",
    "pdf/pdf.js__poppler-85140-0.pdf": "holds no text",
}
"""What no viewer shows any text of, or only a part, and why it waits in quarantine."""

LEFT_OUT = frozenset(
    {
        "parquet-bad/parquet-testing__ARROW-GH-43605.parquet",
        "parquet-bad/parquet-testing__ARROW-GH-45185.parquet",
        "parquet-bad/parquet-testing__ARROW-GH-47662.parquet",
    }
)
"""Tables of a database, and no documents: counted in the note, not read."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Everything, read once."""
    batches, end = pull_all(_source(tmp_path_factory.mktemp("kb")))
    assert end.complete
    assert f"{len(LEFT_OUT)} of other formats left out" in end.note
    return {row["key"]: row for batch in batches for row in batch.to_pylist()}


def _source(root: Path, folder: Path = _HOSTILE) -> DocumentsSource:
    config = DocumentsConfig(kind="documents", root=str(folder))
    return DocumentsSource("hostile", config, root=root)


def test_the_tables_speak_of_every_file(rows: dict[str, dict[str, Any]]) -> None:
    """No file of the corpus is left without an expectation, and none is made up."""
    listed = {one["file"] for one in json.loads((_HOSTILE / "manifest.json").read_text())["items"]}
    assert {*TEXT, *REASON, *LEFT_OUT} == {*listed, "manifest.json"}
    assert rows.keys() == {*TEXT, *REASON}


@pytest.mark.parametrize("key", sorted(TEXT))
def test_what_a_viewer_shows_is_there(key: str, rows: dict[str, dict[str, Any]]) -> None:
    """The file is not held back, and its text is what a person reads."""
    row = rows[key]
    assert row["state"] == "present", row["error"]
    assert TEXT[key] in row["text"]


@pytest.mark.parametrize("key", sorted(REASON))
def test_what_is_broken_says_why(key: str, rows: dict[str, dict[str, Any]]) -> None:
    """Nothing of the file is published, and the reason tells a person what to do."""
    row = rows[key]
    assert row["state"] == "unreadable"
    assert REASON[key] in row["error"]
    assert row["text"] is None


def test_no_file_takes_long_or_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is parsed within 30 s, this process hardly grows, and its child keeps its bound."""
    took: dict[str, float] = {}
    parse = ParserWorker.parse

    def timed(self: ParserWorker, *arguments: Any, name: str, **options: Any) -> Any:
        before = time.monotonic()
        try:
            return parse(self, *arguments, name=name, **options)
        finally:
            took[name] = time.monotonic() - before

    monkeypatch.setattr(ParserWorker, "parse", timed)
    own = psutil.Process()
    before, peaks, done = own.memory_info().rss, [0, 0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peaks[0] = max(peaks[0], own.memory_info().rss - before)
            for child in own.children():
                with contextlib.suppress(psutil.Error):
                    peaks[1] = max(peaks[1], child.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        pull_all(_source(tmp_path))
    finally:
        done.set()
        watcher.join()
    assert len(took) > 55
    assert max(took.values()) < 30
    assert peaks[0] < 200 << 20, "the process that refreshes"
    assert 10 << 20 < peaks[1] < MEMORY_BYTES, "the process that parses"


def test_bad_bytes_are_tried_again_by_another_parser(tmp_path: Path) -> None:
    """A refusal holds for the parser, the options and the limits that it was made with."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.json").write_text("{")
    source = _source(tmp_path, tmp_path / "docs")
    (row,) = (row for batch in pull_all(source)[0] for row in batch.to_pylist())
    refused = {"a.json": (row["fingerprint"], "the old reason")}
    assert _error(source, PullRequest(refused=refused)) == "the old reason"
    other = {"a.json": (row["fingerprint"].replace("json/1", "json/0"), "the old reason")}
    assert "not valid JSON" in _error(source, PullRequest(refused=other))
    (tmp_path / "docs" / "a.json").write_text("{ ")
    assert "not valid JSON" in _error(source, PullRequest(refused=refused))
    asked = PullRequest(refused=refused, keys=frozenset({"a.json"}))
    assert "not valid JSON" in _error(source, asked), "asked for by name, it is tried again"


def _error(source: DocumentsSource, request: PullRequest) -> str:
    (row,) = (row for batch in pull_all(source, request)[0] for row in batch.to_pylist())
    assert row["state"] == "unreadable"
    return str(row["error"])
