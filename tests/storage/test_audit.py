"""The audit log: one line per publication, chained, and no way to change it unseen."""

import json
import os

import pytest

from headwater.errors import PublicationStoppedError
from headwater.storage import files
from headwater.storage.audit import FIRST, AuditLog
from headwater.storage.manifest import Gate, SourceState, child_of
from headwater.storage.store import Store


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "store")


def make(store, **changes):
    """The next manifest."""
    return child_of(
        store.current(),
        **{
            "observed_at": "2026-01-01T00:00:00.000000Z",
            "created_at": "2026-01-01T00:00:00.000000Z",
            "run_id": os.urandom(4).hex(),
            "cause": "refresh",
            "headwater": "0",
            "config_sha256": "",
            "chunker": "none",
            "sources": {"docs": SourceState("memory")},
            "counts": {"documents": 3},
            **changes,
        },
    )


def publish(store, count=1, **changes):
    for _ in range(count):
        store.publish(store.write_candidate(make(store, **changes)))
    return store.current_name()


def checked(store):
    return AuditLog(store.root).verify(list(store.chain())[::-1])


def lines(store):
    return AuditLog(store.root).path.read_bytes().splitlines(keepends=True)


def write(store, content):
    AuditLog(store.root).path.write_bytes(b"".join(content))


def test_every_publication_has_its_line(store):
    """Refresh, backfill, override and rollback each say who, when, which run and what."""
    publish(store)
    publish(store, cause="backfill")
    failed = store.write_candidate(make(store, gates=(Gate("golden", False),)))
    with pytest.raises(PublicationStoppedError):
        store.publish(failed)
    store.publish(failed, override=True, detail={"approved_deletes": {"docs": 4}})
    store.rollback("1", run_id="someone", hold=("docs",))
    entries = AuditLog(store.root).entries()
    assert [e.action for e in entries] == ["refresh", "backfill", "override", "rollback"]
    assert [e.seq for e in entries] == [1, 2, 3, 4] and entries[0].prev == FIRST
    assert [e.snapshot for e in entries] == [m.name() for m in store.chain()][::-1]
    assert entries[2].detail["failed_gates"] == ["golden"]
    assert entries[2].detail["approved_deletes"] == {"docs": 4}
    assert entries[3].detail["hold"] == ["docs"]
    assert entries[3].detail["restores"] == entries[0].snapshot
    assert entries[3].run_id == "someone" and entries[3].pid == os.getpid()
    assert "@" in entries[3].actor
    assert checked(store).ok and checked(store).begins == entries[0].snapshot


def test_a_user_without_a_name_is_a_number(store, monkeypatch):
    """In a container that runs under a bare number the log still says who."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)
    publish(store)
    assert AuditLog(store.root).entries()[0].actor.startswith("uid54321@")


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize(
    "field", ["seq", "at", "actor", "pid", "run_id", "action", "snapshot", "detail", "prev"]
)
def test_a_changed_line_is_found(store, number, field):
    """Whatever is changed in whichever line, the last included."""
    publish(store, 5)
    found = lines(store)
    entry = json.loads(found[number])
    entry[field] = {"documents": 4} if field == "detail" else 99 if field == "pid" else "x"
    found[number] = json.dumps(entry, sort_keys=True).encode() + b"\n"
    write(store, found)
    assert not checked(store).ok


@pytest.mark.parametrize("number", range(5))
def test_a_line_forged_with_its_own_hash_is_found(store, number):
    """Sealing the changed line again breaks the next one, or disagrees with the manifest."""
    publish(store, 5)
    log = AuditLog(store.root)
    found = lines(store)
    entry = log.entries()[number]
    object.__setattr__(entry, "run_id", "another")
    found[number] = entry.sealed() + b"\n"
    write(store, found)
    assert any("another run" in problem for problem in checked(store).problems)
    assert number == 4 or any("follow" in problem for problem in checked(store).problems)


@pytest.mark.parametrize("number", range(5))
def test_a_removed_line_is_found(store, number):
    """A gap in the middle breaks the chain; the newest snapshot without its line is named."""
    name = publish(store, 5)
    found = lines(store)
    del found[number]
    write(store, found)
    problems = checked(store).problems
    assert problems
    if number == 4:
        assert problems == (f"{name} has no line",)


def test_reordered_and_repeated_lines_are_found(store):
    """Every line in its place, once."""
    publish(store, 4)
    one, two, three, four = lines(store)
    for content in (
        [one, three, two, four],
        [one, two, three, four, four],
        [two, one, three, four],
    ):
        write(store, content)
        assert not checked(store).ok
    write(store, [one, two, three, four])
    assert checked(store).ok


@pytest.mark.parametrize("keep", [0, 0.3, 0.7, 0.99])
def test_a_truncated_log_is_found(store, keep):
    """Cut anywhere, between lines or within one."""
    publish(store, 4)
    whole = b"".join(lines(store))
    write(store, [whole[: int(len(whole) * keep)]])
    assert not checked(store).ok


def test_a_crash_before_the_line_is_recovered_by_the_next_publication(store):
    """A snapshot without its line gets one that says so; a torn line is cut off."""
    publish(store, 2)
    name = publish(store)
    found = lines(store)
    write(store, [*found[:2], found[2][:70]])
    assert any("torn" in problem for problem in checked(store).problems)
    publish(store)
    entries = AuditLog(store.root).entries()
    assert [e.action for e in entries] == ["refresh", "refresh", "recovered", "refresh"]
    assert entries[2].snapshot == name
    assert checked(store).ok


def test_recovery_writes_once_and_only_when_needed(store):
    """With its line in place, nothing is appended."""
    publish(store, 2)
    before = lines(store)
    store.recover()
    assert lines(store) == before
    write(store, before[:1])
    for _ in range(3):
        store.recover()
    assert [e.action for e in AuditLog(store.root).entries()] == ["refresh", "recovered"]
    assert checked(store).ok


def test_a_store_from_before_the_log_begins_where_it_stands(store):
    """Its older snapshots have no lines, and none is demanded."""
    publish(store, 3)
    AuditLog(store.root).path.unlink()
    assert checked(store).problems == (f"{store.current_name()} has no line",)
    publish(store)
    found = checked(store)
    assert found.ok and found.entries == 2 and found.begins.startswith("00000003-")


def test_a_line_that_moved_nothing_is_part_of_the_chain(store):
    """Other acts may be recorded between publications."""
    publish(store)
    with files.locked(store.root / "LOCK"):
        AuditLog(store.root).record("tag", detail={"name": "spring"})
    publish(store)
    assert [e.action for e in AuditLog(store.root).entries()] == ["refresh", "tag", "refresh"]
    assert checked(store).ok
    found = lines(store)
    write(store, [found[0], found[2]])
    assert not checked(store).ok


def test_a_line_for_what_was_never_published_is_found(store):
    """CURRENT set back by hand leaves lines that no chain explains."""
    publish(store, 2)
    (store.root / "CURRENT").write_text(next(m.name() for m in store.chain() if m.seq == 1))
    assert any("not in the chain" in problem for problem in checked(store).problems)
