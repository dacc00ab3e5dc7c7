"""The refresh: pull, judge, build, publish. A plain function; Prefect wraps its steps elsewhere.

Whatever fails, readers stay on a whole snapshot: a source that cannot be pulled keeps its last
state, a candidate that fails a gate is kept and not published, and only the last step moves CURRENT.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from headwater.config import KnowledgeBase
from headwater.errors import (
    BusyError,
    ConfigError,
    HeadwaterError,
    ParentMovedError,
)
from headwater.flows.draft import Draft, Step, build_draft, texts_to_embed
from headwater.flows.encoding import EncodingOpener, is_current, open_encoding
from headwater.flows.erasure import complete_erasures
from headwater.flows.held import read_quarantine, unreadable_before
from headwater.flows.intake import Intake, take_in
from headwater.flows.judge import Judged, expected_state, judge, judge_removed, suite_of
from headwater.flows.listing import current_keys, partial_runs
from headwater.flows.options import RefreshOptions
from headwater.flows.outcome import Pulled, run_entries, source_reports
from headwater.flows.past import Past
from headwater.flows.report import RefreshReport
from headwater.flows.report_page import write_report
from headwater.flows.sources.protocol import PullRequest, Source
from headwater.flows.sources.registry import open_source
from headwater.flows.suppression import without_erased
from headwater.flows.turns import claimed_patiently
from headwater.flows.withholding import DELETES
from headwater.retrieval.lexical import analyzer_name
from headwater.storage.claims import Claim
from headwater.storage.history import live_state, metadata_fields
from headwater.storage.live import LiveDocuments
from headwater.storage.manifest import Manifest, SourceState, format_time
from headwater.storage.runlog import RunLog
from headwater.storage.store import Store, new_run_id
from headwater.validation.contracts import Suite
from headwater.validation.frame import RECORD_COLUMNS
from headwater.validation.golden import load_golden
from headwater.validation.quarantine import merge_quarantine

__all__ = ["Progress", "RefreshOptions", "RefreshRun", "refresh", "silent"]

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); a total of 0 means that it is not known."""

_REBASES = 5


def silent(_stage: str, _done: int, _total: int) -> None:
    """The progress of whoever does not watch."""


class RefreshRun:
    """One run, step by step: `claim`, `pull` for each of `names`, then `finish`.

    Attributes:
        names: the configured sources that this run pulls.
        run_id: of the run.
        observed_at: its knowledge time.
    """

    def __init__(
        self,
        kb: KnowledgeBase,
        options: RefreshOptions,
        *,
        encoding: EncodingOpener = open_encoding,
        sources: Mapping[str, Source] | None = None,
        progress: Progress = silent,
    ) -> None:
        for name in (*options.sources, *options.release):
            kb.source(name)
        if options.narrowed and len(options.sources) != 1:
            raise ConfigError("Keys and windows belong to one source", todo="name it: --source S")
        self._golden = load_golden(kb.root, sources=kb.config.sources)
        self.kb = kb
        self.options = options
        self.run_id = new_run_id()
        self.store = Store.create(kb.store)
        self.store.sweep()
        self.store.recover()
        complete_erasures(kb, self.store)
        self._encoding = encoding
        self._sources = dict(sources or {})
        self._progress = progress
        self._started = time.monotonic()
        self._claims: dict[str, Claim] = {}
        self._suites: dict[str, Suite] = {}
        # Over all attempts: a draft that lost the race to publish has paid for its vectors.
        self._embedded = 0
        self._parent = self.store.current()
        self._live = live_state(self.store.objects, self._parent)
        self.observed_at = self._knowledge_time()
        self.names = tuple(
            n for n in kb.config.sources if n in (options.sources or kb.config.sources)
        )

    # --- before the store changes -------------------------------------------------------------

    @contextmanager
    def claim(self) -> Iterator[dict[str, BusyError]]:
        """Claim the sources; yields those that another run holds, with its refusal."""
        busy: dict[str, BusyError] = {}
        with ExitStack() as stack:
            for name in (*self.names, *self._orphans()):
                try:
                    self._claims[name] = stack.enter_context(
                        claimed_patiently(self.store.root, name, run_id=self.run_id)
                    )
                except BusyError as error:
                    busy[name] = error
            self._look_again()
            try:
                yield busy
            finally:
                self.store.objects.discard_drafts()

    def pull(self, name: str) -> Pulled:
        """Pull one source to its end. A failure is a value: the others go on.

        Raises:
            SourceError: the pull failed and the configuration says `on_source_error: stop`.
        """
        self._progress(f"pull {name}", 0, 0)
        try:
            return Pulled(name, self._take_in(name))
        except HeadwaterError as error:
            if self.kb.config.on_source_error == "stop":
                raise
            return Pulled(name, error=error)

    def _take_in(self, name: str) -> Intake:
        config = self.kb.source(name)
        source = self._sources.get(name) or open_source(name, config, root=self.kb.root)
        live = self._live.get(name, {})
        state = self._state(name)
        expected = expected_state(self.kb, name, self._suite(name))
        same = state is not None and (state.labels, state.suite_sha256) == (
            expected.labels,
            expected.suite_sha256,
        )
        request = PullRequest(
            watermark=state.watermark if state else None,
            known=LiveDocuments.of(live).fingerprints() if same else {},
            refused=unreadable_before(self.store.objects, self._parent, name),
            current=current_keys(live, read_quarantine(self.store.objects, self._parent), name),
            # Only who asks for it pays for reading the run log.
            partial_runs=partial_runs(RunLog(self.store.root), name)
            if getattr(source, "counts_partial_runs", False)
            else 0,
            keys=frozenset(self.options.keys) if self.options.keys else None,
            window=self.options.window,
            key_range=self.options.key_range,
        )
        if not same:
            request = replace(request, watermark=None)
        intake = take_in(
            name, source, request, live, labels=expected.labels, revalidate=bool(live) and not same
        )
        return without_erased(intake, self.store.redactions())

    # --- the rest of the run ------------------------------------------------------------------

    def finish(self, pulls: list[Pulled], *, dry_run: bool = False) -> RefreshReport:
        """Judge what was pulled, build the next snapshot and publish it, if anything is new.

        Raises:
            BusyError: other runs kept publishing, or the state of a pulled source changed.
            HeadwaterError: the snapshot could not be built; CURRENT did not move.
        """
        for attempt in range(_REBASES):
            try:
                return self._finish_once(pulls, dry_run=dry_run)
            except ParentMovedError:
                if attempt == _REBASES - 1:
                    raise
                self._rebase([p.source for p in pulls if p.intake])
        raise AssertionError("unreachable")

    def _finish_once(self, pulls: list[Pulled], *, dry_run: bool) -> RefreshReport:
        pulls, judged = self._judge_all(pulls)
        judged |= {
            name: self._judge_orphan(name) for name in self._orphans() if name in self._claims
        }
        step = self._step(judged)
        draft, published, name = None, False, ""
        if self._is_new(step):
            self._progress("build", 0, 0)
            opened = self._encoding(
                self.kb,
                self._parent.encoder if self._parent else None,
                self.store.objects,
                new_model=self.options.new_model,
                dry_run=dry_run,
            )
            if dry_run:
                embedded = texts_to_embed(self.store.objects, step, opened)
                return self._report(pulls, judged, step, embedded=embedded, dry_run=True)
            draft = build_draft(
                self.kb, self.store.objects, step, encoding=opened, progress=self._progress
            )
            self._embedded += draft.embedded
            name = self.store.write_candidate(draft.manifest)
            if not draft.manifest.failed_gates():
                self.store.publish(
                    name, claims=tuple(self._claims.values()), detail=self._allowed()
                )
                published = True
        if dry_run:
            return self._report(pulls, judged, step, dry_run=True)
        report = self._report(pulls, judged, step, draft=draft, name=name, published=published)
        log = RunLog(self.store.root)
        for entry in run_entries(report, finished_at=datetime.now(UTC)):
            log.append(entry)
        if draft is not None:
            report = replace(report, report=write_report(self.kb, report, step, draft, judged))
        return report

    def _judge_all(self, pulls: list[Pulled]) -> tuple[list[Pulled], dict[str, Judged]]:
        """Judge each source; one whose expectations cannot be run fails alone, like its pull."""
        outcomes, judged = [], {}
        for pulled in pulls:
            if pulled.intake is not None:
                try:
                    judged[pulled.source] = self._judge(pulled.intake)
                except HeadwaterError as error:
                    if self.kb.config.on_source_error == "stop":
                        raise
                    pulled = Pulled(pulled.source, error=error)
            outcomes.append(pulled)
        return outcomes, judged

    def _judge(self, intake: Intake) -> Judged:
        return judge(
            self.kb,
            intake,
            suite=self._suite(intake.source),
            known_fields=self._known_fields(intake.source),
            live=self._live.get(intake.source, {}),
            quarantine=read_quarantine(self.store.objects, self._parent),
            state=self._state(intake.source),
            past=Past(self.store.objects, self._parent),
            approved=self._approved(intake.source),
            observed_at=self.observed_at,
            run_id=self.run_id,
        )

    def _judge_orphan(self, name: str) -> Judged:
        return judge_removed(
            name,
            self._live.get(name, {}),
            quarantine=read_quarantine(self.store.objects, self._parent),
            state=self._state(name),
            approved=self._approved(name),
        )

    def _suite(self, name: str) -> Suite:
        if name not in self._suites:
            self._suites[name] = suite_of(self.kb, name)
        return self._suites[name]

    def _known_fields(self, name: str) -> frozenset[str]:
        """Metadata fields of the source's documents, looked up only if an expectation reads one.

        Without them, a handful of changed records that all lack an optional field would look like
        a source that lost the column.
        """
        read = {c for e in self._suite(name).rows for c in e.columns}
        if self._parent is None or read <= RECORD_COLUMNS:
            return frozenset()
        return metadata_fields(self.store.objects, self._parent, name)

    def _step(self, judged: Mapping[str, Judged]) -> Step:
        parent = self._parent
        quarantine = read_quarantine(self.store.objects, parent)
        sources: dict[str, SourceState] = dict(parent.sources) if parent else {}
        for name, found in judged.items():
            if found.refused is not None:
                quarantine = merge_quarantine(
                    quarantine,
                    source=name,
                    refused=found.refused,
                    cleared_keys=found.cleared_keys,
                )
            if found.state is None:
                sources.pop(name, None)
            else:
                sources[name] = found.state
        for name in self.options.release:
            if name in sources:
                sources[name] = replace(sources[name], hold="")
        return Step(
            parent=parent,
            changes=[found.changes for found in judged.values()],
            live=self._live,
            sources=sources,
            quarantine=quarantine,
            suites={name: found.suite for name, found in judged.items()},
            gates=tuple(gate for found in judged.values() for gate in found.gates),
            observed_at=self.observed_at,
            run_id=self.run_id,
            cause=self.options.cause,
            golden=self._golden,
        )

    def _is_new(self, step: Step) -> bool:
        """Whether anything but a watermark differs: only then is a snapshot written."""
        if any(step.changes) or self.options.new_model:
            return True
        if self._parent is not None and not self._built_as_configured(self._parent):
            return True
        if not step.quarantine.equals(read_quarantine(self.store.objects, self._parent)):
            return True
        before = self._parent.sources if self._parent else {}

        def essence(states: Mapping[str, SourceState]) -> dict[str, SourceState]:
            return {n: replace(s, watermark=None, documents=0) for n, s in states.items()}

        return essence(step.sources) != essence(before) or any(
            not gate.passed and gate.severity == "critical" for gate in step.gates
        )

    def _built_as_configured(self, parent: Manifest) -> bool:
        language = self.kb.config.index.language
        return is_current(self.kb, parent) and parent.lexical == analyzer_name(language)

    # --- the world around the run -------------------------------------------------------------

    def _state(self, name: str) -> SourceState | None:
        return self._parent.sources.get(name) if self._parent else None

    def held(self, name: str) -> bool:
        """Whether a rollback put the source on hold and this run does not release it."""
        state = self._state(name)
        return bool(state and state.hold) and name not in self.options.release

    def _approved(self, name: str) -> Mapping[str, int]:
        return {
            DELETES: self.options.approved.get(name, 0),
            **self.options.approved_changes.get(name, {}),
        }

    def _allowed(self) -> dict[str, object]:
        """What a person allowed this run, for the audit log."""
        given = {
            "approved_deletes": dict(self.options.approved),
            "approved_changes": {n: dict(k) for n, k in self.options.approved_changes.items()},
            "release": list(self.options.release),
            "new_model": self.options.new_model,
        }
        return {name: value for name, value in given.items() if value}

    def _orphans(self) -> list[str]:
        """Sources that the store holds and the configuration no longer names."""
        if self._parent is None or self.options.narrowed:
            return []
        gone = [n for n in self._parent.sources if n not in self.kb.config.sources]
        wanted = self.options.approved or not self.options.sources
        return gone if wanted else []

    def _knowledge_time(self) -> datetime:
        floor = self._parent.time if self._parent else datetime.min.replace(tzinfo=UTC)
        asked = self.options.observed_at
        if asked is None:
            return max(datetime.now(UTC), floor + timedelta(microseconds=1))
        if asked < floor:
            raise ConfigError(
                "Knowledge time never runs backwards",
                obj=f"--observed-at {format_time(asked)}",
                todo=f"the current snapshot was observed at {format_time(floor)}",
            )
        return asked

    def _look_again(self) -> None:
        """Take what is current as the parent: another run may have published before the claims."""
        if self.store.current_name() != (self._parent.name() if self._parent else None):
            self._parent = self.store.current()
            self._live = live_state(self.store.objects, self._parent)
            self.observed_at = self._knowledge_time()

    def _rebase(self, pulled: list[str]) -> None:
        """Take the new CURRENT as parent; nothing is pulled or embedded again.

        What was pulled was compared with the old state of its sources, so that must still hold.
        """
        live = self._live
        self._parent = self.store.current()
        self._live = live_state(self.store.objects, self._parent)
        moved = [n for n in pulled if live.get(n, {}) != self._live.get(n, {})]
        if moved:
            raise BusyError(
                "The source's documents were changed by another run",
                obj=", ".join(moved),
                todo="run again",
            )
        self.observed_at = self._knowledge_time()

    def _report(
        self,
        pulls: list[Pulled],
        judged: Mapping[str, Judged],
        step: Step,
        *,
        draft: Draft | None = None,
        name: str = "",
        published: bool = False,
        embedded: int = 0,
        dry_run: bool = False,
    ) -> RefreshReport:
        current = draft.manifest if draft and published else self._parent
        return RefreshReport(
            run_id=self.run_id,
            observed_at=format_time(self.observed_at),
            snapshot=name if published else (self._parent.name() if self._parent else ""),
            published=published,
            dry_run=dry_run,
            candidate="" if published else name,
            embedded=embedded or self._embedded,
            texts=current.counts.get("texts", 0) if current else 0,
            documents=current.counts.get("documents", 0) if current else 0,
            bytes_written=self.store.objects.bytes_written,
            seconds=round(time.monotonic() - self._started, 3),
            sources=source_reports(pulls, judged, current),
            gates=draft.manifest.gates if draft else step.gates,
        )


def refresh(
    kb: KnowledgeBase,
    options: RefreshOptions | None = None,
    *,
    dry_run: bool = False,
    encoding: EncodingOpener = open_encoding,
    sources: Mapping[str, Source] | None = None,
    progress: Progress = silent,
) -> RefreshReport:
    """Bring a knowledge base up to date, or say what that would do.

    Args:
        kb: the knowledge base.
        options: what to refresh; everything when None.
        dry_run: pull and decide, but write nothing and publish nothing.
        encoding: how texts become vectors; tests hand in a twin that needs no model.
        sources: opened sources to use instead of those the configuration describes.
        progress: told about stages.

    Returns:
        what happened; its `exit_code` says whether a person must look.

    Raises:
        HeadwaterError: nothing was published, and the published snapshot is untouched.
    """
    run = RefreshRun(
        kb, options or RefreshOptions(), encoding=encoding, sources=sources, progress=progress
    )
    with run.claim() as busy:
        pulls = [
            Pulled(name, error=busy[name])
            if name in busy
            else Pulled(name)
            if run.held(name)
            else run.pull(name)
            for name in run.names
        ]
        return run.finish(pulls, dry_run=dry_run)
