"""Files of history become few, and nobody can tell from what the store answers."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.config import RetentionConfig
from headwater.errors import NotFoundError
from headwater.storage import merging, source_time
from headwater.storage.backup import backup
from headwater.storage.feed import change_feed
from headwater.storage.history import diff, live_state
from headwater.storage.lineage import document_history
from headwater.storage.merging import merge_files, merge_history, plan_merge
from headwater.storage.objects import ObjectStore
from headwater.storage.source_time import true_at
from headwater.storage.sql import run_sql
from headwater.storage.store import Store
from headwater.storage.tables import CHUNKS, CONTENTS, VERSIONS
from headwater.storage.vacuum import vacuum
from headwater.storage.verify import verify

SOON = timedelta(seconds=1)
STRICT = RetentionConfig(all_for=SOON, hourly_for=SOON, daily_for=SOON, monthly_for=SOON)
TABLES = ("versions", "closures", "contents", "chunks")


@pytest.fixture
def fan_in_of_two(monkeypatch):
    """Two files of a tier become one."""
    monkeypatch.setattr(merging, "FAN_IN", 2)


# --- the plan -------------------------------------------------------------------------------------


def applied(rows, spans):
    merged, done = [], 0
    for start, stop in spans:
        merged += [*rows[done:start], sum(rows[start:stop])]
        done = stop
    return [*merged, *rows[done:]]


def test_sixteen_files_of_a_tier_become_one_and_a_large_one_is_left_alone():
    """Before that, and beside that, nothing is rewritten."""
    assert plan_merge([1_000_000, *[5] * 15], fan_in=16) == ()
    assert plan_merge([1_000_000, *[5] * 16], fan_in=16) == ((1, 17),)
    assert plan_merge([1_000_000, *[80] * 15, *[5] * 16], fan_in=16) == ((1, 32),)
    assert plan_merge([5], fan_in=16) == plan_merge([], fan_in=16) == ()


def test_small_files_in_front_of_a_larger_one_become_one():
    """They can collect no more of their kind; what comes after it can."""
    assert plan_merge([1_000_000, 5, 7, 9, 4_000, 5, 7], fan_in=16) == ((1, 4),)
    assert plan_merge([1_000_000, 5, 4_000, 5, 7], fan_in=16) == ()


def test_a_long_history_that_was_never_merged_becomes_short_at_once():
    """Each row is written once for all tiers together."""
    rows = [50_000, *[3] * 5_000]
    spans = plan_merge(rows, fan_in=16)
    assert len(applied(rows, spans)) < 40
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


@settings(max_examples=60, deadline=None)
@given(
    fan_in=st.integers(2, 16),
    seed=st.integers(0, 1 << 30),
    largest=st.integers(1, 400),
    steps=st.integers(1, 400),
)
def test_files_stay_few_and_rows_are_rewritten_seldom(fan_in, seed, largest, steps):
    """Whatever the sizes: files and rewrites grow with the logarithm of the rows."""
    draw = random.Random(seed)
    files, rewrites = [], []
    for _ in range(steps):
        files.append(int(draw.paretovariate(0.7) * draw.randint(1, largest)))
        rewrites.append(0)
        spans = plan_merge(files, fan_in=fan_in)
        assert all(stop - start > 1 for start, stop in spans)
        for start, stop in reversed(spans):
            files[start:stop] = [sum(files[start:stop])]
            rewrites[start:stop] = [max(rewrites[start:stop]) + 1]
        assert plan_merge(files, fan_in=fan_in) == ()
        tiers = 1
        while fan_in**tiers <= sum(files):
            tiers += 1
        assert len(files) <= 2 * fan_in * tiers
        assert max(rewrites) <= 2 * tiers


# --- the files ------------------------------------------------------------------------------------


def sha(number: int) -> bytes:
    return number.to_bytes(4, "big").rjust(32, b"\7")


def content(number: int) -> dict[str, object]:
    text = f"text {number} " * (number % 90)
    return {"content_hash": sha(number), "chars": len(text), "text": text}


def chunk(number: int, ordinal: int) -> dict[str, object]:
    text = f"piece {ordinal} of {number} " * (number % 90)
    return {
        "content_hash": sha(number),
        "ordinal": ordinal,
        "text_hash": sha(number * 10 + ordinal),
        "heading_path": [f"h{number}"] * (number % 3),
        "start": 0,
        "end": len(text),
        "tokens": 1,
        "text": text,
    }


def version(source: str, key: str, seq: int) -> dict[str, object]:
    return {
        "version_id": f"{source}{key}{seq}",
        "source": source,
        "key": key,
        "labels": ["x"],
        "content_hash": sha(seq),
        "metadata_hash": sha(seq),
        "known_at": datetime(2026, 1, 1, tzinfo=UTC),
        "changed_at": datetime(2026, 1, 1, tzinfo=UTC),
        "seq": seq,
    }


@pytest.mark.parametrize("sorted_before", [True, False], ids=["sorted", "as they came"])
def test_a_merged_file_is_the_file_that_had_been_written_at_once(tmp_path, sorted_before):
    """Byte for byte: the rows of all, sorted, in small row groups, and no minima or maxima."""
    objects = ObjectStore(tmp_path)
    draw = random.Random(1)
    numbers = list(range(4_000))
    draw.shuffle(numbers)
    rows = [chunk(n, o) for n in numbers for o in range(n % 3)]
    parts = [rows[:2_000], rows[2_000:2_001], rows[2_001:2_040], rows[2_040:]]
    by = ("content_hash", "ordinal")
    if sorted_before:
        parts = [sorted(part, key=lambda row: [row[name] for name in by]) for part in parts]
    entries = [
        objects.put_table(pa.Table.from_pylist(part, CHUNKS), "chunks.parquet") for part in parts
    ]
    merged = merge_files(objects, "chunks", entries)
    whole = pa.Table.from_pylist(sorted(rows, key=lambda row: [row[n] for n in by]), CHUNKS)
    assert merged == objects.put_table(whole, "chunks.parquet", row_group_size=1024)
    assert objects.read_table(merged).equals(whole)
    footer = pq.read_metadata(objects.path(merged))
    groups = [footer.row_group(at) for at in range(footer.num_row_groups)]
    assert [g.num_rows for g in groups[:-1]] == [1024] * (len(groups) - 1)
    assert all(
        g.column(at).statistics is None and g.column(at).compression == "ZSTD"
        for g in groups
        for at in range(g.num_columns)
    )


def test_versions_are_sorted_by_source_key_and_snapshot(tmp_path):
    """Several versions of a key stand together, oldest first, whatever file they came from."""
    objects = ObjectStore(tmp_path)
    parts = [
        [version("s", "b", 1), version("r", "ä", 1)],
        [version("s", "b", 2), version("s", "a", 2), version("r", "z", 2)],
        [version("s", "b", 3)],
    ]
    entries = [
        objects.put_table(pa.Table.from_pylist(part, VERSIONS), "versions.parquet")
        for part in parts
    ]
    rows = objects.read_table(merge_files(objects, "versions", entries)).to_pylist()
    assert [(r["source"], r["key"], r["seq"]) for r in rows] == [
        ("r", "z", 2), ("r", "ä", 1), ("s", "a", 2), ("s", "b", 1), ("s", "b", 2), ("s", "b", 3),
    ]  # fmt: skip


def test_where_nothing_is_due_nothing_is_written(chain):
    """The same manifest comes back, and no file was touched."""
    for number in range(5):
        chain.publish({"docs": {"a": f"text {number}"}})
    manifest, written = chain.store.current(), chain.store.objects.bytes_written
    assert merge_history(chain.store.objects, manifest) is manifest
    assert chain.store.objects.bytes_written == written


def test_sixteen_changes_leave_one_file_of_each_kind(make_chain):
    """The snapshot before still opens, from its own files."""
    chain = make_chain(merged=True)
    for number in range(16):
        manifest = chain.publish({"docs": {"a": f"text {number}", "b": "x"}})
    assert [len(getattr(manifest, table)) for table in TABLES] == [1, 15, 1, 1]
    assert [sum(e.rows for e in getattr(manifest, t)) for t in TABLES] == [17, 15, 17, 17]
    before = chain.store.resolve("15")
    assert [len(getattr(before, table)) for table in TABLES] == [15, 14, 15, 15]
    assert verify_rows(chain.store)


def verify_rows(store):
    found = verify(store, deep=True, index_check=lambda *_: [])
    return not [p for p in found.problems if "the manifest says None" not in p]


def put(objects, numbers, *, chunks=True):
    """An object of contents and one of their chunks."""
    rows = [content(n) for n in sorted(numbers)]
    pieces = [chunk(n, o) for n in sorted(numbers) for o in range(2)]
    return (
        objects.put_table(pa.Table.from_pylist(rows, CONTENTS), "contents.parquet"),
        objects.put_table(pa.Table.from_pylist(pieces, CHUNKS), "chunks.parquet"),
    )


def contents_of(objects, entry):
    return {row["content_hash"] for row in objects.read_table(entry, ["content_hash"]).to_pylist()}


def test_chunks_are_merged_with_their_contents_and_not_by_their_own_number(chain, fan_in_of_two):
    """An object of chunks holds exactly the chunks of one object of contents."""
    manifest = chain.publish({"docs": {"a": "text"}})
    objects = chain.store.objects
    pairs = [put(objects, range(start, start + 4)) for start in (0, 10, 20)]
    draft = replace(
        manifest, contents=tuple(p[0] for p in pairs), chunks=tuple(p[1] for p in pairs)
    )
    found = merge_history(objects, draft)
    assert len(found.contents) == len(found.chunks) < 3
    for contents, chunks in zip(found.contents, found.chunks, strict=True):
        assert contents_of(objects, contents) == contents_of(objects, chunks)
    # Contents without any chunk of their own shift nothing.
    empty = put(objects, range(30, 34))[0]
    last = put(objects, range(40, 44))
    draft = replace(draft, contents=(pairs[0][0], empty, last[0]), chunks=(pairs[0][1], last[1]))
    found = merge_history(objects, draft)
    assert sum(e.rows for e in found.chunks) == 16 and sum(e.rows for e in found.contents) == 12


def test_chunks_that_were_all_cut_again_stay_until_their_contents_are_one(chain, fan_in_of_two):
    """A file that holds the chunks of more contents than were merged is left as it is."""
    manifest = chain.publish({"docs": {"a": "text"}})
    objects = chain.store.objects
    large, small, *_ = [put(objects, numbers) for numbers in (range(64), range(100, 102))]
    fresh = put(objects, range(200, 202))
    both = put(objects, [*range(64), 100, 101])[1]
    draft = replace(manifest, contents=(large[0], small[0], fresh[0]), chunks=(both, fresh[1]))
    found = merge_history(objects, draft)
    assert [e.rows for e in found.contents] == [64, 4] and found.chunks == (both, fresh[1])


# --- what the store answers -----------------------------------------------------------------------

SOURCES = ("docs", "more")
values = st.one_of(
    st.sampled_from("abcd"), st.tuples(st.sampled_from("abcd"), st.sampled_from("TU"))
)
documents = st.dictionaries(st.sampled_from("pqrs"), values, max_size=4)
states = st.fixed_dictionaries({"docs": documents, "more": documents})
steps = st.lists(st.one_of(states, states, states, st.integers(1, 6)), min_size=2, max_size=6)


def day(number: int) -> datetime:
    return datetime(2025, 6, number, tzinfo=UTC)


def grown(chain, first, history, days):
    """Publish the states; a number rolls back to that snapshot."""
    keys = "pqrs"
    for count, step in enumerate([first, *history]):
        if isinstance(step, int):
            chain.rollback(str(min(step, count)))
        else:
            stamps = {key: day(1 + days[(count + at) % len(days)]) for at, key in enumerate(keys)}
            chain.publish(step, source_ts=stamps)
    return chain


COUNTS = """
select 'versions', count(*), sum(seq), string_agg(key, ' ' order by source, key, seq) from versions
union all select 'closures', count(*), sum(seq), string_agg(op, ' ' order by source, key, seq)
    from closures
union all select 'documents', count(*), sum(seq), string_agg(text, ' ' order by source, key)
    from documents
union all select 'chunks', count(*), sum(tokens), string_agg(text, ' ' order by source, key, ordinal)
    from chunks
"""


def answers(store: Store) -> dict[str, object]:
    """Everything that can be asked about the past, in one value."""
    seqs = [str(m.seq) for m in store.chain()]
    found: dict[str, object] = {}
    for before in seqs:
        found[f"live {before}"] = live_state(store.objects, store.resolve(before))
        found[f"sql {before}"] = run_sql(store, COUNTS, as_of=before).to_pylist()
        for after in seqs:
            found[f"feed {before} {after}"] = rows_of(change_feed(store, before, after))
    changes = diff(store, seqs[-1], seqs[0])
    found["diff"] = (changes.documents, changes.chunks_added, changes.chunks_removed)
    for source in SOURCES:
        for key in "pqrs":
            found[f"history {source}/{key}"] = history_of(store, source, key)
    for when in (day(4), store.resolve(None).time):
        found[f"true {len(found)}"] = rows_of(true_at(store, when))
    return found


def rows_of(table):
    """Without the knowledge time: that of a rollback is the clock's."""
    return [
        {name: value for name, value in row.items() if name != "known_at"}
        for row in table.to_pylist()
    ]


def history_of(store, source, key):
    try:
        spans = document_history(store, source, key)
    except NotFoundError:
        return []
    return [(s.version_id, s.key, s.began, s.from_seq, s.ended, s.until_seq) for s in spans]


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=states, history=steps, days=st.lists(st.integers(0, 8), min_size=1, max_size=5))
def test_no_answer_depends_on_what_was_merged(make_chain, fan_in_of_two, first, history, days):
    """For any chain, rollbacks included: live documents, SQL, feed, diff, histories, true-at."""
    plain = grown(make_chain(), first, history, days)
    merged = grown(make_chain(merged=True), first, history, days)
    assert answers(merged.store) == answers(plain.store)


def long_chain(chain):
    """Twelve changes and a rollback among them."""
    for number in range(7):
        chain.publish({"docs": {"a": f"text {number}", "b": "x" * (number % 3)}})
    chain.rollback("3")
    for number in range(7, 12):
        chain.publish({"docs": {"a": f"text {number}", "b": "x"}})
    return chain


def test_the_past_is_told_after_the_files_it_was_told_in_are_gone(make_chain, fan_in_of_two):
    """Snapshots expire, the vacuum takes what was merged, and every history is still whole."""
    store = long_chain(make_chain(merged=True)).store
    asked = {key: history_of(store, "docs", key) for key in "ab"}
    true = true_at(store, datetime.now(UTC))
    before = {entry.name for entry, _ in store.objects.listing()}
    later = datetime.now(UTC)
    for days in (1, 2):
        vacuum(store, config=STRICT, now=later + timedelta(days=days))
    store = Store.open(store.root)
    gone = before - {entry.name for entry, _ in store.objects.listing()}
    assert any(".versions." in name for name in gone) and any(".chunks." in name for name in gone)
    assert {key: history_of(store, "docs", key) for key in "ab"} == asked
    assert true_at(store, datetime.now(UTC)).equals(true)
    assert verify_rows(store)


def test_a_merged_store_is_backed_up_whole(make_chain, fan_in_of_two, tmp_path):
    """The copy answers as the store does."""
    store = long_chain(make_chain(merged=True)).store
    backup(store, tmp_path / "copy")
    copy = Store.open(tmp_path / "copy")
    assert history_of(copy, "docs", "a") == history_of(store, "docs", "a")
    assert rows_of(change_feed(copy, "1", "6")) == rows_of(change_feed(store, "1", "6")) != []
    assert verify_rows(copy)


def test_the_feed_of_a_merged_range_reads_no_file_that_both_name(make_chain, monkeypatch):
    """What was merged since is read; the large file that was left alone is not."""
    monkeypatch.setattr(merging, "FAN_IN", 4)
    chain = make_chain(merged=True)
    base = {f"k{n}": f"text {n}" for n in range(40)}
    chain.publish({"docs": base})
    for number in range(5):
        last = chain.publish({"docs": {**base, "k0": f"edit {number}"}})
    first = chain.store.resolve("3")
    assert set(first.versions) - set(last.versions) and first.versions[0] in last.versions
    read = []
    original = chain.store.objects.read_table
    monkeypatch.setattr(
        chain.store.objects, "read_table", lambda e, c=None: (read.append(e), original(e, c))[1]
    )
    feed = change_feed(chain.store, "3").to_pylist()
    assert [(row["op"], row["key"], row["seq"]) for row in feed] == [("changed", "k0", 6)]
    assert read and set(read).isdisjoint(set(first.objects()) & set(last.objects()))


def test_a_version_in_two_files_counts_as_the_current_snapshot_has_it(
    make_chain, fan_in_of_two, monkeypatch
):
    """A branch merged on its own holds it too; whichever is read first, it is not withdrawn."""
    chain = make_chain(merged=True)
    for number in range(4):
        texts = {"a": "x", "b": f"text {number}", "c": f"more {number}"}
        chain.publish({"docs": texts}, source_ts={key: day(1 + number) for key in texts})
    chain.rollback("1")
    entries = source_time.distinct(list(chain.store.chain()), "versions")
    rows = [row for e in entries.values() for row in chain.store.objects.read_table(e).to_pylist()]
    assert len(rows) > len({row["version_id"] for row in rows})
    found = rows_of(true_at(chain.store, day(9)))
    assert [(row["key"], row["withdrawn"]) for row in found] == [
        ("a", False),
        ("b", True),
        ("c", True),
    ]
    original = source_time.distinct
    monkeypatch.setattr(
        source_time, "distinct", lambda *how: dict(reversed(original(*how).items()))
    )
    assert rows_of(true_at(chain.store, day(9))) == found
