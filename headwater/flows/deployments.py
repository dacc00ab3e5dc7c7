"""The schedules of `headwater.yaml` as Prefect deployments, and the process that serves them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from headwater.config import KnowledgeBase, Schedule
from headwater.errors import ConfigError, EnvironmentLacksError
from headwater.flows.artifacts import PUBLISHED, resource_of
from headwater.flows.prefect_environment import prepare

_RUNS_AT_ONCE = 4
_ANCHOR: Final = datetime(2020, 1, 1, tzinfo=UTC)
"""Intervals count from here, so that serving again does not move them."""


@dataclass(frozen=True)
class PlannedRefresh:
    """One deployment of the refresh.

    Attributes:
        name: of the deployment.
        sources: what it refreshes; all when empty.
        schedule: when.
    """

    name: str
    sources: tuple[str, ...]
    schedule: Schedule


def plan_refreshes(kb: KnowledgeBase) -> list[PlannedRefresh]:
    """One refresh for the knowledge base's schedule, and one for each source with its own.

    Raises:
        ConfigError: nothing has a schedule.
    """
    name = kb.config.name
    planned = [
        PlannedRefresh(f"{name}.{source}", (source,), config.schedule)
        for source, config in kb.config.sources.items()
        if config.schedule is not None
    ]
    if kb.config.schedule is not None:
        planned.insert(0, PlannedRefresh(name, (), kb.config.schedule))
    if not planned:
        raise ConfigError(
            "Nothing has a schedule",
            obj=str(kb.root / "headwater.yaml"),
            todo="add one, of all sources or below a source: 'schedule: {every: 1h}'",
        )
    return planned


def deployments(kb: KnowledgeBase) -> list[Any]:
    """The `RunnerDeployment`s of a knowledge base; nothing is registered yet.

    A refresh per schedule, where a second run of the same deployment is cancelled; and, when
    datasets are configured, their emission after each publication.

    Raises:
        ConfigError: nothing has a schedule, or a cron line is wrong.
        MissingExtraError: Prefect is not installed.
    """
    planned = plan_refreshes(kb)
    prepare(kb)
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.events import DeploymentEventTrigger
    from prefect.types.entrypoint import EntrypointType

    from headwater.flows import prefect_flows

    common = {"tags": _tags(kb), "entrypoint_type": EntrypointType.MODULE_PATH}
    # Courtesies that save a process; what excludes is the claim in the store. A refresh that is
    # late has nothing to add; an emission that is late may be the one of the last publication.
    one_refresh, one_emission = (
        ConcurrencyLimitConfig(limit=1, collision_strategy=strategy)
        for strategy in (ConcurrencyLimitStrategy.CANCEL_NEW, ConcurrencyLimitStrategy.ENQUEUE)
    )
    folder = str(kb.root.resolve())
    found = [
        prefect_flows.refresh.to_deployment(
            one.name,
            schedules=[_prefect_schedule(one)],
            parameters={"kb": folder, "sources": list(one.sources)},
            concurrency_limit=one_refresh,
            **common,
        )
        for one in planned
    ]
    if kb.config.datasets:
        trigger = DeploymentEventTrigger(
            expect={PUBLISHED},
            match={"prefect.resource.id": resource_of(kb.config.name)},
            parameters={"kb": folder},
        )
        found.append(
            prefect_flows.emit_datasets.to_deployment(
                kb.config.name,
                triggers=[trigger],
                parameters={"kb": folder},
                concurrency_limit=one_emission,
                **common,
            )
        )
    return found


def serve_deployments(kb: KnowledgeBase, *, once: bool = False) -> None:
    """Register the deployments with the Prefect server and run them until interrupted.

    Deployments of schedules that `headwater.yaml` no longer has are removed from the server.

    Args:
        kb: the knowledge base.
        once: register and return; another process serves.

    Raises:
        ConfigError: nothing has a schedule, or a cron line is wrong.
        MissingExtraError: Prefect is not installed.
        EnvironmentLacksError: no Prefect server answers.
    """
    found = deployments(kb)
    _require_server()
    _remove_others(kb, {deployment.full_name for deployment in found})
    if once:
        for deployment in found:
            deployment.apply()
        return
    from prefect import serve

    # By default a server process that ends pauses the schedules, those of its successor included.
    serve(*found, limit=_RUNS_AT_ONCE, pause_on_shutdown=False)


def _tags(kb: KnowledgeBase) -> list[str]:
    return ["headwater", resource_of(kb.config.name)]


def _prefect_schedule(planned: PlannedRefresh) -> Any:
    from prefect.schedules import Cron, Interval

    schedule = planned.schedule
    if schedule.every is not None:
        return Interval(schedule.every, anchor_date=_ANCHOR, timezone="UTC")
    try:
        return Cron(schedule.cron or "", timezone="UTC")
    except ValueError as error:
        raise ConfigError(
            "The schedule is no cron line",
            obj=f"{planned.name}: {schedule.cron!r}",
            todo=f"{error}; five fields: minute hour day month weekday",
        ) from None


def _require_server() -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    todo = (
        "start one with 'prefect server start' and export"
        " PREFECT_API_URL=http://127.0.0.1:4200/api; or let cron run 'headwater refresh', which"
        " needs no server"
    )
    if not url:
        raise EnvironmentLacksError("No Prefect server is named", obj="PREFECT_API_URL", todo=todo)
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error is not None:
        reason = str(error) or type(error).__name__
        raise EnvironmentLacksError(f"No Prefect server answers ({reason})", obj=url, todo=todo)


def _remove_others(kb: KnowledgeBase, keep: set[str]) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    mine = DeploymentFilter(tags=DeploymentFilterTags(all_=_tags(kb)))
    with get_client(sync_client=True) as client:
        flows = {}
        for deployment in client.read_deployments(deployment_filter=mine):
            if deployment.flow_id not in flows:
                flows[deployment.flow_id] = client.read_flow(deployment.flow_id).name
            if f"{flows[deployment.flow_id]}/{deployment.name}" not in keep:
                client.delete_deployment(deployment.id)
