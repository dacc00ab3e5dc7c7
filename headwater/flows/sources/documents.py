"""The `documents` source: the files below a folder.

A file is read and hashed at each refresh, for times of modification lie (a checkout resets them, a
copy keeps them); it is parsed only when its bytes, its parser or an option changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from headwater.config import DocumentsConfig, expand
from headwater.errors import ConfigError, ParseError, SourceUnreachableError
from headwater.flows.sources.folder import Listing, list_files, matcher, read_file
from headwater.flows.sources.parsing import ParsedDocument
from headwater.flows.sources.parsing.formats import FORMATS, Format, finish, no_text
from headwater.flows.sources.parsing.worker import ParserWorker
from headwater.flows.sources.protocol import (
    RECORD_SCHEMA,
    ExtractEnd,
    Pull,
    PullRequest,
    canonical_json,
)

_BATCH_ROWS = 1000
_BATCH_CHARS = 16_000_000


class DocumentsSource:
    """The files below a folder, each a document.

    Files and folders whose name starts with a dot are left out. A link is followed when it leads to
    a file inside of the folder; links to folders are not, as what they hold is listed already.

    Args:
        name: of the source, for messages.
        config: its options.
        root: the folder of `headwater.yaml`.

    Raises:
        ConfigError: the encoding is unknown, or an environment variable is not set.
    """

    def __init__(self, name: str, config: DocumentsConfig, *, root: Path) -> None:
        self._name = name
        self._config = config
        self._folder = os.path.join(root, expand(config.root, where=f"sources.{name}.root"))  # noqa: PTH118
        self._url = expand(config.url, where=f"sources.{name}.url") if config.url else None
        self._encoding = _checked_encoding(config.encoding, where=f"sources.{name}.encoding")
        self._wanted = matcher(config.glob)
        self._excluded = matcher(config.exclude)

    def pull(self, request: PullRequest) -> Pull:
        """Yield the documents; see `Source.pull`.

        Complete when every folder could be listed and all keys were asked for.

        Raises:
            SourceUnreachableError: the folder is missing or cannot be listed.
            ConfigError: a window of time was asked for.
            MissingExtraError: a format's library is not installed.
        """
        if request.window is not None:
            raise ConfigError(
                "Documents have no time of their own to backfill by",
                obj=self._name,
                todo="leave out the window, or name documents with --key",
            )
        listing = self._list()
        files = listing.files
        if request.keys is not None:
            files = [one for one in files if one[0] in request.keys]
        columns = _Columns(self._config.labels)
        counts = {"unchanged": 0, "unreadable": 0}
        tails = {one.name: self._tail(one) for one in FORMATS}
        with ParserWorker() as worker:
            for key, path, fmt in files:
                state = self._take(key, path, fmt, tails[fmt.name], request.known, columns, worker)
                if state != "present":
                    counts[state] += 1
                if columns.full:
                    yield columns.batch()
        if request.keys is None:
            for why in listing.unnamed:
                columns.add(None, "unreadable", error=why)
        else:
            _add_absent(columns, request.keys - {one[0] for one in files}, listing)
        if columns.rows:
            yield columns.batch()
        complete = request.keys is None and not listing.failed
        return ExtractEnd(complete=complete, note=_note(len(files), counts, listing))

    def _list(self) -> Listing:
        try:
            real_root = os.path.realpath(self._folder, strict=True)
            with os.scandir(real_root):
                pass
        except OSError as error:
            raise SourceUnreachableError(
                "The folder cannot be listed",
                obj=f"{self._name}: {self._folder}",
                todo=f"{error.strerror}; check the path, the mount and the permissions",
            ) from None
        listing = list_files(real_root, self._wanted, self._excluded)
        if "" in listing.failed:
            raise SourceUnreachableError(
                "The folder cannot be listed",
                obj=f"{self._name}: {self._folder}",
                todo=listing.failed[""],
            )
        return listing

    def _take(
        self,
        key: str,
        path: str,
        fmt: Format,
        tail: str,
        known: Any,
        columns: _Columns,
        worker: ParserWorker,
    ) -> str:
        """Add one file to `columns`; returns its state."""
        try:
            data = read_file(path, self._config.max_bytes)
            fingerprint = hashlib.sha256(data).hexdigest() + tail
            if known.get(key) == fingerprint:
                columns.unchanged(key, fingerprint)
                return "unchanged"
            parsed = self._parse(fmt, data, key, worker)
        except ParseError as error:
            columns.add(key, "unreadable", error=_reason(error))
            return "unreadable"
        except OSError as error:
            columns.add(key, "unreadable", error=f"the file cannot be read: {error.strerror}")
            return "unreadable"
        stem = key.rpartition("/")[2]
        columns.add(
            key,
            "present",
            text=parsed.text,
            title=parsed.title or stem.rpartition(".")[0] or stem,
            url=self._url.replace("{key}", quote(key)) if self._url else None,
            metadata=canonical_json({**parsed.metadata, "path": key, "format": fmt.name}),
            fingerprint=fingerprint,
        )
        return "present"

    def _parse(self, fmt: Format, data: bytes, key: str, worker: ParserWorker) -> ParsedDocument:
        if not data.strip():
            raise no_text(key)
        fmt.check_installed()
        if fmt.isolated:
            parsed = worker.parse(fmt, data, name=key, encoding=self._encoding)
        else:
            parsed = fmt.parser()(data, name=key, encoding=self._encoding)
        return finish(parsed, name=key)

    def _tail(self, fmt: Format) -> str:
        """What follows the hash of the bytes in a fingerprint: all else that makes the record."""
        link = f";{hashlib.sha256(self._url.encode()).hexdigest()[:8]}" if self._url else ""
        return f":{fmt.parser_id(self._encoding)}{link}"


class _Columns:
    """The next batch, built by column: a row of an unchanged file is three appends."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = list(labels)
        self._clear()

    def _clear(self) -> None:
        self._key: list[str | None] = []
        self._state: list[str] = []
        self._fingerprint: list[str | None] = []
        # The other columns are sparse in a refresh where little changed: row -> value.
        self._sparse: dict[str, dict[int, str]] = {
            name: {} for name in ("text", "title", "url", "metadata", "error")
        }
        self._chars = 0

    @property
    def rows(self) -> int:
        return len(self._key)

    @property
    def full(self) -> bool:
        return len(self._key) >= _BATCH_ROWS or self._chars >= _BATCH_CHARS

    def unchanged(self, key: str, fingerprint: str) -> None:
        self._key.append(key)
        self._state.append("unchanged")
        self._fingerprint.append(fingerprint)

    def add(
        self, key: str | None, state: str, *, fingerprint: str | None = None, **values: str | None
    ) -> None:
        row = len(self._key)
        self._key.append(key)
        self._state.append(state)
        self._fingerprint.append(fingerprint)
        for name, value in values.items():
            if value is not None:
                self._sparse[name][row] = value
        self._chars += len(values.get("text") or "")

    def batch(self) -> pa.RecordBatch:
        """Everything so far; empties the columns."""
        count = len(self._key)
        columns: dict[str, Any] = {
            name: pa.array([values.get(row) for row in range(count)], pa.string())
            if values
            else pa.nulls(count, pa.string())
            for name, values in self._sparse.items()
        }
        columns["key"] = pa.array(self._key, pa.string())
        columns["state"] = pa.array(self._state, pa.string())
        columns["fingerprint"] = pa.array(self._fingerprint, pa.string())
        columns["labels"] = pa.array([self._labels] * count, pa.list_(pa.string()))
        columns["source_ts"] = pa.nulls(count, RECORD_SCHEMA.field("source_ts").type)
        self._clear()
        arrays = [columns[name] for name in RECORD_SCHEMA.names]
        return pa.RecordBatch.from_arrays(arrays, schema=RECORD_SCHEMA)


def _add_absent(columns: _Columns, keys: Iterable[str], listing: Listing) -> None:
    """Keys that were asked for and are not listed: gone, unless their folder failed."""
    for key in sorted(keys):
        why = next((w for p, w in listing.failed.items() if key.startswith(p)), None)
        if why is None:
            columns.add(key, "gone")
        else:
            columns.add(key, "unreadable", error=f"its folder cannot be listed: {why}")


def _checked_encoding(encoding: str, *, where: str) -> str:
    try:
        # Empty bytes would be decoded without a look at the name.
        b"\n\n\n\n".decode(encoding)
    except UnicodeError:
        pass
    except LookupError:
        raise ConfigError(
            "No such encoding", obj=f"{where}: {encoding}", todo="utf-8, cp1252, latin-1, …"
        ) from None
    return encoding


def _reason(error: ParseError) -> str:
    """One line for the quarantine, in the middle of which the reader already knows the file."""
    what = error.what[0].lower() + error.what[1:]
    return f"{what}: {error.todo}" if error.todo else what


def _note(count: int, counts: dict[str, int], listing: Listing) -> str:
    parts = [f"{count:,} files"]
    parts += [f"{number:,} {state}" for state, number in counts.items() if number]
    if listing.other:
        parts.append(f"{listing.other:,} of other formats left out")
    if listing.links:
        parts.append(f"{listing.links:,} links not followed")
    if listing.unnamed:
        parts.append(f"{len(listing.unnamed):,} without a usable name")
    for prefix, why in sorted(listing.failed.items()):
        parts.append(f"incomplete: {prefix} cannot be listed ({why})")
    return ", ".join(parts)
