"""Every error headwater raises on purpose, sorted by what a handler would do about it.

A message has three parts: what failed, which object, what to do next. `kind` is stable and made for
programs; `exit_code` is what the command line returns (the table is `EXIT_CODES`).
"""

from __future__ import annotations

import errno
from typing import Final

EXIT_CODES: Final[dict[int, str]] = {
    0: "done",
    1: "internal error (a bug: please report it)",
    2: "usage or configuration error",
    3: "partial: at least one source failed and keeps its last state; the others are published",
    4: "stopped: a gate or a critical check failed, or something waits for approve",
    5: "a freshness objective is missed, or a dataset is stale",
    6: "the store is damaged",
    7: "busy: another run holds the source or the store; nothing was lost",
    8: "no source could be pulled; the last state is still served",
    9: "not found: no such snapshot, source, document or dataset",
    10: "the environment lacks something: an extra, a model, disk space, a permission",
}


class HeadwaterError(Exception):
    """The root of the tree.

    Args:
        what: what failed, as a sentence without its full stop.
        obj: the object concerned: a path, a source, a snapshot, a key. Empty when `what` names it.
        todo: what the reader should do next.
    """

    kind: str = "error"
    exit_code: int = 1

    def __init__(self, what: str, *, obj: str = "", todo: str = "") -> None:
        self.what = what
        self.obj = obj
        self.todo = todo
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.what}: {self.obj}" if self.obj else self.what
        return f"{text}\n  -> {self.todo}" if self.todo else text

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, and errors cross processes.
        return (_rebuild, (type(self), self.what, self.obj, self.todo))

    def as_dict(self) -> dict[str, str | int]:
        """The error as plain values, for `--json`."""
        return {
            "error": self.kind,
            "what": self.what,
            "object": self.obj,
            "todo": self.todo,
            "exit_code": self.exit_code,
        }


def _rebuild(cls: type[HeadwaterError], what: str, obj: str, todo: str) -> HeadwaterError:
    return cls(what, obj=obj, todo=todo)


# --- the user can mend it in a file or on the command line ----------------------------------------


class ConfigError(HeadwaterError):
    """`headwater.yaml`, a suite file or an argument is wrong."""

    kind = "config"
    exit_code = 2


# --- a source: its last state stays served --------------------------------------------------------


class SourceError(HeadwaterError):
    """A source could not be pulled or did not hold what the configuration promised."""

    kind = "source"
    exit_code = 8


class SourceUnreachableError(SourceError):
    """The source did not answer, or answered with a failure that time may heal. Worth a retry."""

    kind = "source-unreachable"


class SourceDataError(SourceError):
    """The source answered, and the answer cannot be used (truncated, wrong columns, not JSON)."""

    kind = "source-data"


class ParseError(SourceError):
    """One document could not be turned into text. The record goes to quarantine."""

    kind = "parse"


# --- a person must decide -------------------------------------------------------------------------


class PublicationStoppedError(HeadwaterError):
    """A gate or a critical table-level check refused the candidate; CURRENT did not move."""

    kind = "publication-stopped"
    exit_code = 4


# --- try again later ------------------------------------------------------------------------------


class BusyError(HeadwaterError):
    """Another run holds what this one needs."""

    kind = "busy"
    exit_code = 7


class ParentMovedError(BusyError):
    """CURRENT is no longer the snapshot the candidate was built on: rebase and publish again."""

    kind = "parent-moved"


# --- the store must be looked at ------------------------------------------------------------------


class StoreError(HeadwaterError):
    """The store on disk is not what its manifests say."""

    kind = "store"
    exit_code = 6


class CorruptObjectError(StoreError):
    """An object's bytes do not have the hash that names them; it is never handed to a library."""

    kind = "corrupt-object"


class FormatError(StoreError):
    """The store was written by a newer headwater, or is no store at all."""

    kind = "format"


# --- ask for something else -----------------------------------------------------------------------


class NotFoundError(HeadwaterError):
    """No such snapshot, source, document or dataset."""

    kind = "not-found"
    exit_code = 9


# --- the environment ------------------------------------------------------------------------------


class EnvironmentLacksError(HeadwaterError):
    """Something the machine should offer is missing."""

    kind = "environment"
    exit_code = 10


class MissingExtraError(EnvironmentLacksError):
    """An optional part of headwater is not installed."""

    kind = "missing-extra"

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """The error for an import of `package` that the extra `extra` would have provided."""
        return cls(
            "An optional part is not installed",
            obj=package,
            todo=f"pip install 'headwater[{extra}]'",
        )


class ModelError(EnvironmentLacksError):
    """The embedding model cannot be found, or is not the one the store was built with."""

    kind = "model"


class EndpointError(EnvironmentLacksError):
    """A model's endpoint refuses, fails, is too slow, or says what cannot be used."""

    kind = "endpoint"


class StorageUnavailableError(EnvironmentLacksError):
    """The disk is full, read-only or forbidden. What was published before is untouched."""

    kind = "storage-unavailable"

    @classmethod
    def of(cls, error: OSError, path: object) -> StorageUnavailableError:
        """Translate an operating-system error met while writing `path`."""
        reasons = {
            errno.ENOSPC: ("The disk is full", "free some space and run again"),
            errno.EDQUOT: ("The disk quota is used up", "free some space and run again"),
            errno.EROFS: ("The file system is read-only", "write from a machine that mounts it rw"),
            errno.EACCES: ("Permission denied", "check the owner and mode of the store"),
            errno.EPERM: ("Operation not permitted", "check the owner and mode of the store"),
        }
        what, todo = reasons.get(
            error.errno or 0, (error.strerror or str(error), "check the disk and run again")
        )
        return cls(what, obj=str(path), todo=f"{todo}; the published snapshot is untouched")
