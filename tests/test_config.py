"""A wrong configuration is explained: line, key, what was expected."""

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater import config
from headwater.errors import ConfigError, NotFoundError

GOOD = """\
name: shop
sources:
  docs:
    kind: documents
    root: docs
    freshness: 6h
  rows:
    kind: database
    dsn: sqlite:///x.db
    table: t
    key: id
"""


def explained(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(text.encode(), name="kb.yaml")
    return str(caught.value)


def test_a_good_file_becomes_frozen_values():
    """One string stands for a list of one, durations are read, and nothing can be changed."""
    found = config.parse(GOOD.encode())
    assert found.sources["rows"].key == ("id",)
    one = GOOD.replace("root: docs", "root: docs\n    glob: '*.md'\n    labels: public")
    assert config.parse(one.encode()).sources["docs"].glob == ("*.md",)
    assert found.sources["docs"].freshness == timedelta(hours=6)
    with pytest.raises(ValueError, match="frozen"):
        found.name = "other"


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("root: docs", "roott: docs", 5, "unknown key (did you mean 'root'?)"),
        ("freshness: 6h", "freshness: soon", 6, "expected a duration"),
        ("    key: id\n", "", 7, "sources.rows.key: this key is required"),
        ("kind: documents", "kind: [documents]", 3, "expected a mapping with 'kind'"),
        ("name: shop", "name: My Shop", 1, "name"),
        ("table: t", "table: t\n    query: select 1", 7, "exactly one of 'table' and 'query'"),
        ("name: shop", "name: shop\nschedule: {}", 2, "exactly one of 'every' and 'cron'"),
    ],
)
def test_an_error_names_the_line_the_key_and_what_was_expected(old, new, line, words):
    """Every kind of mistake points at its place."""
    message = explained(GOOD.replace(old, new))
    assert f"kb.yaml:{line}:" in message
    assert words in message


def test_all_mistakes_are_told_at_once():
    """A user mends a file in one go."""
    message = explained(GOOD.replace("root: docs", "roott: docs").replace("table: t", "tabel: t"))
    assert "roott" in message and "tabel" in message


@pytest.mark.parametrize("text", ["", "[]", "a: [", "\t", "name: x"])
def test_what_is_no_configuration_is_refused_without_a_traceback(text):
    """Empty, wrong or broken YAML is a ConfigError."""
    assert "kb.yaml" in explained(text)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data):
    """Whatever a file holds, the only error is a ConfigError."""
    with suppress(ConfigError):
        config.parse(data)


@given(st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=3650)))
def test_durations_round_trip(value):
    """A duration is written so that it is read back."""
    whole = timedelta(seconds=int(value.total_seconds()))
    assert config.parse_duration(config.format_duration(whole)) == whole


def test_secrets_come_from_the_environment_and_only_when_used(monkeypatch):
    """The configuration is readable without its secrets; using one that is unset names it."""
    text = GOOD.replace("sqlite:///x.db", "postgresql://u:${SHOP_PASSWORD}@h/db")
    dsn = config.parse(text.encode()).sources["rows"].dsn
    assert "${SHOP_PASSWORD}" in dsn
    monkeypatch.setenv("SHOP_PASSWORD", "s3cret")
    assert "s3cret" in config.expand(dsn, where="dsn")
    monkeypatch.delenv("SHOP_PASSWORD")
    with pytest.raises(ConfigError, match="not set") as caught:
        config.expand(dsn, where="sources.rows.dsn")
    assert "SHOP_PASSWORD" in caught.value.obj


def test_a_missing_knowledge_base_says_how_to_make_one(tmp_path):
    """The first mistake of a newcomer gets a way out."""
    with pytest.raises(ConfigError, match="no knowledge base") as caught:
        config.load(tmp_path)
    assert "headwater init" in caught.value.todo


def test_an_unknown_source_lists_the_known_ones(tmp_path):
    """A typo on the command line is answered with the names."""
    (tmp_path / "headwater.yaml").write_text(GOOD)
    with pytest.raises(NotFoundError) as caught:
        config.load(tmp_path).source("dox")
    assert "docs, rows" in caught.value.todo


def test_the_schema_describes_the_file():
    """Editors get every top-level key."""
    schema = config.json_schema()
    assert set(schema["properties"]) == set(config.Config.model_fields)
