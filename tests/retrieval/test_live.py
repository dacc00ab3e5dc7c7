"""What is live is the same whether it was read whole or from what was live before."""

from __future__ import annotations

import random
from dataclasses import fields, is_dataclass
from itertools import pairwise

import numpy as np
import pytest
import yaml

from headwater.config import load
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval.columns import Texts
from headwater.retrieval.snapshot_view import Loaded, SnapshotView
from headwater.storage.store import Store, new_run_id

SOURCES = ("dams", "rivers")
STEPS = 36
"""So many that small files of history become one, twice over."""


class Changing:
    """Two sources of documents that change, go, come back, move and share their texts."""

    def __init__(self) -> None:
        self.chance = random.Random("live")
        self.held: dict[str, dict[str, str]] = {name: {} for name in SOURCES}
        for name in SOURCES:
            for number in range(30):
                self.held[name][f"{number:03d}"] = self.text()

    def text(self) -> str:
        """One of so few texts that several documents hold it, and old ones come back."""
        parts = self.chance.sample(range(60), self.chance.randint(1, 3))
        return "\n\n".join(f"# Part {n}\n\nWhat stands in part {n}. " * 12 for n in parts)

    def step(self) -> dict[str, MemorySource]:
        """Change some of them; some records cannot be believed."""
        for name in SOURCES:
            held = self.held[name]
            for key in self.chance.sample(sorted(held), 3):
                held[key] = self.text()
            for key in self.chance.sample(sorted(held), self.chance.randint(0, 2)):
                text = held.pop(key)
                if self.chance.random() < 0.5:
                    held[f"{self.chance.randrange(1000):03d}"] = text
            held[f"{self.chance.randrange(1000):03d}"] = self.text()
        return {name: MemorySource.of(self.records(name), name=name) for name in SOURCES}

    def records(self, name: str) -> list[Record]:
        """The records of a source, one of them without a text."""
        found = [Record(key=key, text=text) for key, text in sorted(self.held[name].items())]
        bad = self.chance.randrange(len(found))
        found[bad] = Record(key=found[bad].key, text=None)
        return found


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """A history of many small steps, with a rollback on the way."""
    root = tmp_path_factory.mktemp("kb")
    guard = {"kind": "memory", "deletion_guard": {"max_count": 1000, "max_share": 1.0}}
    index = {"graph_from": 40, "max_flat_segments": 2}
    config = {"name": "kb", "sources": dict.fromkeys(SOURCES, guard), "index": index}
    (root / "headwater.yaml").write_text(yaml.safe_dump(config))
    changing = Changing()
    for step in range(STEPS):
        sources = changing.step()
        options = RefreshOptions(release=SOURCES if step else ())
        refresh(load(root), options, encoding=twin_encoding, sources=sources)
        if step == STEPS // 2:
            held = Store.open(root / "store")
            names = snapshots(held)
            held.rollback(names[-4], run_id=new_run_id())
    return Store.open(root / "store")


def snapshots(store: Store) -> list[str]:
    """The names of all snapshots, oldest first."""
    return sorted(path.stem for path in (store.root / "snapshots").glob("*.json"))


def assert_same(first: object, second: object) -> None:
    """Two views hold the same, but for what says where it came from."""
    for field in fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if field.name == "origin":
            continue
        if is_dataclass(one):
            assert_same(one, other)
        elif isinstance(one, np.ndarray):
            assert one.dtype == other.dtype, field.name
            assert np.array_equal(one, other), field.name
        elif isinstance(one, Texts):
            assert [t for p in one.pieces for t in p.to_pylist()] == [
                t for p in other.pieces for t in p.to_pylist()
            ]
        elif field.name != "parts":
            assert one == other, field.name


@pytest.mark.parametrize("stride", [1, 3, -1, -5])
def test_a_view_opened_from_the_one_before_is_the_same(store, stride):
    """Forwards, in leaps, backwards and over a rollback: only what it cost differs."""
    loaded = Loaded(store.objects)
    before = None
    names = snapshots(store)
    assert len(names) > STEPS // 2
    for name in names[::stride]:
        manifest = store.manifest(name)
        view = SnapshotView(loaded, manifest, name, before=before)
        whole = SnapshotView(loaded, manifest, name)
        assert_same(view._placed, whole._placed)
        assert_same(view._catalogue, whole._catalogue)
        assert view.texts == whole.texts == manifest.counts["texts"]
        before = view


def test_the_history_holds_what_the_test_is_about(store):
    """There were merged files, quarantined records and a rollback."""
    manifests = [store.manifest(name) for name in snapshots(store)]
    assert any(
        len(later.versions) < len(earlier.versions)
        for earlier, later in pairwise(manifests)
        if not later.restores
    )
    assert any(manifest.restores for manifest in manifests)
    assert any(manifest.quarantine for manifest in manifests)
    assert any(manifest.segments[0].graph for manifest in manifests)


def test_a_small_step_takes_over_what_both_have(store):
    """Of the chunks of a snapshot nearly all are those of the one before."""
    loaded = Loaded(store.objects)
    first, second = snapshots(store)[:2]
    before = SnapshotView(loaded, store.manifest(first), first)
    after = SnapshotView(loaded, store.manifest(second), second, before=before)
    origin = after._placed.live.origin
    assert np.count_nonzero(origin >= 0) > len(origin) / 2
    taken = origin[origin >= 0]
    assert np.array_equal(after._placed.live.text[origin >= 0], before._placed.live.text[taken])
