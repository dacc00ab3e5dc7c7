"""Is a snapshot consistent in itself? Its tables against each other and against its index.

Narrow columns are read once and compared in Arrow and numpy, so that this costs little beside
hashing the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.storage.hashes import find, hash_column, ordered
from headwater.storage.manifest import Manifest
from headwater.storage.objects import ObjectEntry, ObjectStore
from headwater.storage.tables import CHUNKS, CLOSURES, CONTENTS, VERSIONS

IndexCheck = Callable[[ObjectStore, Manifest, np.ndarray], list[str]]
"""Lists what is wrong with a snapshot's index, given the hashes of its live texts: void[32] (n,), in
any order, with repeats."""


def snapshot_problems(
    objects: ObjectStore, manifest: Manifest, index_check: IndexCheck, *, counted: bool
) -> list[str]:
    """What is inconsistent inside one snapshot whose objects are whole; a sentence each.

    Args:
        objects: where they are.
        manifest: of the snapshot.
        index_check: compares the index with the live texts.
        counted: whether the number of documents in the manifest is that of its tables.
    """
    # Arrow lets go of the interpreter while it reads and groups: two columns of work, side by side.
    with ThreadPoolExecutor(2) as pool:
        texts = pool.submit(_sorted_texts, objects, manifest)
        chunks = pool.submit(
            _columns, objects, manifest.chunks, CHUNKS, ["content_hash", "text_hash"]
        )
        live, stray = _live(objects, manifest)
        repeated = pool.submit(_repeated_keys, live)
        contents = ordered(hash_column(live["content_hash"]))
        held = find(contents, hash_column(chunks.result()["content_hash"])) >= 0
        indexed = index_check(objects, manifest, hash_column(chunks.result()["text_hash"])[held])
        counts = {
            "documents with more than one live version": repeated.result(),
            "closures of versions that do not exist": stray,
            "live documents without their text": int((find(texts.result(), contents) < 0).sum()),
        }
    problems = [f"{count} {what}" for what, count in counts.items() if count]
    if counted and live.num_rows != manifest.counts.get("documents"):
        problems.append(
            f"{live.num_rows} live documents, the manifest says {manifest.counts.get('documents')}"
        )
    return [f"{manifest.name()}: {problem}" for problem in (*problems, *indexed)]


def _live(objects: ObjectStore, manifest: Manifest) -> tuple[pa.Table, int]:
    """The live versions, and how many closures end a version that never began."""
    names = ["version_id", "source", "key", "content_hash"]
    versions = _columns(objects, manifest.versions, VERSIONS, names)
    closed = _columns(objects, manifest.closures, CLOSURES, ["version_id"])["version_id"]
    dead = pc.is_in(versions["version_id"], value_set=closed.combine_chunks())
    ended = versions["version_id"].filter(dead).combine_chunks()
    stray = _true(pc.invert(pc.is_in(closed, value_set=ended)))
    return versions.filter(pc.invert(dead)), stray


def _repeated_keys(live: pa.Table) -> int:
    source, key = (_numbered(live[name].combine_chunks()) for name in ("source", "key"))
    _, counts = np.unique(source * live.num_rows + key, return_counts=True)
    return int((counts > 1).sum())


def _numbered(column: pa.Array) -> np.ndarray:
    """A number for each value, the same for equal ones: int64 (n,)."""
    # By way of the buffer: `to_numpy` imports pandas where it is installed, and `group_by` Arrow's
    # query engine; each takes longer than the rest of the check.
    numbers = pc.dictionary_encode(column).indices
    size = numbers.type.bit_width // 8
    data = np.frombuffer(
        numbers.buffers()[1] or b"", f"i{size}", count=len(numbers), offset=numbers.offset * size
    )
    return data.astype(np.int64)


def _sorted_texts(objects: ObjectStore, manifest: Manifest) -> np.ndarray:
    contents = _columns(objects, manifest.contents, CONTENTS, ["content_hash"])
    return ordered(hash_column(contents["content_hash"]))


def _columns(
    objects: ObjectStore, entries: Sequence[ObjectEntry], schema: pa.Schema, names: list[str]
) -> pa.Table:
    if not entries:
        return pa.schema([schema.field(name) for name in names]).empty_table()
    return pa.concat_tables(objects.read_table(entry, names) for entry in entries)


def _true(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column).as_py() or 0)
