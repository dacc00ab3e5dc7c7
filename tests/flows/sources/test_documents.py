"""The documents source: which files become which records."""

from __future__ import annotations

import json
import os
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from headwater.config import DocumentsConfig
from headwater.errors import ConfigError, SourceUnreachableError
from headwater.flows.sources.documents import DocumentsSource
from headwater.flows.sources.protocol import (
    RECORD_SCHEMA,
    ExtractEnd,
    PullRequest,
    Source,
    Window,
)

_is_root = hasattr(os, "geteuid") and os.geteuid() == 0

Rows = dict[str | None, dict[str, Any]]


def _source(folder: Path, **options: Any) -> DocumentsSource:
    config = DocumentsConfig(kind="documents", root=folder.name, **options)
    return DocumentsSource("docs", config, root=folder.parent)


def _pull(source: DocumentsSource, **request: Any) -> tuple[list[dict[str, Any]], ExtractEnd]:
    rows: list[dict[str, Any]] = []
    pull = source.pull(PullRequest(**request))
    while True:
        try:
            batch = next(pull)
        except StopIteration as end:
            assert isinstance(end.value, ExtractEnd)
            return rows, end.value
        assert batch.schema == RECORD_SCHEMA
        assert 0 < batch.num_rows <= 1000
        rows += batch.to_pylist()


def _rows(folder: Path, **options: Any) -> Rows:
    return {row["key"]: row for row in _pull(_source(folder, **options))[0]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a few documents."""
    _put(tmp_path / "docs", "guide/start.md", "# Start\n\nfirst\n")
    _put(tmp_path / "docs", "guide/deep/more.txt", "more\n")
    _put(tmp_path / "docs", "index.html", "<nav>menu</nav><main><h1>Home</h1><p>hello</p></main>")
    _put(tmp_path / "docs", "LICENSE", "MIT\n")
    return tmp_path / "docs"


def _put(folder: Path, key: str, text: str | bytes) -> Path:
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_each_file_is_a_record(folder: Path) -> None:
    """Keys are relative POSIX paths in order; text, title, link, labels and metadata are filled."""
    source = _source(folder, url="https://docs.example/{key}", labels=("public",))
    assert isinstance(source, Source)
    rows, end = _pull(source)
    assert [row["key"] for row in rows] == [
        "LICENSE",
        "guide/deep/more.txt",
        "guide/start.md",
        "index.html",
    ]
    assert end == ExtractEnd(complete=True, note="4 files")
    assert [row["title"] for row in rows] == ["LICENSE", "more", "Start", "Home"]
    assert rows[3]["text"] == "# Home\n\nhello"
    assert rows[2]["url"] == "https://docs.example/guide/start.md"
    assert json.loads(rows[2]["metadata"]) == {"path": "guide/start.md", "format": "markdown"}
    assert all(row["labels"] == ["public"] and row["source_ts"] is None for row in rows)
    assert {row["state"] for row in rows} == {"present"}


def test_a_link_is_quoted(folder: Path) -> None:
    """A key with spaces, umlauts and marks makes a valid link."""
    _put(folder, "a b/ü?.md", "x")
    rows = _rows(folder, url="https://docs.example/{key}")
    assert rows["a b/ü?.md"]["url"] == "https://docs.example/a%20b/%C3%BC%3F.md"


def test_what_is_known_is_not_parsed_again(folder: Path) -> None:
    """A file with the known fingerprint is unchanged, whatever its time; an edited one is not."""
    first = _rows(folder)
    known = {str(key): row["fingerprint"] for key, row in first.items()}
    os.utime(folder / "LICENSE", (1, 1))
    _put(folder, "guide/start.md", "# Start\n\nsecond\n")
    rows, end = _pull(_source(folder), known=known)
    states = {row["key"]: row["state"] for row in rows}
    assert states == {
        "LICENSE": "unchanged",
        "guide/deep/more.txt": "unchanged",
        "guide/start.md": "present",
        "index.html": "unchanged",
    }
    assert rows[0]["text"] is None
    assert rows[0]["fingerprint"] == known["LICENSE"]
    assert end.note == "4 files, 3 unchanged"


def test_an_option_that_changes_the_text_changes_the_fingerprint(folder: Path) -> None:
    """The encoding and the link template are part of the proof that nothing changed."""
    prints = {
        _rows(folder, **options)["LICENSE"]["fingerprint"]
        for options in ({}, {"encoding": "cp1252"}, {"url": "https://a/{key}"}, {"labels": ("x",)})
    }
    assert len(prints) == 3


def test_a_renamed_file_keeps_its_text(folder: Path) -> None:
    """The name is no part of the text or of the fingerprint."""
    before = _rows(folder)["guide/start.md"]
    (folder / "guide" / "start.md").rename(folder / "begin.md")
    after = _rows(folder)
    assert "guide/start.md" not in after
    assert after["begin.md"]["text"] == before["text"]
    assert after["begin.md"]["fingerprint"] == before["fingerprint"]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("empty.md", b"", "the file holds no text"),
        ("blank.txt", b" \n\t\n", "the file holds no text"),
        ("blank.html", b"<p> </p>", "the file holds no text"),
        ("odd.txt", b"zw\x81lf", "byte 2"),
        ("binary.txt", b"a\x00b", "looks binary"),
        ("broken.json", b'{"a": ', "line 1"),
        ("broken.pdf", b"%PDF-1.4", "cannot be opened"),
        ("broken.docx", b"PK", "cannot be read"),
        ("large.txt", b"x" * 201, "max_bytes"),
    ],
)
def test_what_cannot_be_read_says_why(folder: Path, name: str, content: bytes, why: str) -> None:
    """A bad file is a record with its reason; the others are as they were."""
    _put(folder, name, content)
    rows, end = _pull(_source(folder, max_bytes=200))
    bad = next(row for row in rows if row["key"] == name)
    assert bad["state"] == "unreadable"
    assert why in bad["error"]
    assert bad["text"] is None
    assert (bad["fingerprint"] is None) == (name == "large.txt"), "bytes that were read are known"
    assert [row["state"] for row in rows if row is not bad] == ["present"] * 4
    assert end.complete


def test_globs_choose_the_files(folder: Path) -> None:
    """`**` crosses folders, `*` does not; an excluded folder is left out with all it holds."""
    _put(folder, "guide/draft/secret.md", "x")
    assert set(_rows(folder, glob=("*",))) == {"LICENSE", "index.html"}
    assert set(_rows(folder, glob=("**/*.md", "guide/**/*.txt"))) == {
        "guide/start.md",
        "guide/draft/secret.md",
        "guide/deep/more.txt",
    }
    assert set(_rows(folder, glob=("guide/[!s]*/**",))) == {
        "guide/deep/more.txt",
        "guide/draft/secret.md",
    }
    assert set(_rows(folder, exclude=("**/draft", "?ICENSE", "guide/deep/**"))) == {
        "guide/start.md",
        "index.html",
    }


def test_hidden_and_unknown_files_are_left_out(folder: Path) -> None:
    """Dot files and folders are not seen; other formats are counted."""
    _put(folder, ".git/config.txt", "x")
    _put(folder, "guide/.env", "x")
    _put(folder, "logo.PNG", "x")
    _put(folder, "UPPER.MD", "x")
    rows, end = _pull(_source(folder))
    assert {row["key"] for row in rows} - set(_rows(folder, glob=("[LgiU]*", "guide/**"))) == set()
    assert "UPPER.MD" in {row["key"] for row in rows}
    assert len(rows) == 5
    assert end.note == "5 files, 1 of other formats left out"


def test_links_do_not_leave_the_folder(folder: Path) -> None:
    """A link to a file inside is read; one that leads out, to a folder or to a hidden file is not."""
    outside = _put(folder.parent, "secret.md", "secret")
    _put(folder, ".hidden.md", "hidden")
    (folder / "in.md").symlink_to("guide/start.md")
    (folder / "out.md").symlink_to(outside)
    (folder / "up").symlink_to("..")
    (folder / "peek.md").symlink_to(".hidden.md")
    (folder / "gone.md").symlink_to("nowhere.md")
    rows, end = _pull(_source(folder))
    found = {row["key"]: row["state"] for row in rows}
    assert found["in.md"] == "present"
    assert found["gone.md"] == "unreadable"
    assert found.keys().isdisjoint({"out.md", "up/secret.md", "peek.md"})
    assert "3 links not followed" in end.note


def test_a_link_loop_ends(folder: Path) -> None:
    """A folder that links to itself is listed once."""
    (folder / "guide" / "again").symlink_to("..", target_is_directory=True)
    (folder / "self.md").symlink_to("self.md")
    rows, _ = _pull(_source(folder))
    assert {row["key"]: row["state"] for row in rows}["self.md"] == "unreadable"
    assert len(rows) == 5


def test_keys_are_normalised(folder: Path) -> None:
    """A decomposed name gives the composed key; a second name of the same key is quarantined."""
    composed = unicodedata.normalize("NFC", "é.md")
    _put(folder, unicodedata.normalize("NFD", composed), "one")
    assert composed in _rows(folder)
    _put(folder, composed, "two")
    rows, end = _pull(_source(folder))
    assert [row["key"] for row in rows].count(composed) == 1
    assert rows[-1]["key"] is None
    assert "Unicode" in rows[-1]["error"]
    assert "1 without a usable name" in end.note


def test_a_name_that_is_no_text_is_quarantined(folder: Path) -> None:
    """A file whose name is not UTF-8 is listed with the reason, and ends nothing."""
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.md")).write_text("x")
    except OSError:
        pytest.skip("this file system refuses names that are not UTF-8")
    rows, end = _pull(_source(folder))
    assert rows[-1]["key"] is None
    assert rows[-1]["state"] == "unreadable"
    assert "UTF-8" in rows[-1]["error"]
    assert end.complete


def test_asked_for_keys_only(folder: Path) -> None:
    """Only these keys are yielded, a missing one is gone, and such an extract is not complete."""
    rows, end = _pull(_source(folder), keys=frozenset({"LICENSE", "guide/old.md"}))
    assert {row["key"]: row["state"] for row in rows} == {
        "LICENSE": "present",
        "guide/old.md": "gone",
    }
    assert not end.complete


def test_a_missing_folder_is_no_empty_one(tmp_path: Path) -> None:
    """A folder that is not there cannot be reached; it does not say that all was deleted."""
    with pytest.raises(SourceUnreachableError, match="cannot be listed"):
        _pull(_source(tmp_path / "nowhere"))
    with pytest.raises(SourceUnreachableError):
        _pull(_source(_put(tmp_path, "file", "x")))
    (tmp_path / "empty").mkdir()
    assert _pull(_source(tmp_path / "empty")) == ([], ExtractEnd(complete=True, note="0 files"))


@pytest.mark.skipif(_is_root, reason="root may read everything")
def test_forbidden_files_and_folders(folder: Path) -> None:
    """A forbidden file is unreadable; a forbidden folder makes the extract incomplete."""
    (folder / "LICENSE").chmod(0)
    (folder / "guide").chmod(0)
    try:
        rows, end = _pull(_source(folder))
        asked, _ = _pull(_source(folder), keys=frozenset({"guide/start.md"}))
    finally:
        (folder / "guide").chmod(0o755)
    assert {row["key"]: row["state"] for row in rows} == {
        "LICENSE": "unreadable",
        "index.html": "present",
    }
    assert not end.complete
    assert "guide/ cannot be listed" in end.note
    assert asked[0]["state"] == "unreadable"


def test_a_path_too_long_to_open_makes_the_extract_incomplete(folder: Path) -> None:
    """Nesting deeper than the system can name ends in a note, not in a deletion."""
    here = os.getcwd()  # noqa: PTH109
    os.chdir(folder)
    try:
        for _ in range(30):
            os.mkdir("d" * 200)  # noqa: PTH102
            os.chdir("d" * 200)
    finally:
        os.chdir(here)
    rows, end = _pull(_source(folder))
    assert len(rows) == 4
    assert not end.complete
    assert "cannot be listed" in end.note


def test_deep_folders_are_walked(folder: Path) -> None:
    """Depth costs no stack."""
    made = [str(folder)]
    try:
        for _ in range(1200):
            made.append(made[-1] + "/d")
            os.mkdir(made[-1])  # noqa: PTH102
        leaf = Path(made[-1], "leaf.md")
        leaf.write_text("leaf")
        assert _rows(folder)["d/" * 1200 + "leaf.md"]["text"] == "leaf"
        leaf.unlink()
    finally:
        # What tidies up after tests is recursive.
        for name in reversed(made[1:]):
            Path(name).rmdir()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_not_waited_for(folder: Path) -> None:
    """What is no regular file is left out."""
    os.mkfifo(folder / "pipe.md")
    assert len(_rows(folder)) == 4


def test_documents_have_no_window(folder: Path) -> None:
    """A backfill by time is refused: a file says nothing about its own time."""
    day = datetime(2024, 1, 1, tzinfo=UTC)
    with pytest.raises(ConfigError, match="backfill"):
        _pull(_source(folder), window=Window(day, day))


def test_options_are_checked_when_the_source_is_opened(folder: Path) -> None:
    """An unknown encoding and an unset variable are errors of the configuration."""
    with pytest.raises(ConfigError, match="encoding"):
        _source(folder, encoding="utf-9")
    with pytest.raises(ConfigError, match="variable"):
        _source(folder, url="https://${HEADWATER_NOT_SET}/{key}")


def test_many_files_come_in_batches(folder: Path) -> None:
    """No batch has more than 1,000 rows, and nothing is lost between them."""
    for number in range(2100):
        (folder / f"n{number}.txt").write_text(str(number))
    rows, _ = _pull(_source(folder))
    assert len({row["key"] for row in rows}) == len(rows) == 2104
    assert all(row["text"] == row["key"][1:-4] for row in rows if row["key"].startswith("n"))


def test_front_matter_cannot_forge_the_path(folder: Path) -> None:
    """`path` and `format` in the metadata are the source's own."""
    _put(folder, "x.md", "---\npath: /etc\nformat: pdf\nstatus: Final\n---\ntext")
    assert json.loads(_rows(folder)["x.md"]["metadata"]) == {
        "format": "markdown",
        "path": "x.md",
        "status": "Final",
    }
