"""When a chunk has settled."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest

from headwater.errors import NotFoundError
from headwater.retrieval.datasets.evidence import gather_evidence, read_history
from headwater.retrieval.datasets.settled import (
    HELD_BACK,
    ON_HOLD,
    Judgement,
    Rule,
    judge_chunks,
    settled_chunks,
)

A, B, C = "alpha text", "beta text", "gamma text"
RULE = Rule(timedelta(days=10), 3)


def judged(world: Any, *, rule: Rule = RULE, **options: Any) -> dict[tuple[str, str], Judgement]:
    """(key, text) -> judgement on the current snapshot."""
    manifest = world.store.current()
    texts = {hashlib.sha256(t.encode()).digest(): t for t in (A, B, C)}
    found = judge_chunks(
        read_history(world.store.objects, manifest),
        gather_evidence(world.store, manifest, **options),
        rule,
    )
    return {(j.key, texts[j.text_hash]): j for j in found}


def test_time_and_checks_are_both_needed(world: Any) -> None:
    """A chunk settles at the first check that completes both the time and the number."""
    world.publish(0, {"a": [A]})
    world.verify(1, 2, 3)
    assert not judged(world)["a", A].settled
    world.verify(11)
    found = judged(world)["a", A]
    assert found.settled
    assert (found.since, found.checks, found.confirmed_at) == (world.at(0), 4, world.at(11))


def test_long_silence_is_no_evidence(world: Any) -> None:
    """A year without verifications settles nothing, and failed runs are no verifications."""
    world.publish(0, {"a": [A]})
    world.verify(100, 200, 300, outcome="failed")
    world.verify(101, 201, 301, outcome="partial")
    world.verify(102, 202, 302, withheld=1)
    found = judged(world)["a", A]
    assert (found.settled, found.checks, found.unchanged_for) == (False, 0, timedelta(0))


def test_a_neighbours_change_leaves_the_age_alone(world: Any) -> None:
    """A chunk stays old when its document changes elsewhere; the new chunk is young."""
    world.publish(0, {"a": [A, B]})
    world.publish(5, {"a": [A, C]})
    world.verify(6, 7, 12)
    found = judged(world)
    assert (found["a", A].since, found["a", A].settled) == (world.at(0), True)
    assert (found["a", C].since, found["a", C].settled) == (world.at(5), False)


def test_a_text_that_left_and_came_back_is_new(world: Any) -> None:
    """An edit away and back, or a removal and return, restarts the clock."""
    world.publish(0, {"a": [A], "b": [B]})
    world.publish(3, {"a": [C]})
    world.publish(6, {"a": [A], "b": [B]})
    found = judged(world)
    assert found["a", A].since == found["b", B].since == world.at(6)


def test_a_rename_carries_the_age_on(world: Any) -> None:
    """A renamed document keeps the age of its chunks and its first key."""
    world.publish(0, {"a": [A]})
    world.publish(5, {"b": [A]}, renamed={"b": "a"})
    world.publish(7, {"c": [A, C]}, renamed={"c": "b"})
    assert judged(world)["c", A].since == world.at(0)
    history = read_history(world.store.objects, world.store.current())
    assert history.origins == {("docs", "c"): "a"}


def test_held_back_documents_are_not_settled(world: Any) -> None:
    """A document in quarantine does not settle, and its clock starts anew when it comes out."""
    world.publish(0, {"a": [A], "b": [B]})
    world.verify(1, 2)
    world.publish(12, {"a": [A], "b": [B]}, held=["a"])
    found = judged(world)
    assert (found["a", A].why, found["b", B].settled) == (HELD_BACK, True)
    world.publish(14, {"a": [A], "b": [B]})
    world.verify(15, 16, 17)
    assert (judged(world)["a", A].since, judged(world)["a", A].settled) == (world.at(14), False)


def test_a_rollback_does_not_hide_what_the_source_said(world: Any) -> None:
    """After a rollback a text that the source had contradicted is new; one it kept is old."""
    first = world.publish(0, {"a": [A], "b": [B]})
    world.publish(5, {"a": [C], "b": [B]})
    back = world.store.rollback(first.name(), run_id="r")
    found = judged(world)
    assert found["b", B].since == world.at(0)
    assert found["a", A].since == back.time


def test_a_source_on_hold_is_not_settled(world: Any) -> None:
    """Nothing of a source that refreshes leave alone is settled."""
    first = world.publish(0, {"a": [A]})
    world.verify(1, 2, 11)
    world.store.rollback(first.name(), run_id="r", hold=("docs",))
    assert judged(world)["a", A].why == ON_HOLD


def test_evidence_ends_with_the_successor(world: Any) -> None:
    """Verifications of a later snapshot say nothing about this one."""
    first = world.publish(0, {"a": [A]})
    world.verify(1, 2)
    world.publish(3, {"a": [B]})
    world.verify(20, 21, 22)
    history = read_history(world.store.objects, first)
    assert settled_chunks(history, gather_evidence(world.store, first), RULE) == ()
    (found,) = judge_chunks(history, gather_evidence(world.store, first), RULE)
    assert (found.checks, found.confirmed_at) == (2, world.at(2))


def test_more_evidence_changes_no_settled_judgement(world: Any) -> None:
    """What was said of a settled chunk stays, however often it is confirmed later."""
    world.publish(0, {"a": [A]})
    world.verify(1, 2, 11)
    before = judged(world)
    world.verify(12, 13, 50)
    assert judged(world) == before


def test_a_candidate_is_no_knowledge(world: Any) -> None:
    """A snapshot that was never published has no evidence."""
    manifest = world.publish(0, {"a": [A]})
    name = world.store.write_candidate(type(manifest)(**{**vars(manifest), "run_id": "other"}))
    with pytest.raises(NotFoundError, match="never published"):
        gather_evidence(world.store, world.store.manifest(name))
