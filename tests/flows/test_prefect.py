"""Prefect: the flows and deployments, run by a real server on the loopback interface."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from headwater.config import load
from headwater.errors import ConfigError
from headwater.flows.deployments import plan_refreshes
from headwater.flows.prefect_environment import SETTINGS, environment
from headwater.storage.store import Store

T = TypeVar("T")

PATIENCE = 240
"""Seconds that a loaded machine may take for one step; nothing waits for them when it works."""

PROBE = Path(__file__).with_name("prefect_probe.py")
HEADWATER = str(Path(sys.executable).with_name("headwater"))
TEXT = "# Pumps\n\nThe pump in hall three is serviced every spring by the water works.\n"


def wait_for(look: Callable[[], T | None], what: str, *, process: Any = None) -> T:
    """Poll until `look` finds something."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        if process is not None and process.poll() is not None:
            pytest.fail(f"the process ended with {process.returncode} before {what}")
        time.sleep(0.5)
    pytest.fail(f"after {PATIENCE} s there was no {what}")


def clean_environment(home: Path, url: str | None = None) -> dict[str, str]:
    """This process's environment, with no Prefect setting of whoever runs the tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    kept |= {**SETTINGS, "HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return kept | ({"PREFECT_API_URL": url} if url else {})


def knowledge_base(folder: Path, extra: str, *, name: str = "waterworks") -> Path:
    """A knowledge base over one folder of documents."""
    (folder / "documents").mkdir(parents=True)
    (folder / "documents" / "pumps.md").write_text(TEXT)
    (folder / "headwater.yaml").write_text(
        f"name: {name}\nsources:\n  notes: {{kind: documents, root: documents}}\n{extra}"
    )
    return folder


def post(url: str, path: str, body: dict[str, Any]) -> Any:
    """What the server answers to a query."""
    request = urllib.request.Request(
        f"{url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def runs_of(url: str, flow: str) -> list[dict[str, Any]]:
    """The runs of a flow that ended."""
    body = {
        "flows": {"name": {"any_": [flow]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}},
    }
    return post(url, "/flow_runs/filter", body)


def schedule(kb: Path, env: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run `headwater schedule` to its end."""
    command = [HEADWATER, "schedule", "--kb", str(kb), *options]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Prefect server of our own."""
    home = tmp_path_factory.mktemp("prefect-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    env = clean_environment(home) | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            env=env,
            stdout=log,
            stderr=log,
            cwd=home,
            start_new_session=True,
        )
    try:
        wait_for(lambda: healthy(url), "Prefect server", process=process)
        yield url
    finally:
        stop(process)


def healthy(url: str) -> bool | None:
    """True once the server answers."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10) as reply:
            return reply.status == 200 or None
    except (urllib.error.URLError, OSError):
        return None


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process as an operator would, and surely."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


# --- without a server -----------------------------------------------------------------------------


def test_each_schedule_of_the_configuration_becomes_one_refresh(tmp_path: Path) -> None:
    """The knowledge base's schedule refreshes all sources, a source's own only that source."""
    folder = tmp_path / "kb"
    folder.mkdir()
    (folder / "headwater.yaml").write_text(
        "name: waterworks\n"
        "schedule: {cron: '0 * * * *'}\n"
        "sources:\n"
        "  notes: {kind: documents, root: a}\n"
        "  alarms: {kind: documents, root: b, schedule: {every: 5m}}\n"
    )
    planned = {one.name: one.sources for one in plan_refreshes(load(folder))}
    assert planned == {"waterworks": (), "waterworks.alarms": ("alarms",)}


def test_a_configuration_without_schedules_is_refused(tmp_path: Path) -> None:
    """Serving nothing for ever would look like working."""
    with pytest.raises(ConfigError, match="Nothing has a schedule"):
        plan_refreshes(load(knowledge_base(tmp_path / "kb", "")))


def test_the_users_profiles_stay_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's files lie in the knowledge base, but the server of the user's profile is kept."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    kb = load(knowledge_base(tmp_path / "kb", ""))
    assert environment(kb)["PREFECT_HOME"] == str(tmp_path / "kb" / ".headwater" / "prefect")
    assert "PREFECT_PROFILES_PATH" not in environment(kb)
    profiles = tmp_path / ".prefect" / "profiles.toml"
    profiles.parent.mkdir()
    profiles.write_text("active = 'mine'\n")
    assert environment(kb)["PREFECT_PROFILES_PATH"] == str(profiles)


@pytest.mark.slow
def test_the_installed_prefect_server_can_be_imported(tmp_path: Path) -> None:
    """A FastAPI or SQLAlchemy that Prefect cannot use shows here, and nowhere in `pip check`."""
    done = subprocess.run(
        [sys.executable, "-c", "import prefect.server.api.server"],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("url", [None, "http://127.0.0.1:9/api"])
def test_without_a_server_the_message_says_how_to_start_one(
    tmp_path: Path, url: str | None
) -> None:
    """Exit code 10, the command that starts a server, and the way without one."""
    kb = knowledge_base(tmp_path / "kb", "schedule: {every: 1h}\n")
    done = schedule(kb, clean_environment(tmp_path, url))
    assert done.returncode == 10, done.stderr
    assert "prefect server start" in done.stderr
    assert "headwater refresh" in done.stderr
    assert "Traceback" not in done.stderr


# --- flow runs ------------------------------------------------------------------------------------


def probe(tmp_path: Path, url: str, mode: str, extra: str = "") -> tuple[dict[str, Any], Path]:
    """Run a refresh inside a flow; see prefect_probe.py."""
    names = {"healed": ("one", "two", "flaky"), "partial": ("one", "two", "broken")}
    names |= {"stop": ("flaky", "broken"), "failed": ("broken",)}
    kb = tmp_path / "kb"
    kb.mkdir()
    sources = "".join(f"  {name}: {{kind: memory}}\n" for name in names[mode])
    (kb / "headwater.yaml").write_text(f"name: probe_{mode}\n{extra}sources:\n{sources}")
    done = subprocess.run(
        [sys.executable, str(PROBE), str(kb), mode],
        env=clean_environment(tmp_path, url) | {"PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), kb


@pytest.mark.slow
def test_an_unreachable_source_is_retried_until_it_answers(tmp_path: Path, server: str) -> None:
    """Pulls run beside each other, a retry heals, and the run leaves its table and its event."""
    found, kb = probe(tmp_path, server, "healed")
    assert (found["type"], found["name"]) == ("COMPLETED", "Completed"), found
    assert found["pulls"] == {"one": 1, "two": 1, "flaky": 3}
    current = Store.open(kb / "store").current()
    assert current is not None
    assert current.counts["documents"] == 9

    home = kb / ".headwater" / "prefect"
    assert home.is_dir()
    assert not list(home.glob("storage/*")), "Prefect keeps no results of ours"

    artifacts = post(
        server, "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [found["run"]]}}}
    )
    table = next(a for a in artifacts if a["key"] == "headwater-probe-healed-sources")
    rows = {row["source"]: row for row in json.loads(table["data"])}
    assert {name: row["added"] for name, row in rows.items()} == {"one": 3, "two": 3, "flaky": 3}

    def published() -> dict[str, Any] | None:
        wanted = {"event": {"name": ["headwater.snapshot.published"]}}
        events = post(server, "/events/filter", {"filter": wanted})["events"]
        ours = "headwater.kb.probe_healed"
        return next((e for e in events if e["resource"]["prefect.resource.id"] == ours), None)

    event = wait_for(published, "event of the publication")
    assert event["payload"]["snapshot"] == current.name()


@pytest.mark.slow
def test_a_source_that_fails_alone_makes_the_run_partial(tmp_path: Path, server: str) -> None:
    """The others are published; an answer that cannot be used is not asked for again."""
    found, kb = probe(tmp_path, server, "partial")
    assert (found["type"], found["name"]) == ("COMPLETED", "Partial"), found
    assert found["pulls"]["broken"] == 1
    assert "broken (failed): not JSON" in found["message"]
    assert Store.open(kb / "store").current_name() is not None


@pytest.mark.slow
def test_a_run_without_any_source_has_failed(tmp_path: Path, server: str) -> None:
    """After the last retry the unreachable source is the outcome of the run."""
    found, kb = probe(tmp_path, server, "failed")
    assert (found["type"], found["name"]) == ("FAILED", "Failed"), found
    assert found["pulls"] == {"broken": 4}
    assert "no answer" in found["message"]
    assert Store.open(kb / "store").current_name() is None


@pytest.mark.slow
def test_a_source_may_stop_the_whole_run(tmp_path: Path, server: str) -> None:
    """With `on_source_error: stop` nothing is published, though another source was pulled."""
    found, kb = probe(tmp_path, server, "stop", "on_source_error: stop\n")
    assert (found["type"], found["name"]) == ("FAILED", "Failed"), found
    assert found["pulls"] == {"flaky": 3, "broken": 4}
    assert Store.open(kb / "store").current_name() is None


@pytest.mark.slow
def test_a_backfill_publishes_window_by_window(tmp_path: Path, server: str) -> None:
    """The flow takes plain JSON values, as a deployment hands them over."""
    kb = tmp_path / "kb"
    kb.mkdir()
    records = "".join(
        f"        - {{key: d{day}, text: 'Report {day}', source_ts: '2026-01-0{day}T12:00:00Z'}}\n"
        for day in (1, 2, 3)
    )
    (kb / "headwater.yaml").write_text(
        f"name: past\nsources:\n  reports:\n    kind: memory\n"
        f"    options:\n      records:\n{records}"
    )
    asked = {"kb": str(kb), "source": "reports", "window": "1d"}
    asked |= {"start": "2026-01-01T00:00:00Z", "end": "2026-01-03T00:00:00Z"}
    script = (
        "import sys, json; from headwater.flows.prefect_flows import backfill;"
        "state = backfill(**json.loads(sys.argv[1]), return_state=True);"
        "print(state.name, state.message)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(asked)],
        env=clean_environment(tmp_path, server),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout.startswith("Completed"), done.stdout + done.stderr
    causes = [manifest.cause for manifest in Store.open(kb / "store").chain()]
    assert causes == ["backfill", "backfill"]
    current = Store.open(kb / "store").current()
    assert current is not None
    assert current.counts["documents"] == 2


# --- deployments ----------------------------------------------------------------------------------


def deployments_of(url: str, name: str) -> dict[str, dict[str, Any]]:
    """The deployments of a knowledge base, by name."""
    wanted = {"deployments": {"tags": {"all_": [f"headwater.kb.{name}"]}}}
    return {item["name"]: item for item in post(url, "/deployments/filter", wanted)}


@pytest.mark.slow
def test_the_server_holds_the_schedules_that_the_configuration_has_now(
    tmp_path: Path, server: str
) -> None:
    """`--once` registers and returns; a schedule that was removed leaves no deployment behind."""
    kb = knowledge_base(tmp_path / "kb", "schedule: {cron: '0 6 * * *'}\n", name="once")
    path, env = kb / "headwater.yaml", clean_environment(tmp_path, server)
    first = path.read_text()
    path.write_text(first.replace("root: documents", "root: documents, schedule: {every: 5m}"))
    done = schedule(kb, env, "--once")
    assert done.returncode == 0, done.stderr
    found = deployments_of(server, "once")
    assert set(found) == {"once", "once.notes"}
    assert found["once.notes"]["parameters"] == {"kb": str(kb), "sources": ["notes"]}
    assert found["once"]["schedules"][0]["schedule"]["cron"] == "0 6 * * *"
    assert found["once"]["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"

    path.write_text(first)
    assert schedule(kb, env, "--once").returncode == 0
    assert set(deployments_of(server, "once")) == {"once"}


@pytest.mark.slow
def test_a_served_interval_publishes_what_changes_between_its_runs(
    tmp_path: Path, server: str
) -> None:
    """Scheduled runs really fire: an edit becomes a snapshot, and datasets follow publications."""
    kb = knowledge_base(
        tmp_path / "kb",
        "schedule: {every: 6s}\ndatasets:\n  settled: {settled_for: 30d}\n",
        name="served",
    )
    env = clean_environment(tmp_path, server) | {"PREFECT_RUNNER_POLL_FREQUENCY": "2"}
    command = [HEADWATER, "schedule", "--kb", str(kb)]
    with (tmp_path / "serve.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        first = wait_for(lambda: current_of(kb), "first snapshot", process=process)
        (kb / "documents" / "valves.md").write_text(TEXT.replace("ump", "alve"))

        def second() -> str | None:
            name = current_of(kb)
            return name if name != first else None

        wait_for(second, "second snapshot", process=process)
        emitted = wait_for(
            lambda: runs_of(server, "headwater-emit-datasets") or None,
            "run of the datasets",
            process=process,
        )
        refreshed = runs_of(server, "headwater-refresh")
    finally:
        stop(process)
    assert emitted[0]["state"]["name"] == "NothingSettled", emitted[0]["state"]
    assert {run["state"]["name"] for run in refreshed} == {"Completed"}
    deployed = deployments_of(server, "served")["served"]
    assert not deployed["paused"], "a server process that ends must not pause its successor"
    now = datetime.now(UTC)
    chain = list(Store.open(kb / "store").chain())
    assert len(chain) >= 2
    assert all(manifest.time <= now for manifest in chain)


def current_of(kb: Path) -> str | None:
    """The current snapshot, if there is a store yet."""
    return Store.open(kb / "store").current_name() if (kb / "store" / "FORMAT").exists() else None
