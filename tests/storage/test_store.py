"""The chain of snapshots and the one step that publishes."""

import json
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest

from headwater.errors import (
    BusyError,
    FormatError,
    NotFoundError,
    ParentMovedError,
    PublicationStoppedError,
    StoreError,
)
from headwater.storage.claims import claimed
from headwater.storage.manifest import (
    FORMAT,
    Gate,
    Manifest,
    SourceState,
    child_of,
    format_time,
    from_json,
    parse_time,
)
from headwater.storage.store import Store

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "store")


def make(store: Store, parent: Manifest | None = None, **changes) -> Manifest:
    """A manifest one hour after its parent."""
    when = parent.time + timedelta(hours=1) if parent else START
    return child_of(
        parent,
        **{
            "observed_at": format_time(when),
            "created_at": format_time(when),
            "run_id": "run",
            "cause": "refresh",
            "headwater": "0",
            "config_sha256": "",
            "chunker": "none",
            "sources": {"docs": SourceState("memory")},
            **changes,
        },
    )


def published(store: Store, count: int) -> list[Manifest]:
    manifests: list[Manifest] = []
    for _ in range(count):
        manifest = make(store, manifests[-1] if manifests else None)
        store.publish(store.write_candidate(manifest))
        manifests.append(manifest)
    return manifests


def test_a_candidate_is_readable_by_name_and_not_current(store):
    """Writing a manifest makes nothing visible; publishing does."""
    manifest = make(store)
    name = store.write_candidate(manifest)
    assert store.current() is None
    assert store.resolve(name) == manifest
    assert store.candidates() == [name]
    store.publish(name)
    assert store.current() == manifest


def test_a_manifest_survives_its_json(store):
    """What is read back equals what was written, to the byte."""
    manifest = make(store, gates=(Gate("index-complete", True),), counts={"documents": 3})
    assert from_json(manifest.to_json(), name=manifest.name()) == manifest


def test_as_of_understands_names_numbers_and_times(store):
    """Every way to name a snapshot finds the same one."""
    first, second, third = published(store, 3)
    assert store.resolve(None) == third
    assert store.resolve("2") == second
    assert store.resolve(second.name()) == second
    assert store.resolve(second.name()[:12]) == second
    assert store.resolve("2026-01-01T01:30:00Z") == second
    assert store.resolve("2026-01-01T00:59:59") == first
    assert store.resolve("2026-01-01") == third
    for missing in ("7", "2025-12-31", "yesterday", "00000009-0000000000000000"):
        with pytest.raises(NotFoundError):
            store.resolve(missing)


def test_publication_needs_the_current_parent(store):
    """Two candidates on one parent: the second must rebase."""
    first = published(store, 1)[0]
    one = store.write_candidate(make(store, first, run_id="one"))
    two = store.write_candidate(make(store, first, run_id="two"))
    store.publish(one)
    with pytest.raises(ParentMovedError):
        store.publish(two)
    assert store.current_name() == one
    assert store.candidates() == [two]


def test_a_failed_gate_stops_publication_unless_a_person_overrides(store):
    """A candidate with a failed critical gate stays a candidate."""
    manifest = make(store, gates=(Gate("golden", False, detail="2 of 9 lost"),))
    name = store.write_candidate(manifest)
    with pytest.raises(PublicationStoppedError, match="gates") as caught:
        store.publish(name)
    assert "2 of 9 lost" in caught.value.obj and store.current() is None
    store.publish(name, override=True)
    assert store.current() == manifest


def test_racing_publishers_never_lose_a_publication(store):
    """Of eight threads on one parent exactly one publishes at a time; each success is in the chain."""
    published(store, 1)
    done: list[str] = []

    def publish(number: int) -> None:
        for attempt in range(200):
            manifest = make(store, store.current(), run_id=f"{number}-{attempt}")
            name = store.write_candidate(manifest)
            try:
                store.publish(name)
            except ParentMovedError:
                continue
            done.append(name)
            return

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chain = {m.name() for m in store.chain()}
    assert len(done) == 8 and set(done) <= chain
    assert len(chain) == 9


def test_rollback_is_a_new_snapshot_with_the_old_objects(store):
    """Sequence numbers only rise, knowledge time never runs back, holds are remembered."""
    first, _second = published(store, 2)
    manifest = store.rollback("1", run_id="r", hold=("docs",))
    assert manifest.seq == 3 and manifest.restores == first.name()
    assert manifest.objects() == first.objects()
    assert manifest.sources["docs"].hold
    assert manifest.time >= store.resolve("2").time
    assert [m.seq for m in store.chain()] == [3, 2, 1]
    with pytest.raises(NotFoundError):
        store.rollback("1", run_id="r", hold=("nobody",))


def test_a_claim_excludes_other_runs_and_names_them(store):
    """A second run on the same source is refused and told who holds it."""
    with claimed(store.root, "docs", run_id="first"):
        with (
            pytest.raises(BusyError, match="at work") as caught,
            claimed(store.root, "docs", run_id="second"),
        ):
            pass
        assert "first" in caught.value.obj
        with claimed(store.root, "other", run_id="second"):
            pass
    with claimed(store.root, "docs", run_id="third") as claim:
        assert claim.token == 2


def test_a_claim_ends_with_its_process(store):
    """A killed run does not block the next one."""
    script = (
        "import os,sys; from pathlib import Path; from headwater.storage.claims import claimed\n"
        "with claimed(Path(sys.argv[1]), 'docs', run_id='dying'): os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(store.root)], check=False)
    assert done.returncode == 9
    with claimed(store.root, "docs", run_id="next"):
        pass


def test_an_overtaken_run_cannot_publish(store):
    """A run whose claim is older than the newest token is fenced off."""
    with claimed(store.root, "docs", run_id="slow") as claim:
        name = store.write_candidate(make(store))
        stamp = json.dumps({"token": claim.token + 1, "run_id": "other"})
        (store.root / "claims" / "docs.json").write_text(stamp)
        with pytest.raises(BusyError, match="took over"):
            store.publish(name, claims=(claim,))
    assert store.current() is None


@pytest.mark.parametrize("text", ["", "garbage", "00000001-zz", "../../etc/passwd"])
def test_a_damaged_current_is_an_error_not_a_guess(store, text):
    """Whatever CURRENT holds, headwater never picks a snapshot by itself."""
    published(store, 1)
    (store.root / "CURRENT").write_text(text)
    with pytest.raises(StoreError, match="CURRENT"):
        store.current()


def test_a_damaged_manifest_is_named(store):
    """One changed byte in a manifest is found by its own name."""
    name = published(store, 1)[0].name()
    path = store.root / "snapshots" / f"{name}.json"
    path.write_bytes(path.read_bytes().replace(b'"run"', b'"rum"'))
    with pytest.raises(StoreError, match="damaged") as caught:
        store.current()
    assert name in caught.value.obj


def test_a_newer_format_is_refused(store):
    """A store of the future is not read by guesswork."""
    (store.root / "FORMAT").write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(FormatError, match=f"format {FORMAT + 1}"):
        Store.open(store.root)


def test_no_store_says_what_to_do(tmp_path):
    """Opening an empty folder points to the refresh."""
    with pytest.raises(NotFoundError, match="no store"):
        Store.open(tmp_path)


def test_the_sweep_removes_drafts_of_dead_runs_only(store):
    """Leftovers of a process that is gone are removed, those of a living one are not."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        for pid in (dead.pid, living.pid):
            (store.root / "tmp" / f"run-{pid}").mkdir()
            (store.root / "tmp" / f"run-{pid}" / "x").write_bytes(b"1")
        assert store.sweep() == 1
        assert (store.root / "tmp" / f"run-{living.pid}" / "x").exists()
    finally:
        living.communicate(b"\n")


def test_times_round_trip_and_sort_as_text():
    """Knowledge times compare the same as text and as values."""
    times = [START + timedelta(microseconds=7**n) for n in range(12)]
    texts = [format_time(t) for t in times]
    assert texts == sorted(texts)
    assert [parse_time(t) for t in texts] == times
