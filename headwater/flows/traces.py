"""Where a document leaves traces beside the store's objects: logs, reports, released datasets."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from headwater.errors import StoreError
from headwater.flows.collected import remove_collected
from headwater.retrieval.datasets.release import (
    MANIFEST,
    REVOKED,
    list_releases,
    read_release,
)
from headwater.retrieval.query_log import forget_lines, lines_naming
from headwater.storage import files
from headwater.storage.redactions import BLANK
from headwater.storage.runlog import RunLog
from headwater.storage.subjects import Name, Subjects


@dataclass(frozen=True)
class Traces:
    """What mentions the erased.

    Attributes:
        notes: lines of run logs.
        reports: pages below `reports/`.
        datasets: releases that hold rows of it, with how many.
        questions: lines of the query log.
    """

    notes: int
    reports: tuple[Path, ...]
    datasets: tuple[tuple[Path, int], ...]
    questions: int = 0


def mentions(keys: Iterable[str]) -> re.Pattern[str]:
    """Finds a key where it stands as a word of its own, as it is or as HTML writes it."""
    forms = {form for key in keys for form in (key, html.escape(key), json.dumps(key)[1:-1])}
    # The longest first: of two keys that begin alike, each is found whole.
    found = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{found})(?!\w)")


def find_traces(root: Path, subjects: Subjects) -> Traces:
    """Look for them in the knowledge base at `root`.

    Raises:
        StoreError: a release cannot be read, so nobody knows what it holds.
    """
    mentioned = mentions(key for _, key in subjects.names)
    notes = sum(
        bool(mentioned.search(entry.note)) for entry in RunLog(root / "store").newest_first()
    )
    pages = sorted((root / "reports").glob("*.html"))
    reports = tuple(p for p in pages if mentioned.search(p.read_text("utf-8", "replace")))
    asked = lines_naming(root, mentioned)
    return Traces(notes, reports, tuple(_releases(root, subjects)), asked)


def remove_traces(root: Path, traces: Traces, subjects: Subjects, *, note: str) -> None:
    """Blank the notes, delete questions and pages, revoke the releases. May be repeated.

    What unfinished backfills collected is deleted whole: they read it again.

    A revoked release keeps its manifest, which holds no row and no key; its rows are deleted as a
    whole, because without some of them it would not be what its version says. Emit it again.

    Args:
        root: of the knowledge base.
        traces: what `find_traces` found.
        subjects: what is erased.
        note: why, for whoever looks for a revoked release.
    """
    mentioned = mentions(key for _, key in subjects.names)
    remove_collected(root)
    if traces.notes:
        RunLog(root / "store").rewrite(
            lambda entry: replace(entry, note=BLANK) if mentioned.search(entry.note) else entry
        )
    if traces.questions:
        forget_lines(root, mentioned)
    for page in traces.reports:
        files.remove(page)
    for folder, rows in traces.datasets:
        stamp = {"format": 1, "reason": note, "rows": rows}
        text = json.dumps(stamp, sort_keys=True, indent=1) + "\n"
        files.replace(folder / REVOKED, text.encode(), tmp=root / "store" / "tmp")
        for path in _rows_of(folder):
            files.remove(path)


def _rows_of(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (MANIFEST, REVOKED):
            yield path


def _releases(root: Path, subjects: Subjects) -> Iterable[tuple[Path, int]]:
    names: Collection[Name] = set(subjects.names)
    texts = {text.hex() for text in subjects.texts}
    for folder in list_releases(root / "datasets"):
        if (folder / REVOKED).is_file():
            # Whoever revoked it may have died before its last row was gone.
            if list(_rows_of(folder)):
                yield folder, int(json.loads(files.read(folder / REVOKED))["rows"])
            continue
        try:
            rows = sum(
                (row["source"], row["key"]) in names or row["text_hash"] in texts
                for _, _, row in read_release(folder).lineage()
            )
        except (KeyError, ValueError) as error:
            raise StoreError(
                "A released dataset cannot be read, and may hold what is to be erased",
                obj=f"{folder}: {error}",
                todo="remove that release, and erase again; nothing was changed",
            ) from None
        if rows:
            yield folder, rows
