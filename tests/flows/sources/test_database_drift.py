"""A column that is renamed is told by the source, and waits for a person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from database_servers import change, source, sqlite_file
from hypothesis import given
from hypothesis import strategies as st

from headwater.config import KnowledgeBase, load
from headwater.errors import SourceDataError
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.sources.conformance import pull_all
from headwater.flows.sources.drift import Drift, column_drift
from headwater.flows.sources.protocol import PullRequest
from headwater.storage.store import Store

BEFORE = (("id", "int"), ("name", "text"), ("price", "numeric"), ("note", "text"))


@pytest.mark.parametrize(
    ("now", "drift"),
    [
        (BEFORE, Drift()),
        (
            (("id", "int"), ("title", "text"), ("price", "numeric"), ("note", "text")),
            Drift(renamed=(("name", "title"),)),
        ),
        (BEFORE[:3], Drift(removed=("note",))),
        ((*BEFORE, ("more", "text")), Drift(added=("more",))),
        (
            (("id", "int"), ("name", "text"), ("price", "float8"), ("note", "text")),
            Drift(retyped=(("price", "numeric", "float8"),)),
        ),
        (
            (("id", "int"), ("title", "bool"), ("price", "numeric"), ("note", "text")),
            Drift(removed=("name",), added=("title",)),
        ),
        (tuple(reversed(BEFORE)), Drift()),
    ],
)
def test_what_became_of_columns(now: Any, drift: Drift) -> None:
    """A new name for the same place and type is a rename; the order alone is nothing."""
    assert column_drift(BEFORE, now) == drift
    assert bool(drift) == bool(drift.sentence())


NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6)


@given(NAMES, NAMES)
def test_every_column_is_accounted_for(before: list[str], now: list[str]) -> None:
    """What is gone and what is new is named once, as itself or as part of a rename."""
    found = column_drift(tuple((n, "") for n in before), tuple((n, "") for n in now))
    if not before:
        assert not found
        return
    gone = [*found.removed, *(old for old, _ in found.renamed)]
    new = [*found.added, *(name for _, name in found.renamed)]
    assert sorted(gone) == sorted(set(before) - set(now))
    assert sorted(new) == sorted(set(now) - set(before))


def test_the_source_tells_its_columns_of_now_and_of_then(tmp_path: Path) -> None:
    """The end of an extract holds both, and its note says the difference in words."""
    path = sqlite_file(tmp_path)
    for options in ({}, {"cursor": "id"}):
        db = source(tmp_path, ignore="views", **options)
        first = pull_all(db)[1]
        assert [name for name, _ in first.columns] == ["id", "lang", "body", "at"]
        assert first.columns_before == ()
        change(path, "ALTER TABLE articles RENAME COLUMN body TO prose")
        second = pull_all(db, PullRequest(watermark=first.watermark))[1]
        assert second.columns_before == first.columns
        assert "column 'body' seems to be 'prose' now" in second.note
        assert second.complete, "a cursor of another rendering proves nothing about old rows"
        change(path, "ALTER TABLE articles RENAME COLUMN views TO looks")
        calm = source(tmp_path, ignore=["views", "looks"], **options)
        assert column_drift(second.columns, pull_all(calm)[1].columns) == Drift()
        change(path, "ALTER TABLE articles RENAME COLUMN looks TO views")
        change(path, "ALTER TABLE articles RENAME COLUMN prose TO body")


def test_a_named_column_that_is_gone_is_an_error(tmp_path: Path) -> None:
    """What the configuration names must exist: the last state stays served."""
    path = sqlite_file(tmp_path)
    db = source(tmp_path, template="{body}")
    mark = pull_all(db)[1].watermark
    change(path, "ALTER TABLE articles RENAME COLUMN body TO prose")
    with pytest.raises(SourceDataError, match=r"body[\s\S]*id, lang, prose"):
        pull_all(db, PullRequest(watermark=mark))


@pytest.fixture
def base(tmp_path: Path) -> KnowledgeBase:
    """A knowledge base over sixty articles, every column rendered."""
    path = sqlite_file(tmp_path, "CREATE TABLE articles (id INTEGER PRIMARY KEY, name, price);")
    for key in range(60):
        change(path, "INSERT INTO articles VALUES (?, ?, ?)", key, f"thing {key}", key * 10)
    config = """
name: things
sources:
  db: {kind: database, dsn: "sqlite:///app.db", table: articles, key: id}
"""
    (tmp_path / "headwater.yaml").write_text(config, "utf-8")
    return load(tmp_path)


def test_a_renamed_column_rewrites_nothing_until_a_person_says_so(base: KnowledgeBase) -> None:
    """The refresh reports the rename, keeps every document as it was, and ends with a 4."""
    assert refresh(base, encoding=twin_encoding).documents == 60
    change(base.root / "app.db", "ALTER TABLE articles RENAME COLUMN price TO cost")
    for _ in range(2):
        report = refresh(base, RefreshOptions(), encoding=twin_encoding)
        found = report.sources[0]
        assert report.exit_code == 4
        assert (found.changed, found.removed) == (0, 0)
        assert "column 'price' seems to be 'cost' now" in found.note
    manifest = Store.create(base.store).current()
    assert manifest is not None
    kept = json.loads(manifest.sources["db"].watermark or "{}")
    assert ["price", ""] in kept["columns"], "the columns of then are remembered while it waits"
