"""The store: FORMAT, CURRENT, the chain of snapshots, and the one step that publishes.

Readers take no lock: they read CURRENT, check the manifest's hash and open immutable files. Only
`publish` moves CURRENT, under one short exclusive lock, by a single rename.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headwater.errors import (
    ConfigError,
    NotFoundError,
    ParentMovedError,
    PublicationStoppedError,
    StorageUnavailableError,
    StoreError,
)
from headwater.storage import files
from headwater.storage.audit import AuditLog
from headwater.storage.claims import Claim, is_alive
from headwater.storage.links import Link, broken_chain, link_of, read_link
from headwater.storage.manifest import FORMAT, Manifest, format_time, from_json, parse_time
from headwater.storage.objects import ObjectStore
from headwater.storage.redactions import Redactions, read_redactions, redaction_names
from headwater.storage.retired import UnindexedNames, expired_error, read_retired
from headwater.storage.stamp import raise_stamp, read_stamp, write_stamp
from headwater.storage.tables import with_counts
from headwater.storage.tags import is_tag_name, read_tag, unknown_tag

_NAME = re.compile(r"\d{8}-[0-9a-f]{16}")


def new_run_id() -> str:
    """A name for one run: sorts by time, unique."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{uuid.uuid4().hex[:6]}"


class Store:
    """A store on a local disk. Safe to use from several threads and processes at once.

    Attributes:
        root: the folder.
        objects: its immutable files.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects = ObjectStore(root)
        self._redactions: tuple[tuple[str, ...], Redactions] = ((), Redactions())
        self._unindexed = UnindexedNames(root)

    @classmethod
    def create(cls, root: Path) -> Store:
        """Make an empty store, or open the one that is there."""
        if not (root / "FORMAT").exists():
            for folder in ("objects", "snapshots", "runs", "tmp", "claims"):
                files.make_folder(root / folder)
            write_stamp(root)
        return cls.open(root)

    @classmethod
    def open(cls, root: Path) -> Store:
        """Open an existing store.

        Raises:
            NotFoundError: the folder holds no store.
            FormatError: a newer headwater wrote it.
        """
        read_stamp(root)
        return cls(root)

    # --- reading ------------------------------------------------------------------------------

    def current_name(self) -> str | None:
        """The name of the current snapshot, or None when nothing was published yet.

        Raises:
            StoreError: CURRENT holds something else.
        """
        try:
            text = (self.root / "CURRENT").read_text("ascii").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(
                "CURRENT cannot be read",
                obj=str(error),
                todo="check the owner and mode of the store",
            ) from None
        if not _NAME.fullmatch(text):
            raise StoreError(
                "CURRENT is damaged",
                obj=str(self.root / "CURRENT"),
                todo="write the newest name below snapshots/ that 'headwater verify' accepts",
            )
        return text

    def current(self) -> Manifest | None:
        """The current snapshot, or None when nothing was published yet."""
        name = self.current_name()
        return self.manifest(name) if name else None

    def manifest(self, name: str) -> Manifest:
        """The snapshot (or candidate) with exactly this name.

        What was erased since it was written is not in it: it names what stands in its place. One
        that let go of its index names no segments.

        Raises:
            NotFoundError: there is none.
            StoreError: it, or the record of an erasure, is damaged.
        """
        path = self.root / "snapshots" / f"{name}.json"
        try:
            data = path.read_bytes()
        except (FileNotFoundError, ValueError):
            raise NotFoundError("No such snapshot", obj=name, todo="see 'headwater log'") from None
        redactions = self.redactions()
        blanked = redactions.blanked.get(name)
        manifest = redactions.resolve(
            from_json(data, name=name, now=(blanked.was, blanked.now) if blanked else None)
        )
        # Where the record is damaged, CURRENT is served all the same: it always has its index. Who
        # asks for the past is told by `_kept`.
        with suppress(StoreError):
            if name in self._unindexed:
                return manifest.without_index()
        return manifest

    def redactions(self) -> Redactions:
        """What was erased; read again when there is a new record.

        Raises:
            StoreError: a record is damaged.
        """
        names = redaction_names(self.root)
        known, found = self._redactions
        if names != known:
            found = read_redactions(self.root)
            self._redactions = (names, found)
        return found

    def chain(self) -> Iterator[Manifest]:
        """The published snapshots, newest first, each checked against its child's record."""
        manifest = self.current()
        while manifest is not None:
            yield manifest
            if not manifest.parent:
                return
            parent = self.manifest(manifest.parent)
            if parent.sha256() != manifest.parent_sha256:
                raise broken_chain(manifest.parent)
            manifest = parent

    def links(self, start: str | None = None) -> Iterator[Link]:
        """The places of the published snapshots in the chain, newest first, checked as `chain` does.

        Costs a read and a hash each, whatever the snapshots hold.

        Args:
            start: the name of the first; None is the current snapshot.

        Raises:
            NotFoundError, StoreError: as for `manifest`; a link is not the one its child names.
        """
        name = start or self.current_name()
        # A damaged record of an erasure stops whoever only asks for names as well.
        self.redactions()
        expected = None
        while name:
            link = self._link(name)
            if expected is not None and link.sha256 != expected:
                raise broken_chain(name)
            yield link
            name, expected = link.parent, link.parent_sha256

    def _link(self, name: str) -> Link:
        try:
            link = read_link((self.root / "snapshots" / f"{name}.json").read_bytes(), name)
        except (OSError, ValueError):
            link = None
        # Also what an erasure blanked, and whatever is wrong: `manifest` says what.
        return link or link_of(self.manifest(name))

    def resolve(self, ref: str | None) -> Manifest:
        """The snapshot that `ref` means.

        Args:
            ref: None or `current`; a snapshot's name or the start of one; a sequence number; a
                tag; or a time (RFC 3339 or a date, UTC unless it says otherwise): the last
                snapshot whose knowledge time is not later. A bare date means its end.

        Raises:
            NotFoundError: nothing is published, nothing matches, or what matches has expired.
        """
        if ref is None or ref == "current":
            manifest = self.current()
            if manifest is None:
                raise NotFoundError(
                    "Nothing is published yet", obj=str(self.root), todo="run 'headwater refresh'"
                )
            return manifest
        return self._kept(self._named(ref))

    def pointer(self, ref: str) -> str | None:
        """The snapshot named by the file that decides what `ref` means: a tag's, or CURRENT."""
        tagged = read_tag(self.root, ref) if is_tag_name(ref) else None
        return tagged or self.current_name()

    def _named(self, ref: str) -> Manifest:
        if _NAME.fullmatch(ref):
            return self.manifest(ref)
        if re.fullmatch(r"\d{1,7}|\d{8}(-[0-9a-f]{0,15})?", ref):
            return self._by_start(ref)
        if is_tag_name(ref):
            target = read_tag(self.root, ref)
            if target is None:
                raise unknown_tag(self.root, ref)
            return self.manifest(target)
        return self._by_time(ref)

    def _kept(self, manifest: Manifest) -> Manifest:
        """The same manifest, unless retention took its objects."""
        retired = read_retired(self.root)
        if retired and (name := manifest.name()) in retired:
            raise expired_error(name, (link.name for link in self.links()), retired)
        return manifest

    def _by_start(self, ref: str) -> Manifest:
        for link in self.links():
            if ref == str(link.seq) or (len(ref) >= 8 and link.name.startswith(ref)):
                return self.manifest(link.name)
        raise NotFoundError("No such snapshot", obj=ref, todo="see 'headwater log'")

    def _by_time(self, ref: str) -> Manifest:
        try:
            when = parse_time(ref)
        except ValueError:
            raise NotFoundError(
                "This names no snapshot and is no time",
                obj=ref,
                todo="give a name or number from 'headwater log', or a time like 2026-11-22T10:00Z",
            ) from None
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", ref):
            when = when.replace(hour=23, minute=59, second=59, microsecond=999999)
        for link in self.links():
            if link.time <= when:
                return self.manifest(link.name)
        raise NotFoundError(
            "Nothing was published by then", obj=ref, todo="see 'headwater log' for the first"
        )

    def candidates(self) -> list[str]:
        """Names of manifests that were written, never published and not given up; oldest first."""
        known = {link.name for link in self.links()} | set(read_retired(self.root))
        folder = self.root / "snapshots"
        return sorted(p.stem for p in folder.glob("*.json") if p.stem not in known)

    # --- writing ------------------------------------------------------------------------------

    def write_candidate(self, manifest: Manifest) -> str:
        """Write a manifest beside the published ones; nothing becomes current.

        Returns:
            its name, with which it can be opened, searched and published.

        Raises:
            BusyError: the store's format must be raised, and its lock is held for a minute.
            StorageUnavailableError: the disk is full or read-only.
        """
        raise_stamp(self.root, manifest.format)
        name = manifest.name()
        path = self.root / "snapshots" / f"{name}.json"
        if not path.exists():
            files.replace(path, manifest.to_json(), tmp=self.root / "tmp")
        return name

    def publish(
        self,
        name: str,
        *,
        claims: tuple[Claim, ...] = (),
        override: bool = False,
        detail: Mapping[str, Any] | None = None,
        first: Callable[[], None] = lambda: None,
    ) -> None:
        """Make a candidate current: one rename, the only step a reader can see.

        Args:
            name: the candidate.
            claims: what the run holds; each must still be the newest claim on its source.
            override: publish although a gate failed (a person's decision).
            detail: what the audit log says besides, as plain JSON values.
            first: called under the lock when nothing but the disk can refuse any more.

        Raises:
            ParentMovedError: CURRENT is not the candidate's parent any more.
            PublicationStoppedError: a gate failed and `override` is not set.
            BusyError: another run took over a claim.
            NotFoundError: the candidate has expired.
            CorruptObjectError: an object it adds is missing.
            StorageUnavailableError: the disk refused; the message says whether CURRENT moved.
        """
        candidate = self.manifest(name)
        failed = candidate.failed_gates()
        if failed and not override:
            raise PublicationStoppedError(
                "The candidate did not pass its gates",
                obj=f"{name}: " + "; ".join(f"{g.name}: {g.detail}" for g in failed),
                todo=f"mend the source, or look at it: headwater search … --as-of {name}",
            )
        with files.locked(self.root / "LOCK", wait_s=60, holder=f"publish {name}"):
            for claim in claims:
                claim.check()
            current = self.current_name() or ""
            if current != candidate.parent:
                raise ParentMovedError(
                    "Another run published meanwhile", obj=current, todo="run again"
                )
            self._kept(candidate)
            self._check_added(candidate, self.manifest(current) if current else None)
            log = AuditLog(self.root)
            log.recover(self.manifest(current) if current else None)
            # The run that renamed the manifest may have died before its name was durable.
            files.sync_folder(self.root / "snapshots")
            first()
            try:
                files.replace(self.root / "CURRENT", f"{name}\n".encode(), tmp=self.root / "tmp")
                said = {"documents": candidate.counts.get("documents", 0), **(detail or {})}
                if failed:
                    said["failed_gates"] = [gate.name for gate in failed]
                log.record(
                    "override" if failed else candidate.cause,
                    run_id=candidate.run_id,
                    snapshot=name,
                    detail=said,
                )
            except StorageUnavailableError as error:
                if self.current_name() != name:
                    raise
                raise StorageUnavailableError(
                    f"The snapshot is published, but not all of it is on the disk ({error.what})",
                    obj=f"{name}: {error.obj}",
                    todo="mend the disk and run again: the next run completes the records",
                ) from error

    def _check_added(self, candidate: Manifest, parent: Manifest | None) -> None:
        """Make sure that what a candidate names and its parent does not is on the disk."""
        carried = {entry.name for entry in parent.objects()} if parent else set()
        for entry in candidate.objects():
            if entry.name not in carried:
                self.objects.verify(entry, deep=False)

    def rollback(
        self,
        ref: str,
        *,
        run_id: str,
        hold: tuple[str, ...] = (),
        reindex: Callable[[Manifest], Manifest] | None = None,
    ) -> Manifest:
        """Publish a new snapshot that names the objects of an old one.

        Args:
            ref: as for `resolve`.
            run_id: of the run that asks.
            hold: sources that refreshes leave alone until they are released, so that the bad data
                is not published again at once.
            reindex: gives a snapshot that let go of its index its segments back; see
                `headwater.flows.reindex`.

        Raises:
            NotFoundError: no such snapshot or source.
            ConfigError: the snapshot let go of its index, and `reindex` is not given.
        """
        target = self.resolve(ref)
        unknown = [name for name in hold if name not in target.sources]
        if unknown:
            raise NotFoundError(
                "The snapshot has no such source",
                obj=", ".join(unknown),
                todo=f"it has: {', '.join(target.sources)}",
            )
        current = self.resolve(None)
        if any(record.covers(target) for record in self.redactions().records):
            # It counts what has been erased since.
            target = with_counts(self.objects, target).as_read(target.sha256())
        restores = target.name()
        if target.unindexed:
            if reindex is None:
                raise ConfigError(
                    "The snapshot's index was let go", obj=restores, todo="use headwater rollback"
                )
            target = reindex(target)
        sources = {
            name: replace(state, hold=f"rolled back to {restores}") if name in hold else state
            for name, state in target.sources.items()
        }
        now = datetime.now(UTC)
        manifest = replace(
            target,
            seq=current.seq + 1,
            parent=current.name(),
            parent_sha256=current.sha256(),
            observed_at=format_time(max(now, current.time)),
            created_at=format_time(now),
            run_id=run_id,
            cause="rollback",
            sources=sources,
            restores=restores,
            # Written with the fields of today, whatever the old one had.
            format=FORMAT,
        )
        detail = {"restores": restores, **({"hold": list(hold)} if hold else {})}
        self.publish(self.write_candidate(manifest), detail=detail)
        return manifest

    def recover(self) -> None:
        """Complete the audit log if a run died between moving CURRENT and writing its line."""
        current = self.current()
        if current is not None and AuditLog(self.root).lacks(current.name()):
            with files.locked(self.root / "LOCK", wait_s=60, holder="recover the audit log"):
                AuditLog(self.root).recover(self.current())

    def sweep(self) -> int:
        """Remove drafts of runs that are gone; returns how many were removed.

        Objects that no manifest names are left alone: a rerun of the same inputs finds them again,
        and removing them is the vacuum's work.
        """
        tmp = self.root / "tmp"
        drafts = sorted(tmp.iterdir()) if tmp.is_dir() else []
        gone = [path for path in drafts if (pid := _writer(path.name)) and not is_alive(pid)]
        if gone:
            self.objects.sync_names()
        for path in gone:
            files.remove_tree(path) if path.is_dir() else files.remove(path)
        return len(gone)


def _writer(draft: str) -> int | None:
    """The process that a name below `tmp/` belongs to."""
    found = re.fullmatch(r"run-(\d+)|.+\.(\d+)\.\d+", draft)
    return int(found[1] or found[2]) if found else None
