"""A folder in the layout of BEIR: a corpus, queries, and who judged what relevant to which."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.errors import ConfigError

CORPUS = "corpus.jsonl"
QUERIES = "queries.jsonl"
QRELS = "qrels"

_HEADER = ("query-id", "corpus-id", "score")


@dataclass(frozen=True)
class Document:
    """One document of the corpus."""

    key: str
    title: str
    text: str


def read_corpus(folder: Path) -> list[Document]:
    """The documents of `corpus.jsonl`: objects with `_id`, `text` and, if it has one, `title`.

    Raises:
        ConfigError: the file cannot be read, or a line of it is wrong; the message names the line.
    """
    path = folder / CORPUS
    found: dict[str, Document] = {}
    for line, value in _objects(path):
        key = _text(value, "_id", path, line)
        if key in found:
            raise _wrong(path, line, f"the _id {key!r} stands here for the second time")
        title = _text(value, "title", path, line, missing="")
        found[key] = Document(key, title, _text(value, "text", path, line))
    return list(found.values())


def read_queries(folder: Path) -> dict[str, str]:
    """Query -> its text, of `queries.jsonl`: objects with `_id` and `text`.

    Raises:
        ConfigError: see `read_corpus`; a query without a text is wrong too.
    """
    path = folder / QUERIES
    found: dict[str, str] = {}
    for line, value in _objects(path):
        key = _text(value, "_id", path, line)
        if key in found:
            raise _wrong(path, line, f"the _id {key!r} stands here for the second time")
        found[key] = _text(value, "text", path, line)
        if not found[key].strip():
            raise _wrong(path, line, "the text is empty")
    return found


def read_judgements(folder: Path, queries: dict[str, str], split: str) -> dict[str, dict[str, int]]:
    """Query -> document -> judgement, of `qrels/<split>.tsv`.

    Args:
        folder: of the data set.
        queries: those that may be judged.
        split: which judgements: `test`, `dev`, `train`.

    Raises:
        ConfigError: the file cannot be read, a line of it is wrong, or nothing in it is relevant.
    """
    path = folder / QRELS / f"{split}.tsv"
    found: dict[str, dict[str, int]] = {}
    for line, text in _lines(path):
        cells = text.rstrip("\r\n").split("\t")
        if line == 1 and tuple(cells) == _HEADER:
            continue
        if len(cells) != 3:
            raise _wrong(path, line, f"{len(cells)} columns", "expected query-id, corpus-id, score")
        query, document, told = cells
        try:
            judgement = int(told)
        except ValueError:
            raise _wrong(path, line, f"the score {told!r} is no whole number") from None
        if query not in queries:
            raise _wrong(path, line, f"{QUERIES} has no query {query!r}")
        if document in found.setdefault(query, {}):
            raise _wrong(path, line, f"{document!r} is judged for {query!r} a second time")
        found[query][document] = judgement
    if not any(rel > 0 for judged in found.values() for rel in judged.values()):
        raise ConfigError("Nothing is judged relevant", obj=str(path), todo="check the split")
    return found


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    empty = True
    for line, text in _lines(path):
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise _wrong(path, line, "not JSON", str(error)) from None
        if not isinstance(value, dict):
            raise _wrong(path, line, "not a JSON object")
        empty = False
        yield line, value
    if empty:
        raise ConfigError("The file is empty", obj=str(path), todo="it needs a JSON object a line")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    try:
        with path.open("rb") as file:
            for line, data in enumerate(file, 1):
                try:
                    text = data.decode("utf-8-sig" if line == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise _wrong(path, line, "not UTF-8", str(error)) from None
                if text.strip():
                    yield line, text
    except OSError as error:
        raise ConfigError(
            "This folder is no BEIR data set",
            obj=str(path),
            todo=f"{error.strerror}; it needs {CORPUS}, {QUERIES} and {QRELS}/<split>.tsv",
        ) from None


def _text(
    value: dict[str, Any], name: str, path: Path, line: int, *, missing: str | None = None
) -> str:
    found = value.get(name, missing)
    if not isinstance(found, str) or (name == "_id" and not found):
        told = "is missing" if name not in value else f"is {json.dumps(found)[:40]}"
        raise _wrong(path, line, f"{name!r} {told}", "expected a text")
    return found


def _wrong(path: Path, line: int, problem: str, todo: str = "correct this line") -> ConfigError:
    return ConfigError("The data set is wrong", obj=f"{path}:{line}: {problem}", todo=todo)
