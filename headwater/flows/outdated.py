"""What a backfill must not do: put a record that was read earlier over what is known since."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pyarrow as pa

from headwater.flows.intake import Intake
from headwater.flows.past import Past
from headwater.storage.changes import Incoming, LiveDocument
from headwater.storage.lookup import rows_with
from headwater.storage.tables import CLOSURES


@dataclass(frozen=True)
class Known:
    """What the store knows of a key.

    Attributes:
        seq: the snapshot that its newest version began or ended with.
        source_ts: the source's own time of the live version; None without one.
        live: whether there is a live version.
    """

    seq: int
    source_ts: datetime | None = None
    live: bool = True


@dataclass(frozen=True)
class Reading:
    """When a window was read, and what happened at its source since.

    Attributes:
        since_seq: the snapshot that was current when the reading began.
        own: snapshots of this same backfill, which are no news.
        listed: another run has since listed all of the source.
        seen: another run has since read some of the source.
    """

    since_seq: int
    own: AbstractSet[int] = frozenset()
    listed: bool = False
    seen: bool = False


NEWER, OBSERVED = "newer by source time", "observed since"


def outdated(when: datetime | None, known: Known | None, reading: Reading) -> str:
    """Why a record that differs from the store is older than what is known; empty when it is not.

    A record without a newer word against it wins: whoever asks for a backfill wants it.

    Args:
        when: the source's own time of the record.
        known: what the store knows of its key; None when it never held it.
        reading: how its window was read.
    """
    if reading.listed:
        # Whatever that run found or did not find under this key, it found it later.
        return OBSERVED
    if known is None:
        return ""
    if known.seq > reading.since_seq and known.seq not in reading.own:
        return OBSERVED
    if not known.live:
        return ""
    if known.source_ts is not None and when is not None and when < known.source_ts:
        return NEWER
    # It may have been read again and found to be what it was: that leaves no version behind.
    return OBSERVED if reading.seen else ""


def without_outdated(
    intake: Intake, live: Mapping[str, LiveDocument], past: Past, reading: Reading
) -> tuple[Intake, dict[str, str]]:
    """The intake of a window without what is older than the store's; and those keys, with why."""
    differing = [r for r in intake.records if not r.same_as(live.get(r.key))]
    keys = {record.key for record in differing} | intake.gone
    known = known_of(keys, intake.source, live, past)
    stale = {}
    for record in differing:
        if why := outdated(_time(record), known.get(record.key), reading):
            stale[record.key] = why
    for key in intake.gone:
        if why := outdated(None, known.get(key), reading):
            stale[key] = why
    if not stale:
        return intake, stale
    return replace(
        intake,
        records=tuple(r for r in intake.records if r.key not in stale),
        gone=frozenset(key for key in intake.gone if key not in stale),
    ), stale


def known_of(
    keys: Collection[str], source: str, live: Mapping[str, LiveDocument], past: Past
) -> dict[str, Known]:
    """What the store knows of some keys of a source, those that are gone included."""
    held = {key: document for key in keys if (document := live.get(key)) is not None}
    rows = past.states([document.version_id for document in held.values()]).to_pylist()
    states = {row["version_id"]: row for row in rows}
    known = {}
    for key, document in held.items():
        row = states[document.version_id]
        known[key] = Known(row["seq"], row["source_ts"])
    for key, seq in _ended(set(keys) - held.keys(), source, past).items():
        known[key] = Known(seq, live=False)
    return known


_ENDS = pa.schema([CLOSURES.field(name) for name in ("key", "source", "seq")])


def _ended(keys: AbstractSet[str], source: str, past: Past) -> dict[str, int]:
    """Key -> the snapshot that its last version ended with, of keys that had one."""
    if past.parent is None or not keys:
        return {}
    wanted = pa.array(sorted(keys), pa.string())
    rows = rows_with(past.objects, past.parent.closures, "key", wanted, schema=_ENDS)
    ended: dict[str, int] = {}
    for row in rows.to_pylist():
        if row["source"] == source:
            ended[row["key"]] = max(row["seq"], ended.get(row["key"], 0))
    return ended


def _time(record: Incoming) -> datetime | None:
    when = record.source_ts
    return when.replace(tzinfo=UTC) if when is not None and when.tzinfo is None else when
