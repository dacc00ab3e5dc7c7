"""Which snapshots stay: all of late, then one an hour, a day, a month. Pure; writes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from headwater.storage.manifest import Manifest
from headwater.storage.objects import ObjectEntry

if TYPE_CHECKING:
    from headwater.config import RetentionConfig

_ALWAYS = 2
"""The newest snapshots that never expire: CURRENT, and the one a bad publication is undone to."""


@dataclass(frozen=True)
class SnapshotPoint:
    """A published snapshot as retention sees it: `observed_at` is aware, `seq` rises with it."""

    name: str
    seq: int
    observed_at: datetime


@dataclass(frozen=True)
class RetentionPlan:
    """The names of the snapshots that stay and of those that go, each oldest first."""

    kept: tuple[str, ...]
    expired: tuple[str, ...]


def plan_retention(
    snapshots: Sequence[SnapshotPoint],
    *,
    now: datetime,
    config: RetentionConfig,
    keep: Collection[str] = (),
) -> RetentionPlan:
    """Decide which snapshots stay.

    A snapshot stays when it is CURRENT or its parent, when `keep` names it, when it is younger
    than `all_for`, or when it is the newest of its hour, day or month (UTC, by knowledge time) and
    younger than that tier. The newest of a month is the newest of its day and hour, so what stays
    at one look stays at the next until a whole tier is over.

    Args:
        snapshots: published ones that have not expired yet, in any order.
        now: an aware time.
        config: how long each tier lasts.
        keep: tags, pins, the lineage of released datasets.
    """
    ordered = sorted(snapshots, key=lambda point: point.seq)
    newest = {(tier, _bucket(p.observed_at, tier)): p.name for p in ordered for tier in _TIERS}
    always = {point.name for point in ordered[-_ALWAYS:]} | set(keep)

    def stays(point: SnapshotPoint) -> bool:
        if point.name in always:
            return True
        age = now - point.observed_at
        return age <= config.all_for or any(
            _within(age, getattr(config, limit))
            and newest[tier, _bucket(point.observed_at, tier)] == point.name
            for tier, limit in _TIERS.items()
        )

    return RetentionPlan(
        tuple(p.name for p in ordered if stays(p)), tuple(p.name for p in ordered if not stays(p))
    )


def evidence_objects(chain: Sequence[Manifest]) -> list[ObjectEntry]:
    """What datasets still ask of snapshots that have expired.

    Whether a document has settled is read from every quarantine there was, and from the history
    that a rollback left behind.

    Args:
        chain: the published snapshots, newest first, expired ones included.
    """
    found = [m.quarantine for m in chain if m.quarantine]
    for rollback, left in pairwise(chain):
        if rollback.cause == "rollback":
            found += [*left.versions, *left.closures, *left.chunks]
    return found


def needed_objects(kept: Iterable[Manifest], chain: Sequence[Manifest]) -> dict[str, ObjectEntry]:
    """Name below `objects/` -> entry, of every object that must be there.

    Args:
        kept: the snapshots and candidates that can be opened.
        chain: the published snapshots, newest first, expired ones included.
    """
    entries = [entry for manifest in kept for entry in manifest.objects()]
    return {entry.name: entry for entry in (*entries, *evidence_objects(chain))}


_TIERS = {"%Y-%m-%dT%H": "hourly_for", "%Y-%m-%d": "daily_for", "%Y-%m": "monthly_for"}
"""The name of a bucket, and how long there is one snapshot for each."""


def _bucket(when: datetime, tier: str) -> str:
    return when.astimezone(UTC).strftime(tier)


def _within(age: timedelta, limit: timedelta | None) -> bool:
    return limit is None or age <= limit
