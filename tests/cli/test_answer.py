"""`headwater answer`: a thin shell around the library."""

from __future__ import annotations

import json

import pytest
from chat_server import says

from headwater.cli import main
from headwater.config import load
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import refresh

QUESTION = "When does the ferry leave?"


@pytest.fixture
def kb(tmp_path, chat):
    """One note, and a model to ask."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "ferry.md").write_text("The ferry leaves at 9:15.")
    (tmp_path / "headwater.yaml").write_text(
        "name: ask\nsources:\n  notes: {kind: documents, root: notes}\n"
        f"answers:\n  endpoint: {{url: '{chat.url}', model: tiny, retries: 0}}\n"
    )
    assert refresh(load(tmp_path), encoding=twin_encoding).published
    return str(tmp_path)


def test_an_answer_is_printed_with_what_it_cites(kb, chat, capsys):
    """Text, then the citation; exit code 0."""
    chat.does(says("The ferry leaves at 9:15 [1]."))
    assert main(["answer", QUESTION, "--kb", kb]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("The ferry leaves at 9:15 [1].\n") and "[notes/ferry.md @" in out
    assert err == ""


def test_an_answer_that_fails_a_check_exits_with_4(kb, chat, capsys):
    """The text is shown, with the warning beside it."""
    chat.does(says("The ferry leaves at 10:45 [1]."))
    assert main(["answer", QUESTION, "--kb", kb]) == 4
    assert "do not support" in capsys.readouterr().err


def test_the_prompt_alone_asks_nobody(kb, chat, capsys):
    """For a model of one's own."""
    assert main(["answer", QUESTION, "--kb", kb, "--prompt"]) == 0
    assert "9:15" in capsys.readouterr().out and chat.requests == []


def test_json_holds_everything(kb, chat, capsys):
    """Passages, checks, prompt and model."""
    chat.does(says("The ferry leaves at 9:15 [1]."))
    assert main(["answer", QUESTION, "--kb", kb, "--json", "-k", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["grounded"] and told["passages"][0]["key"] == "ferry.md"


def test_a_model_that_cannot_be_reached_is_no_traceback(kb, chat, capsys):
    """Three parts, exit code 10."""
    chat.close()
    assert main(["answer", QUESTION, "--kb", kb]) == 10
    assert "cannot be reached" in capsys.readouterr().err
