"""Golden queries as they are written, and what the quality gates decide from counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import ConfigError
from headwater.validation.golden import load_golden, parse_golden
from headwater.validation.quality import Outcome, golden_queries, graph_recall, old_text_gone

GOOD = b"""\
- query: when does the shop close
  expect: hours.md
- {query: refunds, expect: [docs/refunds.md, returns.md], k: 3, source: docs}
"""


def test_a_golden_file_is_read_with_its_lines():
    """One expected document may stand alone; k is 5 unless it says otherwise."""
    first, second = parse_golden(GOOD)
    assert (first.query, first.expect, first.k, first.source, first.line) == (
        "when does the shop close",
        ("hours.md",),
        5,
        None,
        1,
    )
    assert (second.expect, second.k, second.source, second.line) == (
        ("docs/refunds.md", "returns.md"),
        3,
        "docs",
        3,
    )


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (b"query: a", 1, "not a list"),
        (b"- query: a\n  expect: [x]\n  kk: 3\n", 3, "unknown key"),
        (b"- query: a\n  expekt: x\n", 2, "did you mean 'expect'"),
        (b"- query: ' '\n  expect: x\n", 1, "query"),
        (b"- query: a\n- query: b\n  expect: x\n", 1, "expect: this key is required"),
        (b"- query: a\n  expect: []\n", 2, "expect"),
        (b"- query: a\n  expect: x\n  k: 0\n", 3, "k"),
        (b"- query: a\n  expect: x\n  line: 7\n", 3, "line"),
        (b"- query: a\n  expect: [x\n", 3, "YAML"),
        (b"- just a text\n", 1, "dictionary"),
    ],
)
def test_a_wrong_golden_file_is_refused_with_its_line(text, line, said):
    """The message names the place and what was expected there."""
    with pytest.raises(ConfigError) as caught:
        parse_golden(text, name="golden.yaml")
    assert f"golden.yaml:{line}" in str(caught.value)
    assert said in str(caught.value)


def test_no_file_and_an_empty_file_ask_for_nothing(tmp_path):
    """Golden queries are optional."""
    assert load_golden(tmp_path, sources=["docs"]) == ()
    (tmp_path / "golden.yaml").write_text("# none yet\n")
    assert load_golden(tmp_path, sources=["docs"]) == ()


def test_a_golden_query_of_an_unknown_source_is_refused(tmp_path):
    """A typing error in a source's name would fail at every refresh and say nothing of why."""
    (tmp_path / "golden.yaml").write_bytes(GOOD)
    assert len(load_golden(tmp_path, sources=["docs"])) == 2
    with pytest.raises(ConfigError, match="golden queries") as caught:
        load_golden(tmp_path, sources=["notes"])
    assert "golden.yaml:3" in str(caught.value) and "notes" in str(caught.value)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 100))
def test_a_share_is_met_exactly_at_its_bar(found, percent):
    """No rounding error of a share ever decides."""
    outcomes = [Outcome(f"d{n}", passed) for n, passed in enumerate(found)]
    gate = golden_queries(outcomes, share=percent / 100, severity="critical")
    assert gate.passed == (100 * sum(found) >= percent * len(found))


def test_a_failed_gate_names_a_few_of_what_was_missed():
    """Five names and a count: a manifest is no place for a long list."""
    gate = old_text_gone([Outcome(f"text {n}", False) for n in range(8)], severity="critical")
    assert not gate.passed
    assert "text 4 and 3 more" in gate.detail and "text 5" not in gate.detail


def test_a_graph_passes_at_its_bar_and_not_below():
    """The bar itself is good enough."""
    kinds = {"bar": 0.9, "severity": "warning", "graphs": 1, "queries": 64}
    assert graph_recall(0.9, **kinds).passed
    low = graph_recall(0.89, **kinds)
    assert (low.passed, low.severity) == (False, "warning")
