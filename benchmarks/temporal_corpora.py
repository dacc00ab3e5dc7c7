"""The corpora that the temporal questions are about: their documents at a revision, and what a passage says.

Which revisions are replayed is a rule: the last one of a corpus and others at equal distances before
it, from a first one that was chosen before anything was measured. Rows cost little, so theirs is the
beginning. The EIPs begin in the middle of their history, for embedding is the cost. endoflife begins
at revision 48: between 9 and 47 the questions say "absent" of values that the pages do have, because
lists were indented in another way there.
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from benchmarks.corpora import SHARED, lay_out
from headwater.flows.sources.parsing.text import parse_markdown
from headwater.flows.sources.rendering import Layout, field_label, render_batch

QUESTIONS: Final = SHARED / "temporal-qa" / "dev"
_ABSENT: Final = "no"
_SP500_NAMES: Final = {
    "Security": ("Security", "Company", "Name"),
    "GICS Sector": ("GICS Sector", "Sector"),
}
_KEV_NAMES: Final = (
    "vulnerabilityName",
    "cveID",
    "vendorProject",
    "product",
    "shortDescription",
    "requiredAction",
    "dueDate",
    "knownRansomwareCampaignUse",
)
_BLOCK_LINE: Final = re.compile(r"^releases\[(\d+)\]\.(\w+): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """A question whose answer depends on when it is asked.

    Attributes:
        query: its words.
        document: key of the document that answers it.
        item: what it asks about within the document: a row's key, a release.
        field: whose value is the answer.
        history: (revision, answer from then on); None where there is nothing to say.
    """

    query: str
    document: str
    item: str
    field: str
    history: tuple[tuple[int, str | None], ...]

    def asked_at(self, revision: int) -> bool:
        """Whether the history reaches back to a revision."""
        return self.history[0][0] <= revision

    def answer(self, revision: int) -> str | None:
        """The answer that is true at a revision; None where there is nothing to say."""
        found = [answer for first, answer in self.history if first <= revision][-1]
        # That a row is not there is nothing that a passage could say.
        return None if self.field == "member" and found == _ABSENT else found


@dataclass(frozen=True)
class Document:
    """What a source says of a document.

    Attributes:
        text: Markdown or rendered fields.
        metadata: of the document.
    """

    text: str
    metadata: Mapping[str, Any]


Said = Callable[[Question, str, Mapping[str, Any]], set[str]]
"""The values that a passage of the right document has for a question: of its text and metadata."""


@dataclass(frozen=True)
class Truth:
    """What is true of a question at a revision.

    Attributes:
        answer: in the form of `same`; None where there is nothing to say.
        agreed: whether the corpus says what the history says; a question where it does not is
            left out.
    """

    answer: str | None
    agreed: bool


@dataclass(frozen=True)
class Corpus:
    """A corpus with history.

    Attributes:
        name: of the folder.
        revisions: that are replayed.
        rows: revision -> its rows as a source yields them; None for a folder of files.
        said: see `Said`.
    """

    name: str
    revisions: tuple[int, ...]
    rows: Callable[[int], pa.RecordBatch] | None
    said: Said

    def time(self, revision: int) -> datetime:
        """When a revision was published."""
        manifest = json.loads((SHARED / self.name / "manifest.json").read_text("utf-8"))
        found = datetime.fromisoformat(manifest["revs"][revision]["date"])
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)

    def documents(self, revision: int) -> dict[str, Document]:
        """Key -> document, read from the corpus itself."""
        if self.rows is None:
            return _files(self.name, revision)
        columns = self.rows(revision).select(["key", "text", "metadata"]).to_pydict()
        return {
            key: Document(text, json.loads(metadata))
            for key, text, metadata in zip(*columns.values(), strict=True)
        }

    def truth(self, question: Question, revision: int, documents: Mapping[str, Document]) -> Truth:
        """What is true at a revision, by the history and by what the corpus itself says.

        A history does not tell that a row is gone; then there is nothing to say, whatever it was.
        """
        document = documents.get(question.document)
        if document is None:
            return Truth(None, agreed=True)
        answer = question.answer(revision)
        said = self.said(question, document.text, document.metadata)
        expected = set() if answer is None else {same(answer)}
        return Truth(None if answer is None else same(answer), agreed=said == expected)

    def questions(self) -> list[Question]:
        """Those whose answer is not the same at all replayed revisions."""
        return [
            question
            for question in all_questions(self)
            if len({question.answer(r) for r in self.revisions if question.asked_at(r)}) > 1
        ]


def all_questions(corpus: Corpus) -> list[Question]:
    """Whatever is asked about a corpus."""
    lines = (QUESTIONS / f"{corpus.name}.jsonl").read_text("utf-8").splitlines()
    return [_question(json.loads(line), rows=corpus.rows is not None) for line in lines]


def spread(first: int, last: int, count: int) -> tuple[int, ...]:
    """`count` revisions at equal distances, both ends among them."""
    return tuple(round(first + (last - first) * n / (count - 1)) for n in range(count))


def same(value: str) -> str:
    """A value in the form in which values are compared."""
    return " ".join(value.split()).casefold()


def _question(raw: Mapping[str, Any], *, rows: bool) -> Question:
    history = tuple((one["from_rev"], one["answer"]) for one in raw["history"])
    document = raw["key"] if rows else raw["doc"]
    return Question(raw["query"], document, raw["key"], raw["field"], history)


def _sp500(revision: int) -> pa.RecordBatch:
    """A company a row; its ticker is the key, and part of the text as people ask for it."""
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        lay_out("sp500", revision, Path(folder))
        with (Path(folder) / "rows.csv").open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    return _rendered(rows, "Symbol", tuple(rows[0]))


def _kev(revision: int) -> pa.RecordBatch:
    """A vulnerability a record, with the fields that people ask for."""
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        lay_out("cisa-kev", revision, Path(folder))
        lines = (Path(folder) / "records.jsonl").read_text("utf-8").splitlines()
    return _rendered([json.loads(line) for line in lines], "cveID", _KEV_NAMES)


def _rendered(rows: list[dict[str, Any]], key: str, names: tuple[str, ...]) -> pa.RecordBatch:
    columns = {name: [row.get(name) for row in rows] for name in names}
    return render_batch(columns[key], columns, Layout(text=names))


def _files(corpus: str, revision: int) -> dict[str, Document]:
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as name:
        folder = Path(name)
        lay_out(corpus, revision, folder)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        keys = [path.relative_to(folder).as_posix() for path in paths]
        parsed = [parse_markdown(p.read_bytes(), name=p.name, encoding="utf-8") for p in paths]
    return {k: Document(p.text, p.metadata) for k, p in zip(keys, parsed, strict=True)}


def _said_by_row(question: Question, text: str, metadata: Mapping[str, Any]) -> set[str]:
    if question.field == "member":
        return {same("yes")}
    names = _SP500_NAMES.get(question.field, (question.field,))
    labels = {field_label(name) for name in names}
    lines = (line.partition(": ") for line in text.splitlines())
    return {same(value) for label, _, value in lines if label in labels}


def _said_by_metadata(question: Question, text: str, metadata: Mapping[str, Any]) -> set[str]:
    value = metadata.get(question.field)
    return set() if value is None else {same(str(value))}


def _said_by_table(question: Question, text: str, metadata: Mapping[str, Any]) -> set[str]:
    """Only where the passage names the release as well: a value alone tells a reader nothing."""
    blocks: dict[str, dict[str, str]] = {}
    for number, name, value in _BLOCK_LINE.findall(text):
        blocks.setdefault(number, {})[name] = value
    item = same(question.item)
    return {
        same(block[question.field])
        for block in blocks.values()
        if same(block.get("releaseCycle", "")) == item and question.field in block
    }


CORPORA: Final = (
    Corpus("sp500", spread(0, 188, 7), _sp500, _said_by_row),
    Corpus("cisa-kev", spread(0, 75, 4), _kev, _said_by_row),
    Corpus("eips", spread(20, 38, 4), None, _said_by_metadata),
    Corpus("endoflife", spread(48, 60, 4), None, _said_by_table),
)
