"""`headwater history` and `headwater sql`, over a knowledge base that was really refreshed."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headwater.cli import main
from headwater.config import load
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.storage.store import Store

PAGE = Path(__file__).parents[2] / "docs" / "time-travel.md"


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    """A folder of documents: one edited, one renamed, one removed, one rolled back."""
    root = tmp_path_factory.mktemp("kb")
    docs = root / "docs"
    docs.mkdir()
    (root / "headwater.yaml").write_text(
        "name: test\nsources: {handbook: {kind: documents, root: docs}}\n"
    )

    def publish():
        report = refresh(load(root), encoding=twin_encoding)
        assert report.published

    (docs / "pumps.md").write_text("# Pumps\n\nPumps move water uphill.\n")
    (docs / "valves.md").write_text("# Valves\n\nValves hold water back.\n")
    publish()
    (docs / "pumps.md").write_text("# Pumps\n\nPumps move water uphill, slowly.\n")
    (docs / "valves.md").rename(docs / "gates.md")
    publish()
    (docs / "pumps.md").write_text("# Pumps\n\nWrong.\n")
    publish()
    Store.open(root / "store").rollback("2", run_id="test")
    return root


@pytest.fixture
def run(kb, capsys, monkeypatch):
    """Runs a command line in the knowledge base: exit code, stdout, stderr."""
    monkeypatch.chdir(kb)

    def run(*words):
        code = main(words)
        return (code, *capsys.readouterr())

    return run


def test_history_tells_every_version_for_people_and_for_programs(run):
    """Text and JSON say the same: changed, rolled back, restored."""
    code, out, _ = run("history", "handbook", "pumps.md", "--json")
    found = json.loads(out)
    assert code == 0
    assert [(v["began"], v["ended"]) for v in found] == [
        ("added", "changed"),
        ("changed", "changed"),
        ("changed", "rolled back"),
        ("restored", ""),
    ]
    assert found[1]["version_id"] == found[3]["version_id"]
    code, out, _ = run("history", "handbook", "pumps.md")
    assert code == 0 and "rolled back" in out and all(v["version_id"] in out for v in found)


def test_history_follows_a_rename(run):
    """The old name and the new one give the same."""
    old, new = (run("history", "handbook", key)[1] for key in ("valves.md", "gates.md"))
    assert old == new and "gates.md (was valves.md)" in old


def test_history_of_what_never_was_is_not_found(run):
    """Exit code 9, and the key that was meant."""
    code, _, err = run("history", "handbook", "pump.md")
    assert code == 9 and "pumps.md" in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["history", "handbook", "\udcff.md"], 9),
        (["history", "\udcff", "pumps.md"], 9),
        (["history", "\udcff.md"], 9),
        (["sql", "select '\udcff' as x"], 0),
        (["sql", "\udcff"], 2),
        (["search", "\udcff pumps"], 0),
        (["search", "pumps", "--as-of", "\udcff"], 9),
        (["search", "pumps", "--source", "\udcff"], 9),
        (["search", "pumps", "--where", "key = '\udcff'"], 0),
        (["search", "pumps", "--where", "\udcff"], 2),
        (["search", "pumps", "--label", "\udcff"], 0),
        (["search", "x" * 1_000_000], 0),
        (["search", "a\x00b\x1b[2J"], 0),
        (["answer", "\udcff pumps"], 0),
        (["diff", "\udcff"], 9),
        (["changes", "\udcff"], 9),
        (["tag", "\udcff"], 2),
        (["erase", "-s", "handbook", "-k", "\udcff", "--reason", "x", "--dry-run"], 9),
    ],
    ids=lambda value: str(value)[:40].encode("ascii", "replace").decode(),
)
@pytest.mark.parametrize("machine", [False, True])
def test_what_a_terminal_gives_that_is_no_text_ends_in_words(run, words, expected, machine):
    """Bytes that are no UTF-8 come as half surrogate pairs; none of them is a bug of ours."""
    code, out, err = run(*words, *(["--json"] if machine and words[0] != "tag" else []))
    assert code == expected, err
    assert "Traceback" not in out + err and "internal" not in out + err


def test_sql_answers_as_table_json_and_csv(run):
    """One question, three forms of the same answer."""
    sql = "select key, chars, text like '%slowly%' as slow, labels from documents order by key"
    code, out, _ = run("sql", sql, "--json")
    rows = json.loads(out)
    assert code == 0 and [row["key"] for row in rows] == ["gates.md", "pumps.md"]
    assert rows[1]["slow"] is True and rows[1]["labels"] == []
    code, out, _ = run("sql", sql, "--csv")
    assert code == 0
    assert [row["key"] for row in csv.DictReader(io.StringIO(out, newline=""))] == [
        row["key"] for row in rows
    ]
    code, out, _ = run("sql", sql)
    assert code == 0 and "pumps.md" in out and "2 rows" in out
    assert run("sql", sql, "--csv", "--json")[0] == 2


def test_sql_as_of_an_earlier_snapshot(run):
    """The wrong text was there in snapshot 3, and is not now."""
    sql = "select count(*) as n from documents where text like '%Wrong%'"
    assert json.loads(run("sql", sql, "--as-of", "3", "--json")[1]) == [{"n": 1}]
    assert json.loads(run("sql", sql, "--json")[1]) == [{"n": 0}]


def test_sql_knows_the_quarantine_and_the_releases(run, kb):
    """Both tables are there when there is nothing in them; a release is listed once it is there."""
    for name in ("quarantine", "datasets"):
        code, out, _ = run("sql", f"select count(*) as n from {name}", "--json")
        assert code == 0 and json.loads(out) == [{"n": 0}]
    release = kb / "datasets" / "qa" / "00000002-0123456789ab"
    release.mkdir(parents=True)
    entry = {"rows": 7, "sha256": "0", "bytes": 1}
    files = {"pairs/train.jsonl": entry, "pairs/train.lineage.jsonl": entry}
    said = {"format": 1, "files": files, "snapshot": "00000002-x", "seq": 2, "unproven": False}
    for text, rows in ((json.dumps(said), 7), ("{", None)):
        (release / "manifest.json").write_text(text)
        _, out, _ = run("sql", "select name, version, rows from datasets", "--json")
        assert json.loads(out) == [{"name": "qa", "version": release.name, "rows": rows}]
    (release / "manifest.json").unlink()
    release.rmdir()


def test_sql_errors_are_messages_with_exit_code_two(run):
    """DuckDB's words, no traceback; the same as JSON."""
    code, out, err = run("sql", "select wrong from documents")
    assert (code, out) == (2, "") and "Binder Error" in err
    code, out, _ = run("sql", "from read_csv('/etc/passwd')", "--json")
    said = json.loads(out)
    assert code == 2 and said["error"] == "config" and "disabled" in said["object"]
    assert run("sql", "copy documents to 'x.csv'")[0] == 2


def test_values_of_every_type_can_be_printed(run):
    """What JSON does not know becomes text, or null."""
    sql = (
        "select 'ab'::blob as b, 1.5::decimal(4,2) as d, 'nan'::double as f, date '2026-01-02' as t,"
        " {'x': [1, 2]} as s, map {'k': 1.0} as m, null as n, 1::hugeint as h, interval 1 day as i,"
        " timestamptz '2026-01-02 03:04:05+00' as z, '[bold]' as x"
    )
    code, out, _ = run("sql", sql, "--json")
    row = json.loads(out)[0]
    assert code == 0 and row["b"] == "6162" and row["f"] is None and row["s"] == {"x": [1, 2]}
    assert row["z"] == "2026-01-02T03:04:05+00:00" and row["t"] == "2026-01-02"
    for form in ((), ("--csv",)):
        code, out, _ = run("sql", sql, *form)
        assert code == 0 and "[bold]" in out and "6162" in out


def test_rows_that_are_too_wide_stand_one_value_to_a_line(run):
    """No column of `select *` is cut to nothing."""
    code, out, _ = run("sql", "select * from documents order by key")
    assert code == 0 and "row 2" in out
    name = json.loads(run("sql", "select * from documents order by key", "--json")[1])[1]
    assert name["content_hash"] in out and name["version_id"] in out and "pumps.md" in out


def test_explain_describe_and_summarize_are_readable(run):
    """A plan is shown as DuckDB draws it; the others as tables."""
    code, out, _ = run("sql", "explain select count(*) from documents")
    assert code == 0 and "\n" in out.strip()
    for sql in ("describe documents", "summarize sources", "show tables"):
        code, out, _ = run("sql", sql)
        assert code == 0 and "rows" in out


def test_the_examples_of_the_page_work(run):
    """Whoever copies a line of docs/time-travel.md gets an answer."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    commands = [shlex.split(line.removeprefix("$ headwater ")) for line in lines]
    assert sum(words[0] == "sql" for words in commands) >= 4
    for words in commands:
        code, out, err = run(*words)
        assert code == 0 and out.strip(), (words, err)


def test_the_python_of_the_page_works(kb):
    """The feed and the sources' own time, as the page shows them."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    done = [
        subprocess.run(
            [sys.executable, "-c", block], cwd=kb, capture_output=True, text=True, check=False
        )
        for block in blocks
    ]
    assert [(d.returncode, d.stderr) for d in done] == [(0, "")] * 2
    assert "renamed handbook gates.md valves.md 2" in done[0].stdout
    assert "source_ts" in done[1].stdout


def test_documents_as_known_and_as_true(tmp_path, capsys):
    """What was known on a date, and what the source says was true on it, are two questions."""
    (tmp_path / "headwater.yaml").write_text("name: test\nsources: {s: {kind: memory}}\n")
    day = datetime(2026, 1, 1, tzinfo=UTC)
    for number, text in enumerate(("The toll is four coins.", "The toll is five coins.")):
        record = Record("toll", text, source_ts=day + timedelta(days=number * 10))
        refresh(
            load(tmp_path),
            RefreshOptions(observed_at=day + timedelta(days=30 + number)),
            encoding=twin_encoding,
            sources={"s": MemorySource.of([record])},
        )
    kb = ("--kb", str(tmp_path), "--json")

    def listed(*words):
        assert main(["documents", *words, *kb]) == 0
        return [(row["key"], row["source_ts"][:10]) for row in json.loads(capsys.readouterr().out)]

    assert listed() == listed("--as-of", "2") == [("toll", "2026-01-11")]
    assert listed("--as-of", "2026-01-31") == [("toll", "2026-01-01")]
    assert listed("--true-at", "2026-01-05") == [("toll", "2026-01-01")]
    assert listed("--true-at", "2026-01-12") == [("toll", "2026-01-11")]
    assert listed("--true-at", "2025-01-12") == listed("-s", "other") == []
    assert main(["documents", "--as-of", "1", "--true-at", "2026-01-05", *kb[:2]]) == 2
