"""What the past has let go of: `retired.json`. The manifests stay, so the chain can be walked.

A snapshot lets go of its index first: it stays openable, and is searched exactly, with vectors from
the embedding cache. When it expires, it lets go of the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from headwater.errors import FormatError, NotFoundError, StorageUnavailableError, StoreError
from headwater.storage import files
from headwater.storage.manifest import format_time

_FORMAT = 1
FILE = "retired.json"


@dataclass(frozen=True)
class Retired:
    """What the record says: snapshot -> since when, for each of two things.

    Attributes:
        snapshots: expired; none of their objects may be there.
        indexes: without their index; `vectors`, `graph` and `tombstones` may be missing.
    """

    snapshots: Mapping[str, str] = field(default_factory=dict)
    indexes: Mapping[str, str] = field(default_factory=dict)


def read_retired(root: Path) -> dict[str, str]:
    """Snapshot -> when it expired, of the store at `root`.

    Raises:
        StoreError: the record is damaged; without it nobody knows which objects may be missing.
        FormatError: a newer headwater wrote it.
        StorageUnavailableError: it may not be read.
    """
    return dict(read_record(root).snapshots)


def read_record(root: Path) -> Retired:
    """The whole record of the store at `root`; raises as `read_retired` does."""
    return parse_record(record_bytes(root), root)


def record_bytes(root: Path) -> bytes:
    """The bytes of the record; none where nothing has been let go of.

    Raises:
        StorageUnavailableError: it may not be read.
    """
    path = root / FILE
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StorageUnavailableError.of(error, path) from error


def parse_record(data: bytes, root: Path) -> Retired:
    """What `record_bytes` of the store at `root` gave; raises as `read_retired` does."""
    if not data:
        return Retired()
    path = root / FILE
    try:
        raw = json.loads(data)
        found = Retired(dict[str, str](raw["snapshots"]), dict[str, str](raw.get("indexes", {})))
        written = int(raw["format"])
    except (ValueError, KeyError, TypeError, AttributeError):
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


def write_retired(
    root: Path, names: Iterable[str], *, now: datetime, indexes: Iterable[str] = ()
) -> None:
    """Add to the record, for ever. The caller holds the store's lock.

    Args:
        root: of the store.
        names: snapshots that expire.
        now: since when, an aware time.
        indexes: snapshots that let go of their index.
    """
    known = read_record(root)
    expired, unindexed = (
        {name: format_time(now) for name in added if name not in before}
        for added, before in ((names, known.snapshots), (indexes, known.indexes))
    )
    if expired or unindexed:
        stamp = {
            "format": _FORMAT,
            "snapshots": {**known.snapshots, **expired},
            "indexes": {**known.indexes, **unindexed},
        }
        text = json.dumps(stamp, sort_keys=True, indent=1) + "\n"
        files.replace(root / FILE, text.encode(), tmp=root / "tmp")


class UnindexedNames:
    """The snapshots that let go of their index; the record is parsed again only when it changed.

    Safe to share between threads.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: tuple[tuple[int, int, int] | None, frozenset[str]] = (None, frozenset())

    def __contains__(self, name: str) -> bool:
        """Whether a snapshot let go of its index.

        Raises:
            StoreError, FormatError, StorageUnavailableError: as for `read_retired`.
        """
        return name in self._current()

    def _current(self) -> frozenset[str]:
        path = self._root / FILE
        try:
            stat = path.stat()
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            raise StorageUnavailableError.of(error, path) from error
        # Asked before reading: a record that is replaced in between is read again the next time.
        state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        known, names = self._known
        if state != known:
            names = frozenset(read_record(self._root).indexes)
            self._known = (state, names)
        return names


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
