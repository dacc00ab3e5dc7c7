"""Whatever a server does, a knowledge base holds what was true: nothing lost, invented or doubled.

The server of these tests speaks over real sockets and misbehaves by plan. After each refresh the
live documents of a real knowledge base are compared with what the server's list was meanwhile.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina
from faulty_server import FAULTS, Asked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paged_api import STYLES, PagedApi
from source_base import SourceBase

HEALED = ("reset", "slow", "429", "503")
"""Faults that a second attempt mends."""


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    """Two attempts and no waiting between them."""
    with stamina.set_testing(True, attempts=2):
        yield


class World:
    """A server, a knowledge base, and what must hold between them."""

    def __init__(self, root: Path, style: str, *, etags: bool = True) -> None:
        self.api = PagedApi(style, etags=etags)
        self.api.records = [{"id": f"r{n}", "v": f"text {n}"} for n in range(7)]
        self.base = SourceBase(root, self.api.config(deadline="20s", timeout="5s"))
        self.quiet()

    def close(self) -> None:
        self.api.server.close()

    def quiet(self) -> None:
        """Without faults and changes the documents are the truth."""
        self.api.server.fault = lambda asked: ""
        self.api.before_request = lambda asked: None
        self.api.replace = lambda page, number: page
        self.api.begin()
        report = self.base.refresh()
        assert report.exit_code == 0, report
        assert report.sources[0].outcome == "verified"
        assert self.base.live() == self.api.truth

    def disturbed(self, told: object) -> str:
        """A refresh with whatever was planned; checks it, and returns its outcome."""
        before = self.base.live()
        self.api.begin()
        report = self.base.pull()
        live = self.base.live()
        states = self.api.states
        if report.outcome == "verified":
            assert live in [*states, before], (told, report, states, live)
        elif report.outcome == "failed":
            assert live == before, (told, report)
        else:
            assert report.outcome == "partial"
            assert report.removed == 0, (told, report)
            assert set(before) <= set(live), (told, report)
            for key, text in live.items():
                assert any(state.get(key) == text for state in (*states, before)), (told, key)
        assert report.refused == 0, (told, report)
        return report.outcome


@pytest.fixture(params=["page", "link"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A world of one style."""
    made = World(tmp_path / "kb", request.param)
    yield made
    made.close()


@pytest.mark.slow
def test_every_fault_once_and_for_ever(world: World) -> None:
    """One spoiled reply, and then only spoiled ones: the state stays, or is the truth."""
    numbers = random.Random(4)
    for fault in FAULTS:
        world.api.change("edit", numbers.randrange(9))
        world.api.change("delete", numbers.randrange(9))
        world.api.change("insert", numbers.randrange(9))
        spoiled = numbers.randrange(3)
        world.api.server.fault = lambda asked, f=fault, n=spoiled: f if asked.number == n else ""
        outcome = world.disturbed((fault, spoiled))
        if fault in HEALED:
            assert outcome == "verified" and world.base.live() == world.api.truth, fault
        world.api.change("edit", numbers.randrange(9))
        world.api.server.fault = lambda asked, f=fault: f
        outcome = world.disturbed((fault, "always"))
        assert outcome == ("verified" if fault == "slow" else "failed"), fault
        world.quiet()


@pytest.mark.parametrize("style", sorted(STYLES))
@pytest.mark.parametrize("kind", ["insert", "delete", "swap"])
def test_a_change_between_two_pages_loses_nothing(tmp_path: Path, style: str, kind: str) -> None:
    """A record that shifts over the edge of a page is neither lost nor doubled.

    `swap` deletes one and inserts another, so that no total can tell.
    """
    world = World(tmp_path / "kb", style)

    read: list[int] = []

    def before(asked: Asked) -> None:
        # The first requests only ask whether known pages changed; those that read are plain.
        if "if-none-match" in asked.headers:
            return
        read.append(asked.number)
        if len(read) == 3:
            world.api.change("delete" if kind == "swap" else kind, 0)
            if kind == "swap":
                world.api.change("insert", len(world.api.records))

    try:
        world.api.change("edit", 6)
        world.api.before_request = before
        # What was there when the pull began is not deleted by it; the next one does.
        outcome = world.disturbed(kind)
        assert outcome == ("verified" if kind == "insert" else "partial")
        assert world.api.truth.items() <= world.base.live().items(), "a second reading found out"
        assert len(read) >= 3 and len(world.api.states) > 1
        world.quiet()
    finally:
        world.close()


def test_a_list_that_never_holds_still_deletes_nothing(world: World) -> None:
    """Each reading differs from the one before: what is new is taken in, and nothing goes."""
    gone = world.api.records[3]["id"]
    del world.api.records[3]
    world.api.before_request = lambda asked: world.api.change("insert", 0)
    assert world.disturbed("restless") == "partial"
    live = world.base.live()
    assert gone in live and any(key.startswith("k") for key in live)
    world.quiet()
    assert gone not in world.base.live()


@pytest.mark.parametrize("etags", [True, False])
def test_an_old_state_that_returns_is_noticed(tmp_path: Path, etags: bool) -> None:
    """While deletions wait, the manifest's pages are not the documents: a 304 would prove nothing."""
    world = World(tmp_path / "kb", "page", etags=etags)
    try:
        guard = {"max_count": 1, "max_share": 0.0}
        world.base.configure({**world.api.config(), "deletion_guard": guard})
        old = list(world.api.records)
        world.api.records = [{**old[0], "v": "edited meanwhile"}, *old[4:]]
        report = world.base.pull()
        assert (report.withheld, report.changed) == (3, 1)
        world.api.records = old
        assert world.base.pull().outcome == "verified"
        assert world.base.live() == world.api.truth
    finally:
        world.close()


@pytest.mark.slow
@pytest.mark.parametrize("etags", [True, False])
def test_pages_twice_and_in_another_order(tmp_path: Path, etags: bool) -> None:
    """A page served in the place of another, once, is found out by the second reading."""
    world = World(tmp_path / "kb", "page", etags=etags)
    try:
        for wrong in (lambda p: max(0, p - 1), lambda p: p + 1, lambda p: 0):
            for number in range(4):
                world.api.change("edit", 1)
                world.api.change("delete", 4)
                world.api.change("insert", 2)
                world.api.replace = lambda page, n, w=wrong, at=number: w(page) if n == at else page
                world.disturbed((number,))
                world.quiet()
    finally:
        world.close()


EVENTS = st.dictionaries(
    st.integers(0, 12),
    st.one_of(
        st.sampled_from(FAULTS).map(lambda name: ("fault", name)),
        st.tuples(st.sampled_from(["insert", "delete", "edit"]), st.integers(0, 9)),
        st.tuples(st.just("page"), st.sampled_from([-1, 1])),
    ),
    max_size=4,
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["insert", "delete", "edit"]), st.integers(0, 9)), max_size=3
)


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    style=st.sampled_from(sorted(STYLES)),
    etags=st.booleans(),
    rounds=st.lists(st.tuples(CHANGES, EVENTS), min_size=1, max_size=3),
)
def test_no_plan_of_faults_loses_doubles_or_deletes(style, etags, rounds) -> None:
    """Faults, changes and misplaced pages at any request, in any order, in every style."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "kb", style, etags=etags)
        try:
            for changes, events in rounds:
                for kind, at in changes:
                    world.api.change(kind, at)
                # A server that passes over the same page twice alike has told one story twice.
                misplaced = [n for n, event in sorted(events.items()) if event[0] == "page"]
                plan = {n: e for n, e in events.items() if n not in misplaced[1:]}

                def before(asked: Asked, plan=plan) -> None:
                    kind, at = plan.get(asked.number, ("", 0))
                    if kind in ("insert", "delete", "edit"):
                        world.api.change(kind, at)

                def fault(asked: Asked, plan=plan) -> str:
                    kind, name = plan.get(asked.number, ("", ""))
                    return name if kind == "fault" else ""

                def replace(page: int, number: int, plan=plan) -> int:
                    kind, by = plan.get(number, ("", 0))
                    return max(0, page + by) if kind == "page" else page

                world.api.before_request = before
                world.api.server.fault = fault
                world.api.replace = replace
                world.disturbed((style, etags, changes, events))
                world.quiet()
        finally:
            world.close()
