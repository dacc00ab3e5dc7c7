"""A catalogue of vulnerabilities over HTTP, in pages with ETags, revision by revision."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina
from faulty_server import Answer, Asked, FaultyServer

from headwater.storage.tables import open_tables

PAGE = 100
TEXT = ("vulnerabilityName", "shortDescription", "requiredAction")
METADATA = ("vendorProject", "product", "dueDate", "knownRansomwareCampaignUse")
Catalogue = dict[str, dict[str, Any]]


class CatalogueServer:
    """Serves a catalogue in pages with ETags, or one spoiled reply for everything."""

    def __init__(self) -> None:
        self.server = FaultyServer()
        self.server.answer = self._answer
        self.records: Catalogue = {}
        self.spoiled: bytes | None = None

    def config(self) -> dict[str, Any]:
        return {
            "kind": "api",
            "url": f"{self.server.url}/kev.json",
            "records": "vulnerabilities",
            "key": "cveID",
            "title": "vulnerabilityName",
            "text": list(TEXT),
            "metadata": list(METADATA),
            "pagination": {"style": "page", "total": "count"},
            "allow_private": True,
        }

    def _answer(self, asked: Asked) -> Answer:
        page = int(asked.query["page"]) - 1
        names = sorted(self.records, reverse=True)[page * PAGE : (page + 1) * PAGE]
        listed = [{"cveID": name, **self.records[name]} for name in names]
        body = json.dumps({"count": len(self.records), "vulnerabilities": listed}).encode()
        if self.spoiled is not None:
            return Answer(self.spoiled)
        return Answer(body, 200, {"ETag": f'"{hashlib.sha256(body).hexdigest()[:20]}"'})


@pytest.fixture
def server() -> Iterator[CatalogueServer]:
    """A running server."""
    running = CatalogueServer()
    with stamina.set_testing(True, attempts=2):
        yield running
    running.server.close()


def expected(records: Catalogue) -> dict[str, tuple[str, dict[str, Any]]]:
    """Key -> text and metadata, as the documentation says that records are rendered."""
    found = {}
    for key, record in records.items():
        lines = []
        for name in TEXT:
            if value := record.get(name):
                between = ":\n" if "\n" in value else ": "
                lines.append(name[0].upper() + name[1:] + between + value)
        about = {name: record[name] for name in METADATA if record.get(name) is not None}
        found[key] = ("\n".join(lines), about)
    return found


def documents(base: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    """Key -> text and metadata of the live documents."""
    store = base.store
    with open_tables(store.objects, store.current()) as connection:
        rows = connection.execute(
            "select key, text, metadata from live join contents using (content_hash)"
        ).fetchall()
    assert len({key for key, _, _ in rows}) == len(rows)
    return {key: (text, json.loads(metadata)) for key, text, metadata in rows}


def assert_refreshed(base: Any, records: Catalogue, told: object) -> int:
    """Refresh: the documents are the catalogue, and each new text was embedded once."""
    new = base.oracle.new(text for text, _ in expected(records).values())
    report = base.refresh()
    assert report.exit_code == 0, (told, report)
    assert report.sources[0].outcome == "verified", (told, report)
    assert report.embedded == new, told
    assert documents(base) == expected(records), told
    return new


def assert_refused(base: Any, server: CatalogueServer, body: bytes) -> None:
    """A reply that is cut short leaves everything as it was."""
    before = documents(base)
    published = base.published()
    server.spoiled = body
    report = base.refresh()
    server.spoiled = None
    assert (report.exit_code, report.published) == (8, False)
    assert report.sources[0].kind == "source-data"
    assert (documents(base), base.published()) == (before, published)


def assert_nothing_to_do(base: Any, server: CatalogueServer) -> None:
    """Asked again, every page says that it is what it was: nothing is sent, nothing written."""
    server.server.forget()
    published = base.published()
    report = base.refresh()
    assert (report.published, report.embedded, report.bytes_written) == (False, 0, 0)
    assert base.published() == published
    assert all("if-none-match" in asked.headers for asked in server.server.asked)


def generated(seed: int, count: int) -> Iterator[tuple[str, Catalogue]]:
    """What happens, and the catalogue after it: flips of one field, edits, additions, removals."""
    numbers = random.Random(seed)
    words = ["remote", "code", "injection", "router", "kernel", "overflow", "bypass", "parser"]

    def sentence(length: int) -> str:
        return " ".join(numbers.choice(words) for _ in range(length)) + f" {numbers.random()}."

    def record() -> dict[str, Any]:
        return {
            "vulnerabilityName": sentence(4),
            "shortDescription": sentence(25),
            "requiredAction": "Apply updates." if numbers.random() < 0.8 else "Line.\nLine.",
            "vendorProject": numbers.choice(words),
            "product": numbers.choice(words),
            "dueDate": "2025-01-01",
            "knownRansomwareCampaignUse": "Unknown",
        }

    records = {f"CVE-2024-{number:05d}": record() for number in range(230)}
    former = dict(records)
    yield "first", dict(records)
    for _ in range(count):
        kind = numbers.choice(["flip", "flip", "edit", "add", "remove", "revert"])
        key = numbers.choice(sorted(records))
        if kind == "flip":
            known = records[key]["knownRansomwareCampaignUse"] == "Known"
            value = "Unknown" if known else "Known"
            records[key] = {**records[key], "knownRansomwareCampaignUse": value}
        elif kind == "edit":
            records[key] = {**records[key], "shortDescription": sentence(25)}
        elif kind == "add":
            records[f"CVE-2025-{numbers.randrange(99999):05d}"] = record()
        elif kind == "remove":
            del records[key]
        elif kind == "revert":
            records |= former
        yield kind, dict(records)


def test_a_generated_catalogue(server: CatalogueServer, make_base: Callable[..., Any]) -> None:
    """Each revision is the documents; a flipped field embeds nothing; a cut reply changes nothing."""
    base = make_base({"kev": server.config()})
    for step, (kind, records) in enumerate(generated(7, 14)):
        server.records = records
        if step == 5:
            body = json.dumps({"count": 230, "vulnerabilities": []}).encode()
            assert_refused(base, server, body[: len(body) // 2])
        new = assert_refreshed(base, records, (step, kind))
        if kind in ("flip", "remove", "revert"):
            assert new == 0
    assert_nothing_to_do(base, server)
    assert base.verify().ok


@pytest.mark.slow
def test_every_revision_of_a_real_catalogue(
    corpora: Path, server: CatalogueServer, make_base: Callable[..., Any]
) -> None:
    """Seven months of it, one malformed publication included, are the corpus's own states."""
    folder = corpora / "cisa-kev"
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert len(manifest["revs"]) == 76
    base = make_base({"kev": server.config()})
    flips = 0
    for number, revision in enumerate(manifest["revs"]):
        before = dict(server.records)
        apply_revision(server.records, folder / revision["file"])
        assert tree_hash(server.records) == revision["tree_sha256"]
        new = assert_refreshed(base, server.records, f"revision {number}")
        texts = {text for text, _ in expected(before).values()}
        flips += before != server.records and new == 0 and number > 0
        assert new <= len({t for t, _ in expected(server.records).values()} - texts) * 3
        if number == 21:
            broken = folder / "malformed-after-rev-021.json.gz"
            assert_refused(base, server, gzip.decompress(broken.read_bytes()))
        if number % 25 == 0:
            assert_nothing_to_do(base, server)
    assert flips > 5, "revisions that only flip a field embed nothing"
    assert base.verify().ok


def apply_revision(records: Catalogue, path: Path) -> None:
    """Bring a catalogue to its next revision."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            change = json.loads(line)
            if change["op"] == "delete":
                records.pop(change["key"])
            else:
                records[change["key"]] = change["record"]


def tree_hash(records: Catalogue) -> str:
    """The hash that the manifest of the corpus has of a revision."""
    total = hashlib.sha256()
    for key in sorted(records):
        text = json.dumps(records[key], sort_keys=True, ensure_ascii=False)
        total.update(f"{key}\0{hashlib.sha256(text.encode()).hexdigest()}\n".encode())
    return total.hexdigest()
