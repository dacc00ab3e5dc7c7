"""What the end-to-end tests share: a knowledge base in a folder, an oracle that counts by itself."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from headwater.config import KnowledgeBase, load
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.report import RefreshReport
from headwater.flows.sources.conformance import pull_rows
from headwater.flows.sources.protocol import Source
from headwater.flows.sources.registry import open_source
from headwater.retrieval import Retriever
from headwater.retrieval.chunking import chunk
from headwater.retrieval.embedding import HashEmbedder
from headwater.retrieval.index import index_problems
from headwater.retrieval.tokens import Tokenizer
from headwater.storage.embeddings import find_parts
from headwater.storage.manifest import Manifest
from headwater.storage.store import Store
from headwater.storage.tables import open_tables
from headwater.storage.verify import Verification, verify

CORPORA = Path(__file__).resolve().parents[3] / "shared" / "corpora"
HEADWATER = str(Path(sys.executable).with_name("headwater"))
TWIN = Path(__file__).with_name("twin_headwater.py")
LIMIT, LOW = 254, 64

Listing = dict[str, tuple[int, int]]


class Oracle:
    """Counts the distinct chunk texts that were never seen before, without asking the store."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._tokenizer = Tokenizer(HashEmbedder().tokenizer)
        self._cut: dict[str, frozenset[bytes]] = {}

    def new(self, texts: Iterable[str]) -> int:
        """How many chunk texts of `texts` are new; from now on they are not."""
        found: set[bytes] = set()
        for text in texts:
            found |= self._hashes(text)
        fresh = found - self.seen
        self.seen |= found
        return len(fresh)

    def _hashes(self, text: str) -> frozenset[bytes]:
        if text not in self._cut:
            pieces = chunk(text, tokenizer=self._tokenizer, max_tokens=LIMIT, min_tokens=LOW)
            folded = (" ".join(unicodedata.normalize("NFC", p.text).split()) for p in pieces)
            self._cut[text] = frozenset(hashlib.sha256(t.encode()).digest() for t in folded)
        return self._cut[text]


class Base:
    """A knowledge base in a folder, refreshed with the model-free twin of the encoder."""

    def __init__(self, root: Path, sources: dict[str, Any], **settings: Any) -> None:
        self.root = root
        self.oracle = Oracle()
        root.mkdir(parents=True, exist_ok=True)
        self.configure(sources, **settings)

    def configure(self, sources: dict[str, Any], **settings: Any) -> None:
        """Write `headwater.yaml` anew."""
        config = {"name": "test", "sources": sources, **settings}
        (self.root / "headwater.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def suite(self, source: str, text: str) -> None:
        """Write the expectations of a source."""
        path = self.root / "suites" / f"{source}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def write(self, key: str, text: str) -> Path:
        """Put a file into the folder `docs`."""
        path = self.root / "docs" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    @property
    def kb(self) -> KnowledgeBase:
        """The knowledge base, its configuration read again."""
        return load(self.root)

    @property
    def store(self) -> Store:
        """The store, opened again so that nothing is remembered."""
        return Store.open(self.root / "store")

    def refresh(
        self,
        *,
        sources_open: dict[str, Source] | None = None,
        dry_run: bool = False,
        **options: Any,
    ) -> RefreshReport:
        """Refresh with the twin."""
        return refresh(
            self.kb,
            RefreshOptions(**options),
            encoding=twin_encoding,
            sources=sources_open,
            dry_run=dry_run,
        )

    def pulled(self, source: str) -> dict[str, str]:
        """Key -> text of what a source holds, pulled without the refresh."""
        kb = self.kb
        rows = pull_rows(open_source(source, kb.source(source), root=kb.root))
        return {row["key"]: row["text"] for row in rows if row["state"] == "present"}

    def live(self, as_of: str | None = None) -> dict[str, dict[str, str]]:
        """Source -> key -> text of a snapshot's live documents."""
        store = self.store
        return self.live_in(store, store.resolve(as_of))

    @staticmethod
    def live_in(store: Store, manifest: Manifest) -> dict[str, dict[str, str]]:
        """The same of a manifest."""
        found: dict[str, dict[str, str]] = {name: {} for name in manifest.sources}
        with open_tables(store.objects, manifest) as connection:
            rows = connection.execute(
                "select source, key, text from live join contents using (content_hash)"
            ).fetchall()
        for source, key, text in rows:
            found.setdefault(source, {})[key] = text
        return found

    def cached(self) -> int:
        """How many vectors are on the disk, those that were copied into larger objects once."""
        parts = find_parts(self.store.objects)
        covered = {label for part in parts for label in part.covers}
        return sum(part.entry.rows for part in parts if part.label not in covered)

    def verify(self) -> Verification:
        """Verify the store, every byte of it."""
        return verify(self.store, deep=True, index_check=index_problems)

    def listing(self, *folders: str) -> Listing:
        """Path -> (size, time of modification) below folders or of files of the store."""
        found: Listing = {}
        for folder in folders or ("",):
            top = self.root / "store" / folder
            for path in [top] if top.is_file() else sorted(top.rglob("*")):
                if path.is_file():
                    status = path.stat()
                    name = str(path.relative_to(self.root))
                    found[name] = (status.st_size, status.st_mtime_ns)
        return found

    def published(self) -> tuple[Listing, bytes]:
        """What a refresh that finds nothing must leave alone."""
        current = (self.root / "store" / "CURRENT").read_bytes()
        return self.listing("objects", "snapshots", "CURRENT"), current

    def found(
        self, query: str, *, k: int = 10_000, as_of: str | datetime | None = None
    ) -> list[str]:
        """The texts that a fresh retriever finds, best first."""
        with Retriever.open(self.root) as retriever:
            return [hit.text for hit in retriever.search(query, k=k, as_of=as_of)]

    def run(
        self, *arguments: str, twin: bool = True, check: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line in a process of its own; with `check`, its exit code is asserted."""
        command = [sys.executable, str(TWIN)] if twin else [HEADWATER]
        done = subprocess.run(
            [*command, *arguments],
            cwd=self.root,
            env={**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        if check is not None:
            assert done.returncode == check, (arguments, done.returncode, done.stdout, done.stderr)
        return done


@pytest.fixture
def make_base(tmp_path: Path) -> Callable[..., Base]:
    """Makes a knowledge base in a folder of its own."""

    def make(sources: dict[str, Any] | None = None, *, name: str = "kb", **settings: Any) -> Base:
        sources = sources or {"docs": {"kind": "documents", "root": "docs"}}
        base = Base(tmp_path / name, sources, **settings)
        (base.root / "docs").mkdir(exist_ok=True)
        return base

    return make


@pytest.fixture
def base(make_base: Callable[..., Base]) -> Base:
    """A knowledge base over the folder `docs`, which is empty."""
    return make_base()


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The shared corpora."""
    if not (CORPORA / "replay.py").is_file():
        pytest.skip("the shared corpora are not beside this checkout")
    return CORPORA
