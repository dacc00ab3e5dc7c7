"""A release on the disk: `<folder>/<name>/<version>/` with training files, lineage and a manifest.

`manifest.json` names every file with its hash; the version carries the hash of the manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headwater.errors import FormatError, NotFoundError, StoreError
from headwater.storage import files

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
CARD: Final = "README.md"
LINEAGE: Final = ".lineage.jsonl"
REVOKED: Final = "REVOKED.json"
"""Beside the manifest of a release whose rows an erasure took away."""

_VERSION = re.compile(r"\d{8}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Release:
    """One release.

    Attributes:
        path: its folder.
        manifest: what `manifest.json` says.
    """

    path: Path
    manifest: Mapping[str, Any]

    @property
    def rows(self) -> dict[str, int]:
        """Training file -> rows, lineage left out."""
        return {
            name: int(entry["rows"])
            for name, entry in self.manifest["files"].items()
            if name.endswith(".jsonl") and not name.endswith(LINEAGE)
        }

    def lineage(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Each row's training file, its 1-based line and its lineage."""
        for name in self.rows:
            data = files.read(self.path / lineage_of(name)).decode()
            for number, line in enumerate(data.split("\n")[:-1], start=1):
                yield name, number, json.loads(line)

    def problems(self) -> tuple[str, ...]:
        """What is not as it was emitted; empty when all is well."""
        if version_of(self.manifest) != self.path.name:
            # Nothing it says, names of files included, can be relied on.
            return (f"{MANIFEST}: changed",)
        found = []
        for name, entry in self.manifest["files"].items():
            path = self.path / name
            if not path.is_file():
                found.append(f"{name}: missing")
            elif files.sha256_of(path) != entry["sha256"]:
                found.append(f"{name}: changed")
        return tuple(found)


def lineage_of(name: str) -> str:
    """The sidecar of a training file: `pairs/train.jsonl` -> `pairs/train.lineage.jsonl`."""
    return name.removesuffix(".jsonl") + LINEAGE


def version_of(manifest: Mapping[str, Any]) -> str:
    """`<seq>-<12 hex digits>`: of the manifest without the version and the card, which name it."""
    kept = {k: v for k, v in manifest.items() if k != "version"}
    kept["files"] = {k: v for k, v in manifest["files"].items() if k != CARD}
    seq = str(manifest.get("seq", "")).zfill(8)
    return f"{seq}-{hashlib.sha256(to_bytes(kept)).hexdigest()[:12]}"


def to_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The canonical bytes of a manifest."""
    return (json.dumps(manifest, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def read_release(path: Path) -> Release:
    """Open the release in the folder `path`; its files are not checked.

    Raises:
        NotFoundError: there is no release.
        StoreError: its manifest cannot be read.
        FormatError: a newer headwater wrote it.
    """
    try:
        data = files.read(path / MANIFEST)
    except NotFoundError:
        raise NotFoundError(
            "No such dataset release", obj=str(path), todo="run 'headwater dataset emit'"
        ) from None
    try:
        raw = json.loads(data)
        version, _ = int(raw["format"]), dict(raw["files"]).items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StoreError(
            "The manifest of a dataset is damaged",
            obj=str(path / MANIFEST),
            todo="remove the release and run 'headwater dataset emit' again",
        ) from None
    if version > FORMAT:
        raise FormatError(
            f"The dataset has format {version}; this headwater reads up to {FORMAT}",
            obj=str(path),
            todo="upgrade headwater",
        )
    return Release(path, raw)


def list_releases(folder: Path) -> list[Path]:
    """The releases below `folder`, that of one dataset or of all: by name, newest last."""
    if not folder.is_dir():
        return []
    found = [p for pattern in ("*", "*/*") for p in folder.glob(pattern) if _is_release(p)]
    return sorted(found, key=_age)


def _is_release(path: Path) -> bool:
    hidden = path.parent.name.startswith(".")
    return bool(_VERSION.fullmatch(path.name)) and not hidden and path.is_dir()


def _age(path: Path) -> tuple[str, str, int, str]:
    # Releases of one snapshot differ in configuration or evidence; their files hold no wall clock.
    written = (path / MANIFEST).stat().st_mtime_ns if (path / MANIFEST).is_file() else 0
    return path.parent.name, path.name[:8], written, path.name
