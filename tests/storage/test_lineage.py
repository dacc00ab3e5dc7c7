"""Every version of a document is found, whatever became of it, and nothing of its neighbours."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.errors import NotFoundError
from headwater.storage.changes import content_hash
from headwater.storage.history import live_state
from headwater.storage.lineage import document_history
from headwater.storage.source_time import TRUE_AT, true_at


def told(found):
    return [(s.key, s.began, s.from_seq, s.ended, s.until_seq) for s in found]


def test_a_history_tells_how_each_version_began_and_ended(chain):
    """Added, changed, only its title changed, removed, and there again."""
    first = chain.publish({"docs": {"a": "one", "b": "other"}})
    for state in ({"a": "two", "b": "x"}, {"a": ("two", "T"), "b": "x"}, {"b": "y"}, {"a": "one"}):
        chain.publish({"docs": state})
    found = document_history(chain.store, "docs", "a")
    assert told(found) == [
        ("a", "added", 1, "changed", 2),
        ("a", "changed", 2, "changed", 3),
        ("a", "metadata", 3, "removed", 4),
        ("a", "added", 5, "", None),
    ]
    assert [s.title for s in found] == ["", "", "T", ""]
    assert found[0].content_hash == found[3].content_hash == content_hash("one").hex()
    assert found[0].known_from == first.time and found[3].known_until is None
    assert all(a.known_until <= b.known_from for a, b in pairwise(found))
    assert json.loads(json.dumps(found[0].as_dict()))["known_from"] == first.time.isoformat()


def test_renames_are_followed_both_ways_from_any_of_the_keys(chain):
    """The three keys that a document had lead to the same history."""
    chain.publish({"docs": {"a": "text", "z": "else"}})
    chain.publish({"docs": {"b": "text", "z": "else"}})
    chain.publish({"docs": {"b": "text, longer", "z": "else"}})
    chain.publish({"docs": {"c": "text, longer", "z": "else"}})
    expected = [
        ("a", "added", 1, "renamed", 2),
        ("b", "renamed", 2, "changed", 3),
        ("b", "changed", 3, "renamed", 4),
        ("c", "renamed", 4, "", None),
    ]
    for key in "abc":
        assert told(document_history(chain.store, "docs", key)) == expected


def test_a_key_used_again_does_not_lead_to_the_life_of_its_earlier_owner(chain):
    """`b` was `a`; the new `a` is another document, which only a question for `a` finds."""
    chain.publish({"docs": {"a": "text"}})
    chain.publish({"docs": {"b": "text"}})
    chain.publish({"docs": {"b": "text", "a": "news"}})
    chain.publish({"docs": {"b": "text", "a": "more news"}})
    of_b = document_history(chain.store, "docs", "b")
    assert told(of_b) == [("a", "added", 1, "renamed", 2), ("b", "renamed", 2, "", None)]
    of_a = document_history(chain.store, "docs", "a")
    assert set(of_b) < set(of_a) and len(of_a) == 4


def test_the_branch_that_a_rollback_left_is_part_of_the_history(chain):
    """What was rolled back ended then; what the rollback restored began again then."""
    chain.publish({"docs": {"a": "good"}})
    chain.publish({"docs": {"a": "bad", "b": "new"}})
    chain.publish({"docs": {"a": "worse"}})
    chain.rollback("1")
    chain.publish({"docs": {"a": "better"}})
    assert told(document_history(chain.store, "docs", "a")) == [
        ("a", "added", 1, "changed", 2),
        ("a", "changed", 2, "changed", 3),
        ("a", "changed", 3, "rolled back", 4),
        ("a", "restored", 4, "changed", 5),
        ("a", "changed", 5, "", None),
    ]
    assert told(document_history(chain.store, "docs", "b")) == [("b", "added", 2, "removed", 3)]


def test_each_object_of_the_chain_is_read_once(chain, monkeypatch):
    """A long chain costs as many reads as it has files, not files times snapshots."""
    for step in range(8):
        chain.publish({"docs": {"a": f"text {step}"}})
    read = []
    objects, original = chain.store.objects, chain.store.objects.read_table
    monkeypatch.setattr(
        objects, "read_table", lambda e, columns=None: (read.append(e), original(e, columns))[1]
    )
    document_history(chain.store, "docs", "a")
    assert len(read) == len(set(read)) == 8 + 7
    assert {entry.kind for entry in read} == {"versions.parquet", "closures.parquet"}


def test_what_was_never_known_is_not_found_and_near_names_are_offered(chain):
    """A typing error gets the key that was meant; an empty store says that it is empty."""
    with pytest.raises(NotFoundError, match="Nothing is published"):
        document_history(chain.store, "docs", "a")
    chain.publish({"docs": {"guides/install.md": "a", "guides/remove.md": "b"}})
    with pytest.raises(NotFoundError) as caught:
        document_history(chain.store, "docs", "guides/instal.md")
    assert "guides/install.md" in caught.value.todo
    with pytest.raises(NotFoundError) as caught:
        document_history(chain.store, "docs", "REMOVE")
    assert "guides/remove.md" in caught.value.todo
    with pytest.raises(NotFoundError) as caught:
        document_history(chain.store, "docss", "x")
    assert "docs" in caught.value.todo


texts = st.sampled_from(["a", "b", "c", "d"])
states = st.dictionaries(st.sampled_from("pqrst"), texts, max_size=4)
steps = st.lists(st.one_of(states, st.integers(1, 6)), min_size=1, max_size=6)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=states, history=steps)
def test_histories_add_up_to_every_snapshot(make_chain, first, history):
    """For any chain, rollbacks included: a key is live in a snapshot iff a span covers it."""
    chain = make_chain()
    manifests = [chain.publish({"docs": {"keep": "x", **first}})]
    for step in history:
        if isinstance(step, int):
            manifests.append(chain.rollback(str(min(step, len(manifests)))))
        else:
            manifests.append(chain.publish({"docs": {"keep": "x", **step}}))
    live = {m.seq: live_state(chain.store.objects, m)["docs"] for m in manifests}
    for key in {k for state in live.values() for k in state}:
        for span in document_history(chain.store, "docs", key):
            assert (span.until_seq is None) == (span.ended == "")
        own = [s for s in document_history(chain.store, "docs", key) if s.key == key]
        for seq, state in live.items():
            covering = [
                s.version_id
                for s in own
                if s.from_seq <= seq and (s.until_seq is None or seq < s.until_seq)
            ]
            assert covering == ([state[key].version_id] if key in state else [])


def day(number):
    return datetime(2025, 6, number, tzinfo=UTC)


def test_true_at_is_the_sources_clock_and_not_ours(chain):
    """A version known late counts from when the source says it held."""
    chain.publish({"docs": {"a": "old"}}, source_ts={"a": day(1)})
    chain.publish({"docs": {"a": "new"}}, source_ts={"a": day(20)})
    # Learned last, and true in between.
    chain.publish({"docs": {"a": "between"}}, source_ts={"a": day(10)})
    chain.publish({"docs": {"a": "between", "undated": "x"}}, source_ts={"a": day(10)})
    for when, text in ((1, "old"), (9, "old"), (10, "between"), (19, "between"), (25, "new")):
        found = true_at(chain.store, day(when))
        assert found.schema == TRUE_AT
        assert found["key"].to_pylist() == ["a"]
        assert found["content_hash"].to_pylist() == [content_hash(text)]
    assert true_at(chain.store, datetime(2025, 5, 1)).num_rows == 0


def test_true_at_leaves_out_what_was_gone_and_marks_what_was_withdrawn(chain):
    """A removal counts from when it was seen; a version that a rollback left is marked."""
    chain.publish({"docs": {"a": "x", "b": "y"}}, source_ts={"a": day(1), "b": day(1)})
    last = chain.publish({"docs": {"b": "wrong"}}, source_ts={"b": day(5)})
    assert true_at(chain.store, last.time)["key"].to_pylist() == ["b"]
    assert true_at(chain.store, day(2))["key"].to_pylist() == ["a", "b"]
    chain.rollback("1")
    found = true_at(chain.store, last.time)
    assert found.select(["key", "withdrawn"]).to_pylist() == [
        {"key": "a", "withdrawn": False},
        {"key": "b", "withdrawn": True},
    ]
