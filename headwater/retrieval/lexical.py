"""The words of a segment: a tantivy index over the same rows, in the same order.

Row n of a segment is document n of its index, so nothing but postings is stored: no text, no key.
The files of all segments of a snapshot are opened as one index, whose scores then know how rare a
word is in the whole of it. `lexical_writing` makes them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headwater.errors import ConfigError, CorruptObjectError, StorageUnavailableError
from headwater.storage.manifest import Segment
from headwater.storage.objects import ObjectEntry, ObjectStore

if TYPE_CHECKING:
    import tantivy

FILES: Final = ("term", "idx", "pos", "fieldnorm", "fast", "store")
"""What tantivy writes of a part: dictionary, postings, positions, lengths; the last two say nothing."""
KINDS: Final = tuple(f"lexical.{suffix}" for suffix in FILES)
FIELD: Final = "text"
ANALYZER: Final = "headwater"
_VERSION: Final = 1
_LONGEST_WORD: Final = 64
_STOPPED: Final = frozenset(
    [
        "danish",
        "dutch",
        "english",
        "finnish",
        "french",
        "german",
        "hungarian",
        "italian",
        "norwegian",
        "portuguese",
        "russian",
        "spanish",
        "swedish",
    ]
)
"""The languages whose commonest words tantivy lists."""


def analyzer_name(language: str) -> str:
    """How the words of a language are cut, as manifests name it: `english/1`."""
    return f"{language}/{_VERSION}"


@lru_cache(maxsize=8)
def analyzer(name: str, *, stopped: bool = False) -> tantivy.TextAnalyzer:
    """What cuts texts and queries into words: runs of letters and digits, in lower case, stemmed.

    Args:
        name: as `analyzer_name` gives it.
        stopped: leave out words that every text has, where the language has a list of them. Only
            queries are cut so: an index holds every word, and phrases need them.

    Raises:
        ConfigError: another version of headwater cut the words.
    """
    import tantivy

    language, _, version = name.partition("/")
    if version != str(_VERSION):
        raise ConfigError(
            "This headwater cannot cut words as the snapshot's index does",
            obj=name,
            todo="upgrade headwater, or search with mode='dense'",
        )
    # Without the limit a blob of base64 would be a word of its own.
    built = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    built = built.filter(tantivy.Filter.remove_long(_LONGEST_WORD))
    built = built.filter(tantivy.Filter.lowercase())
    if stopped and language in _STOPPED:
        built = built.filter(tantivy.Filter.stopword(language))
    if language != "none":
        built = built.filter(tantivy.Filter.stemmer(language))
    return built.build()


def lexical_problem(segment: Segment) -> str:
    """Why the words of a segment are not those of its rows; empty when they may be."""
    parts = parts_of(segment)
    if any(tuple(entry.kind for entry in part) != KINDS for part in parts):
        return "the files of its words are not complete"
    rows = sum(part[0].rows for part in parts)
    if rows != segment.rows or any(e.rows != part[0].rows for part in parts for e in part):
        return f"the index of words has {rows} rows, the segment {segment.rows}"
    return ""


def parts_of(segment: Segment) -> list[tuple[ObjectEntry, ...]]:
    """The files of each part of a segment's words, in the order of its rows."""
    entries, width = segment.lexical, len(KINDS)
    return [entries[first : first + width] for first in range(0, len(entries), width)]


def open_lexical(
    objects: ObjectStore, parts: Sequence[Sequence[ObjectEntry]], *, name: str
) -> tantivy.Index:
    """Open parts of several segments as one index; part n is the index's segment number n.

    Every file is checked against its name first, and mapped. The folder that joins them is gone
    again when this returns.

    Raises:
        CorruptObjectError: a file is missing or damaged.
        StorageUnavailableError: there is no room for temporary files.
    """
    import tantivy

    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="headwater-"))
        (folder / "meta.json").write_text(json.dumps(_meta(objects, parts, folder)))
        index = tantivy.Index.open(str(folder))
        index.register_tokenizer(ANALYZER, analyzer(name))
        # Whatever is published meanwhile is another index: nothing here is to be watched.
        index.config_reader("Manual")
        index.reload()
        return index
    except OSError as error:
        raise StorageUnavailableError.of(error, Path(tempfile.gettempdir())) from None
    except ValueError as error:
        named = ", ".join(part[0].name for part in parts[:3])
        raise CorruptObjectError(
            f"The index of words cannot be opened ({error})",
            obj=f"objects/{named}",
            todo="run 'headwater verify --deep'; 'headwater repair' makes it anew",
        ) from None
    finally:
        if folder is not None:
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder of links, in which a thread of tantivy's may still set a lock."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.01)


def _meta(
    objects: ObjectStore, parts: Sequence[Sequence[ObjectEntry]], folder: Path
) -> dict[str, Any]:
    """What tantivy wants to be told of an index; its files are linked into `folder`."""
    segments = []
    for number, part in enumerate(parts):
        name = f"{number:032x}"
        for suffix, entry in zip(FILES, part, strict=True):
            (folder / f"{name}.{suffix}").symlink_to(objects.path(entry).absolute())
        dashed = "-".join((name[:8], name[8:12], name[12:16], name[16:20], name[20:]))
        segments.append({"segment_id": dashed, "max_doc": part[0].rows, "deletes": None})
    indexing = {"record": "position", "fieldnorms": True, "tokenizer": ANALYZER}
    options = {"indexing": indexing, "stored": False, "fast": False}
    return {
        "index_settings": {"docstore_compression": "lz4", "docstore_blocksize": 16384},
        "segments": segments,
        "schema": [{"name": FIELD, "type": "text", "options": options}],
        "opstamp": 0,
    }
