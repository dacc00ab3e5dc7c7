"""What differs is decided from hashes alone, and renames are not deletions."""

import hashlib
import json
from datetime import UTC, datetime

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from headwater.storage.changes import (
    Incoming,
    LiveDocument,
    content_hash,
    content_hashes,
    metadata_hash,
    metadata_hashes,
    plan_changes,
    version_rows,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)
T1 = datetime(2026, 2, 1, tzinfo=UTC)


def record(key: str, text: str, *, title: str = "", source_ts: datetime | None = None) -> Incoming:
    return Incoming(
        key=key,
        text=text,
        title=title,
        url=None,
        metadata="{}",
        labels=(),
        source_ts=source_ts,
        fingerprint=None,
        content_hash=content_hash(text),
        metadata_hash=metadata_hash(title, None, "{}", ()),
    )


def live(*records: Incoming) -> dict[str, LiveDocument]:
    return {
        r.key: LiveDocument(f"v-{r.key}", r.content_hash, r.metadata_hash, r.fingerprint, T0)
        for r in records
    }


texts = st.sampled_from(["", "a", "b", "c", "d"])
documents = st.dictionaries(st.sampled_from("pqrstuv"), texts, max_size=6)


@given(before=documents, after=documents)
def test_applying_the_changes_gives_exactly_what_came_in(before, after):
    """For any two states, closures and new versions turn the first into the second."""
    held = live(*(record(k, t) for k, t in before.items()))
    incoming = [record(k, t) for k, t in after.items()]
    changes = plan_changes("s", held, incoming, missing=[k for k in before if k not in after])
    versions, closures = version_rows(changes, held, seq=2, observed_at=T1)
    state = dict(before)
    for row in closures.to_pylist():
        del state[row["key"]]
    for row in versions.to_pylist():
        assert row["key"] not in state
        state[row["key"]] = next(
            t for t in after.values() if content_hash(t) == row["content_hash"]
        )
    assert state == after
    assert bool(changes) == (before != after)


@given(before=documents, after=documents)
def test_a_rename_pairs_one_vanished_key_with_one_new_key_of_the_same_text(before, after):
    """Renames never invent or lose a document, and their text is unchanged."""
    held = live(*(record(k, t) for k, t in before.items()))
    missing = [k for k in before if k not in after]
    changes = plan_changes("s", held, [record(k, t) for k, t in after.items()], missing=missing)
    origins = [old for _, old in changes.renamed]
    assert len(set(origins)) == len(origins)
    assert set(origins) | set(changes.removed) == set(missing)
    assert all(before[old] == new.text for new, old in changes.renamed)


def test_a_timestamp_that_moves_alone_is_no_change():
    """The source's own time is not part of what is compared."""
    held = live(record("k", "text", source_ts=T0))
    assert not plan_changes("s", held, [record("k", "text", source_ts=T1)], missing=[])


def test_metadata_alone_keeps_the_time_of_the_content():
    """A new title is a new version whose content did not change."""
    held = live(record("k", "text", title="old"))
    changes = plan_changes("s", held, [record("k", "text", title="new")], missing=[])
    versions, closures = version_rows(changes, held, seq=2, observed_at=T1)
    assert len(changes.touched) == 1 and not changes.changed
    assert versions["changed_at"].to_pylist() == [T0]
    assert closures["op"].to_pylist() == ["changed"]


def test_a_rename_keeps_the_time_of_the_content_and_names_its_origin():
    """A moved file is as old as its text."""
    held = live(record("old", "text"))
    changes = plan_changes("s", held, [record("new", "text")], missing=["old"])
    versions, closures = version_rows(changes, held, seq=2, observed_at=T1)
    row = versions.to_pylist()[0]
    assert (row["key"], row["renamed_from"], row["changed_at"]) == ("new", "old", T0)
    assert closures["op"].to_pylist() == ["renamed"]
    assert not changes.removed and not changes.added


def test_new_content_is_as_old_as_the_source_says():
    """`changed_at` is the source's time where it gives one."""
    changes = plan_changes("s", {}, [record("a", "x", source_ts=T0), record("b", "y")], missing=[])
    versions, _ = version_rows(changes, {}, seq=1, observed_at=T1)
    assert versions["changed_at"].to_pylist() == [T0, T1]


def test_a_rerun_on_the_same_parent_gives_the_same_version_ids():
    """Version ids depend on what is stored, not on when or by whom."""
    changes = plan_changes("s", {}, [record("a", "x")], missing=[])
    first, _ = version_rows(changes, {}, seq=1, observed_at=T0)
    second, _ = version_rows(changes, {}, seq=1, observed_at=T0)
    other, _ = version_rows(changes, {}, seq=2, observed_at=T0)
    assert first.equals(second)
    assert first["version_id"] != other["version_id"]


anything = st.text(st.characters(codec=None))


@given(
    title=st.none() | anything,
    url=st.none() | anything,
    metadata=anything,
    labels=st.lists(anything, max_size=3),
)
def test_the_metadata_hash_is_that_of_its_json(title, url, metadata, labels):
    """What is hashed never changes: hashes of years ago must still be found equal."""
    text = json.dumps([title, url, metadata, sorted(labels)])
    expected = hashlib.sha256(text.encode()).digest()
    assert metadata_hash(title, url, metadata, labels) == expected
    assert metadata_hashes([title], [url], [metadata], [tuple(labels)]) == [expected]


def test_the_hashes_of_a_record_are_pinned():
    """The very bytes that stores hold since the first version."""
    stored = metadata_hash('a "b" \u00e9', None, '{"k":1}', ("z", "y"))
    assert stored.hex() == "003f07fef12cbb5eddc1bfd29325bc585d21b3ec600ff28b2ae9eb8a80aff3e7"
    assert content_hash("h\u00e9").hex() == hashlib.sha256(b"h\xc3\xa9").hexdigest()
    assert content_hashes(pa.array(["x", "h\u00e9", ""]).slice(1)) == [
        content_hash("h\u00e9"),
        content_hash(""),
    ]
