"""A small store whose history is written day by day through the storage's own functions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from headwater.storage.manifest import Manifest, SourceState, child_of, format_time
from headwater.storage.runlog import RunLog, SourceRun
from headwater.storage.store import Store, new_run_id
from headwater.storage.tables import CHUNKS, CLOSURES, CONTENTS, VERSIONS, version_id

Documents = Mapping[str, Sequence[str]]
"""Key -> texts of the chunks, in order."""


def _sha(text: str) -> bytes:
    return hashlib.sha256(" ".join(text.split()).encode()).digest()


class World:
    """One knowledge base with the source `docs`, at noon of day 0, 1, 2, ….

    A chunk's text may start with a markdown heading; its heading path is then that heading.
    """

    def __init__(self, root: Path) -> None:
        self.store = Store.create(root)
        self.live: dict[str, tuple[str, bytes]] = {}
        self.known: set[bytes] = set()
        self.state = SourceState(kind="documents", licence="MIT")

    @staticmethod
    def at(day: float) -> datetime:
        return datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(days=day)

    def publish(
        self,
        day: float,
        documents: Documents,
        *,
        renamed: Mapping[str, str] | None = None,
        held: Sequence[str] = (),
        verified: bool = True,
    ) -> Manifest:
        """Publish `documents` as all that the source holds, and log the verification."""
        parent, renamed = self.store.current(), renamed or {}
        seq = parent.seq + 1 if parent else 1
        closures, versions = [], []
        for key, (version, content) in sorted(self.live.items()):
            op = (
                "renamed"
                if key in renamed.values()
                else "changed"
                if key in documents
                else "removed"
            )
            if op != "changed" or content != self._content(documents[key]):
                closures.append(self._closure(key, version, op, day, seq))
        ended = {row["key"] for row in closures}
        live = {k: v for k, v in self.live.items() if k not in ended}
        for key, texts in sorted(documents.items()):
            if key not in live:
                row = self._version(key, texts, day, seq, renamed.get(key))
                versions.append(row)
                live[key] = str(row["version_id"]), self._content(texts)
        self.live = live
        manifest = self._manifest(parent, day, versions, closures, documents, held)
        self.store.publish(self.store.write_candidate(manifest))
        if verified:
            self.verify(day)
        return manifest

    def verify(self, *days: float, outcome: str = "verified", withheld: int = 0) -> None:
        """Log refreshes that found nothing new."""
        for day in days:
            RunLog(self.store.root).append(
                SourceRun(
                    run_id=new_run_id(),
                    source="docs",
                    outcome=outcome,
                    observed_at=format_time(self.at(day)),
                    withheld=withheld,
                )
            )

    def resume(self, documents: Documents, manifest: Manifest) -> None:
        """Go on from a rollback, whose live documents are `documents` as of `manifest`."""
        tables = [self.store.objects.read_table(e) for e in manifest.versions]
        rows = {r["key"]: r for t in tables for r in t.to_pylist()}
        self.live = {k: (rows[k]["version_id"], rows[k]["content_hash"]) for k in documents}

    @staticmethod
    def _content(texts: Sequence[str]) -> bytes:
        return hashlib.sha256("\n\n".join(texts).encode()).digest()

    def _closure(self, key: str, version: str, op: str, day: float, seq: int) -> dict[str, object]:
        row = {"version_id": version, "source": "docs", "key": key, "op": op, "seq": seq}
        return {**row, "known_at": self.at(day)}

    def _version(
        self, key: str, texts: Sequence[str], day: float, seq: int, origin: str | None
    ) -> dict[str, object]:
        content = self._content(texts)
        return {
            "version_id": version_id("docs", key, content, b"", seq),
            "source": "docs",
            "key": key,
            "title": f"Title of {key}",
            "url": None,
            "metadata": "{}",
            "labels": [],
            "content_hash": content,
            "metadata_hash": b"\0" * 32,
            "fingerprint": None,
            "source_ts": None,
            "known_at": self.at(day),
            "changed_at": self.at(day),
            "seq": seq,
            "renamed_from": origin,
        }

    def _manifest(
        self,
        parent: Manifest | None,
        day: float,
        versions: list[dict[str, object]],
        closures: list[dict[str, object]],
        documents: Documents,
        held: Sequence[str],
    ) -> Manifest:
        contents, chunks = [], []
        for texts in documents.values():
            content = self._content(texts)
            if content not in self.known:
                self.known.add(content)
                contents.append({"content_hash": content, "text": "\n\n".join(texts)})
                chunks += self._chunks(content, texts)
        put = self.store.objects.put_table

        def grown(
            kind: str, rows: list[dict[str, object]], schema: pa.Schema
        ) -> tuple[object, ...]:
            old = getattr(parent, kind) if parent else ()
            return (
                (*old, put(pa.Table.from_pylist(rows, schema), f"{kind}.parquet")) if rows else old
            )

        schema = pa.schema([("source", pa.string()), ("key", pa.string())])
        quarantine = pa.Table.from_pylist([{"source": "docs", "key": k} for k in held], schema)
        return child_of(
            parent,
            observed_at=format_time(self.at(day)),
            created_at=format_time(self.at(day)),
            run_id="run",
            cause="refresh",
            headwater="0",
            config_sha256="",
            chunker="by hand",
            sources={"docs": self.state},
            versions=grown("versions", versions, VERSIONS),
            closures=grown("closures", closures, CLOSURES),
            contents=grown("contents", contents, CONTENTS),
            chunks=grown("chunks", chunks, CHUNKS),
            quarantine=put(quarantine, "quarantine.parquet") if held else None,
        )

    @staticmethod
    def _chunks(content: bytes, texts: Sequence[str]) -> list[dict[str, object]]:
        rows, start = [], 0
        for ordinal, text in enumerate(texts):
            first = text.split("\n")[0]
            rows.append(
                {
                    "content_hash": content,
                    "ordinal": ordinal,
                    "text_hash": _sha(text),
                    "heading_path": [first.lstrip("# ")] if first.startswith("#") else [],
                    "start": start,
                    "end": start + len(text),
                    "tokens": len(text.split()),
                    "text": text,
                }
            )
            start += len(text) + 2
        return rows


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An empty world."""
    return World(tmp_path / "store")


@pytest.fixture
def new_world(tmp_path: Path) -> Callable[[str], World]:
    """Makes further worlds."""
    return lambda name: World(tmp_path / name)
