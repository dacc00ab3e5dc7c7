from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import ConfigError
from headwater.validation.contracts import EMPTY_SUITE, Suite, parse_suite
from headwater.validation.expectations import check_suite
from headwater.validation.rows import (
    built_in_failures,
    check_batches,
    check_rows,
)

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("text", pa.string()),
        ("title", pa.string()),
        ("url", pa.string()),
        ("metadata", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("source_ts", pa.timestamp("us", tz="UTC")),
        ("fingerprint", pa.string()),
        ("state", pa.string()),
        ("error", pa.string()),
    ]
)


def records(*rows: dict[str, Any]) -> pa.Table:
    defaults = {"text": "text", "title": "title", "metadata": "{}", "state": "present"}
    full = [{name: {**defaults, **row}.get(name) for name in SCHEMA.names} for row in rows]
    return pa.Table.from_pylist(full, schema=SCHEMA)


def with_metadata(*values: dict[str, Any]) -> pa.Table:
    return records(*({"key": f"k{n}", "metadata": json.dumps(v)} for n, v in enumerate(values)))


def expect(kind: str, severity: str = "critical", **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "severity": severity}


def suite(*rows: dict[str, Any], name: str = "s") -> Suite:
    return parse_suite(json.dumps({"name": name, "rows": rows}).encode(), path=f"{name}.json")


LANG = expect("expect_column_values_to_be_in_set", column="lang", value_set=["de", "en"])
TITLED = expect("expect_column_values_to_not_be_null", "warning", column="title")
SHORT = expect("expect_column_value_lengths_to_be_between", column="text", max_value=5)
SCORE = expect("expect_column_values_to_be_between", column="score", min_value=1)


def test_a_critical_failure_refuses_the_row_and_a_warning_only_reports_it() -> None:
    """A critical failure refuses the record; a warning is counted and the record stays."""
    verdict = check_rows(
        suite(SHORT, TITLED),
        records({"key": "a"}, {"key": "b", "text": "far too long"}, {"key": "c", "title": None}),
    )
    assert verdict.refused == (1,)
    assert sorted(verdict.failures) == [1, 2]
    reason = verdict.failures[1][0]
    assert (reason.column, reason.observed) == ("text", "far too long")
    assert reason.detail == "the length of text is not at most 5"
    assert verdict.failures[2][0].severity == "warning"
    assert [(r.status, r.checked, r.failed) for r in verdict.results] == [
        ("failed", 3, 1),
        ("failed", 3, 1),
    ]
    assert verdict.broken == ()


def test_an_empty_suite_never_imports_great_expectations() -> None:
    """Without row expectations Great Expectations is not imported."""
    code = (
        "import sys, pyarrow as pa\n"
        "from headwater.validation import rows, tables, gates, report, quarantine, contracts\n"
        "t = pa.table({'key': ['a']})\n"
        "assert rows.check_rows(contracts.EMPTY_SUITE, t).refused == ()\n"
        "assert rows.check_batches(contracts.EMPTY_SUITE, [t]).results == ()\n"
        "assert tables.check_table(contracts.EMPTY_SUITE, t) == ()\n"
        "assert 'great_expectations' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_column_fails_closed_and_names_the_column() -> None:
    """An expectation about a field no record has breaks the contract and names the field."""
    verdict = check_rows(suite(LANG, SHORT), with_metadata({"language": "de"}))
    assert verdict.results[0].status == "raised"
    assert verdict.results[1].status == "passed"
    assert len(verdict.broken) == 1
    assert "'lang'" in verdict.broken[0]
    assert "language" in verdict.broken[0]


def test_a_missing_column_of_a_warning_breaks_nothing() -> None:
    """A warning that cannot be computed is reported as raised, and publication may go on."""
    verdict = check_rows(suite({**LANG, "severity": "warning"}), with_metadata({}))
    assert verdict.results[0].status == "raised"
    assert not verdict.results[0].passed
    assert verdict.broken == ()


def test_a_field_known_from_elsewhere_is_null_where_a_record_lacks_it() -> None:
    """A known optional field that this batch happens to lack is null, not missing."""
    needed = expect("expect_column_values_to_not_be_null", column="lang")
    verdict = check_rows(suite(LANG, needed), with_metadata({}), known_fields=["lang"])
    assert verdict.broken == ()
    assert [reason.rule for reason in verdict.failures[0]] == [needed["type"]]


def test_mostly_may_pass_an_expectation_but_its_failing_rows_are_still_refused() -> None:
    """Rows that `mostly` tolerates are listed although the expectation passed."""
    lenient = {**LANG, "kwargs": {**LANG["kwargs"], "mostly": 0.5}}
    verdict = check_rows(suite(lenient), with_metadata(*[{"lang": "de"}] * 3, {"lang": "xx"}))
    assert verdict.results[0].status == "passed"
    assert verdict.refused == (3,)


def test_one_record_of_another_type_is_refused_alone() -> None:
    """A record whose value cannot be compared fails by itself, not the whole batch."""
    rows = [{"score": n + 1} for n in range(20)]
    rows[13] = {"score": "many"}
    rows[17] = {"score": 0}
    verdict = check_rows(suite(SCORE), with_metadata(*rows))
    assert verdict.broken == ()
    assert verdict.refused == (13, 17)
    assert verdict.failures[13][0].observed == "many"


def test_an_expectation_that_raises_on_every_record_breaks_the_contract() -> None:
    """When no record can be judged, the contract is broken instead of every record refused."""
    nonsense = expect(SCORE["type"], column="score", min_value=9, max_value=1)
    verdict = check_rows(suite(nonsense), with_metadata(*[{"score": n} for n in range(4)]))
    assert verdict.failures == {}
    assert len(verdict.broken) == 1


def test_records_without_keys_and_with_equal_keys_are_told_apart() -> None:
    """Failures point at rows, so null and duplicate keys do not blur them."""
    rows = [{"key": None, "text": "far too long"}, {"key": "a"}, {"key": "a", "text": "very long"}]
    assert check_rows(suite(SHORT), records(*rows)).refused == (0, 2)


def test_metadata_named_like_a_fixed_column_gets_a_prefix() -> None:
    """A metadata field `title` is read as `metadata.title`; the record's title stays itself."""
    both = [
        expect("expect_column_values_to_be_in_set", column="title", value_set=["title"]),
        expect("expect_column_values_to_be_in_set", column="metadata.title", value_set=["x"]),
    ]
    verdict = check_rows(suite(*both), with_metadata({"title": "x"}, {"title": "y"}))
    assert verdict.refused == (1,)
    assert [reason.column for reason in verdict.failures[1]] == ["metadata.title"]


@pytest.mark.parametrize(
    "kind",
    ["expect_column_mean_to_be_between", "expect_column_values_to_be_unique"],
)
def test_an_expectation_over_many_rows_belongs_under_table(kind: str) -> None:
    """What cannot be judged record by record is refused under `rows`, naming the place to go."""
    with pytest.raises(ConfigError, match=r"rows\[1\]") as caught:
        check_suite(suite(SHORT, expect(kind, column="key")))
    assert "'table'" in caught.value.todo


def test_an_unknown_expectation_is_an_error_and_never_dropped() -> None:
    """Great Expectations drops an unknown expectation silently; headwater names it and its kin."""
    wrong = suite(expect("expect_column_values_to_not_be_nul", column="key"))
    with pytest.raises(ConfigError, match="No such expectation") as caught:
        check_rows(wrong, records({"key": "a"}))
    assert "expect_column_values_to_not_be_null" in caught.value.todo


def test_wrong_arguments_are_an_error_that_names_the_expectation() -> None:
    """A misspelt argument is a configuration error with the place and the argument."""
    wrong = suite(expect("expect_column_values_to_not_be_null", colum="key"))
    with pytest.raises(ConfigError, match=r"s\.json: rows\[0\]") as caught:
        check_suite(wrong)
    assert "colum" in caught.value.todo


def test_batches_give_the_verdict_of_one_table() -> None:
    """However the records are cut into batches, the same rows are refused for the same reasons."""
    rows = [{"key": str(n), "text": "x" * (n % 8)} for n in range(23)]
    whole = check_rows(suite(SHORT, TITLED), records(*rows))
    pieces = [records(*rows[:3]), records(*rows[3:4]).to_batches()[0], records(*rows[4:])]
    cut = check_batches(suite(SHORT, TITLED), pieces, max_rows=6)
    assert dict(cut.failures) == dict(whole.failures)
    assert cut.results == whole.results
    assert cut.refused == (6, 7, 14, 15, 22)


def test_one_broken_batch_breaks_the_verdict_of_all() -> None:
    """A field that is missing from a whole batch is not made good by later batches."""
    verdict = check_batches(
        suite(LANG), [with_metadata({}), with_metadata({"lang": "de"})], max_rows=1
    )
    assert verdict.results[0].status == "raised"
    assert len(verdict.broken) == 1


def test_six_suites_at_once_never_mix_their_records() -> None:
    """Each of six threads gets the verdict on its own records, again and again."""

    def judge(thread: int) -> tuple[int, ...]:
        rows = [{"key": f"{thread}-{n}", "text": "x" * (9 if n == thread else 1)} for n in range(9)]
        limit = expect("expect_column_value_lengths_to_be_between", column="text", max_value=5)
        verdict = check_rows(suite(limit, TITLED, name="same"), records(*rows))
        assert all(result.checked == 9 for result in verdict.results)
        return verdict.refused

    jobs = list(range(6)) * 4
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(judge, jobs)) == [(thread,) for thread in jobs]


def test_the_built_in_rules_refuse_what_no_suite_should_have_to_name() -> None:
    """Bad keys, empty, binary or unreadable records are refused, each with its own rule."""
    batch = records(
        {"key": "fine"},
        {"key": None},
        {"key": " "},
        {"key": "k" * 1025},
        {"key": "u", "text": None, "state": "unreadable", "error": "the PDF is encrypted"},
        {"key": "n", "text": None},
        {"key": "b", "text": " \u00a0\n"},
        {"key": "z", "text": "a\x00b"},
        {"key": "m", "metadata": "[1]"},
        {"key": "seen", "text": None, "state": "unchanged"},
        {"key": "left", "text": None, "state": "gone"},
    )
    found = built_in_failures(batch)
    assert {row: reason.rule for row, reason in found.items()} == {
        1: "key-missing",
        2: "key-missing",
        3: "key-too-long",
        4: "unreadable",
        5: "text-empty",
        6: "text-empty",
        7: "text-nul",
        8: "metadata-not-json",
    }
    assert found[4].detail == "the PDF is encrypted"
    assert len(found[3].observed) <= 80


def rule_of(row: dict[str, Any]) -> str | None:
    """The first built-in rule that one record breaks, said in the plainest way."""
    key, text, present = row["key"], row["text"], row["state"] == "present"
    if not (key or "").strip():
        return "key-missing"
    if len(key) > 1024:
        return "key-too-long"
    if "\0" in key:
        return "key-nul"
    if row["state"] == "unreadable":
        return "unreadable"
    if present and not (text or "").strip():
        return "text-empty"
    if present and "\0" in text:
        return "text-nul"
    try:
        value = json.loads(row["metadata"] or "{}")
    except ValueError:
        value = None
    return "metadata-not-json" if present and not isinstance(value, dict) else None


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
objects = st.dictionaries(st.text(max_size=4), scalars | st.lists(scalars, max_size=2), max_size=3)
fine = objects.flatmap(
    lambda value: st.sampled_from(
        [
            json.dumps(value),
            json.dumps(value, ensure_ascii=False, separators=(",", ":")),
            json.dumps(value, indent=1),
        ]
    )
)
broken = st.builds(
    lambda text, at, new: text[: at % (len(text) + 1)] + new + text[at % (len(text) + 1) + 1 :],
    fine,
    st.integers(0, 40),
    st.sampled_from(["", '"', "\\", ",", "0", "}", "\n", "\x7f", "\x01", "1" * 5000]),
)
metadata_texts = st.none() | st.just("") | fine | broken
any_records = st.fixed_dictionaries(
    {
        "key": st.sampled_from(["k", None, "", " ", "a\0", "k" * 1025]) | st.text(max_size=3),
        "text": st.sampled_from(["fine", None, "", " \n", "x\0y"]) | st.text(max_size=5),
        "metadata": metadata_texts,
        "state": st.sampled_from(["present", "present", "unreadable", "unchanged", "gone"]),
    }
)


@settings(max_examples=300)
@given(rows=st.lists(any_records, max_size=6), start=st.integers(0, 2))
def test_the_built_in_rules_hold_row_by_row(rows: list[dict[str, Any]], start: int) -> None:
    """Judging a batch by columns finds what reading each record finds, in tables and slices."""
    table = records(*rows).slice(start)
    expected = {n: rule for n, row in enumerate(rows[start:]) if (rule := rule_of(row))}
    assert {n: reason.rule for n, reason in built_in_failures(table).items()} == expected
    batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA).slice(start)
    assert built_in_failures(batch) == built_in_failures(table)


def test_a_text_over_the_limit_is_refused() -> None:
    """A text of more than 20 MB is refused, one of exactly 20 MB is not."""
    batch = records({"key": "a", "text": "x" * 20_000_001}, {"key": "b", "text": "x" * 20_000_000})
    assert {row: r.rule for row, r in built_in_failures(batch).items()} == {0: "text-too-large"}


def test_no_records_are_no_failure() -> None:
    """A refresh that changed nothing passes every row expectation without running any."""
    verdict = check_rows(suite(LANG), records())
    assert [result.status for result in verdict.results] == ["passed"]
    assert built_in_failures(records()) == {}
    assert check_rows(EMPTY_SUITE, records()).results == ()
