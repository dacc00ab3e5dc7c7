"""Documents through the whole pipeline: what is not read again, and what is tried again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headwater.flows.sources import documents
from headwater.flows.sources.folder import FolderPlace
from headwater.flows.sources.parsing import formats
from headwater.flows.sources.parsing.worker import ParserWorker

Make = Callable[..., Any]


def _forbid(monkeypatch: pytest.MonkeyPatch, kind: type, method: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError(f"{method} was called")

    monkeypatch.setattr(kind, method, refuse)


def _age(folder: Path) -> None:
    """Let the files be older than the two seconds in which a clock may hide a change."""
    time.sleep(2.1)
    assert all(time.time() - one.stat().st_ctime > 2 for one in folder.iterdir())


@pytest.mark.parametrize("where", ["made here", "shared"])
def test_bad_bytes_are_not_tried_again(
    make_base: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    """The next refresh parses none of them, keeps every reason, and writes nothing."""
    folder = tmp_path / "bad"
    if where == "shared":
        folder = Path(__file__).parents[3] / "shared" / "corpora" / "hostile"
        if not folder.is_dir():
            pytest.skip("the hostile corpus is not here")
    else:
        folder.mkdir()
        (folder / "a.json").write_text("{")
        (folder / "b.pdf").write_bytes(b"%PDF-1.7 nothing")
        (folder / "c.md").write_text("# Fine\n\nThis one can be read.\n")
    base = make_base({"docs": {"kind": "documents", "root": str(folder)}})
    refused = base.refresh().sources[0].refused
    assert refused == (25 if where == "shared" else 2)
    before = base.published()
    _forbid(monkeypatch, ParserWorker, "parse")
    again = base.refresh()
    assert (again.exit_code, again.published, again.sources[0].refused) == (0, False, refused)
    assert f"{refused} unreadable as before" in again.sources[0].note
    assert base.published() == before


def test_another_parser_parses_again_and_the_plan_says_so(
    make_base: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new revision of a parser reads its documents and its failures again; others stay."""
    base = make_base()
    (base.root / "docs" / "a.rst").write_text("Title\n=====\n\nText of the page.\n")
    (base.root / "docs" / "b.json").write_text("{")
    (base.root / "docs" / "c.md").write_text("# Markdown\n\nText of another page.\n")
    base.refresh()
    newer = [
        formats.Format(**{**vars(one), "revision": 99}) if one.name in ("rst", "json") else one
        for one in formats.FORMATS
    ]
    monkeypatch.setattr(documents, "FORMATS", tuple(newer))
    note = base.refresh(dry_run=True).sources[0].note
    assert "1 unchanged" in note
    assert "1 parsed anew for another parser or option" in note
    assert "1 unreadable" in note
    assert "as before" not in note
    report = base.refresh()
    assert (report.published, report.embedded, report.sources[0].touched) == (True, 0, 1)
    assert "3 files, 2 unchanged, 1 unreadable as before" in base.refresh().sources[0].note


def test_unchanged_files_are_not_opened(make_base: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Size and times prove that a file, or a bad one, is what it was; nothing is opened."""
    base = make_base()
    folder = base.root / "docs"
    for at in range(5):
        (folder / f"{at}.md").write_text(f"# Page {at}\n\nText of page {at}.\n")
    (folder / "bad.json").write_text("{")
    _age(folder)
    base.refresh()
    before = base.published()
    _forbid(monkeypatch, FolderPlace, "read")
    report = base.refresh()
    assert (report.published, report.sources[0].refused) == (False, 1)
    assert base.published() == before


def test_an_edit_that_keeps_size_and_time_is_seen(make_base: Make) -> None:
    """A file whose time of modification was set back after an edit is read again."""
    base = make_base()
    page = base.root / "docs" / "a.md"
    page.write_text("# Page\n\nThe shop opens at 8.\n")
    _age(page.parent)
    base.refresh()
    info = page.stat()
    page.write_text("# Page\n\nThe shop opens at 9.\n")
    os.utime(page, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert page.stat().st_size == info.st_size
    assert base.refresh().sources[0].changed == 1


def test_an_edit_within_the_same_tick_is_seen(make_base: Make) -> None:
    """A file that was young when it was read is read again, whatever its times say."""
    base = make_base()
    page = base.root / "docs" / "a.md"
    page.write_text("# Page\n\nThe shop opens at 8.\n")
    base.refresh()
    marks = base.root / ".headwater" / "seen" / "docs"
    assert not marks.exists() or marks.stat().st_size < 60, "nothing that young may be marked"


def test_a_checkout_that_resets_times_publishes_nothing(
    make_base: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files with other times and the same bytes are read once more, and then known again."""
    base = make_base()
    folder = base.root / "docs"
    for at in range(3):
        (folder / f"{at}.md").write_text(f"# Page {at}\n\nText of page {at}.\n")
    base.refresh()
    before = base.published()
    for page in folder.iterdir():
        page.unlink()
        page.write_text(f"# Page {page.stem}\n\nText of page {page.stem}.\n")
    _age(folder)
    assert base.refresh().published is False
    assert base.published() == before
    _forbid(monkeypatch, FolderPlace, "read")
    assert base.refresh().published is False


def test_marks_are_small_and_hold_no_names(make_base: Make) -> None:
    """Beside the store lie 8 bytes a file, and neither a name nor a text; losing them is harmless."""
    base = make_base()
    folder = base.root / "docs"
    for at in range(100):
        (folder / f"page-{at}.md").write_text(f"# Page {at}\n\nText of page {at}.\n")
    _age(folder)
    base.refresh()
    marks = base.root / ".headwater" / "seen" / "docs"
    data = marks.read_bytes()
    assert len(data) <= 100 * 8 + 64
    assert b"page" not in data
    for damaged in (b"", data[:-3], b"x" * len(data)):
        marks.write_bytes(damaged)
        assert base.refresh().published is False
    marks.unlink()
    assert base.refresh().published is False
    assert marks.read_bytes() != data, "the salt is another one"


def test_a_rolled_back_document_is_read_again(make_base: Make) -> None:
    """A mark names the fingerprint it saw: what the store went back to is compared anew."""
    base = make_base()
    page = base.root / "docs" / "a.md"
    page.write_text("# Page\n\nThe shop opens at 8.\n")
    _age(page.parent)
    base.refresh()
    page.write_text("# Page\n\nThe shop opens at 9.\n")
    _age(page.parent)
    base.refresh()
    state = json.loads(json.dumps(base.live()))
    base.run("rollback", "1", check=0)
    assert base.live() != state
    base.refresh(release=("docs",))
    assert base.live() == state


def test_a_renamed_file_embeds_nothing(make_base: Make) -> None:
    """A file that moved keeps its text and its vectors; the path of the document changes."""
    base = make_base()
    page = base.root / "docs" / "a.md"
    page.write_text("# Page\n\nThe shop opens at 8.\n")
    _age(page.parent)
    base.refresh()
    page.rename(page.with_name("b.md"))
    report = base.refresh()
    assert (report.embedded, report.sources[0].renamed) == (0, 1)
    assert set(base.live()["docs"]) == {"b.md"}
