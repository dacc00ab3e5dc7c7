"""What a refresh did, as values: for the terminal, for `--json`, for the run log and the exit code."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from headwater.storage.manifest import Gate


@dataclass(frozen=True)
class SourceReport:
    """What happened at one source.

    Attributes:
        outcome: `verified`, `partial`, `failed`, `busy`, `held`, or `removed` (no longer
            configured).
        listed: records the extract listed.
        live: documents after the refresh.
        withheld: deletions that wait for `approve`, with the reason in `note`.
        held: changes that wait for `approve`; they are in quarantine, the reason is in `note`.
        refused: records in quarantine after the refresh.
        kind: the error's kind when it failed.
        exit_code: what the error alone would exit with.
    """

    source: str
    outcome: str
    listed: int = 0
    live: int = 0
    added: int = 0
    changed: int = 0
    touched: int = 0
    renamed: int = 0
    removed: int = 0
    withheld: int = 0
    held: int = 0
    refused: int = 0
    note: str = ""
    kind: str = ""
    exit_code: int = 0


@dataclass(frozen=True)
class RefreshReport:
    """What a refresh did, or in a dry run would do.

    Attributes:
        snapshot: what is current afterwards; empty when nothing ever was.
        published: whether this run moved CURRENT.
        candidate: the manifest that was written and not published, if any.
        embedded: distinct texts embedded now.
        texts: distinct texts that are live.
        bytes_written: of objects.
        report: path of the HTML report; empty when nothing changed.
    """

    run_id: str
    observed_at: str
    snapshot: str
    published: bool
    dry_run: bool = False
    candidate: str = ""
    embedded: int = 0
    texts: int = 0
    documents: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    report: str = ""
    sources: tuple[SourceReport, ...] = ()
    gates: tuple[Gate, ...] = field(default=())

    @property
    def exit_code(self) -> int:
        """The row of `headwater.errors.EXIT_CODES` that this refresh ends with."""
        bad = [s for s in self.sources if s.outcome in ("failed", "busy")]
        if self.candidate or any(s.withheld or s.held for s in self.sources):
            return 4
        if bad and len(bad) == len([s for s in self.sources if s.outcome != "held"]):
            codes = {s.exit_code for s in bad}
            return codes.pop() if len(codes) == 1 else 8
        return 3 if bad else 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "exit_code": self.exit_code}
