"""From an intake to a decision: what is believed, what is held back, what may go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from headwater.config import DeletionGuard, KnowledgeBase
from headwater.flows.intake import Intake, Refused, record_fields
from headwater.flows.past import Past
from headwater.flows.sources.protocol import RECORD_SCHEMA
from headwater.flows.withholding import DELETES, RULES, withhold
from headwater.storage.changes import Changes, Incoming, LiveDocument, plan_changes
from headwater.storage.manifest import Gate, SourceState
from headwater.validation.contracts import EMPTY_SUITE, Suite, load_suite
from headwater.validation.gates import computable_contract, deletion_guard
from headwater.validation.quarantine import QUARANTINE_SCHEMA, refused_table
from headwater.validation.rows import check_batches
from headwater.validation.verdicts import CheckResult, Reason, RowVerdict

_BATCH = 10_000


@dataclass(frozen=True)
class Judged:
    """What is to be done with one source.

    Attributes:
        changes: what is believed, with the deletions that are allowed.
        state: the source's new state; None when it is to be forgotten.
        suite: what its records were judged by.
        refused: rows for the quarantine; None when the quarantine is left as it is.
        cleared_keys: keys that leave the quarantine unless they are refused again.
        results: how the row expectations fared.
        gates: results that may stop the publication.
        withheld: deletions that wait for a person.
        held: changes that wait for a person; they are in the quarantine.
        note: why, in one line.
    """

    changes: Changes
    state: SourceState | None
    suite: Suite
    refused: pa.Table | None = None
    cleared_keys: frozenset[str] = frozenset()
    results: tuple[CheckResult, ...] = ()
    gates: tuple[Gate, ...] = ()
    withheld: int = 0
    held: int = 0
    note: str = ""


def suite_of(kb: KnowledgeBase, name: str) -> Suite:
    """The expectations of one source.

    Raises:
        ConfigError: the file is wrong, or the configuration names one that does not exist.
    """
    named = kb.source(name).suite
    return load_suite(kb.root / (named or Path("suites") / f"{name}.json"))


def expected_state(kb: KnowledgeBase, name: str, suite: Suite) -> SourceState:
    """What the configuration says of a source, before any of its records."""
    config = kb.source(name)
    return SourceState(
        kind=config.kind,
        suite_sha256=suite.sha256,
        labels=tuple(sorted(config.labels)),
        licence=config.licence,
    )


def judge(
    kb: KnowledgeBase,
    intake: Intake,
    *,
    suite: Suite,
    known_fields: Iterable[str],
    live: Mapping[str, LiveDocument],
    quarantine: pa.Table,
    state: SourceState | None,
    past: Past,
    approved: Mapping[str, int],
    observed_at: datetime,
    run_id: str,
) -> Judged:
    """Decide what of an intake is believed.

    Args:
        kb: the knowledge base.
        intake: what was pulled.
        suite: the source's expectations.
        known_fields: metadata fields that its documents are known to have.
        live: what the store holds of the source.
        quarantine: all that was held back so far.
        state: the source's state so far; None for a new one.
        past: what the store knows besides `live`, for the gates on changes.
        approved: kind of change -> how many a person allowed; a ceiling.
        observed_at: knowledge time.
        run_id: of the run.
    """
    refused = [*intake.refused, *_duplicates(intake)]
    standing, fresh = _standing(intake, quarantine, suite)
    verdict = RowVerdict()
    if fresh and suite.rows:
        verdict = check_batches(suite, _batches(fresh), known_fields=known_fields)
    for row in verdict.refused:
        critical = [r for r in verdict.failures[row] if r.severity == "critical"]
        refused += [
            Refused(fresh[row].key, record_fields(fresh[row]), fresh[row].content_hash, r)
            for r in critical
        ]
    rejected = {fresh[row].key for row in verdict.refused}
    fresh = [record for record in fresh if record.key not in rejected]
    missing = intake.missing(live)
    changes = plan_changes(intake.source, live, fresh, missing=missing)
    config = kb.source(intake.source)
    changes, withheld, note = _guarded(
        config.deletion_guard,
        intake,
        changes,
        live=len(live),
        approved=approved.get(DELETES, 0),
    )
    size = len(live) if intake.end.complete else intake.listed
    doubted = withhold(config, changes, live, past, size=size, approved=approved)
    refused += doubted.refused
    rows = refused_table(
        pa.Table.from_pylist([{**r.payload, "key": r.key} for r in refused], schema=RECORD_SCHEMA),
        {row: (r.reason,) for row, r in enumerate(refused)},
        source=intake.source,
        content_hashes=[r.content_hash.hex() if r.content_hash else None for r in refused],
        since=observed_at,
        run_id=run_id,
        suite_sha256=suite.sha256,
    )
    broken = (computable_contract(verdict.broken, source=intake.source),) if verdict.broken else ()
    return Judged(
        changes=doubted.changes,
        state=_next_state(kb, intake, suite, state, waits=bool(withheld or doubted.refused)),
        suite=suite,
        refused=pa.concat_tables([rows, standing]),
        cleared_keys=_cleared(intake, quarantine),
        results=verdict.results,
        gates=(*broken, *doubted.gates),
        withheld=withheld,
        held=len(doubted.refused),
        note="; ".join(part for part in (note, doubted.note) if part),
    )


def judge_removed(
    name: str,
    live: Mapping[str, LiveDocument],
    *,
    quarantine: pa.Table,
    state: SourceState | None,
    approved: Mapping[str, int],
) -> Judged:
    """Decide about a source that the configuration no longer names: gone, once a person says so."""
    removed = tuple(sorted(live))
    if len(removed) <= approved.get(DELETES, 0):
        return Judged(
            Changes(name, removed=removed),
            None,
            EMPTY_SUITE,
            refused=QUARANTINE_SCHEMA.empty_table(),
            cleared_keys=_keys(quarantine, name),
            note="no longer configured",
        )
    return Judged(
        Changes(name),
        state,
        EMPTY_SUITE,
        withheld=len(removed),
        note="no longer in headwater.yaml; its documents are still served",
    )


def _next_state(
    kb: KnowledgeBase, intake: Intake, suite: Suite, state: SourceState | None, *, waits: bool
) -> SourceState:
    """What the next snapshot remembers of the source."""
    expected = expected_state(kb, intake.source, suite)
    if state is None:
        return replace(expected, watermark=intake.end.watermark)
    if not intake.end.complete:
        # New expectations or labels hold for a source only once all of its records met them.
        expected = replace(expected, suite_sha256=state.suite_sha256, labels=state.labels)
    # While something waits, the source must list it again: a "not modified" would confirm what it
    # no longer holds, and a cursor would pass over what was not taken in.
    watermark = state.watermark if waits else intake.end.watermark
    return replace(expected, watermark=watermark, hold=state.hold)


def _guarded(
    guard: DeletionGuard, intake: Intake, changes: Changes, *, live: int, approved: int
) -> tuple[Changes, int, str]:
    """The changes with deletions withheld if too much would go."""
    decision = deletion_guard(
        live=live,
        missing=len(changes.removed),
        extract_empty=intake.end.complete and not intake.end.unchanged and not intake.seen,
        max_count=guard.max_count,
        max_share=guard.max_share,
        approved=approved,
    )
    if decision.allowed:
        return changes, 0, ""
    return changes.keep_removed(), len(changes.removed), decision.reason


def _duplicates(intake: Intake) -> Iterable[Refused]:
    reason = Reason("key-duplicate", "the extract holds more than one record under this key")
    for key in sorted(intake.duplicates):
        yield Refused(key, {"key": key}, None, reason)


def _standing(
    intake: Intake, quarantine: pa.Table, suite: Suite
) -> tuple[pa.Table, list[Incoming]]:
    """Split off records that were refused before by the same suite and have not changed since.

    Judging them again would import Great Expectations at every refresh to learn the same. What
    waits for an approval is judged each time: the approval may have come.
    """
    rows = quarantine.to_pylist()
    gates = frozenset(RULES.values())
    known = {
        (row["key"], row["content_hash"])
        for row in rows
        if row["source"] == intake.source
        and row["suite_sha256"] == suite.sha256
        and row["content_hash"] is not None
        and row["rule"] not in gates
    }
    same = {r.key for r in intake.records if (r.key, r.content_hash.hex()) in known}
    keep = [row["source"] == intake.source and row["key"] in same for row in rows]
    standing = quarantine.filter(pa.array(keep, pa.bool_()))
    return standing, [r for r in intake.records if r.key not in same]


def _cleared(intake: Intake, quarantine: pa.Table) -> frozenset[str]:
    """Keys whose refusals this extract speaks for: all of the source's, or those it listed."""
    if intake.end.unchanged:
        return frozenset()
    held = _keys(quarantine, intake.source)
    if intake.end.complete:
        return held
    return frozenset(key for key in held if key in intake.seen or key in intake.gone)


def _keys(quarantine: pa.Table, source: str) -> frozenset[str]:
    pairs = zip(quarantine["source"].to_pylist(), quarantine["key"].to_pylist(), strict=True)
    return frozenset(key for name, key in pairs if name == source)


def _batches(records: list[Incoming]) -> Iterable[pa.Table]:
    for start in range(0, len(records), _BATCH):
        part = records[start : start + _BATCH]
        yield pa.Table.from_pylist([record_fields(record) for record in part], schema=RECORD_SCHEMA)
