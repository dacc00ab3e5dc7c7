"""The run log: `runs/<run_id>.jsonl`, append-only, at most about 1 kB per source and run.

It holds what a refresh that changed nothing must still remember: that a source was verified, when,
and how completely. A failed pull is recorded too, and is no observation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from headwater.storage import files
from headwater.storage.manifest import parse_time


@dataclass(frozen=True)
class SourceRun:
    """What one run found at one source.

    Attributes:
        source: its name.
        outcome: `verified` (every live document was confirmed), `partial` (some were), `failed`,
            `busy`, `held`.
        observed_at: knowledge time of the run.
        finished_at: wall-clock time.
        live: documents of the source after the run.
        seen: records the extract listed.
        added, changed, renamed, removed, refused: documents.
        withheld: deletions that wait for approval.
        snapshot: what was current when the run ended.
        note: the source's or the error's one line.
    """

    run_id: str
    source: str
    outcome: str
    observed_at: str
    finished_at: str = ""
    live: int = 0
    seen: int = 0
    added: int = 0
    changed: int = 0
    renamed: int = 0
    removed: int = 0
    refused: int = 0
    withheld: int = 0
    snapshot: str = ""
    note: str = ""


class RunLog:
    """The folder `runs/` of a store."""

    def __init__(self, store: Path) -> None:
        self._folder = store / "runs"

    def append(self, entry: SourceRun) -> None:
        """Write one entry, forced to the disk."""
        files.append_line(self._folder / f"{entry.run_id}.jsonl", _line(entry))

    def rewrite(self, change: Callable[[SourceRun], SourceRun]) -> None:
        """Put what `change` gives in the place of each entry; files without a change stay."""
        for path in sorted(self._folder.glob("*.jsonl")):
            lines = path.read_text("utf-8", "replace").splitlines()
            changed = [_changed(line, change) for line in lines]
            if changed != lines:
                text = "".join(f"{line}\n" for line in changed)
                files.replace(path, text.encode(), tmp=self._folder.parent / "tmp")

    def newest_first(self) -> Iterator[SourceRun]:
        """Every entry, newest run first. A torn last line is passed over."""
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob("*.jsonl"), reverse=True):
            for line in reversed(path.read_text("utf-8", "replace").splitlines()):
                if (entry := _entry(line)) is not None:
                    yield entry

    def last(self, sources: Iterable[str]) -> dict[str, SourceRun]:
        """The newest entry of each source."""
        return self._first_where(sources, lambda _: True)

    def last_verified(
        self, sources: Iterable[str], *, known_by: datetime | None = None
    ) -> dict[str, datetime]:
        """When each source last confirmed all of its live documents (knowledge time).

        Args:
            sources: their names.
            known_by: only what was known at that time; None for now.
        """

        def counts(entry: SourceRun) -> bool:
            return entry.outcome == "verified" and (
                known_by is None or parse_time(entry.observed_at) <= known_by
            )

        found = self._first_where(sources, counts)
        return {name: parse_time(entry.observed_at) for name, entry in found.items()}

    def verifications(self, source: str) -> list[datetime]:
        """The knowledge times at which a source was verified, oldest first."""
        return sorted(
            parse_time(e.observed_at)
            for e in self.newest_first()
            if e.source == source and e.outcome == "verified"
        )

    def _first_where(
        self, sources: Iterable[str], keep: Callable[[SourceRun], bool]
    ) -> dict[str, SourceRun]:
        wanted, found = set(sources), dict[str, SourceRun]()
        if not wanted:
            return found
        for entry in self.newest_first():
            if entry.source in wanted and keep(entry):
                found[entry.source] = entry
                wanted.discard(entry.source)
                if not wanted:
                    break
        return found


def _entry(line: str) -> SourceRun | None:
    try:
        return SourceRun(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _line(entry: SourceRun) -> str:
    entry = replace(entry, note=entry.note[:400])
    return json.dumps({k: v for k, v in asdict(entry).items() if v not in ("", 0)})


def _changed(line: str, change: Callable[[SourceRun], SourceRun]) -> str:
    entry = _entry(line)
    if entry is None:
        # Torn: nobody reads it, and nobody knows what it says.
        return ""
    after = change(entry)
    return line if after == entry else _line(after)
