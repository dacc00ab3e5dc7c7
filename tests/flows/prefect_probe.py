"""Run by test_prefect.py in a process of its own: refreshes inside a flow, without a model.

Usage: python prefect_probe.py DIR MODE; prints one line of JSON about how the flow run ended.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from headwater.config import KnowledgeBase, load
from headwater.errors import SourceDataError, SourceError, SourceUnreachableError
from headwater.flows.prefect_environment import prepare
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import ExtractEnd, PullRequest, Record

WORDS = "The pump in hall three is serviced every spring by the water works of the town. "


class Meeting(MemorySource):
    """A source whose pull ends only when another one is being pulled at the same time."""

    door = threading.Barrier(2, timeout=120)

    def pull(self, request: PullRequest) -> Iterator[object]:
        self.door.wait()
        return (yield from super().pull(request))


class Failing(MemorySource):
    """A source whose first `failures` pulls raise `error`."""

    failures = 1000
    error_of_pull: SourceError = SourceUnreachableError("no answer", obj="failing")

    def pull(self, request: PullRequest) -> Iterator[object]:
        failing = len(self.requests) < self.failures
        self.error = self.error_of_pull if failing else None
        end: ExtractEnd = yield from super().pull(request)
        return end


def records(name: str) -> list[Record]:
    """Three documents."""
    return [Record(key=f"{name}-{n}", text=f"# {name} {n}\n\n{WORDS * 3}{n}") for n in range(3)]


def sources_of(mode: str) -> dict[str, MemorySource]:
    """The sources that the knowledge base of a mode names."""
    one, two = Meeting.of(records("one"), name="one"), Meeting.of(records("two"), name="two")
    flaky = Failing.of(records("flaky"), name="flaky")
    flaky.failures = 2
    broken = Failing.of(name="broken")
    if mode == "healed":
        return {"one": one, "two": two, "flaky": flaky}
    if mode == "partial":
        broken.error_of_pull = SourceDataError("not JSON", obj="broken")
        return {"one": one, "two": two, "broken": broken}
    return {"flaky": flaky, "broken": broken} if mode == "stop" else {"broken": broken}


def main(kb: KnowledgeBase, mode: str) -> None:
    """Run one flow and say how it ended."""
    prepare(kb)
    from prefect import flow
    from prefect.task_runners import ThreadPoolTaskRunner

    from headwater.flows import prefect_flows
    from headwater.flows.encoding import twin_encoding
    from headwater.flows.refresh import RefreshOptions, RefreshRun

    prefect_flows.pull_source = prefect_flows.pull_source.with_options(retry_delay_seconds=0)
    sources = sources_of(mode)

    @flow(
        name="headwater-probe",
        task_runner=ThreadPoolTaskRunner(max_workers=4),
        persist_result=False,
    )
    def probe() -> object:
        def work() -> object:
            run = RefreshRun(kb, RefreshOptions(), encoding=twin_encoding, sources=sources)
            return prefect_flows.state_of([prefect_flows.refresh_in_tasks(run)])

        return prefect_flows.settled(work)

    state = probe(return_state=True)
    pulls = {name: len(source.requests) for name, source in sources.items()}
    found = {"type": state.type.value, "name": state.name, "message": state.message}
    print(json.dumps({**found, "run": str(state.state_details.flow_run_id), "pulls": pulls}))


if __name__ == "__main__":
    main(load(Path(sys.argv[1])), sys.argv[2])
