"""What is derived heals to the very same bytes; what is primary is reported and never guessed."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from headwater import config
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.repair import damaged_objects, repair
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval import Retriever
from headwater.retrieval.embedding import HashEmbedder
from headwater.retrieval.index import index_problems
from headwater.retrieval.lexical import KINDS
from headwater.storage import files, merging
from headwater.storage.retired import write_retired
from headwater.storage.store import Store
from headwater.storage.verify import verify

YAML = """\
name: heal
model: twin
index: {graph_from: 40, max_flat_segments: 2}
sources:
  notes: {kind: memory}
"""
DERIVED = {"chunks.parquet", "vectors.arrow", "tombstones.u32", "graph.hnsw", "embeddings.parquet"}
DERIVED |= set(KINDS)
PRIMARY = {"versions.parquet", "closures.parquet", "contents.parquet", "quarantine.parquet"}


def notes(start: int, stop: int, **edits: str) -> list[Record]:
    return [
        Record(f"n{n}", edits.get(f"n{n}", f"# Note {n}\n\nThe level at gauge {n} is {n * n} mm."))
        for n in range(start, stop)
    ]


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    """Three snapshots: a graph, a flat segment, tombstones and a quarantine."""
    root = tmp_path_factory.mktemp("kb")
    (root / "headwater.yaml").write_text(YAML)
    kb = config.load(root)
    steps = [
        notes(0, 60),
        notes(0, 70, n3="# Note 3\n\nDry."),
        [*notes(2, 72, n3="# Note 3\n\nDry."), Record("bad", None)],
    ]
    for records in steps:
        source = MemorySource.of(records)
        report = refresh(kb, RefreshOptions(), encoding=twin_encoding, sources={"notes": source})
        assert report.published
    return kb


def objects_of(kb) -> dict[str, Path]:
    store = Store.open(kb.store)
    return {e.name: path for e, path in store.objects.listing()}


def kind_of(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2]


def flip(path: Path, position: int) -> bytes:
    whole = path.read_bytes()
    data = bytearray(whole)
    data[position] ^= 0x40
    path.write_bytes(data)
    return whole


def deep(kb):
    return verify(Store.open(kb.store), deep=True, index_check=index_problems)


def test_the_store_holds_every_kind(kb):
    """The cases below are not vacuous."""
    kinds = {kind_of(name) for name in objects_of(kb)}
    assert kinds == DERIVED | PRIMARY | {"tokenizer.json"}


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_one_flipped_byte_of_any_object_is_found_and_healed_if_derived(kb, share):
    """Object by object: verify names it; repair restores the bytes or says what is lost."""
    needed = {e.name for m in Store.open(kb.store).chain() for e in m.objects()}
    for name, path in objects_of(kb).items():
        kind = kind_of(name)
        if name not in needed and kind != "embeddings.parquet":
            continue
        whole = flip(path, int(share * path.stat().st_size))
        assert any(name in problem for problem in deep(kb).problems), name
        found = repair(kb, Store.open(kb.store))
        if kind == "embeddings.parquet":
            assert found.dropped == (name,) and found.ok
        elif kind in DERIVED:
            assert found.healed == (name,) and path.read_bytes() == whole, (name, found)
        else:
            assert set(found.lost) == {name} and not found.ok
            assert path.read_bytes() != whole
            path.write_bytes(whole)
        assert deep(kb).ok, name


def test_a_missing_object_is_made_again(kb):
    """Deletion is damage too."""
    store = Store.open(kb.store)
    entry = next(s.graph for s in store.current().segments if s.graph)
    path = store.objects.root / entry.name
    whole = path.read_bytes()
    path.unlink()
    assert repair(kb, Store.open(kb.store)).healed == (entry.name,)
    assert path.read_bytes() == whole


def test_vectors_and_the_graph_over_them_heal_together(kb):
    """Damage to several objects is dealt with in the order of derivation."""
    store = Store.open(kb.store)
    segment = next(s for s in store.current().segments if s.graph)
    for entry in (segment.graph, segment.vectors):
        flip(store.objects.root / entry.name, 100)
    assert set(damaged_objects(Store.open(kb.store))) == {segment.graph.name, segment.vectors.name}
    found = repair(kb, Store.open(kb.store))
    assert set(found.healed) == {segment.graph.name, segment.vectors.name}
    assert deep(kb).ok


def test_dropping_a_damaged_part_of_the_cache_embeds_nothing_again(kb):
    """Vectors that segments hold go into a new part of the cache."""
    name, path = next(
        (n, p) for n, p in objects_of(kb).items() if kind_of(n) == "embeddings.parquet"
    )
    flip(path, path.stat().st_size // 2)
    assert repair(kb, Store.open(kb.store)).dropped == (name,)
    source = MemorySource.of([*notes(2, 72), Record("again", "# Note 3\n\nDry.")])
    report = refresh(kb, RefreshOptions(), encoding=twin_encoding, sources={"notes": source})
    assert report.published and report.embedded == 0


def test_a_whole_store_is_left_alone(kb):
    """Nothing damaged, nothing written."""
    before = {name: path.stat().st_mtime_ns for name, path in objects_of(kb).items()}
    found = repair(kb, Store.open(kb.store))
    assert (found.healed, found.dropped, found.lost) == ((), (), {})
    assert {name: path.stat().st_mtime_ns for name, path in objects_of(kb).items()} == before


@pytest.fixture
def merged(tmp_path, monkeypatch):
    """Five snapshots whose history was merged where two files of a size met."""
    monkeypatch.setattr(merging, "FAN_IN", 2)
    (tmp_path / "headwater.yaml").write_text(YAML)
    kb = config.load(tmp_path)
    for edition in range(5):
        edits = {f"n{edition}": f"# Note\n\nEdition {edition}.\n\n# More\n\nOf it."}
        source = MemorySource.of(notes(0, 20 + edition, **edits))
        assert refresh(
            kb, RefreshOptions(), encoding=twin_encoding, sources={"notes": source}
        ).published
    return kb


def test_every_object_of_merged_chunks_is_cut_again(merged):
    """Of each snapshot, whatever was merged into it: the same bytes."""
    manifests = list(Store.open(merged.store).chain())
    assert len(manifests) == 5 and len(manifests[0].chunks) < 4
    entries = {entry.name for manifest in manifests for entry in manifest.chunks}
    for name in entries:
        path = objects_of(merged)[name]
        whole = flip(path, path.stat().st_size // 2)
        assert repair(merged, Store.open(merged.store)).healed == (name,)
        assert path.read_bytes() == whole
    assert deep(merged).ok


def test_all_chunks_at_once_are_cut_again(merged):
    """Merged in step with their contents, each object is the chunks of one of contents."""
    store = Store.open(merged.store)
    entries = {entry.name for manifest in store.chain() for entry in manifest.chunks}
    for name in entries:
        (store.objects.root / name).unlink()
    assert set(repair(merged, Store.open(merged.store)).healed) == entries
    assert deep(merged).ok


def test_an_index_that_cannot_be_healed_is_made_anew(tmp_path):
    """Its rows of dead texts are known to nobody: the current one is published anew, the past let go."""
    (tmp_path / "headwater.yaml").write_text(YAML)
    kb = config.load(tmp_path)
    for stop in (20, 18):
        refresh(
            kb,
            RefreshOptions(),
            encoding=twin_encoding,
            sources={"notes": MemorySource.of(notes(0, stop))},
        )
    store = Store.open(kb.store)
    first, second = (store.resolve(ref) for ref in ("1", "2"))
    (dead,) = {s.vectors.name for s in second.segments if s.tombstones}
    # Without the snapshot that had no tombstones, nothing says which texts the rows held.
    with files.locked(store.root / "LOCK"):
        write_retired(store.root, (), now=datetime.now(UTC), indexes=[first.name()])
    path = store.objects.root / dead
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    found = repair(kb, Store.open(kb.store), encoding=twin_encoding)
    assert (found.ok, found.let_go) == (True, (second.name(),))
    store = Store.open(kb.store)
    assert store.current_name() == found.renewed
    assert store.resolve(None).cause == "repair"
    assert verify(store, deep=True, index_check=index_problems).ok
    with Retriever.open(tmp_path, encoder=HashEmbedder()) as retriever:
        now = [(hit.key, hit.score) for hit in retriever.search("a note", k=18)]
        then = [(h.key, h.score) for h in retriever.search("a note", k=18, as_of=second.name())]
    assert len(now) == 18
    assert now == then
    assert repair(kb, store, encoding=twin_encoding).ok
