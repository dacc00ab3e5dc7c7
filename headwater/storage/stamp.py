"""The stamp of a store, its file FORMAT: which headwater may open it at all."""

from __future__ import annotations

import json
from pathlib import Path

from headwater.errors import FormatError, NotFoundError
from headwater.storage import files
from headwater.storage.manifest import FORMAT

NAME = "FORMAT"


def read_stamp(root: Path) -> int:
    """The format of the store in `root`: no manifest in it has a higher one.

    Raises:
        NotFoundError: the folder holds no store.
        FormatError: a newer headwater wrote it, or the stamp is damaged.
    """
    try:
        data = (root / NAME).read_bytes()
    except OSError:
        raise NotFoundError(
            "There is no store here yet", obj=str(root), todo="run 'headwater refresh'"
        ) from None
    try:
        found = int(json.loads(data)["format"])
    except (ValueError, KeyError, TypeError):
        raise FormatError(
            "FORMAT is damaged",
            obj=str(root / NAME),
            todo=f'it must hold {{"format": {FORMAT}, "hash": "sha256"}}: write that, then '
            "run 'headwater verify'",
        ) from None
    if found > FORMAT:
        raise FormatError(
            f"The store has format {found}; this headwater reads up to {FORMAT}",
            obj=str(root),
            todo="upgrade headwater",
        )
    return found


def write_stamp(root: Path, number: int = FORMAT) -> None:
    """Say that a store has this format: one rename.

    Raises:
        StorageUnavailableError: the disk is full or read-only.
    """
    data = json.dumps({"format": number, "hash": "sha256"}) + "\n"
    files.replace(root / NAME, data.encode(), tmp=root / "tmp")


def raise_stamp(root: Path, number: int) -> None:
    """Have the stamp say at least this format; called before the first manifest that has it.

    From then on an older headwater is refused in words. It would stumble over fields that it does
    not know, and take objects of kinds that it does not know for litter.

    Raises:
        BusyError: the store's lock is held for a minute.
        StorageUnavailableError: the disk is full or read-only.
    """
    if read_stamp(root) >= number:
        return
    with files.locked(root / "LOCK", wait_s=60, holder=f"raise the format to {number}"):
        if read_stamp(root) < number:
            write_stamp(root, number)
