"""One run of a backfill: windows that were read before, judged against the store, embedded, published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from headwater.config import KnowledgeBase
from headwater.flows.ahead import Wanted, embed_ahead, wanted_texts
from headwater.flows.collected import BackfillFolder, Collected, CollectedSource
from headwater.flows.encoding import Encoding, EncodingOpener
from headwater.flows.intake import Intake
from headwater.flows.outcome import Pulled
from headwater.flows.outdated import Reading, without_outdated
from headwater.flows.past import Past
from headwater.flows.refresh import Progress, RefreshOptions, RefreshRun, silent
from headwater.flows.report import RefreshReport
from headwater.flows.sources.protocol import KeyRange, Window
from headwater.flows.turns import BACKFILL_MARK
from headwater.flows.windows import Span
from headwater.storage.changes import Changes
from headwater.storage.manifest import parse_time
from headwater.storage.runlog import RunLog, SourceRun

_LONGEST_RUN = timedelta(days=2)


@dataclass(frozen=True)
class Ahead:
    """What is known of windows before they are claimed.

    Attributes:
        changes: what they would change.
        wanted: the texts without a vector.
        encoding: what would embed them; None where nothing has to be cut.
    """

    changes: Sequence[Changes]
    wanted: Wanted
    encoding: Encoding | None


class WindowRun(RefreshRun):
    """A refresh of one source from what was collected of some windows.

    Attributes:
        stale: keys whose record was older than what the store knows, with why.
    """

    def __init__(
        self,
        kb: KnowledgeBase,
        source: str,
        spans: Sequence[Span],
        folder: BackfillFolder,
        collected: Sequence[Collected],
        *,
        encoding: EncodingOpener,
        progress: Progress = silent,
        approved: Mapping[str, int] | None = None,
    ) -> None:
        options = RefreshOptions(
            sources=(source,),
            cause="backfill",
            approved_changes={source: approved} if approved else {},
        )
        super().__init__(
            kb,
            _narrowed(options, spans),
            encoding=encoding,
            sources={source: CollectedSource(folder, collected)},
            progress=progress,
        )
        self._mark = f"{BACKFILL_MARK}{folder.name}"
        self.run_id += self._mark
        self.stale: dict[str, str] = {}
        self._since_seq = min((one.since_seq for one in collected), default=0)
        self._began_at = min((one.began_at for one in collected), default="")

    def look_ahead(self, *, dry_run: bool = False) -> Ahead:
        """What the windows would change and need embedded, as far as is known; claims nothing."""
        parent = self._parent
        _, judged = self._judge_all([self.pull(name) for name in self.names])
        changes = [found.changes for found in judged.values()]
        if not any(change.added or change.changed for change in changes):
            # Opening an encoding may write its files, and a run without news writes nothing.
            return Ahead(changes, Wanted([], [], 0), None)
        encoding = self._encoding(
            self.kb,
            parent.encoder if parent else None,
            self.store.objects,
            new_model=False,
            dry_run=dry_run,
        )
        wanted = wanted_texts(self.store.objects, changes, parent=parent, encoding=encoding)
        return Ahead(changes, wanted, encoding)

    def embed_ahead(self) -> Ahead:
        """Embed what the windows need, before anything is claimed; what is embedded is kept."""
        ahead = self.look_ahead()
        if ahead.encoding is not None:
            embed_ahead(
                self.store.objects,
                ahead.wanted,
                ahead.encoding,
                progress=lambda done, total: self._progress("embed", done, total),
            )
        self._embedded += len(ahead.wanted.hashes)
        return ahead

    def publish(self) -> RefreshReport:
        """Claim the source, judge against what is current now, and publish what is new.

        Raises:
            BusyError: as `RefreshRun.finish`.
        """
        with self.claim() as busy:
            (name,) = self.names
            if name in busy:
                pulled = Pulled(name, error=busy[name])
            else:
                pulled = Pulled(name) if self.held(name) else self.pull(name)
            return self.finish([pulled])

    def _take_in(self, name: str) -> Intake:
        live = self._live.get(name, {})
        intake, self.stale = without_outdated(
            super()._take_in(name),
            live,
            Past(self.store.objects, self._parent),
            self._reading(name),
        )
        if not self.stale:
            return intake
        said = f"{len(self.stale)} records left out: the store knows them newer"
        note = "; ".join(part for part in (said, intake.end.note) if part)
        return replace(intake, end=replace(intake.end, note=note))

    def _reading(self, name: str) -> Reading:
        """What other runs did at the source since the windows were read."""
        own = set()
        for manifest in self.store.chain():
            if manifest.seq <= self._since_seq:
                break
            if manifest.run_id.endswith(self._mark):
                own.add(manifest.seq)
        since = parse_time(self._began_at)
        outcomes = {run.outcome for run in self._runs(name, since)}
        return Reading(
            self._since_seq,
            frozenset(own),
            listed="verified" in outcomes,
            seen="partial" in outcomes,
        )

    def _runs(self, name: str, since: datetime) -> list[SourceRun]:
        found = []
        for run in RunLog(self.store.root).newest_first():
            ended = parse_time(run.finished_at or run.observed_at)
            if ended < since - _LONGEST_RUN:
                break
            foreign = not run.run_id.endswith(self._mark)
            if run.source == name and ended >= since and foreign:
                found.append(run)
        return found


def _narrowed(options: RefreshOptions, spans: Sequence[Span]) -> RefreshOptions:
    """The options for the range that windows cover together."""
    first, last = spans[0], spans[-1]
    if isinstance(first, Window) and isinstance(last, Window):
        return replace(options, window=Window(first.start, last.end))
    assert isinstance(first, KeyRange) and isinstance(last, KeyRange)
    return replace(options, key_range=KeyRange(first.start, last.end))
