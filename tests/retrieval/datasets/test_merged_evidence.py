"""What has settled does not depend on which files the history stands in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.retrieval.datasets.evidence import gather_evidence, read_history
from headwater.retrieval.datasets.settled import Rule, judge_chunks
from headwater.storage import merging

RULE = Rule(timedelta(days=3), 2)
TEXTS = ("alpha text", "beta text", "gamma text")

documents = st.dictionaries(
    st.sampled_from("abc"), st.lists(st.sampled_from(TEXTS), min_size=1, max_size=2), max_size=3
)
steps = st.lists(st.one_of(documents, documents, st.integers(1, 5)), min_size=2, max_size=7)


def told(world: Any, steps: list[Any]) -> list[object]:
    """Every judgement on every snapshot, after the steps were taken; a number rolls back."""
    states: dict[int, dict[str, Any]] = {}
    for turn, step in enumerate(steps):
        if isinstance(step, int) and states:
            target = min(step, len(states))
            back = world.store.rollback(str(target), run_id="r")
            states[back.seq] = states[target]
            world.resume(states[target], back)
        else:
            documents = {} if isinstance(step, int) else step
            manifest = world.publish(200 + turn, documents, held=["a"] if turn % 3 == 1 else [])
            states[manifest.seq] = documents
            world.verify(200.2 + turn, 200.4 + turn)
    found: list[object] = []
    for manifest in world.store.chain():
        history = read_history(world.store.objects, manifest)
        evidence = gather_evidence(world.store, manifest)
        judged = judge_chunks(history, evidence, RULE)
        # A rollback happens by the clock, which is different in each world.
        on_the_clock = {m.time for m in world.store.chain() if m.cause == "rollback"}
        found.append(
            [
                (j.source, j.key, j.text_hash, j.since in on_the_clock or j.since, j.checks, j.why)
                for j in judged
            ]
        )
        found.append((history.origins, evidence.held_back))
    return found


@pytest.fixture
def merging_worlds(
    new_world: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Any]:
    """Makes worlds that merge their history where two files of a size meet."""
    monkeypatch.setattr(merging, "FAN_IN", 2)

    def make(name: str) -> Any:
        world = new_world(name)
        original = world._manifest
        world._manifest = lambda *rest: merging.merge_history(world.store.objects, original(*rest))
        return world

    return make


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=steps)
def test_judgements_are_the_same_whatever_was_merged(
    new_world: Callable[[str], Any],
    merging_worlds: Callable[[str], Any],
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[Any],
) -> None:
    """For any chain, rollbacks and holds included."""
    folder = tmp_path_factory.mktemp("worlds")
    plain = told(new_world(str(folder / "plain")), steps)
    assert told(merging_worlds(str(folder / "merged")), steps) == plain
