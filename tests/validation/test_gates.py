from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.storage.manifest import Gate
from headwater.validation.gates import (
    DeletionDecision,
    ceiling,
    computable_contract,
    content_shrink,
    deletion_guard,
    is_stub,
    lost_fields,
    schema_drift,
)
from headwater.validation.report import RefusedRecord, ReportData, ReportedSource, render_report
from headwater.validation.verdicts import CheckResult


def guard(
    live: int,
    missing: int,
    approved: int = 0,
    *,
    empty: bool = False,
    max_count: int = 10,
    max_share: float = 0.1,
) -> DeletionDecision:
    return deletion_guard(
        live=live,
        missing=missing,
        extract_empty=empty,
        max_count=max_count,
        max_share=max_share,
        approved=approved,
    )


@pytest.mark.parametrize(
    ("live", "missing", "approved", "empty", "allowed"),
    [
        (1000, 0, 0, False, True),
        (50, 10, 0, False, True),
        (50, 11, 0, False, False),
        (1000, 100, 0, False, True),
        (1000, 101, 0, False, False),
        (1000, 101, 101, False, True),
        (1000, 102, 101, False, False),
        (3, 3, 0, True, False),
        (3, 3, 3, True, True),
        (0, 0, 0, True, True),
    ],
)
def test_the_deletion_guard_withholds_what_no_one_approved(
    live: int, missing: int, approved: int, empty: bool, allowed: bool
) -> None:
    """Small losses pass; wiped listings and large losses wait for an approval that covers them."""
    decision = guard(live, missing, approved, empty=empty)
    assert decision.allowed is allowed
    assert decision.reason


def test_the_share_is_not_a_victim_of_binary_fractions() -> None:
    """29 of 100 are within a share of 0.29, although 0.29 * 100 is a little less than 29."""
    assert guard(100, 29, max_count=0, max_share=0.29).allowed
    assert not guard(100, 30, max_count=0, max_share=0.29).allowed


@given(
    live=st.integers(0, 10_000),
    data=st.data(),
    approved=st.integers(0, 10_000),
    max_count=st.integers(0, 100),
    max_share=st.floats(0, 1),
)
def test_an_approval_is_a_ceiling_and_losing_less_is_never_worse(
    live: int, data: st.DataObject, approved: int, max_count: int, max_share: float
) -> None:
    """If a loss is allowed, so is a smaller one; beyond limit and ceiling nothing is."""
    missing = data.draw(st.integers(0, live))
    empty = data.draw(st.booleans()) if missing == live else False

    def allowed(count: int, given_: int) -> bool:
        return guard(
            live, count, given_, empty=empty, max_count=max_count, max_share=max_share
        ).allowed

    if allowed(missing, approved):
        assert all(allowed(fewer, approved) for fewer in {0, missing // 2, max(0, missing - 1)})
    assert allowed(missing, missing)
    if missing > max(max_count, max_share * live) + 1e-6:
        assert allowed(missing, approved) is (approved >= missing)
    if empty and missing:
        assert not allowed(missing, missing - 1)


@pytest.mark.parametrize(
    ("before", "after", "stub"),
    [(1000, 499, True), (1000, 500, False), (1000, 0, True), (199, 1, False), (200, 99, True)],
)
def test_a_stub_is_what_lost_most_of_a_text_that_was_one(
    before: int, after: int, stub: bool
) -> None:
    """Below half of its length, if there was enough of it to be called a document."""
    assert is_stub(before, after, below=0.5, min_chars=200) is stub


@given(
    live=st.integers(1, 10_000),
    data=st.data(),
    approved=st.integers(0, 10_000),
    max_count=st.integers(0, 100),
    max_share=st.floats(0, 1),
)
def test_fewer_stubs_are_never_worse_and_an_approval_is_a_ceiling(
    live: int, data: st.DataObject, approved: int, max_count: int, max_share: float
) -> None:
    """Within the limit stubs pass unasked; beyond it exactly as many as were approved."""
    shrunk = data.draw(st.integers(0, live))

    def allowed(count: int, given_: int = 0) -> bool:
        return content_shrink(
            live=live,
            shrunk=count,
            example="a",
            max_count=max_count,
            max_share=max_share,
            approved=given_,
        ).allowed

    if shrunk <= ceiling(live, max_count=max_count, max_share=max_share):
        assert allowed(shrunk) and allowed(shrunk // 2)
    else:
        assert allowed(shrunk, approved) is (approved >= shrunk)


def fields(*names: str) -> frozenset[str]:
    return frozenset(names)


def test_a_field_is_lost_when_nearly_all_that_had_it_lack_it() -> None:
    """A rename is lost and gained in all; an edit is lost in some; a new field is not lost."""
    renamed = [(fields("a", "b"), fields("a", "c"))] * 20
    (found,) = lost_fields(renamed, changed=500, limit=250)
    assert (found.name, found.everywhere) == ("b", True)
    assert not lost_fields(renamed, changed=250, limit=250), "not more than the limit"
    edited = [*renamed[:15], *[(fields("a", "b"), fields("a", "b"))] * 5]
    assert not lost_fields(edited, changed=500, limit=100)
    added = [(fields("a"), fields("a", "z"))] * 20
    assert not lost_fields(added, changed=500, limit=0)
    rare = [*[(fields("a", "b"), fields("a"))] * 6, *[(fields("a"), fields("a"))] * 4]
    (found,) = lost_fields(rare, changed=500, limit=250)
    assert not found.everywhere, "a new record is not expected to have it"


def test_a_drift_names_the_fields_and_asks_for_the_number() -> None:
    """The message says what vanished, what came, and whether an approval covers it."""
    lost = lost_fields([(fields("Name", "Sector"), fields("Company"))], changed=9, limit=1)
    decision = schema_drift(concerned=9, lost=lost, gained=("Company",), approved=0)
    assert not decision.allowed
    assert decision.reason == (
        "9 records lack the fields 'Name', 'Sector' that were there before; new: 'Company'"
    )
    assert schema_drift(concerned=9, lost=lost, gained=(), approved=9).allowed
    short = schema_drift(concerned=9, lost=lost, gained=(), approved=8)
    assert not short.allowed and "the approval for 8 does not cover them" in short.reason
    assert schema_drift(concerned=0, lost=(), gained=(), approved=0).allowed


def test_a_broken_contract_stops_and_says_why() -> None:
    """The gate repeats which expectation could not be computed."""
    gate = computable_contract(["s: the column 'lang' does not exist"], source="docs")
    assert not gate.passed and gate.severity == "critical"
    assert "'lang'" in gate.detail
    assert computable_contract(()).passed


HOSTILE = "<script>alert(1)</script>\"'&\x00\udc80"
CHECK = CheckResult("expect_x", "title", "critical", "failed", "rows", 1200, 3, "3 of 1200 records")
DATA = ReportData(
    knowledge_base="handbook",
    run_id="run-7",
    started=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    finished=datetime(2026, 1, 2, 3, 4, 9, tzinfo=UTC),
    snapshot="000012-abcdef",
    texts_embedded=4321,
    sources=(
        ReportedSource(
            name="docs",
            pulled=1200,
            added=11,
            changed=22,
            renamed=33,
            removed=44,
            withheld=55,
            withheld_reason="55 of 100 are missing",
            quarantined=(RefusedRecord("k1", "text-empty", "the text is null or blank"),),
            checks=(CHECK,),
        ),
    ),
    gates=(Gate("index-complete", True, "critical", "all live texts"),),
)


class Seen(HTMLParser):
    """Collects the tags, the attributes and the words of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += data + " "


def test_the_report_tells_the_whole_story() -> None:
    """The page shows the run, every count, the quarantine, the expectations and the gates."""
    words = Seen(render_report(DATA)).words
    for said in (
        *("run-7", "2026-01-02 03:04:05 UTC", "000012-abcdef", "4,321", "1,200"),
        *("11", "22", "33", "44", "55", "55 of 100 are missing"),
        *("k1", "text-empty", "the text is null or blank"),
        *("expect_x", "failed", "3 of 1200 records", "index-complete"),
    ):
        assert said in words, said
    stopped = replace(DATA, snapshot=None, not_published="a gate failed")
    assert "a gate failed" in Seen(render_report(stopped)).words


def test_the_report_needs_nothing_from_outside() -> None:
    """No script, no link, no image, no address: the page can be mailed and opened offline."""
    page = render_report(DATA)
    seen = Seen(page)
    assert not {"script", "link", "img", "iframe"} & set(seen.tags)
    assert not {"src", "href"} & seen.attributes
    assert "http" not in page
    assert "prefers-color-scheme:dark" in page
    assert "@media print" in page


def test_a_hostile_record_cannot_act_in_the_report() -> None:
    """Markup in any field is shown, never obeyed, and the page is valid UTF-8 without NULs."""
    source = ReportedSource(
        name=HOSTILE,
        status=HOSTILE,
        note=HOSTILE,
        withheld_reason=HOSTILE,
        quarantined=(RefusedRecord(HOSTILE, HOSTILE, HOSTILE, DATA.started),),
        checks=(replace(CHECK, type=HOSTILE, column=HOSTILE, detail=HOSTILE),),
    )
    gates = (Gate(HOSTILE, False, "warning", HOSTILE, HOSTILE),)
    page = render_report(
        replace(
            DATA,
            knowledge_base=HOSTILE,
            run_id=HOSTILE,
            snapshot=HOSTILE,
            sources=(source,),
            gates=gates,
        )
    )
    seen = Seen(page)
    assert "script" not in seen.tags
    assert "alert(1)" in seen.words
    assert "\x00" not in page
    assert page.encode("utf-8")
