from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from headwater.validation.quarantine import (
    QUARANTINE_SCHEMA,
    merge_quarantine,
    refused_table,
)
from headwater.validation.verdicts import Reason

START = datetime(2026, 1, 1, tzinfo=UTC)
SOURCES = ("docs", "faq")
KEYS = ("a", "b", "c", "(no key, row 3)")


@st.composite
def refusals(draw: st.DrawFn, sources: tuple[str, ...] = SOURCES, day: int = 0) -> pa.Table:
    rows = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "source": st.sampled_from(sources),
                    "key": st.sampled_from(KEYS),
                    "content_hash": st.sampled_from([None, "h1", "h2"]),
                    "rule": st.sampled_from(["text-empty", "expect_x"]),
                    "reason": st.sampled_from(["why", "why else"]),
                    "severity": st.just("critical"),
                    "payload": st.sampled_from(["{}", '{"text":"x"}']),
                    "suite_sha256": st.sampled_from(["s1", "s2"]),
                }
            ),
            max_size=8,
        )
    )
    dated = {"since": START + timedelta(days=day), "run_id": f"run-{day}"}
    return pa.Table.from_pylist([{**row, **dated} for row in rows], schema=QUARANTINE_SCHEMA)


def later(table: pa.Table, day: int) -> pa.Table:
    dated = {"since": START + timedelta(days=day), "run_id": f"run-{day}"}
    rows = [{**row, **dated} for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA)


def ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def merge(old: pa.Table, refused: pa.Table, cleared: set[str] | None = None) -> pa.Table:
    return merge_quarantine(old, source="docs", refused=refused, cleared_keys=cleared or set())


EMPTY = QUARANTINE_SCHEMA.empty_table()


@given(old=refusals(), now=refusals(("docs",), 5))
def test_the_same_refusals_again_leave_the_same_bytes(old: pa.Table, now: pa.Table) -> None:
    """A later run that refuses the same records for the same reasons changes no byte."""
    first = merge(old, now)
    assert ipc(merge(first, later(now, 9))) == ipc(first)


@given(old=refusals(), now=refusals(("docs",), 5), order=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(old: pa.Table, now: pa.Table, order: Any) -> None:
    """Shuffled inputs give the same bytes."""

    def shuffled(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        order.shuffle(rows)
        return pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA)

    assert ipc(merge(shuffled(old), shuffled(now))) == ipc(merge(old, now))


@given(old=refusals(), now=refusals(day=5), cleared=st.sets(st.sampled_from(KEYS)))
def test_what_is_refused_stays_what_passed_leaves_and_others_are_untouched(
    old: pa.Table, now: pa.Table, cleared: set[str]
) -> None:
    """Refused records are held, cleared keys leave, other sources keep their rows."""
    rows = merge(old, now, cleared).to_pylist()
    mine = [row for row in rows if row["source"] == "docs"]
    refused = [row for row in now.to_pylist() if row["source"] == "docs"]
    refused_keys = {row["key"] for row in refused}

    def what(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(value for name, value in row.items() if name not in ("since", "run_id"))

    held = {what(row) for row in mine if row["key"] in refused_keys}
    assert held == {what(row) for row in refused}
    assert not {row["key"] for row in mine} & (cleared - refused_keys)
    waiting = {
        what(row)
        for row in old.to_pylist()
        if row["source"] == "docs" and row["key"] not in refused_keys | cleared
    }
    assert waiting <= {what(row) for row in mine}
    others = [what(row) for row in rows if row["source"] != "docs"]
    assert set(others) == {what(r) for r in old.to_pylist() if r["source"] != "docs"}


def test_a_refusal_keeps_its_first_day_until_content_rule_or_contract_change() -> None:
    """`since` and `run_id` survive while the refusal is the same, and start anew otherwise."""

    def one(day: int, **changes: str) -> pa.Table:
        row = {
            "source": "docs",
            "key": "a",
            "content_hash": "h1",
            "rule": "text-empty",
            "reason": "why",
            "severity": "critical",
            "payload": "{}",
            "since": START + timedelta(days=day),
            "run_id": f"run-{day}",
            "suite_sha256": "s1",
            **changes,
        }
        return pa.Table.from_pylist([row], schema=QUARANTINE_SCHEMA)

    first = merge(EMPTY, one(0))
    assert merge(first, one(7)).to_pylist() == first.to_pylist()
    reworded = merge(first, one(7, reason="why, in other words")).to_pylist()
    assert [(row["reason"], row["run_id"]) for row in reworded] == [
        ("why, in other words", "run-0")
    ]
    for change in ({"content_hash": "h2"}, {"rule": "expect_x"}, {"suite_sha256": "s2"}):
        assert [row["run_id"] for row in merge(first, one(7, **change)).to_pylist()] == ["run-7"]


def test_refused_records_become_rows_with_their_payload() -> None:
    """Each critical reason is a row with the record as JSON; a keyless record is named by its row."""
    batch = pa.table(
        {
            "key": pa.array([None, "b", "c"], pa.string()),
            "text": ["x" * 10_001, "é", "fine"],
            "source_ts": pa.array([START, None, None], pa.timestamp("us", tz="UTC")),
        }
    )
    table = refused_table(
        batch,
        {
            0: [Reason("key-missing", "the key is null or empty", observed="null")],
            1: [
                Reason("expect_x", "text is odd", column="text", observed="é"),
                Reason("expect_y", "title is null", severity="warning"),
            ],
            2: [Reason("expect_y", "title is null", severity="info")],
        },
        source="docs",
        content_hashes=["h0", "h1", "h2"],
        since=START,
        run_id="r",
        suite_sha256="s",
        first_row=17,
    )
    assert table.schema == QUARANTINE_SCHEMA
    rows = table.to_pylist()
    assert [(row["key"], row["rule"]) for row in rows] == [
        ("(no key, row 17)", "key-missing"),
        ("b", "expect_x"),
    ]
    assert rows[1]["reason"] == "text is odd (found: é)"
    payload = json.loads(rows[0]["payload"])
    assert len(payload["text"]) == 10_000
    assert payload["text_chars"] == 10_001
