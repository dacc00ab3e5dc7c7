"""What waits for a person at a source, and the ceilings that an approval of it gives."""

from __future__ import annotations

from collections.abc import Collection

from headwater.errors import ConfigError, NotFoundError
from headwater.flows.held import refusals
from headwater.flows.withholding import DELETES, KINDS, RULES
from headwater.storage.runlog import RunLog
from headwater.storage.store import Store


def waiting(store: Store, source: str) -> dict[str, int]:
    """Kind -> how many deletions or changes of the source wait; kinds of which none does are left out.

    Deletions are counted by the source's last run, changes by the current quarantine.
    """
    run = RunLog(store.root).last([source]).get(source)
    found = {DELETES: run.withheld if run else 0}
    current = store.current()
    rows = refusals(store.objects, current, source=source) if current else []
    for kind, rule in RULES.items():
        found[kind] = sum(row["rule"] == rule for row in rows)
    return {kind: count for kind, count in found.items() if count}


def plan_approval(
    store: Store, source: str, *, kinds: Collection[str] = (), at_most: int | None = None
) -> dict[str, int]:
    """The ceiling of each kind that is approved: what waits now, so that more waits again.

    Args:
        store: where the source's documents are.
        source: its name.
        kinds: of `KINDS`; all that wait when empty.
        at_most: a lower ceiling, for each kind.

    Raises:
        ConfigError: the ceiling is below zero.
        NotFoundError: nothing of these kinds waits.
    """
    if at_most is not None and at_most < 0:
        raise ConfigError("A ceiling is zero or more", obj=f"--at-most {at_most}")
    found = waiting(store, source)
    chosen = {k: n for k, n in found.items() if k in (kinds or KINDS)}
    if not chosen:
        only = tuple(kinds) == (DELETES,)
        raise NotFoundError(
            "No deletions of this source wait for approval"
            if only
            else "Nothing of this source waits for approval",
            obj=source,
            todo=f"waiting: {', '.join(found)}" if found else "headwater status",
        )
    return {k: n if at_most is None else min(n, at_most) for k, n in chosen.items()}
