"""Runs that overlap: each change is published, or its run says why not."""

from datetime import UTC, datetime, timedelta

import pytest

from headwater import config
from headwater.errors import BusyError
from headwater.flows.backfill import plan_windows
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import RefreshOptions, RefreshRun, refresh
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.storage.history import live_state

YAML = """\
name: two
sources:
  a: {kind: memory}
  b: {kind: memory}
"""


@pytest.fixture
def kb(tmp_path):
    (tmp_path / "headwater.yaml").write_text(YAML)
    return config.load(tmp_path)


def source(*texts: str) -> MemorySource:
    return MemorySource.of([Record(key=text, text=f"the text of {text}") for text in texts])


def run_of(kb, name: str, *texts: str) -> RefreshRun:
    return RefreshRun(
        kb,
        RefreshOptions(sources=(name,)),
        encoding=twin_encoding,
        sources={name: source(*texts)},
    )


def keys(run: RefreshRun) -> dict[str, set[str]]:
    state = live_state(run.store.objects, run.store.current())
    return {name: set(documents) for name, documents in state.items()}


def test_two_runs_on_different_sources_both_publish(kb):
    """The slower run rebases onto the faster one; nothing is pulled or embedded again."""
    slow, fast = run_of(kb, "a", "a1", "a2"), run_of(kb, "b", "b1")
    with slow.claim(), fast.claim():
        pulled = [slow.pull("a")]
        assert fast.finish([fast.pull("b")]).published
        report = slow.finish(pulled)
    assert report.published and report.embedded == 2
    assert keys(slow) == {"a": {"a1", "a2"}, "b": {"b1"}}
    assert slow.store.current().seq == 2


def test_a_run_whose_source_was_rolled_back_meanwhile_is_refused(kb):
    """What was compared with a state that is gone is not published on top of another."""
    for texts in (["a1"], ["a1", "a2"]):
        refresh(
            kb,
            RefreshOptions(),
            encoding=twin_encoding,
            sources={"a": source(*texts), "b": source()},
        )
    run = run_of(kb, "a", "a1", "a2", "a3")
    with run.claim():
        pulled = [run.pull("a")]
        run.store.rollback("1", run_id="someone")
        with pytest.raises(BusyError, match="changed by another run"):
            run.finish(pulled)
    assert keys(run)["a"] == {"a1"}


def test_a_second_run_on_the_same_source_is_told_who_is_at_work(kb):
    """Busy is a report with exit code 7, not a crash, and loses nothing."""
    first = run_of(kb, "a", "a1")
    with first.claim():
        report = refresh(
            kb, RefreshOptions(sources=("a",)), encoding=twin_encoding, sources={"a": source("x")}
        )
        assert report.exit_code == 7 and report.sources[0].outcome == "busy"
        assert first.run_id in report.sources[0].note
        first.finish([first.pull("a")])
    assert keys(first) == {"a": {"a1"}}


def test_windows_are_half_open_and_cover_the_range():
    """No moment is in two windows, none is left out."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    windows = plan_windows(start, start + timedelta(days=10), timedelta(days=3))
    assert [w.start for w in windows[1:]] == [w.end for w in windows[:-1]]
    assert windows[0].start == start and windows[-1].end == start + timedelta(days=10)
    assert len(windows) == 4
