"""The commands by which a person lets pass what a gate withheld."""

import json

import pytest
import yaml

from headwater import config
from headwater.cli import main
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import RefreshOptions, refresh

TEXT = "All that is known of the matter stands in this document, at length. " * 5


@pytest.fixture
def kb(tmp_path, monkeypatch):
    """A folder of documents of which many became stubs and many vanished; both wait."""
    docs = tmp_path / "docs"
    docs.mkdir()
    sources = {"docs": {"kind": "documents", "root": "docs"}}
    (tmp_path / "headwater.yaml").write_text(yaml.safe_dump({"name": "k", "sources": sources}))
    for n in range(40):
        (docs / f"{n:02d}.md").write_text(f"# Page {n}\n\n{TEXT}")
    monkeypatch.setitem(refresh.__kwdefaults__, "encoding", twin_encoding)
    refresh(config.load(tmp_path), RefreshOptions())
    for n in range(15):
        (docs / f"{n:02d}.md").write_text(f"moved to {n}")
        (docs / f"{n + 20:02d}.md").unlink()
    return tmp_path


def run(kb, capsys, *words):
    code = main([*words, "--kb", str(kb)])
    return code, capsys.readouterr()


def test_a_refresh_says_what_was_seen_and_the_one_command_that_approves_it(kb, capsys):
    """Exit code 4, the numbers, and a line to copy; the command then brings everything in."""
    code, said = run(kb, capsys, "refresh")
    assert code == 4
    assert "docs: 15 changes wait for you: headwater approve docs" in said.out
    assert "docs: 15 deletions wait for you: headwater approve-deletes docs" in said.out
    assert "15 of 40 documents were replaced by stubs" in said.out
    code, said = run(kb, capsys, "approve", "docs", "--json")
    report = json.loads(said.out)
    assert code == report["exit_code"] == 0
    assert (report["sources"][0]["changed"], report["sources"][0]["removed"]) == (15, 15)
    code, said = run(kb, capsys, "approve", "docs")
    assert code == 9 and "Nothing of this source waits" in said.err


def test_one_kind_may_be_approved_and_the_other_go_on_waiting(kb, capsys):
    """--kind and --at-most narrow an approval; approve-deletes is the one for deletions."""
    assert run(kb, capsys, "refresh")[0] == 4
    assert run(kb, capsys, "approve", "docs", "--kind", "shrink", "--at-most", "14")[0] == 4
    assert run(kb, capsys, "approve", "docs", "--kind", "shrink")[0] == 4
    code, said = run(kb, capsys, "approve", "docs", "--kind", "shrink")
    assert code == 9 and "waiting: deletes" in said.err
    assert run(kb, capsys, "approve-deletes", "docs")[0] == 0
    assert run(kb, capsys, "approve", "docs", "--kind", "moods")[0] == 2
