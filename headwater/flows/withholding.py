"""Changes that look like damage at the source: withheld until a person approves, never dropped.

Two kinds of damage pass every check of a single record: documents that were replaced by stubs, and
a field that vanished from all records at once. Each is a valid record; together they are not.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from headwater.config import ContentShrink, SchemaDrift, SourceConfig
from headwater.flows.intake import Refused, record_fields
from headwater.flows.past import Past
from headwater.storage.changes import Changes, Incoming, LiveDocument
from headwater.storage.manifest import Gate
from headwater.validation.gates import (
    ceiling,
    content_shrink,
    is_stub,
    lost_fields,
    schema_drift,
)
from headwater.validation.verdicts import Reason

DELETES, SHRINK, SCHEMA = "deletes", "shrink", "schema"
KINDS = (DELETES, SHRINK, SCHEMA)
"""What a person can approve."""

RULES: Mapping[str, str] = {SHRINK: "content-shrink", SCHEMA: "schema-drift"}
"""Kind -> the rule that its records have in quarantine, and its gate's name."""

_SAMPLE = 100
_LABEL = re.compile(r"^([^\W\d_][^:\n]{0,60}):(?= |$)", re.MULTILINE)


@dataclass(frozen=True)
class Withheld:
    """What is left of an extract's changes.

    Attributes:
        changes: those that may go on.
        refused: the records that wait, for the quarantine.
        gates: one warning for each kind that waits.
        note: what was seen, in one line; empty when nothing was.
    """

    changes: Changes
    refused: tuple[Refused, ...] = ()
    gates: tuple[Gate, ...] = ()
    note: str = ""


def withhold(
    config: SourceConfig,
    changes: Changes,
    live: Mapping[str, LiveDocument],
    past: Past,
    *,
    size: int,
    approved: Mapping[str, int],
) -> Withheld:
    """Keep back changes that look like damage; everything else goes on.

    Args:
        config: the thresholds of the source.
        changes: of the extract, deletions aside.
        live: what the store holds of the source.
        past: what the store knows besides; asked only when enough changed to matter.
        size: records the extract speaks for: all of the source, or those that it listed.
        approved: kind -> how many a person approved; a ceiling.
    """
    left, refused, gates, notes = changes, list[Refused](), list[Gate](), list[str]()
    for kind, judge in ((SHRINK, _shrunk), (SCHEMA, _drifted)):
        found, allowed, reason = judge(
            config, left, live, past, size=size, approved=approved.get(kind, 0)
        )
        if not found:
            continue
        # A stub has lost its fields too: what was judged once needs no second approval.
        left = _without(left, [one.key for one in found])
        if not allowed:
            reason = f"{reason}; if that is right: headwater approve {changes.source}"
            refused += found
            gates.append(Gate(RULES[kind], False, "warning", reason, changes.source))
        notes.append(reason)
    going_on = _without(changes, [one.key for one in refused]) if refused else changes
    return Withheld(going_on, tuple(refused), tuple(gates), "; ".join(notes))


_Judgement = tuple[list[Refused], bool, str]
"""What was found, whether it is allowed all the same, and why."""


def _shrunk(
    config: SourceConfig,
    changes: Changes,
    live: Mapping[str, LiveDocument],
    past: Past,
    *,
    size: int,
    approved: int,
) -> _Judgement:
    limits: ContentShrink = config.content_shrink
    # Measured by the source even when the extract is partial, as deletions are.
    limit = ceiling(len(live), max_count=limits.max_count, max_share=limits.max_share)
    if len(changes.changed) <= limit:
        return [], True, ""
    before = past.lengths([live[record.key].content_hash for record in changes.changed])
    same = _one_text(changes.changed, live, more_than=limits.max_count)
    reasons: dict[str, str] = {}
    for record in changes.changed:
        was, now = before[live[record.key].content_hash], len(record.text or "")
        if is_stub(was, now, below=limits.below, min_chars=limits.min_chars):
            reasons[record.key] = f"it shrank from {was:,} to {now:,} characters"
        elif record.content_hash in same:
            reasons[record.key] = "it became one text with many others"
    if len(reasons) <= limit:
        return [], True, ""
    first = next(iter(reasons))
    decision = content_shrink(
        live=len(live),
        shrunk=len(reasons),
        example=f"{first}: {reasons[first]}",
        max_count=limits.max_count,
        max_share=limits.max_share,
        approved=approved,
    )
    refused = [_refused(r, SHRINK, reasons[r.key]) for r in changes.changed if r.key in reasons]
    return refused, decision.allowed, decision.reason


def _one_text(
    changed: Sequence[Incoming], live: Mapping[str, LiveDocument], *, more_than: int
) -> set[bytes]:
    """Contents that many documents got which had different ones: a notice in the place of each."""
    often = {h for h, n in Counter(r.content_hash for r in changed).items() if n > more_than}
    if not often:
        return often
    former: dict[bytes, set[bytes]] = {}
    for record in changed:
        if record.content_hash in often:
            former.setdefault(record.content_hash, set()).add(live[record.key].content_hash)
    return {content for content, were in former.items() if len(were) > more_than}


def _drifted(
    config: SourceConfig,
    changes: Changes,
    live: Mapping[str, LiveDocument],
    past: Past,
    *,
    size: int,
    approved: int,
) -> _Judgement:
    limits: SchemaDrift = config.schema_drift
    limit = ceiling(size, max_count=limits.max_count, max_share=limits.max_share)
    replaced = [*changes.changed, *changes.touched]
    if len(replaced) <= limit:
        return [], True, ""
    pairs = _sampled(replaced, live, past)
    lost = lost_fields(pairs, changed=len(replaced), limit=limit)
    if not lost:
        return [], True, ""
    gone, expected = {f.name for f in lost}, {f.name for f in lost if f.everywhere}
    concerned = {r.key for r in replaced if gone - fields_of(r.text, r.metadata)}
    # A new record of the new shape replaces nothing, but it is no more believed than the others.
    concerned |= {r.key for r in changes.added if expected - fields_of(r.text, r.metadata)}
    gained = Counter(name for before, after in pairs for name in after - before)
    decision = schema_drift(
        concerned=len(concerned),
        lost=lost,
        gained=sorted(name for name, count in gained.items() if count >= 0.9 * len(pairs)),
        approved=approved,
    )
    why = f"it lacks {', '.join(repr(f.name) for f in lost[:3])}, as all of them do now"
    waiting = [r for r in (*replaced, *changes.added) if r.key in concerned]
    refused = [_refused(record, SCHEMA, why) for record in waiting]
    return refused, decision.allowed, decision.reason


def _sampled(
    records: Sequence[Incoming], live: Mapping[str, LiveDocument], past: Past
) -> list[tuple[frozenset[str], frozenset[str]]]:
    """The fields before and after of records evenly spread over the keys: the same every time."""
    ordered = sorted(records, key=lambda record: record.key)
    step = max(1, len(ordered) // _SAMPLE)
    sample = ordered[::step][:_SAMPLE]
    was = [live[record.key] for record in sample]
    texts = past.texts([document.content_hash for document in was])
    metadata = past.metadata([document.version_id for document in was])
    return [
        (
            fields_of(texts.get(old.content_hash), metadata.get(old.version_id, "{}")),
            fields_of(new.text, new.metadata),
        )
        for new, old in zip(sample, was, strict=True)
    ]


def fields_of(text: str | None, metadata: str) -> frozenset[str]:
    """The names of the fields of a record: of its metadata, and of lines `Name: value`.

    Prose has such lines too, but no two documents the same; only what nearly all have counts.
    """
    return frozenset((*json.loads(metadata or "{}"), *_LABEL.findall(text or "")))


def _refused(record: Incoming, kind: str, why: str) -> Refused:
    return Refused(record.key, record_fields(record), record.content_hash, Reason(RULES[kind], why))


def _without(changes: Changes, keys: Iterable[str]) -> Changes:
    out = set(keys)
    return replace(
        changes,
        added=tuple(r for r in changes.added if r.key not in out),
        changed=tuple(r for r in changes.changed if r.key not in out),
        touched=tuple(r for r in changes.touched if r.key not in out),
    )
