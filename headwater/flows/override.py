"""Publishing a candidate that failed a gate: a person's decision, written down."""

from __future__ import annotations

from datetime import UTC, datetime

from headwater.storage.audit import actor
from headwater.storage.manifest import format_time
from headwater.storage.runlog import RunLog, SourceRun
from headwater.storage.store import Store, new_run_id


def publish_candidate(store: Store, candidate: str, *, override: bool) -> None:
    """Publish `candidate`; the audit log and the run log record who overrode which gate.

    Raises:
        NotFoundError: no such candidate.
        PublicationStoppedError: a gate failed and `override` is not set.
        ParentMovedError: something else was published since; refresh again.
    """
    manifest = store.manifest(candidate)
    store.publish(candidate, override=override)
    failed = ", ".join(gate.name for gate in manifest.failed_gates())
    now = format_time(datetime.now(UTC))
    log, run_id = RunLog(store.root), new_run_id()
    for name, state in manifest.sources.items():
        log.append(
            SourceRun(
                run_id=run_id,
                source=name,
                outcome="overridden",
                observed_at=manifest.observed_at,
                finished_at=now,
                live=state.documents,
                snapshot=candidate,
                note=f"published by {actor()} although these gates failed: {failed}",
            )
        )
