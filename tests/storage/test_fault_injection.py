"""The one door to the disk: in which order it writes, and what a fault at any step leaves behind."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headwater.errors import HeadwaterError, StorageUnavailableError, StoreError
from headwater.storage import files
from headwater.storage.audit import AuditLog
from headwater.storage.claims import claimed
from headwater.storage.embeddings import EmbeddingCache
from headwater.storage.manifest import SourceState, child_of
from headwater.storage.objects import ObjectStore
from headwater.storage.store import Store
from headwater.storage.tables import CONTENTS
from headwater.storage.verify import verify

KILLED = 77
REFUSALS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)


@pytest.fixture
def listen(monkeypatch):
    """Install what is told of every operation; gone when the test is over."""
    return lambda hook: monkeypatch.setattr(files, "before", hook)


def contents(text: str) -> pa.Table:
    row = {"content_hash": text.encode().ljust(32, b"."), "chars": len(text), "text": text}
    return pa.Table.from_pylist([row], schema=CONTENTS)


def cache(store: Store) -> EmbeddingCache:
    return EmbeddingCache(store.objects, space="s", dim=2)


def advance(root, text: str) -> str:
    """The smallest whole run: claim, objects, vectors, candidate, publication, tidying up."""
    store = Store.create(root)
    store.sweep()
    store.recover()
    try:
        with claimed(root, "docs", run_id=text) as claim:
            table = store.objects.put_table(contents(text), "contents.parquet")
            store.objects.put_bytes(text.encode() * 9, "tokenizer.json")
            vectors = cache(store)
            if missing := vectors.missing([text.encode().ljust(32, b".")]):
                vectors.add(missing, np.ones((1, 2), dtype=np.float32))
            parent = store.current()
            manifest = child_of(
                parent,
                observed_at="2026-01-01T00:00:00.000000Z",
                created_at="2026-01-01T00:00:00.000000Z",
                run_id=text,
                cause="refresh",
                headwater="0",
                config_sha256="",
                chunker="none",
                sources={"docs": SourceState("memory")},
                contents=(*(parent.contents if parent else ()), table),
                counts={"documents": 0},
            )
            name = store.write_candidate(manifest)
            store.publish(name, claims=(claim,))
            return name
    finally:
        store.objects.discard_drafts()


def sound(store: Store) -> bool:
    """Whether every byte is what its name says, and the audit log explains the chain."""
    found = verify(store, deep=True, index_check=lambda *_: [])
    name = store.current_name()
    problems = AuditLog(store.root).verify(list(store.chain())[::-1]).problems
    assert all(p == f"{name} has no line" or "torn" in p for p in problems), problems
    return found.ok


def walked(tmp_path, listen, *, kill: bool):
    """Strike before operation 0, 1, 2, … of the second run; yields (step, store, how it ended)."""
    template = tmp_path / "template"
    first = advance(template, "one")
    root = tmp_path / "store"
    for number in range(10_000):
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root)
        steps: list[str] = []

        def strike(operation, path, number=number, steps=steps):
            steps.append(f"{number}: {operation} {path}")
            if len(steps) - 1 != number:
                return
            if operation == "library":
                os.truncate(path, path.stat().st_size // 2)
            if kill:
                os._exit(KILLED)
            code = REFUSALS[number % len(REFUSALS)]
            raise OSError(code, os.strerror(code), str(path))

        if kill:
            child = os.fork()
            if child == 0:
                files.before = strike
                try:
                    advance(root, "two")
                finally:
                    os._exit(0)
            ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            step, over = f"operation {number}", ended == 0
        else:
            listen(strike)
            ended = None
            try:
                advance(root, "two")
            except HeadwaterError as error:
                ended = error
            listen(None)
            step, over = steps[number] if len(steps) > number else "", len(steps) <= number
        if over:
            assert number > 40
            return
        yield step, Store.open(root), ended, first


def completed(store: Store, first: str, step: str) -> None:
    """Doing it again brings the store to the one state that it should be in."""
    before = store.current()
    assert before is not None and first in (before.name(), before.parent), step
    assert sound(store), step
    if before.name() == first:
        advance(store.root, "two")
    else:
        store.recover()
    store = Store.open(store.root)
    assert [m.run_id for m in store.chain()] == ["two", "one"], step
    assert AuditLog(store.root).verify(list(store.chain())[::-1]).ok, step
    embedded = [e for e, _ in store.objects.listing() if e.kind == "embeddings.parquet"]
    assert len(embedded) == 2, step


@pytest.mark.slow
def test_killed_before_any_operation(tmp_path, listen):
    """The store is on the old snapshot or the new one, and a rerun ends where it should."""
    for step, store, ended, first in walked(tmp_path, listen, kill=True):
        assert ended == KILLED, step
        completed(store, first, step)
        store.sweep()
        assert not list((store.root / "tmp").iterdir()), step


@pytest.mark.slow
def test_refused_at_any_operation(tmp_path, listen):
    """The error is one of the tree, no draft stays, and a rerun ends where it should."""
    for step, store, ended, first in walked(tmp_path, listen, kill=False):
        # Tidying up never fails a run that did its work; what it could not remove is swept later.
        tidying = "unlink" in step or "rmdir" in step
        assert isinstance(ended, StorageUnavailableError) or (tidying and ended is None), step
        if not tidying:
            assert not list((store.root / "tmp").iterdir()), step
        if ended is not None and store.current_name() != first:
            assert "is published" in ended.what, step
        completed(store, first, step)


def test_the_order_of_writing(tmp_path, listen):
    """Bytes, sync, rename, sync of the folder; objects before the manifest, that before CURRENT."""
    trace: list[tuple[str, str]] = []
    root = tmp_path / "store"
    listen(lambda operation, path: trace.append((operation, str(path.relative_to(tmp_path)))))
    name = advance(root, "one")
    listen(None)
    renames = [at for at, (operation, _) in enumerate(trace) if operation == "rename"]
    targets = [trace[at][1] for at in renames]
    assert len(targets) == len(set(targets))
    for at in renames:
        target = trace[at][1]
        last = next(step for step in reversed(trace[:at]) if step[0] != "mkdir")
        assert last[0] == "fsync" and last[1].startswith("store/tmp/"), target
        assert trace[at + 1] == ("fsync-folder", str(Path(target).parent)), target
        if target.startswith("store/objects/"):
            assert trace[at + 2] == ("fsync-folder", "store/objects"), target
    manifest = Store.open(root).current()
    needed = [f"store/objects/{entry.name}" for entry in manifest.objects()]
    candidate = f"store/snapshots/{name}.json"
    places = {target: at for target, at in zip(targets, renames, strict=True)}
    assert all(places[path] < places[candidate] for path in needed)
    assert places[candidate] < places["store/CURRENT"]
    between = trace[places[candidate] : places["store/CURRENT"]]
    assert ("fsync-folder", "store/snapshots") in between
    assert ("fsync", "store/audit.jsonl") in trace[places["store/CURRENT"] :]


def test_nobody_listens_outside_of_tests():
    """The hook is empty unless a test fills it."""
    assert files.before is None


def test_an_object_that_another_run_renamed_is_made_durable(tmp_path, listen):
    """Finding the bytes under their name proves nothing about the disk: the folder is synced again."""
    objects = ObjectStore(tmp_path)
    entry = objects.put_bytes(b"the same", "tokenizer.json")
    steps: list[tuple[str, str]] = []
    listen(lambda operation, path: steps.append((operation, path.name)))
    again = ObjectStore(tmp_path)
    assert again.put_bytes(b"the same", "tokenizer.json") == entry
    assert ("fsync-folder", entry.sha256[:2]) in steps and ("fsync-folder", "objects") in steps
    assert again.bytes_written == 0 and "rename" not in [operation for operation, _ in steps]


def test_after_a_dead_run_every_name_is_made_durable(tmp_path, listen):
    """What it renamed may be in no journal yet; the next run syncs before it counts on it."""
    root = tmp_path / "store"
    advance(root, "one")
    child = os.fork()
    if child == 0:
        Store.open(root).objects.draft("x").write_bytes(b"half")
        os._exit(0)
    os.waitpid(child, 0)
    steps: list[tuple[str, str]] = []
    listen(lambda operation, path: steps.append((operation, path.name)))
    assert Store.open(root).sweep() == 1
    folders = {path.name for path in (root / "objects").iterdir()} | {"objects"}
    assert {name for operation, name in steps if operation == "fsync-folder"} >= folders


def test_a_half_written_line_stays_alone(tmp_path, listen):
    """The next line begins below it, whole."""
    path = tmp_path / "runs" / "one.jsonl"
    files.append_line(path, "first")
    seen = []

    def second_half(operation, where):
        seen.append(operation)
        if seen.count("append") == 2:
            raise OSError(errno.ENOSPC, "full")

    listen(second_half)
    with pytest.raises(StorageUnavailableError, match="full"):
        files.append_line(path, "second")
    listen(None)
    assert path.read_text() == "first\nsec"
    files.append_line(path, "third")
    assert path.read_text() == "first\nsec\nthird\n"


def test_the_name_of_a_new_log_is_durable(tmp_path, listen):
    """A line that is on the disk under no name is lost."""
    steps: list[tuple[str, str]] = []
    listen(lambda operation, path: steps.append((operation, path.name)))
    files.append_line(tmp_path / "runs" / "one.jsonl", "first")
    assert steps[-1] == ("fsync-folder", "runs")


@pytest.mark.parametrize("torn", [b"", b"0000", b"00000001-12", b"\x00" * 26])
def test_a_torn_pointer_is_an_error(tmp_path, torn):
    """What CURRENT means is never guessed, neither by readers nor by a run."""
    root = tmp_path / "store"
    advance(root, "one")
    (root / "CURRENT").write_bytes(torn)
    for act in (Store.open(root).current, lambda: advance(root, "two")):
        with pytest.raises(StoreError, match="CURRENT is damaged"):
            act()
    assert (root / "CURRENT").read_bytes() == torn


def test_two_runs_may_sweep_at_once(tmp_path, listen):
    """What the other one removed first is gone, and that is what both wanted."""
    folder = tmp_path / "tmp" / "run-1"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "draft").write_bytes(b"x")
    (folder / "link").symlink_to(tmp_path)

    def other(operation, path):
        if operation == "unlink" and path.name == "draft":
            shutil.rmtree(folder)

    listen(other)
    files.remove_tree(folder)
    assert not folder.exists() and tmp_path.exists()
