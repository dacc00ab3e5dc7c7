"""The store: FORMAT, CURRENT, the chain of snapshots, and the one step that publishes.

Readers take no lock: they read CURRENT, check the manifest's hash and open immutable files. Only
`publish` moves CURRENT, under one short exclusive lock, by a single rename.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from headwater.errors import (
    FormatError,
    NotFoundError,
    ParentMovedError,
    PublicationStoppedError,
    StoreError,
)
from headwater.storage import files
from headwater.storage.claims import Claim
from headwater.storage.manifest import FORMAT, Manifest, format_time, from_json, parse_time
from headwater.storage.objects import ObjectStore

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

    @classmethod
    def create(cls, root: Path) -> Store:
        """Make an empty store, or open the one that is there."""
        path = root / "FORMAT"
        if not path.exists():
            for folder in ("objects", "snapshots", "runs", "tmp", "claims"):
                files.make_folder(root / folder)
            stamp = {"format": FORMAT, "hash": "sha256"}
            files.replace(path, (json.dumps(stamp) + "\n").encode(), tmp=root / "tmp")
        return cls.open(root)

    @classmethod
    def open(cls, root: Path) -> Store:
        """Open an existing store.

        Raises:
            NotFoundError: the folder holds no store.
            FormatError: a newer headwater wrote it.
        """
        try:
            data = (root / "FORMAT").read_bytes()
        except OSError:
            raise NotFoundError(
                "There is no store here yet", obj=str(root), todo="run 'headwater refresh'"
            ) from None
        try:
            found = int(json.loads(data)["format"])
        except (ValueError, KeyError, TypeError):
            raise FormatError("FORMAT is damaged", obj=str(root / "FORMAT")) from None
        if found > FORMAT:
            raise FormatError(
                f"The store has format {found}; this headwater reads up to {FORMAT}",
                obj=str(root),
                todo="upgrade headwater",
            )
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
            raise StoreError("CURRENT cannot be read", obj=str(error)) from None
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

        Raises:
            NotFoundError: there is none.
            StoreError: it is damaged.
        """
        path = self.root / "snapshots" / f"{name}.json"
        try:
            data = path.read_bytes()
        except (FileNotFoundError, ValueError):
            raise NotFoundError("No such snapshot", obj=name, todo="see 'headwater log'") from None
        return from_json(data, name=name)

    def chain(self) -> Iterator[Manifest]:
        """The published snapshots, newest first, each checked against its child's record."""
        manifest = self.current()
        while manifest is not None:
            yield manifest
            if not manifest.parent:
                return
            parent = self.manifest(manifest.parent)
            if hashlib.sha256(parent.to_json()).hexdigest() != manifest.parent_sha256:
                raise StoreError("The chain of snapshots is broken", obj=manifest.parent)
            manifest = parent

    def resolve(self, ref: str | None) -> Manifest:
        """The snapshot that `ref` means.

        Args:
            ref: None or `current`; a snapshot's name or the start of one; a sequence number; or a
                time (RFC 3339 or a date, UTC unless it says otherwise): the last snapshot whose
                knowledge time is not later. A bare date means its end.

        Raises:
            NotFoundError: nothing is published, or nothing matches.
        """
        if ref is None or ref == "current":
            manifest = self.current()
            if manifest is None:
                raise NotFoundError(
                    "Nothing is published yet", obj=str(self.root), todo="run 'headwater refresh'"
                )
            return manifest
        if _NAME.fullmatch(ref):
            return self.manifest(ref)
        if re.fullmatch(r"\d{1,7}|\d{8}(-[0-9a-f]{0,15})?", ref):
            return self._by_start(ref)
        return self._by_time(ref)

    def _by_start(self, ref: str) -> Manifest:
        for manifest in self.chain():
            if ref == str(manifest.seq) or (len(ref) >= 8 and manifest.name().startswith(ref)):
                return manifest
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
        for manifest in self.chain():
            if manifest.time <= when:
                return manifest
        raise NotFoundError(
            "Nothing was published by then", obj=ref, todo="see 'headwater log' for the first"
        )

    def candidates(self) -> list[str]:
        """Names of manifests that were written and never published, oldest first."""
        published = {m.name() for m in self.chain()}
        folder = self.root / "snapshots"
        return sorted(p.stem for p in folder.glob("*.json") if p.stem not in published)

    # --- writing ------------------------------------------------------------------------------

    def write_candidate(self, manifest: Manifest) -> str:
        """Write a manifest beside the published ones; nothing becomes current.

        Returns:
            its name, with which it can be opened, searched and published.
        """
        name = manifest.name()
        path = self.root / "snapshots" / f"{name}.json"
        if not path.exists():
            files.replace(path, manifest.to_json(), tmp=self.root / "tmp")
        return name

    def publish(self, name: str, *, claims: tuple[Claim, ...] = (), override: bool = False) -> None:
        """Make a candidate current: one rename, the only step a reader can see.

        Args:
            name: the candidate.
            claims: what the run holds; each must still be the newest claim on its source.
            override: publish although a gate failed (a person's decision; the caller logs it).

        Raises:
            ParentMovedError: CURRENT is not the candidate's parent any more.
            PublicationStoppedError: a gate failed and `override` is not set.
            BusyError: another run took over a claim.
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
            files.replace(self.root / "CURRENT", f"{name}\n".encode(), tmp=self.root / "tmp")

    def rollback(self, ref: str, *, run_id: str, hold: tuple[str, ...] = ()) -> Manifest:
        """Publish a new snapshot that names the objects of an old one.

        Args:
            ref: as for `resolve`.
            run_id: of the run that asks.
            hold: sources that refreshes leave alone until they are released, so that the bad data
                is not published again at once.

        Raises:
            NotFoundError: no such snapshot or source.
        """
        target = self.resolve(ref)
        unknown = [name for name in hold if name not in target.sources]
        if unknown:
            raise NotFoundError("No such source", obj=", ".join(unknown))
        current = self.resolve(None)
        sources = {
            name: replace(state, hold=f"rolled back to {target.name()}") if name in hold else state
            for name, state in target.sources.items()
        }
        now = datetime.now(UTC)
        manifest = replace(
            target,
            seq=current.seq + 1,
            parent=current.name(),
            parent_sha256=hashlib.sha256(current.to_json()).hexdigest(),
            observed_at=format_time(max(now, current.time)),
            created_at=format_time(now),
            run_id=run_id,
            cause="rollback",
            sources=sources,
            restores=target.name(),
        )
        self.publish(self.write_candidate(manifest))
        return manifest

    def sweep(self) -> int:
        """Remove drafts of runs that are gone; returns how many folders were removed.

        Objects that no manifest names are left alone: a rerun of the same inputs finds them again,
        and removing them is the vacuum's work.
        """
        removed = 0
        tmp = self.root / "tmp"
        for folder in sorted(tmp.iterdir()) if tmp.is_dir() else ():
            pid = folder.name.partition("-")[2]
            if folder.is_dir() and pid.isdigit() and not _alive(int(pid)):
                files.remove_tree(folder)
                removed += 1
        return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
