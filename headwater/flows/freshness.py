"""How fresh is each source, measured against its objective?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from headwater.config import KnowledgeBase
from headwater.storage.manifest import Manifest
from headwater.storage.runlog import RunLog
from headwater.storage.store import Store
from headwater.storage.tables import open_tables


@dataclass(frozen=True)
class SourceFreshness:
    """One source, now.

    Attributes:
        last_verified: when it last confirmed all of its documents; None when it never did.
        last_change: when a document of it last began or ended.
        objective: `last_verified` may be this long ago.
        fresh: whether it is not.
        quarantined: records held back; their last good version is served.
        withheld: deletions that wait for `approve-deletes`.
        hold: why refreshes leave the source alone; empty when they do not.
        last_outcome, last_note: of the newest run.
    """

    source: str
    documents: int
    last_verified: datetime | None
    last_change: datetime | None
    objective: timedelta
    fresh: bool
    quarantined: int = 0
    withheld: int = 0
    hold: str = ""
    last_outcome: str = ""
    last_note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`; times in RFC 3339, durations in seconds."""
        return {
            **self.__dict__,
            "last_verified": self.last_verified.isoformat() if self.last_verified else None,
            "last_change": self.last_change.isoformat() if self.last_change else None,
            "objective": self.objective.total_seconds(),
        }


def freshness(
    kb: KnowledgeBase, store: Store, *, now: datetime | None = None
) -> list[SourceFreshness]:
    """The freshness of every configured source, and of those the store still holds.

    Args:
        kb: the knowledge base.
        store: its store.
        now: measure against this time; the wall clock when None.
    """
    manifest = store.current()
    when = now or datetime.now(UTC)
    held = dict(manifest.sources) if manifest else {}
    names = [*kb.config.sources, *(n for n in held if n not in kb.config.sources)]
    log = RunLog(store.root)
    verified, last = log.last_verified(names), log.last(names)
    changed, refused = _last_changes(store, manifest), _quarantined(store, manifest)
    found = []
    for name in names:
        config = kb.config.sources.get(name)
        objective = config.freshness if config else timedelta(days=1)
        run, seen = last.get(name), verified.get(name)
        found.append(
            SourceFreshness(
                name,
                held[name].documents if name in held else 0,
                seen,
                changed.get(name),
                objective,
                fresh=seen is not None and when - seen <= objective,
                quarantined=refused.get(name, 0),
                withheld=run.withheld if run else 0,
                hold=held[name].hold if name in held else "",
                last_outcome=run.outcome if run else "never",
                last_note=run.note if run else "",
            )
        )
    return found


def _last_changes(store: Store, manifest: Manifest | None) -> dict[str, datetime]:
    if manifest is None:
        return {}
    with open_tables(store.objects, manifest) as connection:
        rows = connection.execute(
            "select source, max(known_at) from (select source, known_at from versions "
            "union all select source, known_at from closures) group by 1"
        ).fetchall()
    return {source: when.astimezone(UTC) for source, when in rows}


def _quarantined(store: Store, manifest: Manifest | None) -> dict[str, int]:
    if manifest is None or manifest.quarantine is None:
        return {}
    column = store.objects.read_table(manifest.quarantine, ["source"])["source"]
    return {pair["values"]: pair["counts"] for pair in column.value_counts().to_pylist()}
