"""The Prefect flows: the same functions as the command line, with states, retries and artifacts.

One task per source pull, one for the rest of the refresh: Prefect costs about 40 ms a task, so
there is never a task per record. Prefect walks through the containers among a task's arguments,
therefore tasks are handed plain objects, and what they pull stays out of their results.

Import this module after `headwater.flows.prefect_environment.prepare`.
"""

# mypy does not follow Prefect here (pyproject.toml), so its decorators look untyped.
# mypy: allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import AwareDatetime

from headwater.config import Duration, KnowledgeBase, load
from headwater.errors import (
    BusyError,
    HeadwaterError,
    PublicationStoppedError,
    SourceError,
    SourceUnreachableError,
)
from headwater.flows.artifacts import publish_artifacts
from headwater.flows.backfill import backfill as backfill_windows
from headwater.flows.backfill import plan_windows
from headwater.flows.emit import emit_datasets as emit_now
from headwater.flows.outcome import Pulled
from headwater.flows.refresh import RefreshOptions, RefreshRun
from headwater.flows.report import RefreshReport
from headwater.flows.sources.protocol import Window

_PULLS_AT_ONCE = 4
_RETRIES = {
    "retries": 3,
    # A source's own retries bridge seconds; these bridge a restart of what it talks to.
    "retry_delay_seconds": [5, 20, 60],
    "retry_jitter_factor": 0.5,
}
_PLAIN = {"cache_policy": NO_CACHE, "persist_result": False}


def _is_unreachable(_task: Any, _run: Any, state: Any) -> bool:
    return isinstance(state.data, SourceUnreachableError)


def _failed(error: HeadwaterError) -> Any:
    names = {4: "Stopped", 7: "Busy"}
    return Failed(name=names.get(error.exit_code, "Failed"), message=str(error), data=error)


def settled(work: Callable[[], Any]) -> Any:
    """The state `work` returns, or the state that says why it could not: never a traceback."""
    try:
        return work()
    except HeadwaterError as error:
        return _failed(error)


class Pulls:
    """A run and what it pulled so far.

    No dataclass and no mapping: Prefect would look for futures in every record.
    """

    def __init__(self, run: RefreshRun) -> None:
        self.run = run
        self.done: dict[str, Pulled] = {}

    def pull(self, name: str) -> None:
        """Pull one source. Its outcome counts even when this raises, unless a retry replaces it.

        Raises:
            HeadwaterError: why there is nothing; also stored as the outcome, except when the
                configuration says `on_source_error: stop`.
        """
        self.done.pop(name, None)
        pulled = self.run.pull(name)
        self.done[name] = pulled
        if pulled.error is not None:
            raise pulled.error

    def in_order(self) -> list[Pulled]:
        """The outcomes in the order of the configuration."""
        return [self.done[name] for name in self.run.names]


@task(
    name="pull",
    task_run_name="pull-{name}",
    retry_condition_fn=_is_unreachable,
    **_RETRIES,
    **_PLAIN,
)
def pull_source(pulls: Pulls, name: str) -> Any:
    """Pull one source to its end; retried while it cannot be reached."""
    return settled(lambda: pulls.pull(name))


@task(name="build-and-publish", retries=0, **_PLAIN)
def finish(pulls: Pulls) -> Any:
    """Judge, build and publish. Never retried: a publication is one step that happened or not."""
    return settled(lambda: pulls.run.finish(pulls.in_order()))


def refresh_in_tasks(run: RefreshRun) -> RefreshReport:
    """Carry out `run` inside a flow: claim, pull concurrently, finish, leave artifacts.

    Raises:
        HeadwaterError: nothing was published.
    """
    pulls = Pulls(run)
    with run.claim() as busy:
        futures = {}
        for name in run.names:
            if name in busy:
                pulls.done[name] = Pulled(name, error=busy[name])
            elif run.held(name):
                pulls.done[name] = Pulled(name)
            else:
                futures[name] = pull_source.submit(pulls, name)
        for future in futures.values():
            future.wait()
        for name, future in futures.items():
            if name not in pulls.done:
                future.result()
        report: RefreshReport = finish(pulls, return_state=True).result()
    publish_artifacts(run.kb, report)
    return report


def state_of(reports: Iterable[RefreshReport]) -> Any:
    """The state a flow run ends in.

    `Completed`; `Partial` or `Withheld` (both of type completed) when something was published and a
    person should look; `Stopped`, `Busy` or `Failed` when nothing could be.
    """
    reports = list(reports)
    worst = max(reports, key=lambda report: report.exit_code)
    code, message = worst.exit_code, summary(worst)
    data = [report.as_dict() for report in reports]
    if code == 0:
        return Completed(message=message, data=data)
    if code == 3:
        return Completed(name="Partial", message=message, data=data)
    if code == 4 and not worst.candidate:
        return Completed(name="Withheld", message=message, data=data)
    if code == 4:
        return _failed(PublicationStoppedError(message))
    return _failed(BusyError(message) if code == 7 else SourceError(message))


def summary(report: RefreshReport) -> str:
    """A refresh in one line, and one more for each source or gate that needs a look."""
    if report.candidate:
        head = f"stopped: candidate {report.candidate} was not published"
    elif report.published:
        head = f"published {report.snapshot}: {report.documents} documents"
    else:
        head = f"nothing new; {report.snapshot or 'no snapshot'} is current"
    gates = [f"gate {gate.name}: {gate.detail}" for gate in report.gates if not gate.passed]
    notes = [
        f"{entry.source} ({entry.outcome}): {entry.note}"
        for entry in report.sources
        if entry.outcome in ("failed", "busy") or entry.withheld or entry.held
    ]
    return "\n".join((head, *gates, *notes))


# --- the flows ------------------------------------------------------------------------------------


@flow(
    name="headwater-refresh",
    task_runner=ThreadPoolTaskRunner(max_workers=_PULLS_AT_ONCE),
    persist_result=False,
)
def refresh(
    kb: str,
    sources: tuple[str, ...] = (),
    observed_at: AwareDatetime | None = None,
    release: tuple[str, ...] = (),
    new_model: bool = False,
) -> Any:
    """Pull, validate, version, index and publish what changed.

    Args:
        kb: the folder that holds `headwater.yaml`.
        sources: only these; all when empty.
        observed_at: the knowledge time, with its zone; now when None.
        release: sources whose hold is lifted.
        new_model: build the index anew although the model is another one.
    """
    options = RefreshOptions(
        sources=sources, observed_at=observed_at, release=release, new_model=new_model
    )
    return settled(lambda: state_of([refresh_in_tasks(RefreshRun(load(kb), options))]))


@flow(name="headwater-backfill", persist_result=False)
def backfill(
    kb: str,
    source: str,
    start: AwareDatetime,
    end: AwareDatetime,
    window: Duration | None = None,
) -> Any:
    """Pull a range of a source's past, window by window. Started again, it goes on where it was.

    Args:
        kb: the folder that holds `headwater.yaml`.
        source: whose past.
        start: the first moment of source time.
        end: the moment after the last.
        window: the width to cut the range into, such as `1d`; whole when None.
    """
    return settled(lambda: _backfilled(load(kb), source, plan_windows(start, end, window)))


def _backfilled(kb: KnowledgeBase, source: str, windows: tuple[Window, ...]) -> Any:
    reports = []
    for window in windows:
        state = refresh_window(kb, source, window, return_state=True)
        report: RefreshReport = state.result()
        publish_artifacts(kb, report)
        reports.append(report)
    return state_of(reports)


@task(name="window", retry_condition_fn=_is_unreachable, **_RETRIES, **_PLAIN)
def refresh_window(kb: KnowledgeBase, source: str, window: Window) -> Any:
    """Refresh one window; retried while the source cannot be reached."""
    return settled(lambda: _refreshed_window(kb, source, window))


def _refreshed_window(kb: KnowledgeBase, source: str, window: Window) -> RefreshReport:
    [(_, report)] = backfill_windows(kb, source, (window,))
    [entry] = [entry for entry in report.sources if entry.source == source]
    if entry.kind == SourceUnreachableError.kind:
        raise SourceUnreachableError(entry.note)
    return report


@flow(name="headwater-emit-datasets", persist_result=False)
def emit_datasets(
    kb: str, names: tuple[str, ...] = (), as_of: str | None = None, unproven: bool = False
) -> Any:
    """Cut fine-tuning datasets from what has settled; a deployment runs this after a publication.

    Args:
        kb: the folder that holds `headwater.yaml`.
        names: only these datasets; all that are configured when empty.
        as_of: the snapshot to cut from; the current one when None.
        unproven: also take what has not settled.
    """
    return settled(lambda: _emitted(load(kb), names, as_of, unproven))


def _emitted(kb: KnowledgeBase, names: tuple[str, ...], as_of: str | None, unproven: bool) -> Any:
    try:
        emissions = emit_now(kb, names, as_of=as_of, unproven=unproven)
    except PublicationStoppedError as error:
        # A young knowledge base has nothing settled; each of its publications would look broken.
        return Completed(name="NothingSettled", message=str(error))
    return Completed(message=f"{len(emissions)} datasets: {', '.join(names or kb.config.datasets)}")
