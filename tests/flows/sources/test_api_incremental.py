"""Only what changed since, and everything now and then, in a real knowledge base."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stamina
from faulty_server import Answer, Asked, FaultyServer, as_json
from source_base import SourceBase

START = datetime(2024, 5, 1, tzinfo=UTC)
Record = dict[str, Any]


class ChangingApi:
    """Records with a time; `since` lists those changed from then on, tombstones among them."""

    def __init__(self) -> None:
        self.server = FaultyServer()
        self.records: dict[str, Record] = {}
        self.clock = START
        self.size = 100
        self.fault_at = -1
        self.server.answer = self._answer

    def put(self, key: str, text: str, *, late_s: float = 0, **fields: Any) -> None:
        """Change a record one minute later; with `late_s` it bears an older time than that."""
        self.clock += timedelta(minutes=1)
        at = self.clock - timedelta(seconds=late_s)
        self.records[key] = {"id": key, "v": text, "at": at.isoformat(), **fields}

    def _answer(self, asked: Asked) -> Answer:
        since = asked.query.get("since", "")
        chosen = [r for r in self.records.values() if not since or r["at"] >= _plain(since)]
        chosen.sort(key=lambda record: (record["at"], record["id"]))
        page = int(asked.query["page"]) - 1
        return as_json({"items": chosen[page * self.size : (page + 1) * self.size]})

    def forget(self) -> None:
        self.server.forget()

    @property
    def sinces(self) -> list[str]:
        """The times that were asked for since the last call; "" for everything."""
        found = list(dict.fromkeys(asked.query.get("since", "") for asked in self.server.asked))
        self.server.forget()
        return found


def _plain(since: str) -> str:
    return since.replace("Z", "+00:00").replace("+00:00", "") + "+00:00"


@pytest.fixture
def api() -> Iterator[ChangingApi]:
    """A running API of three records."""
    running = ChangingApi()
    for key in "abc":
        running.put(key, f"text {key}")
    with stamina.set_testing(True, attempts=2):
        yield running
    running.server.close()


def base_of(api: ChangingApi, root: Path, **incremental: Any) -> SourceBase:
    """A knowledge base over it."""
    return SourceBase(
        root,
        {
            "kind": "api",
            "url": f"{api.server.url}/items",
            "records": "items",
            "key": "id",
            "text": "v",
            "updated_at": "at",
            "deleted": "gone",
            "allow_private": True,
            "pagination": {"style": "page"},
            "incremental": {"param": "since", "lag": "2m", "full_every": 4, **incremental},
        },
    )


def test_only_what_changed_is_asked_for(api: ChangingApi, tmp_path: Path) -> None:
    """From the newest time that was published, less the lag; the list is no complete one."""
    base = base_of(api, tmp_path)
    assert base.pull().outcome == "verified"
    assert api.sinces == [""]
    api.put("b", "changed")
    api.put("d", "new")
    report = base.pull()
    assert api.sinces == ["2024-05-01T00:01:00Z"]
    assert (report.outcome, report.added, report.changed) == ("partial", 1, 1)
    assert base.live() == {"a": "text a", "b": "changed", "c": "text c", "d": "new"}


def test_everything_is_listed_in_every_so_many_pulls(api: ChangingApi, tmp_path: Path) -> None:
    """Deletions that nobody announces are found then, also when nothing else was new meanwhile."""
    base = base_of(api, tmp_path)
    base.pull()
    del api.records["a"]
    api.forget()
    outcomes = [base.pull().outcome for _ in range(4)]
    assert outcomes == ["partial", "partial", "partial", "verified"]
    assert [bool(since) for since in api.sinces] == [True, False]
    assert base.live() == {"b": "text b", "c": "text c"}
    base.pull()
    assert api.sinces != [""], "the count starts anew"


def test_a_tombstone_deletes_at_once(api: ChangingApi, tmp_path: Path) -> None:
    """A record that says it was deleted goes with the next pull, whatever that lists."""
    base = base_of(api, tmp_path)
    base.pull()
    api.put("b", "", gone=True)
    report = base.pull()
    assert (report.outcome, report.removed) == ("partial", 1)
    assert set(base.live()) == {"a", "c"}
    api.put("b", "back again")
    base.pull()
    assert base.live()["b"] == "back again"


def test_what_commits_late_is_within_the_lag(api: ChangingApi, tmp_path: Path) -> None:
    """A record that appears with a time before the newest one seen is not passed over."""
    base = base_of(api, tmp_path)
    base.pull()
    api.put("late", "late text", late_s=100)
    api.put("x", "newest")
    base.pull()
    api.put("later", "also late", late_s=100)
    base.pull()
    assert {"late", "later", "x"} <= set(base.live())


def test_a_failed_pull_moves_nothing(api: ChangingApi, tmp_path: Path) -> None:
    """The next one asks from the same time again."""
    base = base_of(api, tmp_path)
    base.pull()
    api.put("d", "new")
    api.server.fault = lambda asked: "truncated"
    assert base.pull().outcome == "failed"
    api.server.fault = lambda asked: ""
    api.forget()
    base.pull()
    assert api.sinces == ["2024-05-01T00:01:00Z"]
    assert base.live()["d"] == "new"


def test_a_list_that_moved_does_not_move_the_cursor(api: ChangingApi, tmp_path: Path) -> None:
    """What a torn reading of the changes may lack is asked for again."""
    base = base_of(api, tmp_path, full_every=100)
    base.pull()
    before = base.watermark
    api.size = 1
    for key in "def":
        api.put(key, "new")
    quiet = api.server.answer

    def restless(asked: Asked) -> Answer:
        # Each change moves a record to the end of the list, and the others forward.
        api.put("abc"[asked.number % 3], f"moved {asked.number}")
        return quiet(asked)

    api.server.answer = restless
    api.forget()
    report = base.pull()
    assert report.outcome == "partial" and "incomplete" in report.note
    assert "2024-05-01T00:03:00" in before and "2024-05-01T00:03:00" in base.watermark
    api.server.answer = quiet
    base.pull()
    assert base.live() == {key: record["v"] for key, record in api.records.items()}


def test_a_time_from_the_future_hides_nothing(api: ChangingApi, tmp_path: Path) -> None:
    """The cursor never passes the clock, whatever a record says."""
    base = base_of(api, tmp_path)
    api.records["z"] = {"id": "z", "v": "wrong clock", "at": "2999-01-01T00:00:00+00:00"}
    base.pull()
    assert "2999" not in base.watermark
    soon = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="seconds")
    api.records["y"] = {"id": "y", "v": "changed now", "at": f"{soon}+00:00"}
    base.pull()
    assert base.live()["y"] == "changed now"


def test_records_without_times_are_listed_in_full(api: ChangingApi, tmp_path: Path) -> None:
    """There is nothing to ask from."""
    for record in api.records.values():
        record["at"] = ""
    base = base_of(api, tmp_path)
    base.pull()
    api.put("a", "changed")
    api.records["a"]["at"] = ""
    assert base.pull().outcome == "verified"
    assert api.sinces == [""]


def test_another_rendering_lists_everything(api: ChangingApi, tmp_path: Path) -> None:
    """A cursor of another configuration would leave old renderings behind."""
    base = base_of(api, tmp_path)
    base.pull()
    api.forget()
    text = (tmp_path / "headwater.yaml").read_text()
    (tmp_path / "headwater.yaml").write_text(text.replace("text: v", "text: [id, v]"))
    assert base.pull().outcome == "verified"
    assert api.sinces == [""]
    assert base.live()["a"] == "Id: a\nV: text a"
