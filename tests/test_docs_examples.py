"""Every example in Python of these pages runs, every example of configuration is valid."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from headwater import config
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import refresh
from headwater.retrieval.fusion import K
from headwater.retrieval.hits import MODES
from headwater.retrieval.query_log import Asked, read_log

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("answers.md", "applications.md", "mcp.md", "query-log.md")
CROSS_ENCODER = 'CrossEncoderReranker("cross-encoder/ms-marco-MiniLM-L6-v2", root=Path("kb"))'


def blocks(page: str, language: str) -> list[str]:
    """The examples of a page in one language."""
    text = (DOCS / page).read_text("utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


EXAMPLES = [
    pytest.param(page, block, id=f"{page}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "python"), 1)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the knowledge base that the examples speak of."""
    root = tmp_path_factory.mktemp("examples")
    (root / "kb" / "documents").mkdir(parents=True)
    (root / "kb" / "documents" / "hours.md").write_text("The shop closes at six and opens at ten.")
    (root / "kb" / "documents" / "refunds.md").write_text("A refund must be requested in time.")
    (root / "kb" / "headwater.yaml").write_text(
        "name: shop\nsources:\n  documents: {kind: documents, root: documents, labels: [public]}\n"
    )
    assert refresh(config.load(root / "kb"), encoding=twin_encoding).published
    return root


def test_there_are_examples():
    """A page that lost its examples would pass in silence."""
    assert len(EXAMPLES) >= 7


@pytest.mark.parametrize(("page", "block"), EXAMPLES)
def test_an_example_runs(place, page, block):
    """As it stands, but for the model that a test machine does not have."""
    code = block.replace(CROSS_ENCODER, "WordOverlapReranker()").replace(
        "import CrossEncoderReranker", "import WordOverlapReranker"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:headwater", "-c", code],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or page == "query-log.md"
    if page == "query-log.md":
        assert [line.found for line in read_log(place / "kb")] == [2]


@pytest.mark.parametrize("page", PAGES)
def test_the_configuration_of_a_page_is_valid(page, monkeypatch):
    """Whoever copies it gets a working file."""
    monkeypatch.setenv("MODEL_KEY", "secret")
    for block in blocks(page, "yaml"):
        told = {"name": "x", "sources": {"a": {"kind": "memory"}}, **yaml.safe_load(block)}
        config.parse(yaml.safe_dump(told).encode())


def test_every_option_of_answers_and_of_the_log_is_shown():
    """A new option has its line."""
    for page, name, model in (
        ("answers.md", "answers", config.AnswersConfig),
        ("query-log.md", "query_log", config.QueryLogConfig),
    ):
        (block,) = blocks(page, "yaml")
        assert set(yaml.safe_load(block)[name]) == set(model.model_fields)
    (block,) = blocks("answers.md", "yaml")
    shown = yaml.safe_load(block)["answers"]["endpoint"]
    assert set(shown) == set(config.EndpointConfig.model_fields)


def test_the_page_on_agents_has_every_tool_and_argument():
    """The table is what an agent is offered."""
    import inspect

    from headwater.serving.mcp_tools import KnowledgeTools

    page = (DOCS / "mcp.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, flags=re.MULTILINE))
    names = ("search", "read_document", "list_snapshots", "what_changed", "status")
    assert set(rows) == set(names)
    for name in names:
        wanted = set(inspect.signature(getattr(KnowledgeTools, name)).parameters)
        told = set(re.findall(r"`(\w+)`", rows[name].split("|")[-1]))
        assert told == wanted - {"self", "ctx"}


def test_the_line_of_the_query_log_is_as_shown():
    """Its fields, each explained."""
    page = (DOCS / "query-log.md").read_text("utf-8")
    (block,) = blocks("query-log.md", "json")
    fields = set(Asked.__dataclass_fields__)
    assert set(json.loads(block)) == {"v", *fields}
    told = re.findall(r"^\| (`.*?`) \|", page, flags=re.MULTILINE)
    assert fields == {name for cell in told for name in re.findall(r"`(\w+)`", cell)}


def test_the_page_for_applications_has_every_mode_and_the_constant():
    """How hits are ordered is said once, and as it is."""
    page = (DOCS / "applications.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)`(?:, the default)? \|", page, flags=re.MULTILINE)[1:] == [*MODES]
    assert f"1 / ({K} + rank)" in page


def test_every_check_of_an_answer_is_explained():
    """The table is what `checks` holds."""
    from headwater.retrieval.answers.checking import Checked

    page = (DOCS / "answers.md").read_text("utf-8")
    told = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert [name for name in told if name != "checks"] == list(Checked.__dataclass_fields__)


def test_every_command_line_of_these_pages_is_one():
    """No option is shown that the command does not have."""
    from headwater.cli import cli

    for page in (*PAGES, "serving.md", "quality.md"):
        for block in blocks(page, "console"):
            for line in re.findall(r"^\$ headwater (.*)$", block, flags=re.MULTILINE):
                command, words = cli, line.split("#")[0].split(">")[0].split()
                while words and words[0] in getattr(command, "commands", {}):
                    command = command.commands[words.pop(0)]
                options = {option for p in command.params for option in p.opts}
                used = {word.split("=")[0] for word in words if word.startswith("-")}
                assert command is not cli and used <= options, line
