"""Leases of readers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headwater.config import load
from headwater.errors import NotFoundError
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import refresh
from headwater.retrieval import Retriever
from headwater.storage.pins import LEASE, Lease, Pin, clear_pins, pinned_snapshots, read_pins
from headwater.storage.retired import write_retired
from headwater.storage.store import Store

NAME = "00000001-0123456789abcdef"


@pytest.fixture
def base(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "headwater.yaml").write_text(
        "name: pins\nsources: {docs: {kind: documents, root: docs}}\n"
    )
    return tmp_path


def publish(base: Path, text: str) -> str:
    (base / "docs" / "note.md").write_text(text)
    report = refresh(load(base), encoding=twin_encoding)
    assert report.published
    return report.snapshot


def pinned(root: Path) -> frozenset[str]:
    return pinned_snapshots(root, now=datetime.now(UTC))


def only(root: Path) -> Pin:
    (found,) = (pin for _, pin in read_pins(root) if pin)
    return found


def test_a_pin_ends_by_its_time(tmp_path):
    """A lease holds until its time and not a moment longer."""
    Lease(tmp_path).hold(NAME)
    now = datetime.now(UTC)
    assert pinned_snapshots(tmp_path, now=now + LEASE - timedelta(minutes=1)) == {NAME}
    assert pinned_snapshots(tmp_path, now=now + LEASE) == frozenset()
    assert clear_pins(tmp_path, now=now) == 0
    assert clear_pins(tmp_path, now=now + LEASE) == 1
    assert list(read_pins(tmp_path)) == []


def test_a_pin_ends_with_its_process_where_that_can_be_known(tmp_path):
    """A dead process, or one from before a restart, holds nothing here; of others only time tells."""
    Lease(tmp_path).hold(NAME)
    now, pin = datetime.now(UTC), only(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    assert pin.holds(now)
    assert not replace(pin, pid=dead.pid).holds(now)
    assert not replace(pin, boot_id="another").holds(now)
    assert replace(pin, host="elsewhere", boot_id="another", pid=dead.pid).holds(now)


def test_a_killed_reader_leaves_no_pin_behind_for_long(base):
    """The pin of a reader that was killed no longer holds, and the next clearing removes it."""
    name = publish(base, "The shop closes at six.")
    code = (
        "import os, sys; from headwater.retrieval import Retriever\n"
        "reader = Retriever.open(sys.argv[1], pin=True); reader.search('shop'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(base)], check=False)
    root = base / "store"
    assert only(root).snapshot == name and pinned(root) == frozenset()
    assert clear_pins(root, now=datetime.now(UTC)) == 1


def test_a_lease_moves_and_is_renewed_lazily(tmp_path):
    """A search within the first half of the lease writes nothing; one after it renews the lease."""
    lease = Lease(tmp_path)
    lease.hold(NAME)
    first = only(tmp_path)
    lease.hold(NAME)
    assert only(tmp_path) == first
    other = "00000002-0123456789abcdef"
    lease.hold(other)
    assert pinned(tmp_path) == {other}
    short = Lease(tmp_path / "short", length=timedelta(microseconds=2))
    short.hold(NAME)
    before = only(tmp_path / "short").expires
    short.hold(NAME)
    assert only(tmp_path / "short").expires > before
    lease.release()
    assert pinned(tmp_path) == frozenset()


def test_a_store_that_refuses_costs_no_search(tmp_path):
    """Where no pin can be written the reader goes on, and does not ask again at every search."""
    (tmp_path / "tmp").write_text("not a folder")
    lease = Lease(tmp_path)
    lease.hold(NAME)
    (tmp_path / "tmp").unlink()
    lease.hold(NAME)
    assert not lease.written and list(read_pins(tmp_path)) == []
    lease.release()


def test_a_retriever_pins_only_when_asked(base):
    """Nothing is written by default; with `pin` what is served is held, followed and let go."""
    first = publish(base, "The shop closes at six.")
    root = base / "store"
    with Retriever.open(base) as retriever:
        retriever.search("shop", as_of="1")
        assert not (root / "pins").exists()
    with (
        Retriever.open(base, pin=True) as follows,
        Retriever.open(base, as_of="1", pin=True) as stays,
    ):
        assert pinned(root) == {first}
        second = publish(base, "The shop closes at eight.")
        assert follows.search("shop")[0].snapshot == second
        assert stays.search("shop")[0].snapshot == first
        assert pinned(root) == {first, second}
    assert list((root / "pins").iterdir()) == []


def test_a_child_process_pins_for_itself(base):
    """After a fork parent and child hold a lease each; the child's goes with the child alone."""
    name = publish(base, "The shop closes at six.")
    root = base / "store"
    with Retriever.open(base, pin=True) as retriever:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                retriever.search("shop")
                pins = [pin for _, pin in read_pins(root) if pin]
                code = 0 if {p.pid for p in pins} == {os.getpid(), os.getppid()} else 2
                retriever.close()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert pinned(root) == {name} and only(root).pid == os.getpid()


def test_a_pin_on_an_expired_snapshot_is_refused(base):
    """Who asks for a snapshot that expired is told so, and no reader is left half open."""
    first = publish(base, "The shop closes at six.")
    publish(base, "The shop closes at eight.")
    write_retired(base / "store", [first], now=datetime.now(UTC))
    with pytest.raises(NotFoundError, match="expired by retention"):
        Retriever.open(base, as_of="1", pin=True)
    assert pinned(base / "store") == frozenset()


def test_a_file_that_is_no_pin_holds_nothing(base):
    """Rubbish below `pins/` neither stops a vacuum nor keeps anything, and is cleared away."""
    publish(base, "The shop closes at six.")
    folder = base / "store" / "pins"
    folder.mkdir()
    (folder / "a.json").write_text("{")
    (folder / "b.json").write_text(json.dumps({"snapshot": NAME}))
    assert pinned(base / "store") == frozenset()
    assert clear_pins(base / "store", now=datetime.now(UTC)) == 2
    assert Store.open(base / "store").current() is not None
