"""Writing the words of segments. One thread writes a part, so equal texts give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from headwater.errors import StorageUnavailableError, StoreError
from headwater.retrieval.lexical import ANALYZER, FIELD, FILES, KINDS, analyzer
from headwater.retrieval.normalisation import normalise
from headwater.storage import files
from headwater.storage.lookup import texts_named
from headwater.storage.manifest import Manifest
from headwater.storage.objects import ObjectEntry, ObjectStore

if TYPE_CHECKING:
    import tantivy

_PART_ROWS: Final = 200_000
"""Rows of one part: few enough to be written without a pause, which would change the bytes."""
_HEAP: Final = 3_000_000_000
_MEMORY_HEAP: Final = 200_000_000
_PROBES: Final = 8
_PROBE_WORDS: Final = 12


class Words:
    """Writes the words of segments.

    Attributes:
        name: of the analyzer.
    """

    def __init__(self, objects: ObjectStore, chunks: Sequence[ObjectEntry], name: str) -> None:
        """Write to `objects` what the texts of `chunks` say."""
        self.name = name
        self._objects = objects
        self._chunks = chunks

    def write(self, hashes: np.ndarray) -> tuple[ObjectEntry, ...]:
        """Store the words of the rows of a segment.

        Args:
            hashes: void[32] (n,): the text of each row. One that no chunk holds any more (it is
                dead in every snapshot) has no words.

        Returns:
            `FILES` of each part; equal texts give equal bytes.

        Raises:
            CorruptObjectError: a table of chunks is missing or damaged.
            StorageUnavailableError: the disk is full or read-only.
            StoreError: what was written does not find its own texts.
        """
        entries: list[ObjectEntry] = []
        for first in range(0, len(hashes), _PART_ROWS):
            wanted = [value.tobytes() for value in hashes[first : first + _PART_ROWS]]
            found = texts_named(self._objects, self._chunks, wanted)
            texts = [normalise(found.get(value, "")) for value in wanted]
            entries += _write_part(self._objects, texts, self.name)
        return tuple(entries)


def words_of(objects: ObjectStore, manifest: Manifest) -> Words | None:
    """What writes words as a snapshot has them; None where its segments have none."""
    return Words(objects, manifest.chunks, manifest.lexical) if manifest.lexical else None


def _write_part(objects: ObjectStore, texts: Sequence[str], name: str) -> list[ObjectEntry]:
    folder = objects.draft("lexical")
    files.make_folder(folder)
    with _writing(folder):
        index = _filled(texts, name, heap=_HEAP, folder=folder)
        found = json.loads((folder / "meta.json").read_bytes())["segments"]
    if len(found) != 1 or found[0]["max_doc"] != len(texts):
        raise StoreError(
            "The index of words does not hold what it was given",
            obj=f"{len(texts)} texts, {[part['max_doc'] for part in found]} in the index",
            todo="refresh again; if it stays, please report it",
        )
    _probe(index, texts, name)
    stem = found[0]["segment_id"].replace("-", "")
    entries = [
        objects.adopt(folder / f"{stem}.{suffix}", kind, rows=len(texts))
        for suffix, kind in zip(FILES, KINDS, strict=True)
    ]
    files.remove_tree(folder)
    return entries


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    with files.library_write(folder):
        try:
            yield
        except ValueError as error:
            # How tantivy reports everything that the disk refuses.
            raise StorageUnavailableError(
                "The index of words cannot be written", obj=str(folder), todo=str(error)
            ) from None


def _filled(texts: Sequence[str], name: str, *, heap: int, folder: Path | None) -> tantivy.Index:
    """A new index of these texts, on the disk or in memory."""
    import tantivy

    schema = _schema()
    index = tantivy.Index(schema, path=str(folder) if folder else None)
    index.register_tokenizer(ANALYZER, analyzer(name))
    writer = index.writer(heap_size=heap, num_threads=1)
    for text in texts:
        document = tantivy.Document()
        document.add_text(FIELD, text)
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()
    index.config_reader("Manual")
    index.reload()
    return index


def _schema() -> tantivy.Schema:
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_text_field(FIELD, stored=False, tokenizer_name=ANALYZER, index_option="position")
    return builder.build()


def _probe(index: tantivy.Index, texts: Sequence[str], name: str) -> None:
    """Look for a few texts by their own words: each must be found where it was put."""
    import tantivy

    searcher, cut = index.searcher(), analyzer(name)
    for row in range(0, len(texts), max(1, len(texts) // _PROBES)):
        words = list(dict.fromkeys(cut.analyze(texts[row])))[:_PROBE_WORDS]
        if not words:
            continue
        terms = [tantivy.Query.term_query(index.schema, FIELD, word) for word in words]
        every = tantivy.Query.boolean_query([(tantivy.Occur.Must, term) for term in terms])
        hits = searcher.search(every, limit=len(texts), count=False).hits
        if row not in {address.doc for _, address in hits}:
            raise StoreError(
                "The index of words does not find a text that it holds",
                obj=f"row {row} of {len(texts)}",
                todo="refresh again; if it stays, please report it",
            )


def memory_lexical(
    objects: ObjectStore, chunks: Sequence[ObjectEntry], hashes: Sequence[bytes], *, name: str
) -> tantivy.Index:
    """The same over texts that have no segment, in memory; text n is document n of segment 0.

    About 15,000 texts a second.

    Raises:
        CorruptObjectError: a table of chunks is missing or damaged.
    """
    found = texts_named(objects, chunks, hashes)
    texts = [normalise(found.get(value, "")) for value in hashes]
    return _filled(texts, name, heap=_MEMORY_HEAP, folder=None)
