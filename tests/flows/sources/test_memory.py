"""The in-memory twin, and the registry that opens it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from headwater.config import PluginConfig
from headwater.errors import ConfigError, SourceUnreachableError
from headwater.flows.sources.conformance import SourceConformance, pull_all, pull_rows
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import PullRequest, Record, Source, Window
from headwater.flows.sources.registry import open_source, registered_kinds


class TestMemory(SourceConformance):
    keys = ("a", "b", "c")

    def make_source(self) -> Source:
        records = [Record(key=key, text=f"text {key}", fingerprint=f"f{key}") for key in self.keys]
        return MemorySource.of(records, watermark="w", batch_rows=2)


def configured(**options: object) -> Source:
    """A source opened from its options."""
    config = PluginConfig(kind="memory", options=options)
    return open_source("mem", config, root=Path())


def test_the_four_built_in_kinds_are_registered() -> None:
    """Entry points name every kind that ships."""
    assert {"api", "database", "documents", "memory"} <= set(registered_kinds())


def test_an_unknown_kind_lists_the_known_ones() -> None:
    """A kind nobody registers is a configuration error that says what there is."""
    with pytest.raises(ConfigError, match=r"wiki[\s\S]*memory"):
        open_source("x", PluginConfig(kind="wiki"), root=Path())


def test_options_are_read_and_the_environment_is_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records come from the options, with `${NAME}` resolved when the source is opened."""
    monkeypatch.setenv("WORD", "hello")
    records = [{"key": "en", "text": "${WORD}", "source_ts": "2024-01-02T00:00:00Z"}]
    row = pull_rows(configured(records=records))[0]
    assert row["text"] == "hello"
    assert row["source_ts"] == datetime(2024, 1, 2, tzinfo=UTC)


def test_an_unset_variable_stops_the_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing environment variable is named with the place that wants it."""
    monkeypatch.delenv("ABSENT", raising=False)
    with pytest.raises(ConfigError, match=r"sources\.mem\.options\.records\.0\.text.*ABSENT"):
        configured(records=[{"key": "a", "text": "${ABSENT}"}])


@pytest.mark.parametrize(
    "options",
    [
        {"recrods": []},
        {"records": [{"text": "no key"}]},
        {"records": [{"key": "a", "colour": "red"}]},
        {"records": [{"key": "a", "state": "lost"}]},
    ],
)
def test_wrong_options_are_configuration_errors(options: dict[str, object]) -> None:
    """Unknown options, fields and states are refused."""
    with pytest.raises(ConfigError):
        configured(**options)


def test_a_failing_source_yields_a_part_and_then_raises() -> None:
    """`fail_after` records come, then the error."""
    source = configured(records=[{"key": k} for k in "abc"], fail="down", fail_after=2)
    pull = source.pull(PullRequest())
    assert next(pull).num_rows == 2
    with pytest.raises(SourceUnreachableError, match="down"):
        next(pull)


def test_a_known_fingerprint_is_answered_without_text() -> None:
    """A record whose fingerprint is known is `unchanged`; another is sent."""
    source = MemorySource.of([Record("a", "x", fingerprint="1"), Record("b", "y", fingerprint="2")])
    rows = pull_rows(source, PullRequest(known={"a": "1", "b": "old"}))
    assert [(r["state"], r["text"]) for r in rows] == [("unchanged", None), ("present", "y")]


def test_a_window_takes_its_start_and_leaves_its_end() -> None:
    """A window is half-open, and the extract is not complete."""
    days = [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    source = MemorySource.of([Record(str(d.day), "x", source_ts=d) for d in days])
    batches, end = pull_all(source, PullRequest(window=Window(days[0], days[2])))
    assert [k for b in batches for k in b.column("key").to_pylist()] == ["1", "2"]
    assert not end.complete


def test_nothing_changed_can_be_said() -> None:
    """`unchanged` lists nothing and confirms everything."""
    batches, end = pull_all(configured(records=[{"key": "a"}], unchanged=True))
    assert not batches
    assert end.complete
    assert end.unchanged
