"""`headwater changes`, `diff`, `history KEY` and `verify --quick` over a small knowledge base."""

from __future__ import annotations

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.cli import main
from headwater.config import load
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import refresh
from headwater.storage.feed import FEED, change_feed
from headwater.storage.store import Store

CONFIG = """
name: test
sources:
  handbook: {kind: documents, root: docs}
  notes: {kind: documents, root: notes}
"""

OPS = [
    ("notes", "gauge.md", "added", None),
    ("handbook", "gates.md", "renamed", "valves.md"),
    ("handbook", "pumps.md", "changed", None),
    ("handbook", "rope.md", "removed", None),
]


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    """Two sources and two snapshots, between which every kind of change but metadata happened."""
    root = tmp_path_factory.mktemp("kb")
    for folder in ("docs", "notes"):
        (root / folder).mkdir()
    (root / "headwater.yaml").write_text(CONFIG)
    (root / "docs" / "pumps.md").write_text("# Pumps\n\nPumps move water uphill.\n")
    (root / "docs" / "valves.md").write_text("# Valves\n\nValves hold water back.\n")
    (root / "docs" / "rope.md").write_text("# Rope\n\nRopes hold boats.\n")
    (root / "notes" / "pumps.md").write_text("# Pumps\n\nThe other page about pumps.\n")
    assert refresh(load(root), encoding=twin_encoding).published
    (root / "docs" / "pumps.md").write_text("# Pumps\n\nPumps move water uphill, slowly.\n")
    (root / "docs" / "valves.md").rename(root / "docs" / "gates.md")
    (root / "docs" / "rope.md").unlink()
    (root / "notes" / "gauge.md").write_text("# Gauge\n\nThe gauge reads centimetres.\n")
    assert refresh(load(root), encoding=twin_encoding).published
    return root


@pytest.fixture
def run(kb, capsys, monkeypatch):
    """Runs a command line in the knowledge base: exit code, stdout, stderr."""
    monkeypatch.chdir(kb)

    def run(*words):
        code = main(words)
        return (code, *capsys.readouterr())

    return run


def rows(store_root, source=None):
    """The feed as the library tells it, as plain values."""
    found = change_feed(Store.open(store_root / "store"), "1", "2").to_pylist()
    told = [{**row, "known_at": row["known_at"].isoformat()} for row in found]
    return [row for row in told if source in (None, row["source"])]


def test_changes_tells_people_and_programs_the_same(run, kb):
    """A table with every op for people, the library's own rows as JSON."""
    code, out, _ = run("changes", "1", "2", "--json")
    found = json.loads(out)
    assert code == 0 and found == rows(kb)
    told = {(r["source"], r["key"], r["op"], r["renamed_from"]) for r in found}
    assert told == set(OPS)
    code, out, _ = run("changes", "1")
    lines = out.splitlines()
    for source, key, op, was in OPS:
        (line,) = (line for line in lines if f" {key} " in line)
        assert line.split()[:3] == [op, source, key] and (was is None or was in line)
    assert "4 changes" in lines[-1]


def test_changes_of_one_source(run, kb):
    """--source narrows the feed; a source that neither snapshot holds is named with those that are."""
    code, out, _ = run("changes", "1", "--source", "notes", "--json")
    assert code == 0 and json.loads(out) == rows(kb, "notes") and len(rows(kb, "notes")) == 1
    both = json.loads(run("changes", "1", "-s", "notes", "-s", "handbook", "--json")[1])
    assert both == rows(kb)
    code, _, err = run("changes", "1", "--source", "nobody")
    assert code == 9 and "nobody" in err and "handbook, notes" in err


def test_an_empty_feed_says_so(run):
    """Nothing changed is an answer, not an error: in words, as JSON and as a file."""
    code, out, _ = run("changes", "2")
    assert code == 0 and "nothing changed" in out
    assert run("changes", "2", "--json")[:2] == (0, "[]\n")
    code, out, _ = run("changes", "2", "--output", "empty.parquet")
    assert code == 0 and "nothing changed" in out
    table = pq.read_table("empty.parquet")
    assert table.num_rows == 0 and table.schema.equals(FEED)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("feed.parquet", pq.read_table),
        ("feed.arrow", lambda path: pa.ipc.open_file(pa.OSFile(path)).read_all()),
    ],
)
def test_the_feed_as_a_file_for_columns(run, kb, name, read):
    """Parquet and Arrow hold the very table of the library, its types included."""
    code, out, _ = run("changes", "1", "2", "--output", name)
    assert code == 0 and name in out
    wanted = change_feed(Store.open(kb / "store"), "1", "2")
    assert read(name).cast(wanted.schema).equals(wanted) and read(name).schema.equals(FEED)
    assert not [path for path in kb.iterdir() if path.name.startswith(".feed")]


def test_the_feed_as_json_lines(run, kb):
    """Each line of a .jsonl file is a row as --json prints it; --json tells where they went."""
    code, out, _ = run("changes", "1", "2", "-o", "feed.jsonl", "--json")
    assert code == 0 and json.loads(out)["changes"] == 4
    assert json.loads(out)["output"] == "feed.jsonl"
    lines = (kb / "feed.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows(kb)


def test_a_file_is_replaced_only_by_force(run, kb):
    """What is there stays as it is, unless --force says otherwise."""
    (kb / "mine.jsonl").write_text("mine\n")
    code, _, err = run("changes", "1", "-o", "mine.jsonl")
    assert code == 2 and "--force" in err and (kb / "mine.jsonl").read_text() == "mine\n"
    assert run("changes", "1", "-o", "mine.jsonl", "--force")[0] == 0
    assert len((kb / "mine.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-o", "feed.csv"], [".parquet", ".arrow", ".jsonl"]),
        (["-o", "feed"], [".parquet", ".arrow", ".jsonl"]),
        (["-o", "nowhere/feed.jsonl"], ["does not exist"]),
        (["--force"], ["--output"]),
    ],
)
def test_usage_errors_of_changes(run, words, told):
    """A file that cannot be written as asked is a usage error that says what is allowed."""
    code, out, err = run("changes", "1", *words)
    assert (code, out) == (2, "")
    assert all(word in err for word in told)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_forbids_it_is_told(run, kb):
    """A refusal of the operating system is an error of three parts, and leaves nothing."""
    (kb / "closed").mkdir(mode=0o555)
    code, _, err = run("changes", "1", "-o", "closed/feed.jsonl")
    assert code == 10 and "closed/feed.jsonl" in err and "->" in err


def test_diff_counts_and_shows_the_texts(run):
    """Each document stands above its text diff; the last line counts documents and chunk texts."""
    code, out, _ = run("diff", "1", "2", "--text")
    lines = out.splitlines()
    at = lines.index("~ handbook/pumps.md")
    assert code == 0
    assert lines[at + 1 : at + 3] == ["--- pumps.md @ 1", "+++ pumps.md @ 2"]
    assert "-Pumps move water uphill." in lines and "+Pumps move water uphill, slowly." in lines
    assert "> handbook/gates.md  (was valves.md)" in lines
    assert lines[lines.index("- handbook/rope.md") + 1] == "--- rope.md @ 1"
    assert lines[lines.index("+ notes/gauge.md") + 1] == "--- gauge.md @ 1"
    assert "4 documents (1 added, 1 removed, 1 changed, 1 renamed)" in lines[-1]
    assert "2 chunk texts added, 2 removed" in lines[-1]
    assert "@@" not in run("diff", "1", "2")[1]


def test_diff_gives_the_texts_to_programs(run):
    """--text and --json together put each text diff beside its document."""
    documents = json.loads(run("diff", "1", "2", "--text", "--json")[1])["documents"]
    texts = {(d["source"], d["key"]): d["text"] for d in documents}
    assert "+Pumps move water uphill, slowly." in texts["handbook", "pumps.md"].splitlines()
    assert texts["handbook", "gates.md"] == ""
    plain = json.loads(run("diff", "1", "2", "--json")[1])["documents"]
    assert all("text" not in document for document in plain)


def test_history_of_a_key_that_one_source_had(run):
    """The source may be left out, or stand before the key as diff prints it."""
    wanted = run("history", "handbook", "gates.md", "--json")
    assert wanted[0] == 0 and [v["began"] for v in json.loads(wanted[1])] == ["added", "renamed"]
    for words in (["gates.md"], ["valves.md"], ["handbook/gates.md"]):
        assert run("history", *words, "--json") == wanted


def test_history_of_a_key_that_two_sources_had(run):
    """Which one is meant must be said; the error has both command lines."""
    code, _, err = run("history", "pumps.md")
    assert code == 2
    assert "headwater history handbook 'pumps.md'" in err
    assert "headwater history notes 'pumps.md'" in err
    code, out, _ = run("history", "notes/pumps.md", "--json")
    assert code == 0 and len(json.loads(out)) == 1


def test_history_of_what_no_source_had(run):
    """A key that never was, a source that never was and too many words are told apart."""
    code, _, err = run("history", "pums.md")
    assert code == 9 and "pums.md" in err and "headwater history" in err
    code, _, err = run("history", "handbook", "pums.md")
    assert code == 9 and "pumps.md" in err
    assert run("history", "nobody", "pumps.md")[0] == 9
    assert run("history", "handbook", "pumps", "md")[0] == 2
    assert run("history")[0] == 2


def test_verify_is_quick_unless_deep(run):
    """--quick is the default spelled out; with --deep it is a usage error."""
    quick = json.loads(run("verify", "--quick", "--json")[1])
    assert quick == json.loads(run("verify", "--json")[1]) and not quick["deep"]
    assert json.loads(run("verify", "--deep", "--json")[1])["deep"]
    code, out, err = run("verify", "--quick", "--deep")
    assert (code, out) == (2, "") and "--quick" in err and "--deep" in err


def test_the_log_wants_at_least_one_line(run):
    """A limit below one is a usage error and no empty table."""
    for limit in ("0", "-3"):
        code, out, err = run("log", "-n", limit)
        assert (code, out) == (2, "") and "-n" in err
    assert [entry["seq"] for entry in json.loads(run("log", "-n", "1", "--json")[1])] == [2]
