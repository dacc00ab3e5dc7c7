"""Past snapshots let go of their index, and nobody who asks them can tell."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from headwater.config import RetentionConfig, load
from headwater.errors import ConfigError, CorruptObjectError, StoreError
from headwater.flows.encoding import twin_encoding
from headwater.flows.erasure import ErasureRequest, erase
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.reindex import reindex
from headwater.flows.repair import repair
from headwater.retrieval import Retriever
from headwater.retrieval.index import index_problems
from headwater.retrieval.lexical import KINDS
from headwater.retrieval.snapshot_view import Loaded, SnapshotView
from headwater.storage.audit import AuditLog
from headwater.storage.backup import backup, restore
from headwater.storage.history import diff
from headwater.storage.objects import EMBEDDINGS
from headwater.storage.pins import Lease
from headwater.storage.retired import read_record, write_retired
from headwater.storage.store import Store, new_run_id
from headwater.storage.tags import set_tag
from headwater.storage.vacuum import VacuumPlan, vacuum
from headwater.storage.verify import verify

HOUR = timedelta(hours=1)
INDEX = ("vectors.arrow", "graph.hnsw", "tombstones.u32", *KINDS)
QUESTIONS = ("the reservoir is full", "a gauge in the valley", "metres", "spring and rain")


class Base:
    """A knowledge base of two sources, with one snapshot every three hours, refreshed by the twin."""

    def __init__(self, root: Path) -> None:
        self.root = root
        sources = {name: {"kind": "documents", "root": name} for name in ("dams", "rivers")}
        config = {"name": "kb", "sources": sources, "index": {"graph_from": 100_000}}
        for name in sources:
            (root / name).mkdir(parents=True)
        (root / "headwater.yaml").write_text(yaml.safe_dump(config))
        for number in range(12):
            self.write("dams", number, f"The reservoir number {number} is full.")
            self.write("rivers", number, f"The gauge {number} is in the valley.\n\nIt shows rain.")
        self.names = [self.refresh(18 * HOUR)]
        for step in range(1, 6):
            self.write("dams", step, f"The reservoir is at {step} metres.")
            self.write("rivers", step % 2, f"A spring has come up, the {step}th.")
            self.names.append(self.refresh((18 - 3 * step) * HOUR))

    def write(self, source: str, number: int, text: str) -> None:
        (self.root / source / f"note{number:02d}.md").write_text(text)

    def refresh(self, ago: timedelta) -> str:
        options = RefreshOptions(observed_at=datetime.now(UTC) - ago)
        report = refresh(load(self.root), options, encoding=twin_encoding)
        assert report.published
        return report.snapshot

    @property
    def store(self) -> Store:
        return Store.open(self.root / "store")

    def vacuum(self, after: timedelta = 2 * HOUR, **options) -> VacuumPlan:
        config = RetentionConfig()
        return vacuum(self.store, config=config, now=datetime.now(UTC) + after, **options)

    def let_go(self) -> None:
        """Let go of every index that may be let go of, and delete what was needed only for them."""
        assert set(self.vacuum(2 * HOUR).unindexed) == set(self.names[:4])
        assert {o.kind for o in self.vacuum(4 * HOUR).deleted} <= set(INDEX)

    def hits(self, name: str, *, mode: str = "dense", **how) -> list[list[dict]]:
        """What a fresh reader finds in a snapshot."""
        with Retriever.open(self.root) as retriever:
            found = (retriever.search(q, k=4, as_of=name, mode=mode, **how) for q in QUESTIONS)
            return [[hit.as_dict() for hit in hits] for hits in found]

    def deep(self) -> tuple[str, ...]:
        return verify(self.store, deep=True, index_check=index_problems).problems

    def bytes(self, *kinds: str) -> int:
        return sum(e.bytes for e, _ in self.store.objects.listing() if e.kind in kinds)

    def drop_embeddings(self) -> None:
        for entry, path in self.store.objects.listing():
            if entry.kind == EMBEDDINGS:
                path.unlink()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Base(tmp_path_factory.mktemp("made") / "kb")


@pytest.fixture
def base(made, tmp_path):
    """A copy of the base, its own to change."""
    shutil.copytree(made.root, tmp_path / "kb")
    copy = object.__new__(Base)
    copy.root, copy.names = tmp_path / "kb", made.names
    return copy


def test_hits_are_the_same_without_the_index(base):
    """Every question of every snapshot, filtered or not, has the same hits and the same scores."""
    filters = [{}, {"sources": ["rivers"]}, {"max_staleness": 4 * HOUR}]
    before = [[base.hits(name, **how) for how in filters] for name in base.names]
    size = base.bytes(*INDEX)
    base.let_go()
    assert [[base.hits(name, **how) for how in filters] for name in base.names] == before
    assert any(hits for found in before[0] for hits in found)
    # The snapshots that keep theirs are the two newest, which hold the most.
    assert base.bytes(*INDEX) <= 0.6 * size
    assert base.deep() == ()
    manifests = {m.name(): m for m in base.store.chain()}
    assert list(manifests) == base.names[::-1]
    assert [manifests[n].unindexed for n in base.names] == [True] * 4 + [False] * 2
    assert diff(base.store, base.names[0], base.names[3]).documents


def test_the_record_the_dry_run_and_the_audit_log_say_it(base):
    """What loses its index is announced, recorded once and for ever, and logged."""
    before = base.store.objects.root.parent / "retired.json"
    announced = base.vacuum(dry_run=True)
    assert not before.exists() and announced.to_free > 0
    done = base.vacuum()
    assert done.as_dict() == announced.as_dict()
    assert done.as_dict()["unindexed"] == base.names[:4] and done.expired == ()
    assert AuditLog(base.store.root).entries()[-1].detail["indexes"] == 4
    record = json.loads(before.read_bytes())
    assert record["format"] == 1 and record["snapshots"] == {}
    assert sorted(record["indexes"]) == base.names[:4]
    again = base.vacuum(3 * HOUR)
    assert again.unindexed == () and json.loads(before.read_bytes()) == record


def test_a_pin_keeps_an_index_and_a_tag_does_not(base):
    """A tagged snapshot is openable for ever and searched exactly; a pinned one is left alone."""
    set_tag(base.store, "golden", base.names[0])
    lease = Lease(base.store.root, length=timedelta(days=9))
    lease.hold(base.names[1])
    assert set(base.vacuum().unindexed) == {base.names[0], *base.names[2:4]}
    base.vacuum(4 * HOUR)
    assert base.store.manifest(base.names[1]).segments
    assert base.hits("golden") == base.hits(base.names[0]) and base.deep() == ()
    lease.release()
    assert base.vacuum(5 * HOUR).unindexed == (base.names[1],)


def test_an_index_stays_while_the_cache_lacks_a_vector(base):
    """What could not be searched without its index keeps it, until the vectors are there again."""
    base.drop_embeddings()
    assert base.vacuum().unindexed == ()
    assert not read_record(base.store.root).indexes and base.hits(base.names[0])
    for number in range(12):
        base.write("dams", number, f"The reservoir number {number} is full.")
    base.refresh(timedelta(0))
    assert base.vacuum().unindexed == ()


def test_a_reader_that_was_there_before_reads_on(base):
    """Files that were opened stay open, and a snapshot found just before it lost its index is found anew."""
    with (
        Retriever.open(base.root, as_of=base.names[0]) as before,
        Retriever.open(base.root) as late,
    ):
        found = [h.as_dict() for h in before.search("metres", k=3, mode="dense")]
        stale = base.store.manifest(base.names[1])
        expected = base.hits(base.names[1])[2][:3]
        base.let_go()
        assert [h.as_dict() for h in before.search("metres", k=3, mode="dense")] == found
        for segment in stale.segments:
            (base.store.objects.root / segment.vectors.name).unlink(missing_ok=True)
        with pytest.raises(CorruptObjectError):
            SnapshotView(Loaded(base.store.objects), stale, stale.name())
        assert late._view(stale, stale.name()).manifest.unindexed
        assert [
            h.as_dict() for h in late.search("metres", k=3, as_of=base.names[1], mode="dense")
        ] == expected


def test_a_store_object_follows_the_record(base):
    """A store that was opened before knows at its next look which indexes were let go."""
    store = base.store
    assert store.manifest(base.names[0]).segments
    whole = store.manifest(base.names[0])
    write_retired(store.root, (), now=datetime.now(UTC), indexes=[base.names[0]])
    light = store.manifest(base.names[0])
    assert light.segments == () and light.unindexed
    assert (light.name(), light.sha256()) == (whole.name(), whole.sha256())
    assert store.manifest(base.names[1]).segments


def test_a_damaged_record_does_not_stop_what_is_served(base):
    """CURRENT always has its index; who asks for the past is told what is damaged."""
    base.let_go()
    (base.store.root / "retired.json").write_text("{")
    with Retriever.open(base.root) as retriever:
        assert retriever.search("metres")
        with pytest.raises(StoreError, match="record of expired"):
            retriever.search("metres", as_of=base.names[0])


def test_neighbours_share_their_vectors(base):
    """Two past snapshots hold the vectors they have in common once, each serving its own texts."""
    base.let_go()
    store = base.store
    loaded = Loaded(store.objects)
    first = SnapshotView(loaded, store.manifest(base.names[0]), base.names[0])
    second = SnapshotView(loaded, store.manifest(base.names[1]), base.names[1])
    assert second._parts[0].index is first._parts[0].index
    assert len(second._parts) == 2 and len(second._parts[1].index.hashes) < 6
    assert first.texts == store.manifest(base.names[0]).counts["texts"]
    assert second.texts == store.manifest(base.names[1]).counts["texts"]


def test_a_rollback_builds_the_index_anew(base):
    """What a rollback publishes has a whole index, and refreshes and vacuums go on from there."""
    base.let_go()
    store = base.store
    with pytest.raises(ConfigError, match="index was let go"):
        store.rollback(base.names[0], run_id=new_run_id())
    code = "import sys; from headwater.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "rollback", base.names[0], "--kb", str(base.root)]
    subprocess.run(command, check=True, capture_output=True)
    current = store.current()
    assert current.restores == base.names[0] and current.segments
    assert base.deep() == () and not list((store.root / "tmp").iterdir())
    without = [{k: v for k, v in hit.items() if k not in ("snapshot", "verified_at")}
               for hits in base.hits(base.names[0]) for hit in hits]  # fmt: skip
    assert [{k: v for k, v in hit.items() if k not in ("snapshot", "verified_at")}
            for hits in base.hits(current.name()) for hit in hits] == without  # fmt: skip
    base.write("dams", 3, "The reservoir was emptied.")
    base.refresh(timedelta(0))
    for after in (6, 8):
        base.vacuum(after * HOUR)
    assert base.deep() == ()


def test_a_rollback_without_vectors_publishes_nothing(base):
    """Where the cache lacks vectors, a rollback says so and CURRENT stays."""
    base.let_go()
    base.drop_embeddings()
    config = load(base.root).config.index
    with pytest.raises(StoreError, match="lacks vectors"):
        base.store.rollback(
            base.names[0],
            run_id=new_run_id(),
            reindex=lambda m: reindex(base.store.objects, m, config=config),
        )
    assert base.store.current_name() == base.names[-1]


def test_lost_vectors_are_named_and_made_again(base):
    """A deep check names the snapshots that cannot be searched; a repair embeds their texts again."""
    before = base.hits(base.names[0])
    base.let_go()
    base.drop_embeddings()
    assert verify(base.store, index_check=index_problems).problems == ()
    problems = base.deep()
    assert len(problems) == 4 and all("no vector in the embedding cache" in p for p in problems)
    with pytest.raises(CorruptObjectError, match="lacks vectors"):
        base.hits(base.names[0])
    assert repair(load(base.root), base.store, encoding=twin_encoding).ok
    assert base.deep() == () and base.hits(base.names[0]) == before


def test_a_backup_and_its_restoration_answer_the_same(base, tmp_path):
    """Neither copy names an index that is not there, and both find what the store finds."""
    backup(base.store, tmp_path / "copy")
    before = [base.hits(name) for name in base.names]
    base.let_go()
    backup(base.store, tmp_path / "copy")
    shutil.rmtree(base.root / "store")
    restore(tmp_path / "copy", base.root / "store")
    assert base.deep() == () and [base.hits(name) for name in base.names] == before
    for entry, _ in base.store.objects.listing():
        base.store.objects.verify(entry)
    needed = {e.name for m in base.store.chain() for e in m.objects()}
    found = {e.name for e, _ in base.store.objects.listing() if e.kind in INDEX}
    assert found <= needed


def test_an_erasure_reaches_snapshots_without_an_index(base):
    """What is erased is found in no snapshot, whether it has an index, is losing it or lost it."""
    base.vacuum(2 * HOUR)
    erase(load(base.root), ErasureRequest((("rivers", "note00.md"),), reason="asked"))
    for after in (4, 5):
        base.vacuum(after * HOUR)
        assert base.deep() == ()
        for name in (*base.names, base.store.current_name()):
            keys = {h["key"] for hits in base.hits(name, sources=["rivers"]) for h in hits}
            assert keys and "note00.md" not in keys
    erase(load(base.root), ErasureRequest((("dams", "note02.md"),), reason="asked"))
    with Retriever.open(base.root) as retriever:
        found = retriever.search("metres", k=50, as_of=base.names[2])
    names = {(hit.source, hit.key) for hit in found}
    assert ("rivers", "note02.md") in names and ("dams", "note02.md") not in names
    assert base.deep() == ()
