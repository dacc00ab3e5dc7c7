"""The feed tells what the comparison of two states tells, from the files in between."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.errors import NotFoundError
from headwater.storage.feed import FEED, change_feed
from headwater.storage.history import compare_live, diff, live_state


def told(table):
    return [(r["op"], r["key"], r["renamed_from"], r["seq"]) for r in table.to_pylist()]


def as_diff(table):
    names = ("op", "source", "key", "before_version_id", "after_version_id", "renamed_from")
    return [tuple(row[name] for name in names) for row in table.to_pylist()]


def of_diff(changes):
    return [(c.op, c.source, c.key, c.before, c.after, c.renamed_from) for c in changes]


SOURCES = ("docs", "more")

values = st.one_of(
    st.sampled_from("abcd"), st.tuples(st.sampled_from("abcd"), st.sampled_from("TU"))
)
documents = st.dictionaries(st.sampled_from("pqrstu"), values, max_size=5)
states = st.fixed_dictionaries({"docs": documents, "more": documents})
steps = st.lists(st.one_of(states, states, states, st.integers(1, 5)), min_size=1, max_size=5)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=states, history=steps)
def test_the_feed_between_any_two_snapshots_is_their_difference(make_chain, first, history):
    """For any chain, rollbacks included, forwards and backwards: the same rows as `diff`."""
    chain = make_chain()
    chain.publish(first)
    for count, step in enumerate(history, start=1):
        if isinstance(step, int):
            chain.rollback(str(min(step, count)))
        else:
            chain.publish(step)
    manifests = list(chain.store.chain())
    live = {m.seq: live_state(chain.store.objects, m) for m in manifests}
    for before in manifests:
        for after in manifests:
            feed = change_feed(chain.store, before.name(), after.name())
            assert feed.schema == FEED
            old, new = live[before.seq], live[after.seq]
            changes = [c for s in SOURCES for c in compare_live(s, old.get(s, {}), new.get(s, {}))]
            assert as_diff(feed) == of_diff(changes)
            assert all(row["seq"] <= after.seq for row in feed.to_pylist())
    whole = diff(chain.store, "1", "current")
    assert as_diff(change_feed(chain.store, "1")) == of_diff(whole.documents)


@pytest.fixture
def read(chain, monkeypatch):
    """What was read from the chain's store, as (object, columns)."""
    found = []
    original = chain.store.objects.read_table

    def spy(entry, columns=None):
        found.append((entry, columns))
        return original(entry, columns)

    monkeypatch.setattr(chain.store.objects, "read_table", spy)
    return found


def test_a_range_is_read_from_its_own_files_alone(chain, read):
    """Edits, additions, renames and removals need nothing of what was there before."""
    chain.publish({"docs": {"a": "1", "b": "2", "c": "3", "d": "4"}})
    chain.publish({"docs": {"a": "1, edited", "b": "2", "c": "3", "new": "5"}})
    chain.publish({"docs": {"a": "1, edited again", "b": "2", "moved": "3", "new": "5"}})
    first, last = chain.store.resolve("1"), chain.store.resolve("3")
    read.clear()
    # The removal of `d` has to be told from a rename: only then are older hashes looked at.
    feed = change_feed(chain.store, "2", "3")
    assert {e for e, _ in read}.isdisjoint(chain.store.resolve("2").objects())
    assert told(feed) == [("changed", "a", None, 3), ("renamed", "moved", "c", 3)]
    read.clear()
    assert told(change_feed(chain.store, "1", "2")) == [
        ("changed", "a", None, 2),
        ("removed", "d", None, 2),
        ("added", "new", None, 2),
    ]
    assert read and {e for e, _ in read}.isdisjoint(first.objects())
    assert {e for e, _ in read} <= set(last.objects())


def test_only_hashes_of_older_files_are_looked_at_and_only_where_they_decide(chain, read):
    """A title that changed and a text that came back: three columns tell them apart."""
    chain.publish({"docs": {"a": "1", "b": "2"}})
    first = chain.store.resolve("1")
    chain.publish({"docs": {"a": ("1", "Title"), "b": "2, edited"}})
    chain.publish({"docs": {"a": ("1", "Title"), "b": "2"}})
    read.clear()
    assert told(change_feed(chain.store, "1", "3")) == [("metadata", "a", None, 2)]
    older = [(e.kind, columns) for e, columns in read if e in first.objects()]
    assert older == [("versions.parquet", ["version_id", "content_hash", "metadata_hash"])]


def test_what_cancels_out_in_a_range_is_no_change(chain):
    """Born and gone in between: never heard of."""
    chain.publish({"docs": {"a": "1"}})
    chain.publish({"docs": {"a": "1", "ghost": "boo"}})
    chain.publish({"docs": {"a": "1"}})
    assert change_feed(chain.store, "1").num_rows == 0
    assert change_feed(chain.store, "2", "2").num_rows == 0
    assert told(change_feed(chain.store, "2", "3")) == [("removed", "ghost", None, 3)]


def test_across_a_rollback_the_changes_are_those_of_the_later_snapshot(chain):
    """A rollback removes and restores at its own time, whatever the old files say."""
    chain.publish({"docs": {"a": "good", "b": "kept"}})
    chain.publish({"docs": {"a": "bad", "b": "kept", "c": "bad"}})
    chain.rollback("1")
    assert told(change_feed(chain.store, "2", "3")) == [
        ("changed", "a", None, 3),
        ("removed", "c", None, 3),
    ]
    assert told(change_feed(chain.store, "1", "3")) == []
    with pytest.raises(NotFoundError):
        change_feed(chain.store, "1", "9")
