"""Space comes back, and nothing that anybody can still ask for goes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headwater.config import RetentionConfig, load
from headwater.errors import CorruptObjectError, NotFoundError, StoreError
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.repair import damaged_objects
from headwater.retrieval import Retriever
from headwater.retrieval.datasets.evidence import gather_evidence
from headwater.retrieval.index import index_problems
from headwater.storage import embedding_merge, files
from headwater.storage.backup import backup
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.history import log
from headwater.storage.manifest import Gate, child_of, format_time
from headwater.storage.objects import EMBEDDINGS
from headwater.storage.pins import Lease
from headwater.storage.retired import read_record
from headwater.storage.store import Store, new_run_id
from headwater.storage.tables import open_tables
from headwater.storage.tags import set_tag
from headwater.storage.vacuum import (
    Reach,
    StoredObject,
    VacuumPlan,
    plan_vacuum,
    read_trash,
    vacuum,
)
from headwater.storage.verify import verify

HOUR = timedelta(hours=1)
SOON = timedelta(seconds=1)
STRICT = RetentionConfig(
    all_for=SOON, hourly_for=SOON, daily_for=SOON, monthly_for=SOON, index_for=SOON
)
"""Only CURRENT, its parent and what is named stay; what a tag or a release names lets go of its index."""


class Base:
    """A knowledge base of one-line documents, refreshed with the model-free twin."""

    def __init__(self, root: Path, documents: int = 8) -> None:
        self.root = root
        (root / "docs").mkdir(parents=True)
        sources = {"docs": {"kind": "documents", "root": "docs"}}
        (root / "headwater.yaml").write_text(yaml.safe_dump({"name": "kb", "sources": sources}))
        self.texts: dict[str, str] = {}
        self.then: dict[str, dict[str, str]] = {}
        self.began = datetime.now(UTC)
        for number in range(documents):
            self.write(number, f"The reservoir number {number} is full.")

    def write(self, number: int, text: str) -> None:
        key = f"note{number:03d}.md"
        self.texts[key] = text
        (self.root / "docs" / key).write_text(text)

    def refresh(self, *, ago: timedelta | None = None) -> str:
        """Publish; remembers what the snapshot must say for ever."""
        options = RefreshOptions(observed_at=self.began - ago if ago is not None else None)
        report = refresh(load(self.root), options, encoding=twin_encoding)
        assert report.published
        self.then[report.snapshot] = dict(self.texts)
        return report.snapshot

    @property
    def store(self) -> Store:
        return Store.open(self.root / "store")

    def vacuum(self, after: timedelta = timedelta(0), **options) -> VacuumPlan:
        """A vacuum as it would be so much later."""
        options = {"config": STRICT, "datasets": self.root / "datasets", **options}
        return vacuum(self.store, now=datetime.now(UTC) + after, **options)

    def listing(self) -> dict[str, int]:
        found = (self.root / "store").rglob("*")
        return {
            str(p.relative_to(self.root)): p.stat().st_mtime_ns
            for p in found
            if p.is_file() and p.name != "LOCK"
        }

    def bytes(self) -> int:
        return sum(entry.bytes for entry, _ in self.store.objects.listing())

    def objects(self) -> set[str]:
        return {entry.name for entry, _ in self.store.objects.listing()}

    def check(self, kept: set[str]) -> None:
        """Every byte is right, what stays says what it said, and the rest says that it expired."""
        store = self.store
        found = verify(store, deep=True, index_check=index_problems)
        assert found.problems == ()
        assert {m.name() for m in store.chain()} == set(self.then)
        assert {e.name for e in log(store) if not e.expired} == kept
        for name, texts in self.then.items():
            if name not in kept:
                with pytest.raises(NotFoundError, match="expired"):
                    store.resolve(name)
                continue
            manifest = store.resolve(name)
            live = "select key, text from live join contents using (content_hash)"
            with open_tables(store.objects, manifest) as tables:
                assert dict(tables.execute(live).fetchall()) == texts
            if name in read_record(store.root).indexes:
                assert manifest.unindexed and manifest.name() == name
                with Retriever.open(self.root, as_of=name) as retriever:
                    found = {hit.text for hit in retriever.search("reservoir", k=500)}
                assert found == set(texts.values())
            else:
                assert index_problems(store.objects, manifest, _hashes(store, manifest)) == []


def _hashes(store: Store, manifest) -> list[bytes]:
    with open_tables(store.objects, manifest) as tables:
        rows = tables.execute("select distinct text_hash from live_chunks").fetchall()
    return [row[0] for row in rows]


@pytest.fixture
def base(tmp_path):
    return Base(tmp_path / "kb")


def changed(base: Base, times: int) -> list[str]:
    """So many snapshots, one document changing each time."""
    names = []
    for number in range(times):
        base.write(number % 3, f"The reservoir is at {len(base.then)} metres.")
        names.append(base.refresh())
    return names


# --- the plan --------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
NAMES = st.sets(st.sampled_from("abcdefgh"))
MINUTES = st.integers(-60, 600).map(lambda n: NOW - timedelta(minutes=n))


@given(
    needed=NAMES,
    released=NAMES,
    written=st.dictionaries(st.sampled_from("abcdefgh"), MINUTES),
    trash=st.dictionaries(st.sampled_from("abcdefghij"), MINUTES),
    running=st.none() | MINUTES,
    embeddings=NAMES,
    dead=NAMES,
)
def test_what_goes_is_unneeded_old_marked_and_was_not_needed_until_now(
    needed, released, written, trash, running, embeddings, dead
):
    """An object is deleted only for all reasons at once, and marked ones are never forgotten."""
    objects = [
        StoredObject(n, EMBEDDINGS if n in embeddings else "chunks.parquet", 1, when)
        for n, when in written.items()
    ]
    released = released - needed
    reach = Reach((), (), (), frozenset(needed), frozenset(released))
    plan = plan_vacuum(
        reach, objects, trash, now=NOW, grace=HOUR, running=running, dead_embeddings=dead
    )
    for entry in plan.deleted:
        assert entry.name not in needed | released
        assert entry.written_at <= NOW - HOUR
        assert running is None or entry.written_at <= running
        assert trash[entry.name] <= NOW - HOUR
        assert entry.kind != EMBEDDINGS or entry.name in dead
    gone = {o.name for o in plan.deleted}
    assert set(plan.trash) == {o.name for o in (*plan.marked, *plan.waiting)}
    assert not set(plan.trash) & (needed | gone) and set(plan.trash) <= set(written)
    assert all(since <= NOW for since in plan.trash.values())
    later = plan_vacuum(
        Reach((), (), (), frozenset(needed), frozenset()),
        [o for o in objects if o.name not in gone],
        plan.trash,
        now=NOW + HOUR,
        grace=HOUR,
        running=running,
        dead_embeddings=dead,
    )
    assert {o.name for o in later.deleted} == set(plan.trash)


# --- a life ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_many_refreshes_shrink_to_what_is_kept(tmp_path):
    """After many small changes a vacuum frees most of the space, and all that stays is whole."""
    base = Base(tmp_path / "kb", documents=60)
    for number in range(40):
        base.write(number, f"The reservoir number {number} was seen in round {number}.")
        base.refresh(ago=timedelta(hours=12 * (40 - number)))
    config = RetentionConfig()
    full, before = base.bytes(), base.objects()
    first = base.vacuum(2 * HOUR, config=config)
    assert first.expired and not first.deleted and base.objects() == before
    kept = set(base.then) - set(first.expired)
    assert 20 < len(kept) < 35
    second = base.vacuum(4 * HOUR, config=config)
    assert second.expired == () and {o.name for o in second.deleted} == set(first.trash)
    assert base.bytes() == full - second.freed and second.freed > 0
    base.check(kept)
    with Retriever.open(base.root) as retriever:
        for name in sorted(kept)[::5]:
            texts = {hit.text for hit in retriever.search("reservoir", k=500, as_of=name)}
            assert texts == set(base.then[name].values())
    third = base.vacuum(
        timedelta(days=200), config=config.model_copy(update={"daily_for": 7 * 24 * HOUR})
    )
    base.vacuum(timedelta(days=201), config=config.model_copy(update={"daily_for": 7 * 24 * HOUR}))
    base.check(kept - set(third.expired))
    assert base.bytes() < full - second.freed


def test_two_runs_and_the_grace_between_them(base):
    """The first run only marks, one within the grace waits, one after it deletes, the next is idle."""
    names = changed(base, 5)
    before = base.objects()
    first = base.vacuum(2 * HOUR)
    assert set(first.expired) == set(names[:3]) and first.marked and not first.deleted
    waiting = base.vacuum(2 * HOUR + timedelta(minutes=59))
    assert not waiting.marked and not waiting.deleted and len(waiting.waiting) == len(first.marked)
    assert base.objects() == before
    base.check(set(names[3:]))
    last = base.vacuum(4 * HOUR)
    assert base.objects() == before - {o.name for o in last.deleted}
    base.check(set(names[3:]))
    left = base.listing()
    assert base.vacuum(6 * HOUR).deleted == ()
    assert base.listing() == left


def test_a_dry_run_says_the_bytes_and_writes_nothing(base):
    """What a dry run announces is what the run does."""
    changed(base, 5)
    before = base.listing()
    announced = base.vacuum(2 * HOUR, dry_run=True)
    assert announced.to_free and base.listing() == before
    done = base.vacuum(2 * HOUR)
    assert done.as_dict() == announced.as_dict()
    announced = base.vacuum(4 * HOUR, dry_run=True)
    size = base.bytes()
    base.vacuum(4 * HOUR)
    assert base.bytes() == size - announced.freed < size


def test_refreshes_go_on_after_vacuums(base):
    """Refreshes go on after a vacuum, old texts come back, and all of it stays whole."""
    kept: set[str] = set()
    for round_ in range(4):
        names = changed(base, 3)
        base.vacuum(2 * HOUR)
        plan = base.vacuum(4 * HOUR)
        assert not plan.expired
        kept = set(names[-2:])
        base.check(kept)
        assert round_ == 0 or plan.deleted


# --- what stays ------------------------------------------------------------------------------------


def test_tags_pins_and_the_lineage_of_datasets_stay(base):
    """What is named stays whole whatever the retention says, until it is no longer named."""
    names = changed(base, 6)
    set_tag(base.store, "golden", names[0])
    lease = Lease(base.store.root, length=timedelta(days=30))
    lease.hold(names[1])
    release = base.root / "datasets" / "settled" / "v1" / "manifest.json"
    release.parent.mkdir(parents=True)
    release.write_text(json.dumps({"snapshot": names[2]}))
    for after in (2, 4):
        base.vacuum(after * HOUR)
    base.check({names[0], names[1], names[2], *names[4:]})
    lease.release()
    (base.root / "store" / "tags" / "golden").unlink()
    for after in (6, 8):
        base.vacuum(after * HOUR)
    base.check({names[2], *names[4:]})


def test_a_pin_that_comes_too_late_still_keeps_the_objects(base):
    """A reader that pinned just as its snapshot expired can read on: deletion asks for pins again."""
    names = changed(base, 4)
    base.vacuum(2 * HOUR)
    Lease(base.store.root, length=timedelta(days=30)).hold(names[0])
    base.vacuum(4 * HOUR)
    manifest = base.store.manifest(names[0])
    for entry in manifest.objects():
        base.store.objects.verify(entry)
    assert manifest.objects()


def test_a_release_that_cannot_be_read_stops_the_vacuum(base):
    """Nobody can say what a damaged release was cut from, so nothing expires and nothing goes."""
    changed(base, 4)
    release = base.root / "datasets" / "settled" / "v1" / "manifest.json"
    release.parent.mkdir(parents=True)
    release.write_text("{")
    before = base.listing()
    with pytest.raises(StoreError, match="released dataset"):
        base.vacuum(2 * HOUR)
    assert base.listing() == before


def test_candidates_stay_while_they_are_of_use(base):
    """A candidate that could be published stays; one that was overtaken goes, and says so."""
    changed(base, 2)
    store = base.store

    def candidate(run_id: str) -> str:
        parent = store.current()
        return store.write_candidate(
            child_of(
                parent,
                observed_at=format_time(datetime.now(UTC)),
                created_at=format_time(datetime.now(UTC)),
                run_id=run_id,
                quarantine=store.objects.put_bytes(run_id.encode(), "quarantine.parquet"),
                gates=(Gate("golden", False),),
            )
        )

    first, second = candidate("one"), candidate("two")
    for after in (2, 4):
        plan = base.vacuum(after * HOUR)
    assert store.candidates() == [second]
    store.objects.verify(store.manifest(second).quarantine)
    for refuse in (lambda: store.resolve(first), lambda: store.publish(first, override=True)):
        with pytest.raises(NotFoundError, match="expired"):
            refuse()
    changed(base, 1)
    assert second not in base.vacuum(timedelta(0)).expired
    assert base.vacuum(6 * HOUR).expired
    assert store.candidates() == [] and plan.expired == ()


def test_the_evidence_of_datasets_outlives_expiry(base):
    """What settled is still known after the snapshots that a rollback left have expired."""
    names = changed(base, 3)
    base.then[base.store.rollback(names[0], run_id=new_run_id()).name()] = dict(base.then[names[0]])
    names += changed(base, 3)
    before = gather_evidence(base.store, base.store.current())
    for after in (2, 4):
        base.vacuum(after * HOUR)
    base.check(set(names[-2:]))
    assert gather_evidence(base.store, base.store.current()) == before
    assert before.lost is not None


def test_a_backup_after_a_vacuum_is_whole_and_knows_what_expired(base):
    """A copy of a store with expired snapshots verifies, and expires the same ones."""
    names = changed(base, 4)
    for after in (2, 4):
        base.vacuum(after * HOUR)
    copy = base.root / "copy" / "store"
    backup(base.store, copy)
    assert damaged_objects(base.store) == {}
    base.root = base.root / "copy"
    base.check(set(names[-2:]))


def test_embeddings_go_only_when_asked_and_dead(base):
    """The cache is kept, unless `embeddings` is asked for and no kept snapshot holds the texts."""
    changed(base, 6)

    def cached() -> set[str]:
        return {e.name for e, _ in base.store.objects.listing() if e.kind == EMBEDDINGS}

    before = cached()
    for after in (2, 4):
        base.vacuum(after * HOUR)
    assert cached() == before
    for after in (6, 8):
        base.vacuum(after * HOUR, embeddings=True)
    assert cached() < before
    base.check({e.name for e in log(base.store) if not e.expired})
    current = base.store.current()
    live = set(_hashes(base.store, current))
    held = set()
    for entry, _ in base.store.objects.listing():
        if entry.kind == EMBEDDINGS:
            table = base.store.objects.read_table(entry, ["text_hash"])
            held.update(table["text_hash"].to_pylist())
    assert live <= held
    base.write(0, "The reservoir number 0 is full.")
    base.refresh()


# --- what is just being written --------------------------------------------------------------------


def test_what_a_run_may_be_about_to_name_is_left_alone(base):
    """Young objects stay; so does whatever was written since a run that is still at work began."""
    changed(base, 3)
    store = base.store
    young = store.objects.put_bytes(b"young", "chunks.parquet")
    base.vacuum()
    assert read_trash(store.root) == {}
    base.vacuum(5 * HOUR)
    # This very process refreshed before it wrote the object, and lives.
    assert young.name not in read_trash(store.root)
    lock = store.root / "claims" / "docs.lock"
    holder = lock.read_text()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lock.write_text(holder.replace(f"process {os.getpid()} ", f"process {dead.pid} "))
    base.vacuum(5 * HOUR)
    assert young.name in read_trash(store.root)
    base.vacuum(7 * HOUR)
    assert young.name not in base.objects()


def test_an_object_that_is_found_again_counts_as_written_now(base):
    """Content that was marked and is written again survives the run that would have deleted it."""
    changed(base, 3)
    store = base.store
    again = store.objects.put_bytes(b"again", "chunks.parquet")
    path = store.objects.root / again.name
    old = (datetime.now(UTC) - 9 * HOUR).timestamp()
    os.utime(path, (old, old))
    plan = vacuum(store, config=STRICT, now=datetime.now(UTC) - 2 * HOUR)
    assert again.name in plan.trash
    assert store.objects.put_bytes(b"again", "chunks.parquet") == again
    plan = vacuum(store, config=STRICT)
    assert path.is_file() and again.name not in plan.trash


def test_a_manifest_that_names_a_marked_object_saves_it(base):
    """An object that a later manifest names again is needed: the next run takes it off the list."""
    names = changed(base, 4)
    base.vacuum(2 * HOUR)
    old = base.store.manifest(names[0])
    marked = [e for e in old.objects() if e.name in read_trash(base.store.root)]
    assert marked
    current = base.store.current()
    later = child_of(current, run_id="later", chunks=(*current.chunks, *marked), quarantine=None)
    base.store.write_candidate(later)
    for after in (4, 6):
        base.vacuum(after * HOUR)
    for entry in marked:
        base.store.objects.verify(entry)


def test_a_candidate_whose_object_is_gone_is_not_published(base):
    """Publication looks for what a candidate adds, and CURRENT does not move without it."""
    names = changed(base, 2)
    store = base.store
    entry = store.objects.put_bytes(b"gone", "quarantine.parquet")
    candidate = store.write_candidate(child_of(store.current(), run_id="later", quarantine=entry))
    (store.objects.root / entry.name).unlink()
    with pytest.raises(CorruptObjectError, match="missing"):
        store.publish(candidate)
    assert store.current_name() == names[-1]


# --- kills and neighbours --------------------------------------------------------------------------


def dies_at(number: int, work: Callable[[], object]) -> bool:
    """Run `work` in a child that ends at that mutating operation; whether it got that far."""
    pid = os.fork()
    if pid == 0:
        done = 0

        def count(_operation: str, _path: Path) -> None:
            nonlocal done
            done += 1
            if done == number:
                os._exit(9)

        code = 1
        try:
            files.before = count
            work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.slow
def test_a_kill_at_every_operation_leaves_a_whole_store(base):
    """Whenever a vacuum dies, the store verifies, and the next vacuum ends where it would have."""
    names = changed(base, 5)
    (base.root / "store" / "pins").mkdir()
    (base.root / "store" / "pins" / "old.json").write_text("{}")
    set_tag(base.store, "golden", names[0])
    kept, then = {names[0], *names[3:]}, base.then
    index = {segment.vectors.name for segment in base.store.manifest(names[0]).segments}
    start, marked, end = base.root, base.root.with_name("marked"), base.root.with_name("end")
    shutil.copytree(start, marked)
    base.root = marked
    base.vacuum(2 * HOUR)
    shutil.copytree(marked, end)
    base.root = end
    assert not index.isdisjoint(o.name for o in base.vacuum(4 * HOUR).deleted)
    final = base.objects()
    base.check(kept)
    assert names[0] in read_record(base.store.root).indexes
    kills = 0
    for before, after in ((start, 2), (marked, 4)):
        number, died = 1, True
        while died:
            base.root = base.root.with_name(f"killed-{after}-{number}")
            shutil.copytree(before, base.root)
            died = dies_at(number, lambda after=after: base.vacuum(after * HOUR))
            found = verify(base.store, deep=True, index_check=index_problems)
            assert found.problems == (), (after, number)
            for later in (4, 6):
                base.vacuum(later * HOUR)
            assert base.objects() == final, (after, number)
            if number % 7 == 0:
                base.check(kept)
            assert base.store.current_name() == names[-1] and then == base.then
            shutil.rmtree(base.root)
            number += 1
            kills += died
    assert kills > 20


REFRESHES = """
import sys, time
from pathlib import Path
from headwater.config import load
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import refresh
root = Path(sys.argv[1])
for number in range(15):
    # Two texts in turn: what the vacuum marks is what the next refresh writes again.
    (root / "docs" / "note000.md").write_text(f"The reservoir is at {number % 2} metres.")
    (root / "docs" / "note001.md").write_text(f"The gauge shows {number}.")
    report = refresh(load(root), encoding=twin_encoding)
    assert report.published, report
    print(report.snapshot, flush=True)
"""


@pytest.mark.slow
def test_a_vacuum_beside_a_refresh_in_another_process(base):
    """Vacuums one after the other, without a grace worth the name, never take what a refresh publishes."""
    base.refresh()
    command = [sys.executable, "-c", textwrap.dedent(REFRESHES), str(base.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    plans = []
    while process.poll() is None:
        plans.append(vacuum(base.store, config=STRICT, grace=timedelta(milliseconds=1)))
        # A waiting publication asks for the lock twenty times a second.
        time.sleep(0.1)
    out, error = process.communicate()
    assert process.returncode == 0, error
    names = out.split()
    assert len(names) == 15 and base.store.current_name() == names[-1]
    assert sum(len(plan.deleted) for plan in plans)
    store = base.store
    assert verify(store, deep=True, index_check=index_problems).problems == ()
    assert [m.seq for m in store.chain()] == list(range(16, 0, -1))
    with Retriever.open(base.root) as retriever:
        assert "The gauge shows 14." in {hit.text for hit in retriever.search("gauge", k=50)}


def test_the_command_line_vacuums(base):
    """`headwater vacuum` prints what it does, as text and as JSON, and `log` marks what expired."""
    changed(base, 4)
    settings = yaml.safe_load((base.root / "headwater.yaml").read_text())
    spans = dict.fromkeys(("all_for", "hourly_for", "daily_for", "monthly_for"), "1s")
    settings["retention"] = {**spans, "grace": "1s"}
    (base.root / "headwater.yaml").write_text(yaml.safe_dump(settings))
    for path in (base.root / "store" / "objects").rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    past = datetime.now(UTC) + timedelta(seconds=2)
    while datetime.now(UTC) < past:
        time.sleep(0.1)

    def run(*words: str) -> str:
        code = "import sys; from headwater.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, *words, "--kb", str(base.root)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "2 snapshots would expire, 2 are kept" in run("vacuum", "--dry-run")
    found = json.loads(run("vacuum", "--json"))
    assert len(found["expired"]) == 2 and found["bytes_to_free"] > 0
    assert "expired" in run("log")
    assert [e["expired"] for e in json.loads(run("log", "--json"))] == [False, False, True, True]
    assert json.loads(run("audit", "--json"))[0]["action"] == "vacuum"


def test_embeddings_that_were_merged_go_and_no_vector_with_them(
    chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After many small commits the cache is a few files, and holds every vector it held."""
    monkeypatch.setattr(embedding_merge, "FAN_IN", 2)
    chain.publish({"s": {"a": "text"}})
    store = chain.store
    cache = EmbeddingCache(store.objects, space="s", dim=4)
    hashes = [hashlib.sha256(bytes([n])).digest() for n in range(9)]
    vectors = np.eye(9, 4, dtype=np.float32) + np.float32(0.5)
    for n, name in enumerate(hashes):
        cache.add([name], vectors[n : n + 1])
        embedding_merge.merge_embeddings(store.objects, cache)
    written = len(list(store.objects.listing()))
    for hours in (2, 4):
        vacuum(store, config=RetentionConfig(), now=datetime.now(UTC) + timedelta(hours=hours))
    left = [entry for entry, _ in store.objects.listing()]
    assert len(left) < written
    again = EmbeddingCache(store.objects, space="s", dim=4)
    assert again.missing(hashes) == []
    np.testing.assert_array_equal(again.vectors(hashes), vectors)
