"""What a release is, and when there is one."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from headwater.config import DatasetConfig
from headwater.errors import ConfigError, NotFoundError, PublicationStoppedError, StoreError
from headwater.retrieval.datasets.emission import emit
from headwater.retrieval.datasets.status import dataset_status, list_releases

CONFIG = DatasetConfig(settled_for="10d", min_checks=3, min_tokens=1, test_share=0.3)
DOCUMENTS = {
    f"doc{n}.md": [f"# Part {p}\n\nDocument {n} says{chr(0x2028)}thing {p}." for p in range(3)]
    for n in range(8)
}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, split the way the least careful reader would."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def settle(world: Any, documents: Any = DOCUMENTS) -> Any:
    """Let a world's documents settle by day 11."""
    world.publish(0, documents)
    world.verify(1, 2, 11)
    return world


def test_a_release_is_complete_and_provable(world: Any, tmp_path: Path) -> None:
    """Every file has the hash, size and rows its manifest says, and each row its lineage."""
    done = emit(settle(world).store, name="base", config=CONFIG, out=tmp_path / "out")
    assert (done.created, done.chunks, done.settled, done.unproven) == (True, 24, 24, False)
    assert done.path == tmp_path / "out" / "base" / done.version
    assert done.version.startswith("00000001-")
    manifest = json.loads((done.path / "manifest.json").read_bytes())
    found = tree(done.path)
    assert set(found) == {*manifest["files"], "manifest.json"}
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == hashlib.sha256(found[name]).hexdigest()
        assert entry["bytes"] == len(found[name])
    for name, count in done.files.items():
        lineage = rows(done.path / name.replace(".jsonl", ".lineage.jsonl"))
        assert len(rows(done.path / name)) == len(lineage) == count
        for row, origin in zip(rows(done.path / name), lineage, strict=True):
            text = "\n\n".join(DOCUMENTS[origin["key"]])
            assert text[origin["start"] : origin["end"]] in json.dumps(row, ensure_ascii=False)
            assert (origin["checks"], origin["snapshot"]) == (3, done.snapshot)
    assert sum(done.files.values()) == 72


def test_training_files_hold_only_what_trainers_expect(world: Any, tmp_path: Path) -> None:
    """The columns are those of the trainers, in their order, and nothing else."""
    done = emit(settle(world).store, name="base", config=CONFIG, out=tmp_path / "out")
    columns = {"pairs": ["anchor", "positive"], "instructions": ["messages"], "text": ["text"]}
    for name in done.files:
        for row in rows(done.path / name):
            assert list(row) == columns[name.partition("/")[0]]


def test_the_card_names_exactly_the_training_files(world: Any, tmp_path: Path) -> None:
    """The YAML header of the card lists each file once, and none that is not there."""
    done = emit(settle(world).store, name="base", config=CONFIG, out=tmp_path / "out")
    card = (done.path / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    named = [d["path"] for c in header["configs"] for d in c["data_files"]]
    assert sorted(named) == sorted(done.files)
    assert header["license"] == ["mit"]
    assert "UNPROVEN" not in card
    assert "24 of 24 chunks are settled" in card


def test_rebuilding_gives_the_same_bytes(
    world: Any, new_world: Callable[[str], Any], tmp_path: Path
) -> None:
    """The same snapshot and configuration give the same bytes, elsewhere and after more checks."""
    settle(world)
    once = emit(world.store, name="base", config=CONFIG, out=tmp_path / "one")
    world.verify(12, 40)
    again = emit(world.store, name="base", config=CONFIG, out=tmp_path / "two")
    other = emit(
        settle(new_world("twin")).store, name="base", config=CONFIG, out=tmp_path / "three"
    )
    assert tree(once.path) == tree(again.path) == tree(other.path)
    assert once.version == again.version == other.version


def test_emitting_again_writes_nothing(world: Any, tmp_path: Path) -> None:
    """The very same release is found and left untouched."""
    settle(world)
    first = emit(world.store, name="base", config=CONFIG, out=tmp_path)
    written = (first.path / "manifest.json").stat().st_mtime_ns
    second = emit(world.store, name="base", config=CONFIG, out=tmp_path)
    assert (second.created, second.path, second.files) == (False, first.path, first.files)
    assert (first.path / "manifest.json").stat().st_mtime_ns == written
    assert list_releases(tmp_path) == list_releases(tmp_path / "base") == [first.path]


def test_nothing_settled_says_what_is_missing(world: Any, tmp_path: Path) -> None:
    """Without settled chunks nothing is written, and the message tells how far they are."""
    world.publish(0, DOCUMENTS)
    world.verify(0.125)
    with pytest.raises(PublicationStoppedError) as caught:
        emit(world.store, name="base", config=CONFIG, out=tmp_path / "out")
    message = str(caught.value)
    assert "0 of 24 chunks are settled" in message
    assert "the longest unchanged is 3h, 10d are asked for" in message
    assert "the most checks are 1, 3 are asked for" in message
    assert "--unproven" in message
    assert not (tmp_path / "out").exists()


def test_unproven_says_so_everywhere(world: Any, tmp_path: Path) -> None:
    """Without evidence card, manifest and status all say it, and the bytes do not drift."""
    world.publish(0, DOCUMENTS)
    done = emit(world.store, name="base", config=CONFIG, unproven=True, out=tmp_path)
    assert done.unproven
    assert done.settled == 0
    assert "**UNPROVEN.**" in (done.path / "README.md").read_text()
    assert json.loads((done.path / "manifest.json").read_bytes())["unproven"] is True
    assert dataset_status(world.store, done.path).unproven
    world.verify(1, 2)
    again = emit(world.store, name="base", config=CONFIG, unproven=True, out=tmp_path)
    assert not again.created


def test_unproven_still_leaves_out_what_is_held_back(world: Any, tmp_path: Path) -> None:
    """A document in quarantine is in no dataset, proven or not."""
    world.publish(0, DOCUMENTS, held=["doc0.md"])
    done = emit(world.store, name="base", config=CONFIG, unproven=True, out=tmp_path)
    assert b"doc0.md" not in b"".join(tree(done.path).values())


def test_a_change_flips_only_its_own_examples(world: Any, tmp_path: Path) -> None:
    """When one chunk changes, its examples go and all others stay, each in its split."""
    before = emit(settle(world).store, name="base", config=CONFIG, out=tmp_path)
    first, _, last = DOCUMENTS["doc3.md"]
    world.publish(12, {**DOCUMENTS, "doc3.md": [first, "# Part 1\n\nNew.", last]})
    after = emit(world.store, name="base", config=CONFIG, out=tmp_path)
    for name in before.files:
        kept = [
            row
            for row, origin in zip(
                rows(before.path / name),
                rows(before.path / name.replace(".jsonl", ".lineage.jsonl")),
                strict=True,
            )
            if origin["key"] != "doc3.md" or origin["heading_path"] != ["Part 1"]
        ]
        assert rows(after.path / name) == kept
    assert sum(after.files.values()) == sum(before.files.values()) - 3
    assert list_releases(tmp_path) == [before.path, after.path]


def test_documents_that_come_and_go_move_nothing(world: Any, tmp_path: Path) -> None:
    """Every row that two releases share is in the same file in both."""
    before = emit(settle(world).store, name="base", config=CONFIG, out=tmp_path)
    fewer = {k: v for k, v in DOCUMENTS.items() if k != "doc5.md"}
    world.publish(12, {**fewer, "a-new.md": ["# N\n\nNew text."], "doc9.md": DOCUMENTS["doc1.md"]})
    world.verify(13, 14, 30)
    after = emit(world.store, name="base", config=CONFIG, out=tmp_path)
    one, two = (
        {json.dumps(row): name for name in done.files for row in rows(done.path / name)}
        for done in (before, after)
    )
    shared = one.keys() & two.keys()
    assert len(shared) == 63
    assert {row: one[row] for row in shared} == {row: two[row] for row in shared}


def test_a_damaged_release_is_replaced_only_on_request(world: Any, tmp_path: Path) -> None:
    """A release with other bytes is refused, and written anew with `force`."""
    done = emit(settle(world).store, name="base", config=CONFIG, out=tmp_path)
    whole = tree(done.path)
    (done.path / "text" / "train.jsonl").write_text("{}\n")
    with pytest.raises(StoreError, match="damaged"):
        emit(world.store, name="base", config=CONFIG, out=tmp_path)
    again = emit(world.store, name="base", config=CONFIG, out=tmp_path, force=True)
    assert again.created
    assert tree(done.path) == whole
    assert sorted(p.name for p in (tmp_path / "base").iterdir()) == [".lock", done.version]


_CRASH = """
import os, sys
from pathlib import Path
from headwater.config import DatasetConfig
from headwater.retrieval.datasets.emission import emit
from headwater.storage import files
from headwater.storage.store import Store

write, left = files.write_new, [4]

def dying(path, data):
    write(path, data)
    left[0] -= 1
    if not left[0]:
        os._exit(9)

files.write_new = dying
config = DatasetConfig(settled_for="10d", min_checks=3, min_tokens=1)
emit(Store.open(Path(sys.argv[1])), name="base", config=config, out=Path(sys.argv[2]))
"""


def test_a_killed_emission_leaves_nothing_visible(world: Any, tmp_path: Path) -> None:
    """After a crash among the files no release is listed, and the next emission is whole."""
    settle(world)
    done = subprocess.run(
        [sys.executable, "-c", _CRASH, world.store.root, tmp_path / "out"], check=False
    )
    assert done.returncode == 9
    folder = tmp_path / "out" / "base"
    assert list(folder.glob(".draft-*"))
    assert list_releases(tmp_path / "out") == []
    release = emit(world.store, name="base", config=CONFIG, out=tmp_path / "out")
    assert sorted(p.name for p in folder.iterdir()) == [".lock", release.version]


def test_wrong_arguments_are_named(world: Any, tmp_path: Path) -> None:
    """Unknown sources and snapshots, and a name that leaves the folder, are refused."""
    settle(world)
    with pytest.raises(NotFoundError, match="no such source"):
        emit(world.store, name="base", config=DatasetConfig(sources=("x",)), out=tmp_path)
    with pytest.raises(NotFoundError):
        emit(world.store, name="base", config=CONFIG, as_of="99", out=tmp_path)
    with pytest.raises(ConfigError):
        emit(world.store, name="../base", config=CONFIG, out=tmp_path)


def test_no_example_is_explained(world: Any, tmp_path: Path) -> None:
    """When every settled chunk is turned away, the message says why."""
    config = CONFIG.model_copy(update={"licences": ("Apache-2.0",)})
    with pytest.raises(PublicationStoppedError, match="No chunk gives") as caught:
        emit(settle(world).store, name="base", config=config, out=tmp_path)
    assert "24 x its licence is not asked for: MIT" in str(caught.value)
