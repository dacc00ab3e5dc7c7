"""Backfills: resumable at any point, beside the schedule, and never over what is known newer."""

import json
import random
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater import config
from headwater.errors import BusyError, ConfigError, SourceUnreachableError
from headwater.flows import backfill as module
from headwater.flows.backfill import Backfill, Pace, run_backfill
from headwater.flows.collected import FOLDER
from headwater.flows.encoding import twin_encoding
from headwater.flows.estimate import estimate_backfill
from headwater.flows.outdated import NEWER, OBSERVED, Known, Reading, outdated
from headwater.flows.refresh import RefreshOptions, RefreshRun, refresh
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import KeyRange, Record
from headwater.flows.windows import plan_key_windows, plan_windows
from headwater.storage.store import Store
from headwater.storage.tables import open_tables

DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


def record(n, text=None, *, day=None, key=None):
    when = START + (n if day is None else day) * DAY
    return Record(key=key or str(n), text=text or f"The text of number {n}.", source_ts=when)


class World:
    """A knowledge base over one source in memory, which many readers may open."""

    def __init__(self, root):
        (root / "headwater.yaml").write_text("name: w\nsources:\n  s: {kind: memory}\n")
        self.kb = config.load(root)
        self.source = MemorySource.of([record(n) for n in range(10)])
        self.before_pull = lambda request: None

    def open(self):
        """A reader of the same records, as a new connection would be."""
        return self

    parallel_windows = 4

    def pull(self, request):
        self.before_pull(request)
        return (yield from self.source.pull(request))

    def asked(self, days=10, width=2, **options):
        spans = options.pop("spans", None) or plan_windows(START, START + days * DAY, width * DAY)
        return Backfill("s", spans, opened=self.open, **options)

    def backfill(self, asked=None, **options):
        return list(run_backfill(self.kb, asked or self.asked(**options), encoding=twin_encoding))

    def refresh(self):
        return refresh(
            self.kb, RefreshOptions(), encoding=twin_encoding, sources={"s": self.source}
        )

    @property
    def store(self):
        return Store.open(self.kb.store)

    def live(self):
        with open_tables(self.store.objects, self.store.current()) as connection:
            return dict(
                connection.execute(
                    "select key, text from live join contents using (content_hash)"
                ).fetchall()
            )

    def left_over(self):
        folder = self.kb.root / FOLDER
        return [p for p in folder.rglob("*") if p.suffix in (".arrow", ".draft")]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def texts(*numbers):
    return {str(n): f"The text of number {n}." for n in numbers}


# --- windows --------------------------------------------------------------------------------------


def test_keys_are_cut_into_half_open_ranges_that_cover_them():
    """Numbers by a width, other keys by cuts; every key is in exactly one window."""
    windows = plan_key_windows("0", "10", width=4)
    assert [(w.start, w.end) for w in windows] == [("0", "4"), ("4", "8"), ("8", "10")]
    for key in map(str, range(10)):
        assert sum(key in window for window in windows) == 1
    assert "10" not in windows[-1] and "x" not in windows[0]
    windows = plan_key_windows(None, None, cuts=["m", "c"])
    for key in ("", "a", "c", "lz", "m", "z", "ü"):
        assert sum(key in window for window in windows) == 1
    windows = plan_key_windows("1", "100", cuts=["20", "3"])
    assert [w.start for w in windows] == ["1", "3", "20"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": "9", "end": "1"}, "range is empty"),
        ({"start": "b", "end": "b"}, "range is empty"),
        ({"start": "a", "end": "z", "width": 5}, "whole numbers"),
        ({"start": "1", "end": None, "width": 5}, "whole numbers"),
        ({"start": "1", "end": "9", "width": 0}, "above zero"),
        ({"start": "0", "end": "9999999", "width": 1}, "more than 100,000 windows"),
        ({"start": "a", "end": "m", "cuts": ["z"]}, "inside the range"),
        ({"start": "a", "end": "m", "cuts": ["a"]}, "inside the range"),
    ],
)
def test_a_range_of_keys_that_makes_no_sense_is_told(arguments, message):
    """An empty range, a width that does not fit, and a cut outside are named."""
    with pytest.raises(ConfigError, match=message):
        plan_key_windows(**arguments)


def test_far_too_many_windows_are_refused():
    """A second of width over a century is a mistake."""
    with pytest.raises(ConfigError, match="100,000"):
        plan_windows(START, START + 36500 * DAY, timedelta(seconds=1))


# --- windows of time and of keys, published each or at the end ------------------------------------


def test_a_snapshot_for_each_window_or_one_at_the_end(world, tmp_path):
    """Both ways bring the same documents; what was read is gone from the disk afterwards."""
    steps = world.backfill()
    assert [step.number for step in steps] == [1, 2, 3, 4, 5]
    assert all(step.report.published and step.report.embedded == 2 for step in steps)
    assert world.store.current().seq == 5 and world.live() == texts(*range(10))
    assert not world.left_over()
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other")
    steps = other.backfill(publish="end")
    assert [step.report is not None for step in steps] == [False] * 5 + [True]
    assert steps[-1].report.embedded == 10 and len(steps[-1].spans) == 5
    assert other.store.current().seq == 1 and other.live() == world.live()
    assert not other.left_over()


def test_a_range_of_keys(world):
    """A source that knows nothing of key ranges still gives what is inside of one."""
    spans = plan_key_windows("2", "7", width=2)

    class Deaf(MemorySource):
        def pull(self, request):
            return super().pull(replace(request, key_range=None))

    deaf = Deaf("s", config.PluginConfig(kind="memory"), root=world.kb.root)
    deaf.records = world.source.records
    steps = world.backfill(replace(world.asked(spans=spans), opened=lambda: deaf))
    assert [step.records for step in steps] == [2, 2, 1]
    assert world.live() == texts(2, 3, 4, 5, 6)
    assert world.store.current().sources["s"].watermark is None


def test_a_window_infers_no_deletion(world):
    """What a window lacks stays."""
    world.refresh()
    world.source.records = world.source.records[5:]
    world.backfill()
    assert world.live() == texts(*range(10))


def test_windows_are_read_at_once_where_the_source_allows_it(world):
    """Four readers meet in the source; one that allows no company is alone."""
    together = threading.Barrier(4, timeout=10)
    world.before_pull = lambda request: together.wait()
    assert len(world.backfill(days=8, pace=Pace(parallel=8))) == 4
    assert world.live() == texts(*range(8))
    world.parallel_windows = 1
    at_once, most = [], []

    def alone(request):
        at_once.append(request)
        most.append(len(at_once))
        time.sleep(0.01)
        at_once.remove(request)

    world.before_pull = alone
    world.backfill(pace=Pace(parallel=8))
    assert max(most) == 1


def test_the_pace_is_kept(world):
    """No more records a second than allowed, over all readers, and a rest before each window."""
    began = time.monotonic()
    world.backfill(pace=Pace(records_per_s=20, parallel=4))
    assert time.monotonic() - began >= 0.4
    began = time.monotonic()
    world.backfill(pace=Pace(pause_s=0.1))
    assert time.monotonic() - began >= 0.5
    for wrong in (Pace(records_per_s=0), Pace(parallel=0), Pace(pause_s=-1)):
        with pytest.raises(ConfigError, match="above zero"):
            world.backfill(pace=wrong)


def test_a_key_in_several_windows_is_its_newest_record(world):
    """An API may list a record's revisions; whatever the way of publishing, the newest stays."""
    world.source.records = [record(n, f"revision {n}", key="k") for n in (4, 2, 0, 6)]
    world.backfill()
    assert world.live() == {"k": "revision 6"}
    world.backfill(publish="end")
    assert world.live() == {"k": "revision 6"}


# --- killed and started again ---------------------------------------------------------------------


class Killed(BaseException):
    """What no code of ours catches."""


@pytest.mark.slow
@pytest.mark.parametrize("publish", ["window", "end"])
def test_a_backfill_that_dies_anywhere_goes_on_where_it_was(tmp_path, monkeypatch, publish):
    """At every write to the disk in turn it dies; started again it ends with the same state."""
    from headwater.storage import files

    def attempt(world, die_at):
        steps = [0]
        pass_on = files._step

        def counted(operation, path):
            steps[0] += 1
            if steps[0] == die_at:
                raise Killed
            pass_on(operation, path)

        with monkeypatch.context() as patch:
            patch.setattr(files, "_step", counted)
            try:
                world.backfill(days=6, publish=publish)
            except Killed:
                return None
        return steps[0]

    def fresh(name):
        (tmp_path / name).mkdir()
        return World(tmp_path / name)

    whole = fresh("whole")
    steps = attempt(whole, 0)
    places = sorted(random.Random(3).sample(range(1, steps + 1), min(15, steps)))
    for place in places:
        world = fresh(f"at{place}")
        if attempt(world, place) is None:
            reads = len(world.source.requests)
            world.backfill(days=6, publish=publish)
            assert len(world.source.requests) - reads <= 3
        assert world.live() == whole.live(), place
        assert not world.left_over(), place


def test_what_was_done_is_not_done_again(world):
    """A source that fails in the fourth window keeps the first three; they are not read again."""

    def fail(request):
        if request.window.start >= START + 6 * DAY:
            raise SourceUnreachableError("No answer", obj="s")

    world.before_pull = fail
    with pytest.raises(SourceUnreachableError):
        world.backfill()
    assert world.live() == texts(*range(6))
    world.before_pull = lambda request: None
    world.source.requests.clear()
    steps = world.backfill()
    assert [step.number for step in steps] == [4, 5]
    assert [r.window.start for r in world.source.requests] == [START + n * DAY for n in (6, 8)]
    assert len(world.backfill()) == 5, "one that ended begins anew"


def test_another_configuration_or_range_is_another_backfill_and_a_restart_forgets(world):
    """Progress belongs to exactly what was asked for."""

    def fail(request):
        if request.window.start >= START + 4 * DAY:
            raise SourceUnreachableError("No answer", obj="s")

    world.before_pull = fail
    for _ in range(2):
        with pytest.raises(SourceUnreachableError):
            world.backfill()
    world.before_pull = lambda request: None
    assert len(world.backfill(width=5)) == 2
    assert len(world.backfill(restart=True)) == 5


def test_the_same_backfill_is_not_at_work_twice(world):
    """The second one is told; nothing is lost."""

    def again(request):
        world.before_pull = lambda request: None
        with pytest.raises(BusyError, match="this backfill of s"):
            world.backfill()

    world.before_pull = again
    assert len(world.backfill()) == 5


def test_collected_texts_are_for_the_owner_only_and_an_erasure_removes_them(world):
    """What is not published yet is no less private."""
    from headwater.flows.erasure import ErasureRequest, erase

    world.refresh()

    def fail(request):
        if request.window.start >= START + 6 * DAY:
            raise SourceUnreachableError("No answer", obj="s")

    world.before_pull = fail
    with pytest.raises(SourceUnreachableError):
        world.backfill(publish="end")
    assert len(world.left_over()) == 3
    (folder,) = [p for p in (world.kb.root / FOLDER).iterdir() if p.is_dir()]
    assert folder.stat().st_mode & 0o077 == 0
    erase(world.kb, ErasureRequest(names=(("s", "3"),), reason="asked"))
    assert not world.left_over()
    world.before_pull = lambda request: None
    world.backfill(publish="end")
    assert "3" not in world.live()


# --- beside the schedule --------------------------------------------------------------------------


def test_reading_holds_no_claim(world):
    """While a window is read, the schedule refreshes the same source."""
    refreshed = []
    world.before_pull = lambda request: refreshed.append(world.refresh().exit_code)
    steps = world.backfill()
    assert refreshed == [0] * len(refreshed) and len(refreshed) >= 5
    assert all(step.report.exit_code == 0 for step in steps)


def test_each_waits_for_the_other_s_claim(world):
    """A refresh waits for the backfill's short claim, and a backfill for a refresh."""
    run = RefreshRun(
        world.kb, RefreshOptions(), encoding=twin_encoding, sources={"s": world.source}
    )
    done = []
    worker = threading.Thread(target=lambda: done.extend(world.backfill(days=2)))
    with run.claim():
        worker.start()
        time.sleep(0.5)
        assert not done
        run.finish([run.pull("s")])
    worker.join(30)
    assert len(done) == 1 and done[0].report.exit_code == 0


def test_a_refresh_that_meets_a_backfill_s_claim_waits_and_publishes(world, monkeypatch):
    """Not busy, not refused: the snapshot of the window comes first, then the refresh's."""
    from headwater.flows.window_run import WindowRun

    finish, results, threads = WindowRun.finish, [], []

    def slow(self, pulls, **options):
        thread = threading.Thread(target=lambda: results.append(world.refresh()))
        thread.start()
        threads.append(thread)
        time.sleep(0.5)
        return finish(self, pulls, **options)

    monkeypatch.setattr(WindowRun, "finish", slow)
    world.backfill(days=2)
    for thread in threads:
        thread.join(30)
    assert [report.exit_code for report in results] == [0]
    assert world.live() == texts(*range(10))


def test_a_source_that_changes_while_a_window_waits_is_read_again(world):
    """A newer state that a refresh published stays, and the window is read again to be sure."""

    def after_reading():
        world.source.records = [record(n, f"new text of {n}", day=n) for n in range(10)]
        world.refresh()

    pulls = []
    original = world.source.pull

    def pull(request):
        end = yield from original(request)
        if request.window and not pulls:
            pulls.append(request)
            after_reading()
        return end

    world.source.pull = pull
    steps = world.backfill(days=2)
    assert world.live()["0"] == "new text of 0"
    assert steps[0].stale == 0 and steps[0].report.exit_code == 0


# --- never over what is newer ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "known", "reading", "why"),
    [
        (3, None, Reading(5), ""),
        (3, None, Reading(5, listed=True), OBSERVED),
        (3, Known(4, START + 4 * DAY), Reading(5), NEWER),
        (4, Known(4, START + 4 * DAY), Reading(5), ""),
        (5, Known(6, START + 4 * DAY), Reading(5), OBSERVED),
        (5, Known(6, START + 4 * DAY), Reading(5, own=frozenset({6})), ""),
        (3, Known(6, START + 4 * DAY), Reading(5, own=frozenset({6})), NEWER),
        (None, Known(4, START), Reading(5), ""),
        (3, Known(4), Reading(5), ""),
        (3, Known(6, live=False), Reading(5), OBSERVED),
        (3, Known(4, live=False), Reading(5), ""),
        (3, Known(4), Reading(5, seen=True), OBSERVED),
        (3, Known(4, live=False), Reading(5, seen=True), ""),
    ],
)
def test_what_makes_a_record_outdated(when, known, reading, why):
    """A newer source time, or a later observation that is not the backfill's own."""
    moment = None if when is None else START + when * DAY
    assert outdated(moment, known, reading) == why


KEYS = ["a", "b", "c"]
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(KEYS), st.integers(0, 2)),
        st.tuples(st.just("delete"), st.sampled_from(KEYS), st.just(0)),
        st.tuples(st.just("refresh"), st.just(""), st.just(0)),
    ),
    max_size=6,
)


@pytest.mark.slow
@settings(max_examples=30)
@given(
    before=EVENTS, between=EVENTS, timed=st.booleans(), publish=st.sampled_from(["window", "end"])
)
def test_a_backfill_never_replaces_newer_knowledge(
    tmp_path_factory, before, between, timed, publish
):
    """Whatever the schedule learns while a window waits stays; else what was read is taken.

    The source goes through `before`, a window of all keys is read, the source and the schedule go
    through `between`, and the window is published. A value may come back: only the moment at which
    it was seen tells what is newer.
    """
    world = World(tmp_path_factory.mktemp("w"))
    world.source.records = [record(0, "filler", key="z")]
    clock = [1]
    seen_after_reading = set()
    read = {}
    reading = [False]

    def apply(event):
        kind, key, value = event
        clock[0] += 1
        rest = [r for r in world.source.records if r.key != key]
        when = START + timedelta(seconds=clock[0]) if timed else None
        if kind == "write":
            new = Record(key=key, text=f"value {value}", source_ts=when)
            world.source.records = [*rest, new]
        elif kind == "delete":
            world.source.records = rest
        else:
            assert world.refresh().exit_code == 0
            if reading[0]:
                seen_after_reading.update(KEYS)

    for event in before:
        apply(event)
    world.refresh()
    held = {}

    original = world.source.pull

    def pull(request):
        end = yield from original(request)
        if request.key_range is not None and not reading[0]:
            reading[0] = True
            read.update({r.key: r.text for r in world.source.records})
            for event in between:
                apply(event)
            held.update(world.live())
        return end

    world.source.pull = pull
    # Published at the end, several windows are never read again: what is in doubt stays out.
    spans = (KeyRange("a", "d"), *([KeyRange("x", "y")] if publish == "end" else []))
    world.backfill(world.asked(spans=spans, publish=publish))
    live = world.live()
    source = {r.key: r.text for r in world.source.records}
    overtaken = any(key in read and read[key] != held.get(key) for key in KEYS)
    for key in KEYS:
        if not seen_after_reading:
            assert live.get(key) == read.get(key, held.get(key))
        elif overtaken and publish == "window":
            # It was read again: now it is the newest there is.
            assert live.get(key) == source.get(key, held.get(key))
        else:
            assert live.get(key) == held.get(key)
    assert live["z"] == "filler"


# --- what it would cost ---------------------------------------------------------------------------


def priced(world, per_million="2.5"):
    path = world.kb.root / "headwater.yaml"
    path.write_text(path.read_text() + f"embedding: {{price_per_million_tokens: {per_million}}}\n")
    world.kb = config.load(world.kb.root)


def test_an_estimate_is_what_the_backfill_then_does(world):
    """Texts, tokens, time and money, with nothing published and nothing left on the disk."""
    priced(world)
    world.source.records += [record(n, "The text of number 1.", key=f"twin{n}") for n in range(10)]
    found = estimate_backfill(world.kb, world.asked(), encoding=twin_encoding)
    assert (found.windows, found.read, found.records, found.new) == (5, 5, 20, 20)
    assert found.price.texts == 10 and found.price.tokens > 50
    assert found.price.measured == "now" and found.price.seconds > 0
    assert found.price.money == pytest.approx(found.price.tokens / 1e6 * 2.5)
    assert found.seconds >= found.price.seconds
    assert world.store.current() is None and not world.left_over()
    assert json.dumps(found.as_dict())
    steps = world.backfill()
    assert sum(step.report.embedded for step in steps) == found.price.texts
    again = estimate_backfill(world.kb, world.asked(), encoding=twin_encoding)
    assert (again.new, again.changed, again.price.texts, again.price.money) == (0, 0, 0, 0.0)


def test_an_estimate_may_read_only_some_windows(world):
    """A long backfill is priced by a few of its windows, evenly spread."""
    found = estimate_backfill(world.kb, world.asked(width=1), sample=5, encoding=twin_encoding)
    assert (found.windows, found.read, found.records, found.price.texts) == (10, 5, 10, 10)
    days = [request.window.start.day for request in world.source.requests]
    assert days == [2, 4, 6, 8, 10]


def test_the_speed_of_the_last_backfill_is_used(world):
    """A machine that has embedded for this model knows how fast it is."""
    world.source.records = [record(n % 10, f"Text {n}.", key=f"k{n}") for n in range(200)]
    world.backfill(width=10)
    world.source.records = [record(1, f"Other text {n}.", key=f"o{n}") for n in range(20)]
    found = estimate_backfill(world.kb, world.asked(), encoding=twin_encoding)
    assert found.price.measured == "last backfill" and found.price.tokens_per_s > 0


def test_the_time_left_is_estimated(world):
    """Each step says how long the rest takes; the last one has nothing left."""
    told = []
    steps = list(
        run_backfill(
            world.kb,
            world.asked(),
            encoding=twin_encoding,
            progress=lambda stage, done, total: told.append((stage, done, total)),
        )
    )
    left = [step.left_s for step in steps]
    assert left[0] > 0 and left[-1] == 0
    assert ("backfill", 3, 5) in told and told[-1] == ("backfill", 5, 5)


# --- gates ----------------------------------------------------------------------------------------


def test_a_gate_ends_a_backfill_and_a_ceiling_lets_it_on(world):
    """Stubs in a window wait like those of a refresh; the window is not done until they pass."""
    long = "This text says one thing and then another, at some length. " * 5
    world.source.records = [record(n % 10, long + str(n), key=f"k{n}") for n in range(30)]
    world.refresh()
    world.source.records = [record(n % 10, "moved", key=f"k{n}") for n in range(30)]
    steps = world.backfill(width=10)
    assert len(steps) == 1 and steps[0].report.exit_code == 4
    assert steps[0].report.sources[0].held == 30
    steps = world.backfill(width=10, approved={"shrink": 29})
    assert steps[-1].report.exit_code == 4
    steps = world.backfill(width=10, approved={"shrink": 30})
    assert steps[-1].report.exit_code == 0 and world.live()["k1"] == "moved"
    assert module.plan_windows is plan_windows
