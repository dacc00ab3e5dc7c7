"""Windows of a backfill on the disk: read once from the source, published later, gone afterwards.

A window is collected without any claim on the source, so that the schedule goes on meanwhile. It
counts as collected once its note is there, which is written last. The folder holds texts: only its
owner may read it, an erasure empties it, and a finished backfill removes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from headwater.flows.intake import pull_checked
from headwater.flows.sources.protocol import (
    RECORD_SCHEMA,
    ExtractEnd,
    Pull,
    PullRequest,
    Source,
)
from headwater.storage import files

FOLDER = Path(".headwater") / "backfills"
"""Below the knowledge base; beside the store, because nothing in it is knowledge yet."""


@dataclass(frozen=True)
class Collected:
    """What is known of a window that was read.

    Attributes:
        number: of the window, from 0.
        since_seq: the snapshot that was current when the reading began; 0 for none.
        began_at: wall-clock time of that, RFC 3339 in UTC.
        records: how many were listed.
        seconds: the reading took.
        note: the source's own.
    """

    number: int
    since_seq: int
    began_at: str
    records: int
    seconds: float
    note: str = ""


class BackfillFolder:
    """The folder of one backfill, named by what it is asked for: asked again, it goes on."""

    def __init__(self, root: Path, asked: Any) -> None:
        """Open the folder for what is asked, any plain value.

        Args:
            root: of the knowledge base.
            asked: the source, its configuration and the windows.
        """
        text = json.dumps(asked, sort_keys=True, default=str)
        self.name = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.path = root / FOLDER / self.name

    def done(self) -> set[int]:
        """The windows that are published, by number. A torn last line is passed over."""
        try:
            lines = (self.path / "done").read_text("ascii", "replace").splitlines()
        except OSError:
            return set()
        found = (re.fullmatch(r"(\d+) done", line) for line in lines)
        return {int(line[1]) for line in found if line}

    def mark_done(self, number: int) -> None:
        """Remember that a window is published, and let go of what was collected."""
        files.append_line(self.path / "done", f"{number} done")
        self.discard(number)

    def discard(self, number: int) -> None:
        """Forget what was collected of a window; it is read again when it is needed."""
        for path in (self._note(number), self._rows(number)):
            if path.exists():
                files.remove(path)

    def finish(self) -> None:
        """Remove the folder: there is nothing to go on with."""
        if self.path.exists():
            files.remove_tree(self.path)

    def collected(self, number: int) -> Collected | None:
        """What is known of a window that was read; None when it must be read."""
        try:
            found = Collected(**json.loads(self._note(number).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return found if self._rows(number).is_file() else None

    def batches(self, number: int) -> Iterator[pa.RecordBatch]:
        """The records of a collected window, in the order of the source."""
        with pa.OSFile(str(self._rows(number))) as file, pa.ipc.open_file(file) as reader:
            for at in range(reader.num_record_batches):
                yield reader.get_batch(at)

    def collect(
        self,
        number: int,
        source: Source,
        request: PullRequest,
        *,
        name: str,
        since_seq: int,
        watch: Callable[[int], None],
    ) -> Collected:
        """Read a window from the source to the disk.

        Args:
            number: of the window.
            source: where to read; nobody else uses it meanwhile.
            request: the window.
            name: of the source, for messages.
            since_seq: the snapshot that is current now.
            watch: told how many records each batch had; it may take its time.

        Raises:
            SourceError: the pull failed; nothing of the window counts.
            StorageUnavailableError: the disk is full or read-only.
        """
        files.make_folder(self.path)
        self.path.chmod(0o700)
        began = datetime.now(UTC)
        draft = self._rows(number).with_suffix(f".{os.getpid()}.draft")
        try:
            end, records = _write(draft, pull_checked(name, source, request), watch)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        files.move(draft, self._rows(number))
        seconds = (datetime.now(UTC) - began).total_seconds()
        found = Collected(number, since_seq, began.isoformat(), records, seconds, end.note)
        note = json.dumps(asdict(found)).encode()
        files.replace(self._note(number), note, tmp=self.path)
        return found

    def _rows(self, number: int) -> Path:
        return self.path / f"{number:06d}.arrow"

    def _note(self, number: int) -> Path:
        return self.path / f"{number:06d}.json"


def _write(draft: Path, pull: Pull, watch: Callable[[int], None]) -> tuple[ExtractEnd, int]:
    """Write a pull's batches; returns its end and how many records there were."""
    records = 0
    with (
        files.library_write(draft),
        pa.OSFile(str(draft), "wb") as sink,
        pa.ipc.new_file(sink, RECORD_SCHEMA) as writer,
    ):
        while True:
            try:
                batch = next(pull)
            except StopIteration as stop:
                end: ExtractEnd = stop.value
                return end, records
            writer.write_batch(batch)
            records += batch.num_rows
            watch(batch.num_rows)


class CollectedSource:
    """Collected windows as a source: what is published is what was read, and nothing is read again.

    Where several windows hold the same key, the record with the newest source time counts, and of
    equals that of the later window.
    """

    def __init__(self, folder: BackfillFolder, windows: Sequence[Collected]) -> None:
        self._folder = folder
        self._windows = windows

    def pull(self, request: PullRequest) -> Pull:
        """Yield the records; the end is that of a narrowed pull."""
        chosen = self._chosen() if len(self._windows) > 1 else None
        for window in self._windows:
            for batch in self._folder.batches(window.number):
                if chosen is None:
                    yield batch
                    continue
                keys = batch.column("key").to_pylist()
                kept = [key is None or chosen[key] == window.number for key in keys]
                yield batch.filter(pa.array(kept, pa.bool_()))
        note = "; ".join(dict.fromkeys(w.note for w in self._windows if w.note))
        return ExtractEnd(complete=False, watermark=request.watermark, note=note[:200])

    def _chosen(self) -> dict[str, int]:
        """Key -> the window whose record counts."""
        best: dict[str, tuple[int, int]] = {}
        for window in self._windows:
            for batch in self._folder.batches(window.number):
                times = batch.column("source_ts").cast(pa.int64()).to_pylist()
                for key, when in zip(batch.column("key").to_pylist(), times, strict=True):
                    place = (_BEFORE_ALL if when is None else when, window.number)
                    if key is not None and best.get(key, (_BEFORE_ALL, -1)) <= place:
                        best[key] = place
        return {key: number for key, (_, number) in best.items()}


_BEFORE_ALL = -(2**63)


def remove_collected(root: Path) -> None:
    """Remove what all backfills collected, so that an erasure leaves no text there."""
    folder = root / FOLDER
    if folder.is_dir():
        files.remove_tree(folder)
