"""What was erased stays out, whatever the sources list: under its key, and as its text."""

from __future__ import annotations

from dataclasses import replace

from headwater.flows.intake import Intake
from headwater.storage.redactions import Redactions


def without_erased(intake: Intake, redactions: Redactions) -> Intake:
    """The intake without what was erased; its note says how many records that were.

    A text that only erased documents held is kept out under other keys too: a source that renames
    its files must not bring it back. Only records that differ from the store are looked at; what is
    live was let in before.
    """
    if not redactions:
        return intake
    source = intake.source
    records = tuple(
        r for r in intake.records if not redactions.keeps_out(source, r.key, r.content_hash)
    )
    refused = tuple(
        r for r in intake.refused if not redactions.keeps_out(source, r.key, r.content_hash)
    )
    kept_out = len(intake.records) - len(records) + len(intake.refused) - len(refused)
    if not kept_out:
        return intake
    said = f"{kept_out} record{'s' * (kept_out > 1)} kept out: erased"
    note = "; ".join(part for part in (intake.end.note, said) if part)
    return replace(
        intake,
        records=records,
        refused=refused,
        duplicates=frozenset(k for k in intake.duplicates if not redactions.keeps_out(source, k)),
        end=replace(intake.end, note=note),
    )
