"""The audit log: who made which snapshot current, why, and what a person allowed.

`audit.jsonl` is append-only; each line holds the hash of the line before it and of itself. It is
written under the store's lock right after CURRENT moved. The chain of manifests is the truth: a crash
between the two leaves a snapshot without its line, and the next run writes a `recovered` one.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headwater.errors import NotFoundError
from headwater.storage import files
from headwater.storage.manifest import Manifest, format_time

FIRST = "0" * 64
"""What the first line names as the hash of the line before it."""


@dataclass(frozen=True)
class AuditEntry:
    """One line.

    Attributes:
        seq: 1 for the first line, rising by one.
        at: wall-clock time.
        actor: `user@host`.
        pid: the process.
        run_id: of the run that made the snapshot.
        action: `refresh`, `backfill`, `rollback`, `override`, `recovered`, or what a caller of
            `record` names.
        snapshot: what the action made current; empty when it moved nothing.
        detail: what else a reader needs: counts, holds, releases, approved deletions, failed gates.
        prev: SHA-256 of the bytes of the line before, without its line end.
        sha256: of this entry's JSON without this field.
    """

    seq: int
    at: str
    actor: str
    pid: int
    run_id: str
    action: str
    snapshot: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    prev: str = FIRST
    sha256: str = ""

    def sealed(self) -> bytes:
        """The line, with the hash of itself, without its line end."""
        values = {**asdict(self), "sha256": self.seal()}
        return json.dumps(values, sort_keys=True).encode()

    def seal(self) -> str:
        """The hash that `sha256` must be."""
        values = asdict(self)
        del values["sha256"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class AuditVerification:
    """What checking the log against itself and against the manifests found.

    Attributes:
        entries: lines that can be read.
        begins: the first snapshot with a line; older ones were published before there was a log.
        head: SHA-256 of the last line. Kept elsewhere, it proves the log up to here.
        problems: one sentence each; empty when all is well.
    """

    entries: int
    begins: str
    head: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "ok": self.ok}


class AuditLog:
    """The file `audit.jsonl` of a store."""

    def __init__(self, store: Path) -> None:
        self.path = store / "audit.jsonl"

    def entries(self) -> list[AuditEntry]:
        """Every line that can be read, oldest first."""
        return [entry for line in self._lines() if (entry := _entry(line)) is not None]

    def lacks(self, current: str) -> bool:
        """Whether the last publication in the log is another one than `current`."""
        for line in reversed(self._lines()):
            entry = _entry(line)
            if entry is not None and entry.snapshot:
                return entry.snapshot != current
        return True

    def record(
        self,
        action: str,
        *,
        run_id: str = "",
        snapshot: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> AuditEntry:
        """Append one line, forced to the disk. The caller holds the store's `LOCK`.

        Args:
            action: one word.
            run_id: of the run it belongs to.
            snapshot: what it made current; empty when it moved nothing.
            detail: plain JSON values.

        Raises:
            StorageUnavailableError: the disk is full or forbids it.
        """
        self._cut_torn_tail()
        lines = self._lines()
        last = _entry(lines[-1]) if lines else None
        entry = AuditEntry(
            seq=last.seq + 1 if last else len(lines) + 1,
            at=format_time(datetime.now(UTC)),
            actor=actor(),
            pid=os.getpid(),
            run_id=run_id,
            action=action,
            snapshot=snapshot,
            detail=dict(detail or {}),
            prev=hashlib.sha256(lines[-1]).hexdigest() if lines else FIRST,
        )
        files.append_line(self.path, entry.sealed().decode())
        return entry

    def recover(self, current: Manifest | None) -> None:
        """Give the current snapshot its line if a crash kept it from one. Under the `LOCK`."""
        if current is not None and self.lacks(current.name()):
            cause = {"cause": current.cause, "documents": current.counts.get("documents", 0)}
            self.record("recovered", run_id=current.run_id, snapshot=current.name(), detail=cause)

    def verify(self, chain: Sequence[Manifest]) -> AuditVerification:
        """Check every line's hashes and number, and that the published snapshots have their lines.

        Args:
            chain: the published snapshots, oldest first. Of a chain whose beginning is gone, the
                lines of what is gone are not looked for.
        """
        lines = self._lines()
        problems = _line_problems(lines)
        if self._torn_tail():
            problems.append("the last line is torn; the next publication cuts it off")
        entries = self.entries()
        made = [entry for entry in entries if entry.snapshot]
        problems += _chain_problems(made, chain)
        return AuditVerification(
            entries=len(entries),
            begins=made[0].snapshot if made else "",
            head=hashlib.sha256(lines[-1]).hexdigest() if lines else FIRST,
            problems=tuple(problems),
        )

    def _data(self) -> bytes:
        try:
            return files.read(self.path)
        except NotFoundError:
            return b""

    def _lines(self) -> list[bytes]:
        """The whole lines; a last one without its line end was never finished."""
        return self._data().split(b"\n")[:-1]

    def _torn_tail(self) -> int:
        return len(self._data().rpartition(b"\n")[2])

    def _cut_torn_tail(self) -> None:
        data = self._data()
        if torn := len(data.rpartition(b"\n")[2]):
            files.cut(self.path, len(data) - torn)


def actor() -> str:
    """Who runs this process: `user@host`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        # A container may run under a number that no user has.
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _entry(line: bytes) -> AuditEntry | None:
    try:
        entry = AuditEntry(**json.loads(line))
    except (ValueError, TypeError):
        return None
    return entry if isinstance(entry.seq, int) and isinstance(entry.snapshot, str) else None


def _line_problems(lines: Sequence[bytes]) -> list[str]:
    problems, prev = [], FIRST
    for number, line in enumerate(lines, 1):
        entry = _entry(line)
        if entry is None:
            problems.append(f"line {number} cannot be read")
        elif entry.sealed() != line or entry.seal() != entry.sha256:
            problems.append(f"line {number} was changed")
        elif entry.prev != prev:
            problems.append(f"line {number} does not follow the line before it")
        elif entry.seq != number:
            problems.append(f"line {number} has the number {entry.seq}")
        prev = hashlib.sha256(line).hexdigest()
    return problems


def _chain_problems(made: Sequence[AuditEntry], chain: Sequence[Manifest]) -> list[str]:
    """Where the lines that made a snapshot current and the published snapshots disagree."""
    if not chain:
        return [f"{e.snapshot} has a line and was never published" for e in made[:1]]
    published = {manifest.name(): manifest for manifest in chain}
    oldest = chain[0].seq
    problems = []
    for entry in made:
        manifest = published.get(entry.snapshot)
        if manifest is None:
            if entry.snapshot[:8].isdigit() and int(entry.snapshot[:8]) >= oldest:
                problems.append(f"{entry.snapshot} has a line and is not in the chain")
        elif manifest.run_id != entry.run_id:
            problems.append(f"{entry.snapshot} was made by another run than its line says")
    logged = [entry.snapshot for entry in made if entry.snapshot in published]
    names = list(published)
    # What was published before there was a log has no line; everything later has.
    begun = names.index(logged[0]) if logged else len(names) - 1
    problems += [f"{name} has no line" for name in names[begun:] if name not in logged]
    order = [names.index(name) for name in logged]
    if order != sorted(set(order)):
        problems.append("the lines are not in the order of the snapshots")
    return problems
