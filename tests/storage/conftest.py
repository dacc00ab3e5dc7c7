"""A chain of snapshots made of plain dictionaries, without sources, texts or an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from headwater.storage.changes import (
    Incoming,
    content_hash,
    metadata_hash,
    plan_changes,
    version_rows,
)
from headwater.storage.history import live_state
from headwater.storage.manifest import Manifest, SourceState, child_of, format_time
from headwater.storage.merging import merge_history
from headwater.storage.store import Store
from headwater.storage.tables import CHUNKS, CONTENTS

START = datetime(2026, 1, 1, tzinfo=UTC)

Documents = Mapping[str, str | tuple[str, str]]


class Chain:
    """A store that publishes one snapshot per state: source -> key -> text, or (text, title).

    `merged`: the history of each is merged as a refresh merges it.
    """

    def __init__(self, root: Path, *, merged: bool = False) -> None:
        self.store = Store.create(root)
        self.hour = 0
        self.merged = merged

    def publish(
        self,
        state: Mapping[str, Documents],
        *,
        source_ts: Mapping[str, datetime] | None = None,
    ) -> Manifest:
        """Publish a state of the sources; those left out keep what they have."""
        parent = self.store.current()
        seq, self.hour = (parent.seq + 1 if parent else 1), self.hour + 1
        when = max(START + timedelta(hours=self.hour), parent.time if parent else START)
        held = live_state(self.store.objects, parent)
        added: dict[str, list[pa.Table]] = {"versions": [], "closures": []}
        texts: dict[bytes, str] = {}
        for source, documents in state.items():
            records = [_record(k, v, (source_ts or {}).get(k)) for k, v in documents.items()]
            live = held.get(source, {})
            missing = [key for key in live if key not in documents]
            changes = plan_changes(source, live, records, missing=missing)
            for kind, rows in zip(
                added, version_rows(changes, live, seq=seq, observed_at=when), strict=True
            ):
                added[kind].append(rows)
            texts |= {r.content_hash: r.text or "" for r in changes.incoming()}
        objects = {
            kind: self._add(kind, getattr(parent, kind, ()), pa.concat_tables(tables))
            for kind, tables in added.items()
        }
        objects |= self._contents(parent, texts)
        sources = {
            **(parent.sources if parent else {}),
            **{s: SourceState("memory") for s in state},
        }
        manifest = child_of(
            parent,
            observed_at=format_time(when),
            created_at=format_time(when),
            run_id="run",
            cause="refresh",
            headwater="0",
            config_sha256="",
            chunker="none",
            sources=sources,
            **objects,
        )
        if self.merged:
            manifest = merge_history(self.store.objects, manifest)
        self.store.publish(self.store.write_candidate(manifest))
        return manifest

    def rollback(self, ref: str) -> Manifest:
        """Go back to an earlier snapshot."""
        return self.store.rollback(ref, run_id="rollback")

    def _contents(self, parent: Manifest | None, texts: dict[bytes, str]) -> dict[str, tuple]:
        known: set[bytes] = set()
        for entry in parent.contents if parent else ():
            known |= set(self.store.objects.read_table(entry)["content_hash"].to_pylist())
        new = {name: text for name, text in sorted(texts.items()) if name not in known}
        contents = [{"content_hash": n, "chars": len(t), "text": t} for n, t in new.items()]
        chunks = [
            {"content_hash": n, "ordinal": 0, "text_hash": n, "heading_path": [], "start": 0}
            | {"end": len(t), "tokens": 1, "text": t}
            for n, t in new.items()
        ]
        return {
            kind: self._add(
                kind, getattr(parent, kind, ()), pa.Table.from_pylist(rows, schema=schema)
            )
            for kind, rows, schema in (
                ("contents", contents, CONTENTS),
                ("chunks", chunks, CHUNKS),
            )
        }

    def _add(self, kind: str, before: tuple, table: pa.Table) -> tuple:
        if not table.num_rows:
            return before
        return (*before, self.store.objects.put_table(table, f"{kind}.parquet"))


def _record(key: str, value: str | tuple[str, str], source_ts: datetime | None) -> Incoming:
    text, title = (value, "") if isinstance(value, str) else value
    return Incoming(
        key=key,
        text=text,
        title=title,
        url=None,
        metadata="{}",
        labels=(),
        source_ts=source_ts,
        fingerprint=None,
        content_hash=content_hash(text),
        metadata_hash=metadata_hash(title, None, "{}", ()),
    )


@pytest.fixture
def make_chain(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Chain]:
    """Makes an empty chain in a folder of its own, as often as asked."""
    return lambda **how: Chain(tmp_path_factory.mktemp("chain") / "store", **how)


@pytest.fixture
def chain(make_chain: Callable[..., Chain]) -> Chain:
    """An empty chain."""
    return make_chain()
