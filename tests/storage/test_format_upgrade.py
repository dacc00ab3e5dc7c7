"""A store of format 1 under a headwater of format 2: read as it is, raised before it is written to."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from headwater.config import load
from headwater.errors import BusyError, FormatError, StorageUnavailableError
from headwater.flows.encoding import twin_encoding
from headwater.flows.erasure import ErasureRequest, erase
from headwater.flows.refresh import RefreshReport, refresh
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval import Retriever
from headwater.retrieval.hits import MODES
from headwater.retrieval.index import index_problems
from headwater.storage import files, manifest, stamp
from headwater.storage.backup import backup
from headwater.storage.sql import run_sql
from headwater.storage.stamp import raise_stamp, read_stamp
from headwater.storage.store import Store
from headwater.storage.verify import verify

GOLDEN = Path(__file__).parent / "golden" / "format-1"
QUERY = "how many boats in the upper basin"


@pytest.fixture
def old(tmp_path):
    """A knowledge base of format 1 that may be changed."""
    root = Path(shutil.copytree(GOLDEN, tmp_path / "kb"))
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return root


def unchanged(root: Path) -> RefreshReport:
    """A refresh that finds in every source what is live already."""
    rows = run_sql(Store.open(root / "store"), "from documents").to_pylist()
    records: dict[str, list[Record]] = {"handbook": [], "notices": []}
    for row in rows:
        records[row["source"]].append(
            Record(row["key"], row["text"], title=row["title"], url=row["url"])
        )
    opened = {name: MemorySource.of(found, name=name) for name, found in records.items()}
    return refresh(load(root), encoding=twin_encoding, sources=opened)


def found(root: Path, mode: str, as_of: str | None = None) -> list[tuple[str, str, float]]:
    """What a search finds: key, text, score."""
    with Retriever.open(root) as retriever:
        hits = retriever.search(QUERY, 5, mode=mode, as_of=as_of)
    return [(hit.key, hit.text, round(hit.score, 5)) for hit in hits]


def headwater_of_format_1(monkeypatch) -> None:
    """From here on this process knows format 1 alone, as the version before did."""
    monkeypatch.setattr(stamp, "FORMAT", 1)
    monkeypatch.setattr(manifest, "FORMAT", 1)


def test_reading_raises_nothing(old):
    """Searches in all modes, now and as of a snapshot of format 1; the stamp stays."""
    for mode in MODES:
        assert found(old, mode) and found(old, mode, "3")
    assert read_stamp(old / "store") == 1
    assert Store.open(old / "store").current().lexical == ""


def test_the_next_refresh_writes_words_embeds_nothing_and_changes_no_reply(old):
    """Although no document changed; the snapshots before are searched as they were."""
    before = {(mode, ref): found(old, mode, ref) for mode in MODES for ref in (None, "3")}
    report = unchanged(old)
    assert (report.published, report.embedded) == (True, 0)
    store = Store.open(old / "store")
    assert read_stamp(store.root) == store.current().format == 2
    assert store.current().lexical and all(s.lexical for s in store.current().segments)
    after = {(mode, ref): found(old, mode, ref) for mode in MODES for ref in (None, "3")}
    assert {place: [h[:2] for h in hits] for place, hits in after.items()} == {
        place: [h[:2] for h in hits] for place, hits in before.items()
    }
    assert verify(store, deep=True, index_check=index_problems).problems == ()
    assert not unchanged(old).published


def test_an_older_headwater_is_refused_in_words(old, monkeypatch):
    """From the first manifest of format 2 on, by the stamp, whichever command comes first."""
    unchanged(old)
    headwater_of_format_1(monkeypatch)
    for refused in (
        lambda: Store.open(old / "store"),
        lambda: Retriever.open(old),
        lambda: unchanged(old),
    ):
        with pytest.raises(FormatError, match="has format 2; this headwater reads up to 1"):
            refused()


def test_a_process_that_had_the_store_open_is_refused_by_the_manifest(old, monkeypatch):
    """It looked at the stamp long ago, and still cannot mistake what it reads."""
    store = Store.open(old / "store")
    unchanged(old)
    headwater_of_format_1(monkeypatch)
    with pytest.raises(FormatError, match="snapshot has format 2"):
        store.current()


@pytest.mark.parametrize("what", ["rollback", "erasure"])
def test_every_way_to_publish_raises_the_stamp(old, what):
    """A rollback to a snapshot of format 1 is written with the fields of today, and says so."""
    store = Store.open(old / "store")
    if what == "rollback":
        store.rollback(str(store.current().seq - 1), run_id="someone")
    else:
        (name,) = run_sql(store, "select source, key from documents limit 1").to_pylist()
        asked = ErasureRequest(names=((name["source"], name["key"]),), reason="asked for")
        erase(load(old), asked)
    current = Store.open(store.root).current()
    raw = json.loads((store.root / "snapshots" / f"{current.name()}.json").read_bytes())
    assert (current.cause, raw["format"], "lexical" in raw) == (what, 2, True)
    assert read_stamp(store.root) == 2
    assert verify(Store.open(store.root), deep=True, index_check=index_problems).problems == ()
    assert all(found(old, mode) for mode in MODES)
    assert unchanged(old).published and Store.open(store.root).current().lexical


def test_a_backup_of_format_1_is_raised_with_its_store(old, tmp_path):
    """Before a manifest of format 2 lies in it."""
    backup(Store.open(old / "store"), tmp_path / "copy")
    (tmp_path / "copy" / "FORMAT").write_bytes((GOLDEN / "store" / "FORMAT").read_bytes())
    unchanged(old)
    backup(Store.open(old / "store"), tmp_path / "copy")
    assert read_stamp(tmp_path / "copy") == 2
    copy = Store.open(tmp_path / "copy")
    assert verify(copy, deep=True, index_check=index_problems).problems == ()


def test_whatever_refuses_the_raise_leaves_a_store_that_opens(old):
    """The disk fails at each operation in turn: the stamp is whole, and says 1 or 2."""
    root, seen, allowed = old / "store", 0, 0

    def strike(operation: str, path: Path) -> None:
        nonlocal seen
        seen += 1
        if seen > allowed:
            raise OSError(28, "No space left on device")

    for attempt in range(20):
        (root / "FORMAT").write_bytes((GOLDEN / "store" / "FORMAT").read_bytes())
        seen, allowed = 0, attempt
        files.before = strike
        try:
            raise_stamp(root, 2)
            break
        except StorageUnavailableError:
            pass
        finally:
            files.before = None
        assert read_stamp(root) in (1, 2)
        assert Store.open(root).current() is not None
    assert 5 < allowed < 19 and read_stamp(root) == 2


def test_the_raise_waits_for_whoever_publishes(old, monkeypatch):
    """It is done under the store's lock, and never lowers what another run has raised."""
    root = old / "store"
    monkeypatch.setattr(files, "locked", _impatient(files.locked))
    with files.locked(root / "LOCK", wait_s=60, holder="somebody"), pytest.raises(BusyError):
        raise_stamp(root, 2)
    assert read_stamp(root) == 1
    with files.locked(root / "LOCK", wait_s=60, holder="somebody"):
        thread = threading.Thread(target=raise_stamp, args=(root, 2))
        monkeypatch.undo()
        thread.start()
        time.sleep(0.1)
        assert read_stamp(root) == 1
    thread.join()
    raise_stamp(root, 1)
    assert read_stamp(root) == 2


def _impatient(locked):
    """The same lock, waited for a moment only."""

    def hurried(path, *, wait_s=0.0, holder="", shared=False):
        return locked(path, wait_s=min(wait_s, 0.2), holder=holder, shared=shared)

    return hurried


@pytest.mark.slow
def test_a_kill_at_any_step_of_the_first_refresh_leaves_one_format_or_the_other(old, tmp_path):
    """What is current can be read by whoever the stamp lets in, and the next refresh completes it."""
    before, number = Store.open(old / "store").current_name(), 0
    while True:
        root = Path(shutil.copytree(old, tmp_path / f"kb-{number}"))
        ended = _killed(root, number)
        store = Store.open(root / "store")
        current = store.current()
        written = [json.loads(p.read_bytes()) for p in (store.root / "snapshots").glob("*.json")]
        assert max(raw["format"] for raw in written) <= read_stamp(store.root)
        assert (current.name() == before) == (not current.lexical)
        assert len(found(root, "lexical")) == 5
        if number % 12 == 0 or ended == 0:
            unchanged(root)
            store = Store.open(root / "store")
            assert store.current().lexical and not unchanged(root).published
            assert verify(store, deep=True, index_check=index_problems).problems == ()
        shutil.rmtree(root)
        if ended == 0:
            break
        assert ended == 77
        # Every second one: each object is written in several steps.
        number += 2
    assert number > 60


def _killed(root: Path, number: int) -> int:
    """A refresh in a child that dies before the operation with this number; its exit code."""
    child = os.fork()
    if child == 0:
        seen, end = 0, 1

        def strike(operation: str, path: Path) -> None:
            nonlocal seen
            if seen == number:
                os._exit(77)
            seen += 1

        try:
            files.before = strike
            unchanged(root)
            end = 0
        finally:
            os._exit(end)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
