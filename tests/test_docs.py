"""What the documents say is what the code does."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from headwater import config
from headwater.errors import EXIT_CODES
from headwater.retrieval.lexical import KINDS as LEXICAL
from headwater.storage.manifest import FORMAT, Encoder, Gate, Manifest, Segment, SourceState
from headwater.storage.objects import ObjectEntry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_readme_has_the_one_table_of_exit_codes():
    """The table in the README and the one in --help cannot drift apart."""
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", README, flags=re.MULTILINE))
    assert {int(code): text for code, text in rows.items()} == EXIT_CODES


def test_the_readmes_configuration_is_valid():
    """Whoever copies the example gets a working file."""
    blocks = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        assert set(config.parse(block.encode()).sources) == {
            "handbook",
            "products",
            "tickets",
            "website",
        }


def test_every_command_of_the_readme_exists():
    """No command is named that the command line does not have."""
    from headwater.cli import cli

    named = set(
        re.findall(
            r"\bheadwater ([a-z][a-z-]+)",
            "\n".join(re.findall(r"`[^`]+`|```.*?```", README, flags=re.DOTALL)),
        )
    )
    assert named - set(cli.commands) - {"keeps"} == set()


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.name
)
def test_links_between_documents_lead_somewhere(path):
    """Every relative link names a file that exists."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), target


def test_the_page_on_filters_has_every_field_and_only_filters_that_parse():
    """The table of fields is the one in the code, and every example is a filter."""
    from headwater.retrieval.filter_terms import ALIASES, FIELDS
    from headwater.retrieval.filters import MAX_LENGTH, parse

    page = (ROOT / "docs" / "filters.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (text|time)", page, flags=re.MULTILINE))
    assert rows == FIELDS
    assert {a: f for f, a in re.findall(r"\| `(\w+)` \| .*also `(\w+)`", page)} == ALIASES
    (block,) = re.findall(r"```filter\n(.*?)```", page, flags=re.DOTALL)
    asked = re.findall(r"where(?:=| )\"([^\"]+)\"", page + README)
    assert len(asked) >= 3
    for text in [*block.splitlines(), *asked]:
        assert parse(str(parse(text))) == parse(text)
    assert f"{MAX_LENGTH:,} characters" in page


def test_the_format_names_every_kind_of_object():
    """A kind that the code writes and the specification does not know would be a secret."""
    text = (ROOT / "docs" / "format.md").read_text("utf-8")
    sources = "\n".join(p.read_text("utf-8") for p in (ROOT / "headwater").rglob("*.py"))
    kinds = set(re.findall(r"\"([a-z]+\.(?:parquet|arrow|hnsw|u32|f32|xml|bin))\"", sources))
    assert kinds and {kind for kind in (*kinds, *LEXICAL) if f"`{kind}`" not in text} == set()


@pytest.mark.parametrize("value", [Manifest, Segment, Encoder, SourceState, Gate, ObjectEntry])
def test_the_format_shows_every_field_of_a_manifest(value):
    """A field that the code writes stands in the example, and the example names today's format."""
    page = (ROOT / "docs" / "format.md").read_text("utf-8")
    (example,) = re.findall(r"## snapshots/.*?```json\n(.*?)```", page, flags=re.DOTALL)
    shown = set(re.findall(r"\"(\w+)\":", example))
    assert {field.name for field in fields(value)} - shown == set()
    assert f'"format": {FORMAT},' in example and f"format {FORMAT}\n" in page[:40]
    assert f"| {FORMAT} | " in page
