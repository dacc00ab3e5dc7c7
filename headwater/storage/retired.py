"""Which snapshots have expired: `retired.json`. Their manifests stay, so the chain can be walked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from headwater.errors import FormatError, NotFoundError, StorageUnavailableError, StoreError
from headwater.storage import files
from headwater.storage.manifest import format_time

_FORMAT = 1
_FILE = "retired.json"


def read_retired(root: Path) -> dict[str, str]:
    """Snapshot -> when it expired, of the store at `root`.

    Raises:
        StoreError: the record is damaged; without it nobody knows which objects may be missing.
        FormatError: a newer headwater wrote it.
        StorageUnavailableError: it may not be read.
    """
    path = root / _FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageUnavailableError.of(error, path) from error
    try:
        raw = json.loads(data)
        found, written = dict[str, str](raw["snapshots"]), int(raw["format"])
    except (ValueError, KeyError, TypeError):
        raise StoreError(
            "The record of expired snapshots is damaged",
            obj=str(path),
            todo="restore it from a backup of the store",
        ) from None
    if written > _FORMAT:
        raise FormatError(
            f"The record has format {written}; this headwater reads up to {_FORMAT}",
            obj=str(path),
            todo="upgrade headwater",
        )
    return found


def write_retired(root: Path, names: Iterable[str], *, now: datetime) -> None:
    """Add snapshots to the record, for ever. The caller holds the store's lock."""
    known = read_retired(root)
    added = {name: format_time(now) for name in names if name not in known}
    if added:
        stamp = {"format": _FORMAT, "snapshots": {**known, **added}}
        text = json.dumps(stamp, sort_keys=True, indent=1) + "\n"
        files.replace(root / _FILE, text.encode(), tmp=root / "tmp")


def expired_error(name: str, chain: Iterable[str], retired: Mapping[str, str]) -> NotFoundError:
    """What to tell somebody who asks for an expired snapshot.

    Args:
        name: of the snapshot.
        chain: the names of the published snapshots.
        retired: as `read_retired` gives it.
    """
    kept = sorted(other for other in chain if other not in retired)
    older = [other for other in kept if other < name][-1:]
    newer = [other for other in kept if other > name][:1]
    nearest = " and ".join([*older, *newer])
    return NotFoundError(
        f"This snapshot expired by retention at {retired[name]}",
        obj=name,
        todo=f"the nearest that are kept: {nearest}; 'headwater tag' keeps one for ever",
    )
