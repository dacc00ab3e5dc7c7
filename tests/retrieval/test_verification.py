"""When sources were last confirmed, as a reader learns it while runs go on."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

from headwater.retrieval import verification
from headwater.retrieval.verification import Verification
from headwater.storage.manifest import format_time
from headwater.storage.runlog import RunLog, SourceRun

START = datetime(2026, 1, 1, tzinfo=UTC)


def run(log: RunLog, number: int, source: str = "docs") -> datetime:
    """Log that a run confirmed a source; returns when."""
    when = START + timedelta(days=number)
    log.append(SourceRun(f"run-{number:04d}", source, "verified", format_time(when)))
    return when


def test_a_new_run_is_noticed_at_the_next_look(tmp_path):
    """However shortly it follows the one before."""
    log, known = RunLog(tmp_path), Verification(tmp_path)
    assert known.last(["docs"]) == {}
    for number in range(20):
        when = run(log, number)
        assert known.last(["docs"]) == {"docs": when}


def test_a_run_that_goes_on_is_noticed(tmp_path):
    """Another source in the file of the same run."""
    log, known = RunLog(tmp_path), Verification(tmp_path)
    first = run(log, 1)
    assert known.last(["docs", "api"]) == {"docs": first}
    second = run(log, 1, "api")
    assert known.last(["docs", "api"]) == {"docs": first, "api": second}


def test_a_log_that_rests_is_not_listed_again(tmp_path, monkeypatch):
    """What a search costs does not grow with the runs there were."""
    log, known = RunLog(tmp_path), Verification(tmp_path)
    when = run(log, 1)
    long_ago = time.time() - 60
    os.utime(tmp_path / "runs", (long_ago, long_ago))
    assert known.last(["docs"]) == {"docs": when}
    listed = []
    monkeypatch.setattr(verification.os, "scandir", lambda path: listed.append(path) or iter(()))
    assert known.last(["docs"]) == {"docs": when}
    assert not listed
    monkeypatch.undo()
    later = run(log, 2)
    assert known.last(["docs"]) == {"docs": later}
