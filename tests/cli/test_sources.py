"""Listing sources and checking one: what it holds, how it is compared, what it costs."""

import json
import re
import sqlite3
from pathlib import Path

import pytest
import yaml

from headwater.cli import main
from headwater.config import DocumentsConfig, PluginConfig
from headwater.flows.sources.conformance import conformance_tests
from headwater.flows.sources.dlt_resource import DltOptions
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import ExtractEnd, Record, record_batch
from headwater.flows.sources.registry import open_source, registered_kinds


@pytest.fixture
def kb(tmp_path):
    """A knowledge base over a folder, a table, records in memory, and three that do not work."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for n in range(7):
        (docs / f"{n}.md").write_text(f"---\nstatus: final\n---\n# Page {n}\n\nThe text.\n")
    db = sqlite3.connect(tmp_path / "t.db")
    db.execute("create table t (id text, name text, at text)")
    db.executemany(
        "insert into t values (?, ?, ?)", [(str(n), f"n{n}", f"2026-01-0{n + 1}") for n in range(3)]
    )
    db.commit()
    table = {"kind": "database", "dsn": "sqlite:///t.db", "table": "t", "key": "id"}
    sources = {
        "docs": {"kind": "documents", "root": "docs"},
        "rows": table,
        "news": {**table, "cursor": "at"},
        "words": {
            "kind": "memory",
            "options": {"records": [{"key": "en", "text": "hello"}], "watermark": "1"},
        },
        "gone": {"kind": "documents", "root": "nowhere"},
        "wrong": {**table, "title": "no_such_column"},
        "odd": {"kind": "carrier-pigeon"},
    }
    (tmp_path / "headwater.yaml").write_text(
        yaml.safe_dump({"name": "k", "sources": sources}, sort_keys=False)
    )
    return tmp_path


def run(kb, capsys, *words):
    code = main([*words, "--kb", str(kb)])
    return code, capsys.readouterr()


def test_sources_are_listed_with_their_kinds_and_their_state(kb, capsys):
    """Also one whose kind nothing provides, which is said."""
    code, said = run(kb, capsys, "sources", "list")
    assert code == 0
    assert "docs                     documents    0 documents, never pulled" in said.out
    assert "carrier-pigeon" in said.out and "no installed package provides this kind" in said.out
    code, said = run(kb, capsys, "sources", "list", "--json")
    told = json.loads(said.out)
    assert [entry["source"] for entry in told["sources"]][:2] == ["docs", "rows"]
    assert told["kinds"]["memory"].startswith("headwater.flows.sources.memory:MemorySource")


def test_a_check_shows_records_fields_strategy_and_cost(kb, capsys):
    """Five records, what fields they have, how a later refresh compares, and what both cost."""
    code, said = run(kb, capsys, "sources", "check", "docs")
    assert code == 0 and said.out.count("The text.") == 5
    assert "metadata.status" in said.out and "in 100% of the records" in said.out
    assert "strategy: every record is listed, and known ones are told" in said.out
    assert "first refresh: 7 records listed in" in said.out
    assert "a refresh without news: 7 records listed in" in said.out
    assert not (kb / "store").exists()


@pytest.mark.parametrize(
    ("source", "strategy"),
    [
        ("rows", "full: every record"),
        ("news", "cursor: only what changed since the last extract is listed"),
        ("words", "every record is read and compared"),
    ],
)
def test_the_strategy_is_what_the_source_then_does(kb, capsys, source, strategy):
    """It is seen in a second pull, and not only said."""
    code, said = run(kb, capsys, "sources", "check", source, "--json")
    told = json.loads(said.out)
    assert code == 0 and strategy in told["strategy"], told["strategy"]
    assert told["first"]["ended"] and told["first"]["records"] in (1, 3)
    assert {field["name"] for field in told["fields"]} >= {"key", "text"}


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("gone", 8, "cannot be listed"),
        ("wrong", 8, "no_such_column"),
        ("odd", 2, "No such kind of source"),
        ("nobody", 9, "No such source"),
    ],
)
def test_what_does_not_work_is_told_in_three_parts(kb, capsys, source, code, message):
    """The exit code is that of the README's table, and nothing is written."""
    got, said = run(kb, capsys, "sources", "check", source)
    assert (got, message in said.err) == (code, True), said.err
    got, said = run(kb, capsys, "sources", "check", source, "--json")
    assert got == code and json.loads(said.out)["exit_code"] == code


# --- a source of one's own ------------------------------------------------------------------------


class Greetings:
    """The source of the documentation."""

    def __init__(self, name, config, *, root):
        self.greetings = config.options["greetings"]

    def pull(self, request):
        wanted = [k for k in self.greetings if request.keys is None or k in request.keys]
        yield record_batch(Record(key=key, text=self.greetings[key]) for key in wanted)
        return ExtractEnd(complete=request.keys is None, watermark=request.watermark)


OPTIONS = {"greetings": {"en": "hello", "fr": "bonjour"}}


def greetings():
    return Greetings("g", PluginConfig(kind="greetings", options=OPTIONS), root=None)


TestGreetings = conformance_tests(greetings, {"en", "fr"})
TestMemory = conformance_tests(
    lambda: MemorySource.of([Record(key=k, text=k) for k in "abc"]), set("abc")
)


PAGE = (Path(__file__).parents[2] / "docs" / "sources.md").read_text("utf-8")


def wiki():
    """The class that the page on sources shows, and the options of its headwater.yaml."""
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], names)  # noqa: S102
    options = yaml.safe_load(re.search(r"```yaml\n# headwater.yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    read = PluginConfig.model_validate(options["sources"]["wiki"])
    return names["WikiSource"]("wiki", read, root=Path())


TestWikiOfThePage = conformance_tests(wiki, {"home", "help"})


def test_the_class_of_the_page_is_as_short_as_it_says():
    """Thirty lines, the suite in three, and every option of the page is one."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks[0].splitlines()) <= 30 and sum(map(bool, blocks[1].splitlines())) == 3
    guards = re.search(r"(    deletion_guard:.*?)```", PAGE, re.DOTALL)[1]
    DocumentsConfig.model_validate({"kind": "documents", "root": "d", **yaml.safe_load(guards)})
    dlt = yaml.safe_load(re.search(r"(sources:\n  tickets:\n.*?)```", PAGE, re.DOTALL)[1])
    DltOptions.model_validate(dlt["sources"]["tickets"]["options"])


def test_a_registered_class_is_a_kind(tmp_path, monkeypatch):
    """An entry point is all it takes: the kind then stands in headwater.yaml."""
    from importlib.metadata import EntryPoint

    from headwater.config import load
    from headwater.flows.checking import check_source
    from headwater.flows.sources import registry

    entry = EntryPoint("greetings", f"{__name__}:Greetings", registry.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Greetings)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    (tmp_path / "headwater.yaml").write_text(
        yaml.safe_dump({"name": "k", "sources": {"g": {"kind": "greetings", "options": OPTIONS}}})
    )
    kb = load(tmp_path)
    assert isinstance(open_source("g", kb.source("g"), root=tmp_path), Greetings)
    assert set(registered_kinds()) == {"greetings"}
    found = check_source(kb, "g")
    assert [record["text"] for record in found.records] == ["hello", "bonjour"]
