"""The embedding cache outlives runs and refuses what is no vector."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.storage.embedding_merge import FAN_IN, MOST, merge_embeddings, plan_merges
from headwater.storage.embeddings import (
    EmbeddingCache,
    covered_embeddings,
    matches,
    whole_embeddings,
)
from headwater.storage.objects import ObjectStore


def hashes(count: int, start: int = 0) -> list[bytes]:
    return [hashlib.sha256(bytes([n])).digest() for n in range(start, start + count)]


def vectors(count: int, dim: int = 4) -> np.ndarray:
    rows = np.arange(1, count * dim + 1, dtype=np.float32).reshape(count, dim)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def objects(tmp_path):
    return ObjectStore(tmp_path)


def test_vectors_come_back_in_the_order_they_are_asked_for(objects):
    """Lookups across several objects keep the caller's order."""
    cache = EmbeddingCache(objects, space="a", dim=4)
    cache.add(hashes(5), vectors(10)[:5])
    cache.add(hashes(5, 5), vectors(10)[5:])
    order = [7, 0, 9, 3]
    found = cache.vectors([hashes(10)[i] for i in order])
    assert np.array_equal(found, vectors(10)[order])


def test_a_new_process_finds_what_a_dead_one_committed(objects, tmp_path):
    """No manifest names an embedding object; the cache finds it all the same."""
    EmbeddingCache(objects, space="a", dim=4).add(hashes(3), vectors(3))
    again = EmbeddingCache(ObjectStore(tmp_path), space="a", dim=4)
    assert again.missing(hashes(4)) == hashes(4)[3:]


def test_spaces_do_not_mix(objects):
    """A vector of one model is never served for another."""
    EmbeddingCache(objects, space="a", dim=4).add(hashes(3), vectors(3))
    assert EmbeddingCache(objects, space="b", dim=4).missing(hashes(3)) == hashes(3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_is_refused(objects, bad):
    """A broken model must not poison the cache."""
    rows = vectors(2)
    rows[1, 2] = bad
    with pytest.raises(ValueError, match="finite"):
        EmbeddingCache(objects, space="a", dim=4).add(hashes(2), rows)


def test_a_damaged_object_is_as_good_as_absent(objects, tmp_path):
    """Texts whose vectors were damaged are embedded again; the refresh goes on."""
    cache = EmbeddingCache(objects, space="a", dim=4)
    cache.add(hashes(3), vectors(3))
    (_, path), *_ = objects.listing()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    fresh = ObjectStore(tmp_path)
    cache = EmbeddingCache(fresh, space="a", dim=4)
    assert cache.missing(hashes(3)) == hashes(3)
    cache.add(hashes(3), vectors(3))
    assert not EmbeddingCache(ObjectStore(tmp_path), space="a", dim=4).missing(hashes(3))


def name(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def vector(text_hash: bytes, dim: int = 4) -> np.ndarray:
    raw = np.frombuffer(text_hash[: dim * 2], dtype="<u2").astype(np.float32) + 1
    return raw / np.linalg.norm(raw)


def filled(objects: ObjectStore, count: int, each: int = 3, *, start: int = 0) -> list[bytes]:
    """A cache of `count` objects of `each` texts; returns the texts."""
    cache = EmbeddingCache(objects, space="a", dim=4)
    names = [name(n) for n in range(start, start + count * each)]
    for at in range(0, len(names), each):
        part = names[at : at + each]
        cache.add(part, np.array([vector(h) for h in part]))
    return names


def damage(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def embeddings_of(objects: ObjectStore) -> dict[str, int]:
    """Name -> texts, of each embedding object that is whole."""
    return {held: len(hashes) for held, _, hashes in whole_embeddings(objects)}


def test_nothing_is_read_before_a_text_is_asked_for(tmp_path):
    """A cache that is asked for nothing costs nothing: not even a listing."""
    objects = ObjectStore(tmp_path)
    cache = EmbeddingCache(objects, space="a", dim=4)
    filled(ObjectStore(tmp_path), 1)
    assert cache.missing([]) == []
    assert cache.missing([name(0), name(99)]) == [name(99)]


def test_many_small_objects_become_one_that_holds_the_same_vectors(objects, tmp_path):
    """Merging changes where a vector lies, never its bytes, and deletes nothing."""
    names = filled(objects, FAN_IN + 1)
    before = embeddings_of(objects)
    (merged,) = merge_embeddings(objects, EmbeddingCache(objects, space="a", dim=4))
    after = embeddings_of(objects)
    assert merged.rows == after[merged.name] == len(names)
    assert before.items() < after.items() and len(after) == len(before) + 1
    again = EmbeddingCache(ObjectStore(tmp_path), space="a", dim=4)
    assert [part.entry.name for part in again.parts()] == [merged.name]
    assert np.array_equal(again.vectors(names), np.array([vector(h) for h in names]))
    assert merge_embeddings(objects, again) == []


def test_a_merge_drops_repeats_and_goes_over_blocks(objects, tmp_path):
    """Texts that several objects hold are in the merged one once, in the order of their hashes."""
    names = filled(objects, FAN_IN, each=300)
    filled(objects, 1, each=300, start=150)
    (merged,) = merge_embeddings(objects, EmbeddingCache(objects, space="a", dim=4))
    assert merged.rows == len(names) > 4096
    column = objects.read_table(merged, ["text_hash"])["text_hash"].to_pylist()
    assert column == sorted(names)
    again = EmbeddingCache(ObjectStore(tmp_path), space="a", dim=4)
    assert np.array_equal(again.vectors(names), np.array([vector(h) for h in names]))


def test_spaces_are_not_merged_with_each_other(objects):
    """Only objects of the cache's own space are merged."""
    filled(objects, FAN_IN)
    other = EmbeddingCache(objects, space="b", dim=4)
    for part in range(3):
        other.add([name(part)], vectors(1))
    assert merge_embeddings(objects, EmbeddingCache(objects, space="a", dim=4)) == []
    assert merge_embeddings(objects, EmbeddingCache(objects, space="b", dim=4)) == []


def test_a_damaged_part_is_not_merged_and_a_damaged_merge_is_not_believed(objects, tmp_path):
    """Whichever is damaged, the vectors that another object holds are still found."""
    names = filled(objects, FAN_IN + 2)
    paths = {entry.name: path for entry, path in objects.listing()}
    bad = min(paths)
    damage(paths[bad])
    fresh = ObjectStore(tmp_path)
    (merged,) = merge_embeddings(fresh, EmbeddingCache(fresh, space="a", dim=4))
    assert merged.rows == len(names) - 3
    damage(fresh.root / merged.name)
    left = EmbeddingCache(ObjectStore(tmp_path), space="a", dim=4)
    missing = left.missing(names)
    assert len(missing) == 3
    rest = [h for h in names if h not in missing]
    assert np.array_equal(left.vectors(rest), np.array([vector(h) for h in rest]))


def test_covered_objects_can_go_and_every_text_is_still_found(objects, tmp_path):
    """Once the covered ones are deleted, the others hold every text."""
    names = filled(objects, FAN_IN + 1)
    merge_embeddings(objects, EmbeddingCache(objects, space="a", dim=4))
    names += filled(objects, 1, start=1000)
    covered = covered_embeddings(whole_embeddings(objects))
    assert len(covered) == FAN_IN + 1
    for one in covered:
        (objects.root / one).unlink()
    again = EmbeddingCache(ObjectStore(tmp_path), space="a", dim=4)
    assert again.missing([*names, name(5000)]) == [name(5000)]
    assert covered_embeddings(whole_embeddings(objects)) == frozenset()


def test_a_damaged_merge_covers_nothing(objects, tmp_path):
    """Nothing may go on the word of an object that is damaged."""
    filled(objects, FAN_IN + 1)
    (merged,) = merge_embeddings(objects, EmbeddingCache(objects, space="a", dim=4))
    damage(objects.root / merged.name)
    assert covered_embeddings(whole_embeddings(ObjectStore(tmp_path))) == frozenset()


texts = st.sets(st.integers(0, 30), max_size=12)


@given(st.lists(st.tuples(st.sampled_from("ab"), texts), max_size=8))
def test_what_is_not_covered_holds_every_text_of_its_space(parts):
    """Of any objects, the uncovered ones hold all texts, and each holds one that no other must."""
    listed = [(f"{number}", space, hash_rows(held)) for number, (space, held) in enumerate(parts)]
    covered = covered_embeddings(listed)
    for space in "ab":
        held = {n: parts[int(n)][1] for n, of, _ in listed if of == space}
        stay = {n: t for n, t in held.items() if n not in covered}
        assert set().union(*stay.values()) == set().union(*held.values())
        for gone in held.keys() & covered:
            larger = [t for t in stay.values() if len(t) >= len(held[gone])]
            assert held[gone] <= set().union(*larger)


@given(texts, texts)
def test_matches_are_the_rows_of_what_both_hold(first, second):
    """Each text that both arrays hold is named by its row in either, and nothing else is."""
    rows = [sorted(name(n) for n in numbers) for numbers in (first, second)]
    at, to = matches(hash_rows(first), hash_rows(second))
    assert [rows[0][i] for i in at] == [rows[1][j] for j in to]
    assert {rows[0][i] for i in at} == set(rows[0]) & set(rows[1])


def hash_rows(numbers: set[int]) -> np.ndarray:
    return np.frombuffer(b"".join(sorted(name(n) for n in numbers)), dtype="V32")


@given(st.lists(st.integers(0, 10**6), max_size=200))
def test_merging_ends_with_few_objects_of_each_size(rows):
    """Groups never overlap or exceed their bound, and repeated merging comes to rest."""
    for _ in range(20):
        groups = plan_merges(rows)
        flat = [position for group in groups for position in group]
        assert len(flat) == len(set(flat)) and all(2 <= len(g) <= MOST for g in groups)
        if not groups:
            break
        merged = [sum(rows[i] for i in group) for group in groups]
        rows = [count for i, count in enumerate(rows) if i not in flat] + merged
    else:
        raise AssertionError("it never ends")
    assert len(rows) <= FAN_IN * 6
