"""An erasure, killed before every operation or refused at one: it counts wholly or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from headwater.errors import NotFoundError, StorageUnavailableError
from headwater.flows.certificate import check_erasure, read_certificate
from headwater.flows.emit import emit_datasets
from headwater.flows.erasure import ErasureRequest, erase
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.storage import files
from headwater.storage.audit import AuditLog

SOURCES = {"people": {"kind": "memory", "deletion_guard": {"max_count": 100}}}
SETTINGS: dict[str, Any] = {
    "index": {"graph_from": 4, "max_flat_segments": 1},
    "datasets": {"tune": {"recipes": ["text"], "min_tokens": 1}},
}
START = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST = ErasureRequest((("people", "ada"),), reason="asked for")
KILLED, REFUSED, WRONG, UNREACHED = 77, 78, 79, 80
REFUSALS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)
LEAST = 100
"""Operations that an erasure has at least; fewer would mean that the door was left open."""


def prepared(make_base: Callable[..., Any]) -> Any:
    """Two snapshots that hold the subject, a quarantine, a release and two report pages."""
    base = make_base(SOURCES, name="before", **SETTINGS)
    for hour, debt in enumerate(("431 crowns", "nothing")):
        texts = {f"other{n}": f"Person {n} keeps {n * 3} ducks." for n in range(6)}
        texts["ada"] = f"Ada Quillfeather owes {debt}."
        texts["blank"] = "   "
        report = base.refresh(
            sources_open={"people": MemorySource.of([Record(k, t) for k, t in texts.items()])},
            observed_at=START + timedelta(hours=hour),
        )
        assert report.published
    emit_datasets(base.kb, unproven=True)
    return base


def attempt(base: Any, number: int, *, kill: bool, log: Path) -> int:
    """Erase in a forked child, with a fault at one operation; returns how that ended."""
    child = os.fork()
    if child == 0:
        end, seen = WRONG, -1

        def strike(operation: str, path: Path) -> None:
            nonlocal seen
            seen += 1
            if seen != number:
                return
            log.write_text(f"{operation} {path}")
            if operation == "library" and path.is_file():
                os.truncate(path, path.stat().st_size // 2)
            if kill:
                os._exit(KILLED)
            code = REFUSALS[number % len(REFUSALS)]
            raise OSError(code, os.strerror(code))

        try:
            files.before = strike
            try:
                erase(base.kb, REQUEST)
                end = 0 if seen >= number else UNREACHED
            except StorageUnavailableError:
                end = REFUSED
        except BaseException:  # noqa: BLE001
            log.write_text(f"{log.read_text()}\n{traceback.format_exc()}")
        finally:
            os._exit(end)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def listed(base: Any) -> set[str]:
    """The names of all objects on the disk."""
    return {entry.name for entry, _ in base.store.objects.listing()}


def mentioned(root: Path) -> list[str]:
    """Files that mention the subject, in their bytes or in a column."""
    found = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data += repr(pq.read_table(path, partitioning=None).to_pylist()).encode()
        if b"Quillfeather" in data or b"'ada'" in data or b'"ada"' in data:
            found.append(str(path))
    return found


def check(base: Any, after: set[str], where: str) -> None:
    """All snapshots hold the subject or none does; what is done next completes it and no more."""
    counts = bool(base.store.redactions())
    for ref in ("1", "2", None):
        assert ("ada" in base.live(ref)["people"]) is not counts, (where, ref)
        assert "other3" in base.live(ref)["people"], (where, ref)
    found = base.verify()
    assert found.ok, (where, found.problems)
    if counts:
        with pytest.raises(NotFoundError, match="erased before"):
            erase(base.kb, REQUEST)
    else:
        erase(base.kb, REQUEST)
    assert mentioned(base.root) == [], where
    assert base.store.current().seq == 3, where
    assert listed(base) == after, where
    assert check_erasure(base.store, 1) == (), where
    assert read_certificate(base.store, 1)["proof"]["found"] == 0
    assert not list((base.root / "store" / "tmp").iterdir()), where
    assert base.verify().ok, where
    log = AuditLog(base.store.root).verify(list(base.store.chain())[::-1])
    assert log.ok, (where, log.problems)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "refused"])
def test_an_erasure_counts_wholly_or_not_at_all(
    make_base: Callable[..., Any], tmp_path: Path, kill: bool
) -> None:
    """Whatever happens in its middle, no snapshot is left half erased, and the next run finishes."""
    template, log = prepared(make_base), tmp_path / "log"
    assert mentioned(template.root)
    root = template.root.with_name("walked")
    after: set[str] = set()
    number = -1
    while True:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template.root, root)
        base = make_base(SOURCES, name="walked", **SETTINGS)
        if number < 0:
            erase(base.kb, REQUEST)
            after, number = listed(base), 0
            continue
        log.write_text("")
        end = attempt(base, number, kill=kill, log=log)
        if end == UNREACHED:
            break
        where = f"operation {number}: {log.read_text()}"
        # A draft that cannot be removed spoils nothing; all else is said.
        tidying = "/tmp/" in where and where.split()[2] in ("unlink", "rmdir")
        assert end == (KILLED if kill else REFUSED) or (not kill and tidying), (where, end)
        check(base, after, where)
        # Killed at each. Refusals take the same ways out again and again; a third of them, with each
        # reason in turn, is what the suite has time for.
        number += 1 if kill else 3
    assert number >= LEAST
