"""Live documents in columns answer exactly as a dictionary of documents does."""

import pickle
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.storage import live as live_module
from headwater.storage.changes import LiveDocument, content_hash
from headwater.storage.live import LiveDocuments, utc_times

T0 = datetime(2026, 1, 1, tzinfo=UTC)

keys = st.sampled_from(["a", "b", "cc", "dd", "e e", "\u00e9", "\U0001f600", "", "f" * 90])
documents = st.builds(
    LiveDocument,
    version_id=st.sampled_from(["v1", "v2"]),
    content_hash=st.sampled_from([content_hash("x"), content_hash("y"), b"\0" * 32]),
    metadata_hash=st.sampled_from([content_hash("m"), content_hash("n")]),
    fingerprint=st.sampled_from([None, "", "f1", "f2"]),
    changed_at=st.sampled_from(
        [T0, T0 + timedelta(microseconds=1), datetime.min.replace(tzinfo=UTC)]
    ),
)
states = st.dictionaries(keys, documents, max_size=7)


@pytest.fixture(params=["real hashes", "colliding hashes"])
def hashing(request, monkeypatch):
    if request.param == "colliding hashes":
        monkeypatch.setattr(live_module, "hash", lambda key: len(str(key)), raising=False)


def table(pairs: list[tuple[str, LiveDocument]]) -> pa.Table:
    names = ("version_id", "content_hash", "metadata_hash", "fingerprint", "changed_at")
    columns = {name: [getattr(one, name) for _, one in pairs] for name in names}
    schema = pa.schema(
        [
            ("key", pa.string()),
            ("version_id", pa.string()),
            ("content_hash", pa.binary(32)),
            ("metadata_hash", pa.binary(32)),
            ("fingerprint", pa.string()),
            ("changed_at", pa.timestamp("us", tz="UTC")),
        ]
    )
    return pa.table({"key": [key for key, _ in pairs], **columns}, schema=schema)


def check(held: LiveDocuments, expected: dict[str, LiveDocument]) -> None:
    """Hold every answer of `held` against the dictionary's."""
    assert len(held) == len(expected) and bool(held) == bool(expected)
    assert list(held) == list(expected)
    assert list(held.items()) == list(expected.items())
    assert list(held.values()) == list(expected.values())
    assert held == expected and expected == held
    for key in ["a", "b", "cc", "dd", "zz", "e e", ""]:
        assert held.get(key) == expected.get(key)
        assert (key in held) == (key in expected)
    assert None not in held and 1 not in held
    assert held.fingerprints() == {k: d.fingerprint for k, d in expected.items() if d.fingerprint}
    order = list(expected)
    asked = [*reversed(order), None, "nowhere", *order]
    rows = held.rows_of(pa.array(asked, pa.string())).tolist()
    assert rows == [order.index(key) if key in expected else -1 for key in asked]
    assert held.keys_at(np.arange(len(order))) == order


@given(state=states)
def test_columns_answer_as_a_dictionary_does(state):
    """Every way of asking gives what a dictionary of the same documents gives."""
    check(LiveDocuments.of(state), state)
    held = LiveDocuments(table(list(state.items())))
    check(held, state)
    check(pickle.loads(pickle.dumps(held)), state)
    assert LiveDocuments.of(held) is held


def test_keys_of_equal_hash_are_told_apart(hashing):
    """A key is found by its hash and then compared, so equal hashes never mix documents up."""
    state = {
        key: LiveDocument(f"v-{key}", content_hash(key), content_hash(""), None, T0)
        for key in ("a", "b", "c", "cc", "dd", "d", "")
    }
    check(LiveDocuments(table(list(state.items()))), state)


@given(first=states, second=states)
def test_two_states_are_equal_when_their_documents_are(first, second):
    """Equality looks at keys and documents, never at their order."""
    one, two = LiveDocuments.of(first), LiveDocuments.of(second)
    assert (one == two) == (first == second)
    assert (one != two) == (first != second)
    assert one == LiveDocuments.of(dict(reversed(first.items())))


@given(pairs=st.lists(st.tuples(keys, documents), max_size=9), cut=st.integers(0, 9))
def test_the_last_row_of_a_key_counts(pairs, cut):
    """Chunked, sliced and repeated rows give the state that reading them in order gives."""
    whole = table([*pairs[:2], *pairs]).slice(min(2, len(pairs)))
    chunked = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    check(LiveDocuments(chunked), dict(pairs))


def test_times_are_exact_and_nulls_stay():
    """A time comes back to the microsecond, in UTC; one that Python cannot hold is an error."""
    times = [T0 + timedelta(microseconds=123457), None, datetime(1, 1, 1, tzinfo=UTC)]
    assert utc_times(pa.array(times, pa.timestamp("us", tz="UTC"))) == times
    with pytest.raises(OverflowError):
        utc_times(pa.array([2**62], pa.int64()).cast(pa.timestamp("us", tz="UTC")))
