"""What the world has since contradicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headwater.config import DatasetConfig
from headwater.errors import FormatError, NotFoundError
from headwater.retrieval.datasets.emission import emit
from headwater.retrieval.datasets.status import dataset_status, list_releases

CONFIG = DatasetConfig(
    settled_for="1d", min_checks=1, min_tokens=1, recipes=("text",), stale_above=0.1, test_share=0
)
DOCUMENTS = {f"doc{n}": [f"Document {n} part {p}." for p in range(5)] for n in range(8)}


def released(world: Any, out: Path, config: DatasetConfig = CONFIG) -> Path:
    """A release of 40 rows."""
    world.publish(0, DOCUMENTS)
    world.verify(1)
    return emit(world.store, name="base", config=config, out=out).path


def test_unchanged_knowledge_is_fresh(world: Any, tmp_path: Path) -> None:
    """Nothing is contradicted when nothing changed."""
    status = dataset_status(world.store, released(world, tmp_path))
    assert (status.rows, status.contradicted, status.share) == (40, 0, 0.0)
    assert (status.state, status.name, status.problems) == ("fresh", "base", ())


def test_contradicted_rows_are_counted_and_named(world: Any, tmp_path: Path) -> None:
    """Changed and removed texts make a release aging, then stale, and are named by line."""
    path = released(world, tmp_path)
    edited = {**DOCUMENTS, "doc0": ["Something else.", *DOCUMENTS["doc0"][1:]]}
    world.publish(2, edited)
    status = dataset_status(world.store, path)
    assert (status.contradicted, status.share, status.state) == (1, 1 / 40, "aging")
    assert status.stale_ids == ("text/train.jsonl:1",)
    world.publish(3, {k: v for k, v in edited.items() if k != "doc7"})
    status = dataset_status(world.store, path)
    assert (status.contradicted, status.state) == (6, "stale")
    assert "text/train.jsonl:40" in status.stale_ids
    assert dataset_status(world.store, path, as_of="1").state == "fresh"


def test_what_moved_is_not_contradicted(world: Any, tmp_path: Path) -> None:
    """A rename, or a text that moved to another document, contradicts nothing."""
    path = released(world, tmp_path)
    moved = {k: v for k, v in DOCUMENTS.items() if k not in ("doc1", "doc2")}
    moved |= {"new1": DOCUMENTS["doc1"], "doc3": [*DOCUMENTS["doc3"], *DOCUMENTS["doc2"]]}
    world.publish(2, moved, renamed={"new1": "doc1"})
    assert dataset_status(world.store, path).contradicted == 0


def test_a_withdrawn_licence_contradicts(world: Any, tmp_path: Path) -> None:
    """Rows of a source that left the licences asked for are no longer good."""
    path = released(world, tmp_path, CONFIG.model_copy(update={"licences": ("MIT",)}))
    world.state = type(world.state)(kind="documents", licence="proprietary")
    world.publish(2, DOCUMENTS)
    assert dataset_status(world.store, path).contradicted == 40


@pytest.mark.parametrize(
    "victim", ["text/train.jsonl", "text/train.lineage.jsonl", "README.md", "manifest.json"]
)
def test_a_changed_file_is_damage(world: Any, tmp_path: Path, victim: str) -> None:
    """A release with one changed byte is reported as damaged, naming the file."""
    path = released(world, tmp_path)
    data = (path / victim).read_bytes()
    (path / victim).write_bytes(data.replace(b"proven", b"pr0ven").replace(b"oc", b"0c", 1))
    status = dataset_status(world.store, path)
    assert status.state == "damaged"
    assert victim in status.problems[0]


def test_missing_and_unreadable_parts_are_damage(world: Any, tmp_path: Path) -> None:
    """A missing file and a manifest that is no JSON are damage, not a traceback."""
    path = released(world, tmp_path)
    (path / "text" / "train.jsonl").unlink()
    assert dataset_status(world.store, path).problems == ("text/train.jsonl: missing",)
    for rubbish in (
        b"{",
        b"[]",
        b'{"format": 1, "files": {"a": 5}}',
        b'{"format": 1, "files": {}}',
    ):
        (path / "manifest.json").write_bytes(rubbish)
        assert dataset_status(world.store, path).state == "damaged"


def test_no_release_and_a_newer_format_are_errors(world: Any, tmp_path: Path) -> None:
    """A folder without a release and a release of a newer headwater are refused."""
    path = released(world, tmp_path)
    with pytest.raises(NotFoundError):
        dataset_status(world.store, tmp_path / "nowhere")
    record = json.loads((path / "manifest.json").read_bytes())
    (path / "manifest.json").write_text(json.dumps({**record, "format": 99}))
    with pytest.raises(FormatError, match="99"):
        dataset_status(world.store, path)


def test_releases_are_listed_by_name_newest_last(world: Any, tmp_path: Path) -> None:
    """Drafts and strangers in the folder are no releases."""
    first = released(world, tmp_path)
    world.publish(2, {**DOCUMENTS, "x": ["A new document."]})
    world.verify(4)
    second = emit(world.store, name="base", config=CONFIG, out=tmp_path).path
    other = emit(world.store, name="another", config=CONFIG, out=tmp_path).path
    (tmp_path / "base" / ".draft-1" / "text").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    assert list_releases(tmp_path) == [other, first, second]
    assert list_releases(tmp_path / "nowhere") == []
