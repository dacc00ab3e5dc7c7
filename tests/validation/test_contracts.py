from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pytest

from headwater.errors import ConfigError, NotFoundError
from headwater.validation.contracts import EMPTY_SUITE, load_suite, parse_suite
from headwater.validation.defaults import default_suite
from headwater.validation.expectations import check_suite
from headwater.validation.gates import critical_tables
from headwater.validation.rows import check_rows
from headwater.validation.tables import check_table

NOT_NULL = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "key"}}

PROJECTION = pa.table(
    {
        "key": ["a", "b", "b"],
        "title": ["A", None, "B"],
        "text_length": [5, 10, 30],
        "metadata": ['{"lang": "de"}', '{"lang": "en"}', "{}"],
    }
)


def wrong(values: object) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_suite(json.dumps(values).encode(), path="suites/x.json")
    return str(caught.value)


def test_a_suite_is_read_with_its_hash(tmp_path: Path) -> None:
    """A suite keeps both lists, the default severity and the hash of the file's bytes."""
    path = tmp_path / "handbook.json"
    path.write_text(json.dumps({"rows": [NOT_NULL], "table": [{**NOT_NULL, "severity": "info"}]}))
    suite = load_suite(path)
    assert suite.name == "handbook"
    assert [e.severity for e in (*suite.rows, *suite.table)] == ["critical", "info"]
    assert suite.rows[0].column == "key"
    assert suite.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_missing_file_is_the_empty_suite(tmp_path: Path) -> None:
    """A source without a suite file has the empty contract."""
    assert load_suite(tmp_path / "none.json") is EMPTY_SUITE


def test_a_folder_in_place_of_a_suite_is_a_configuration_error(tmp_path: Path) -> None:
    """A path that cannot be read as a file is an error, not an empty contract."""
    with pytest.raises(ConfigError):
        load_suite(tmp_path)


def test_broken_json_names_the_file_and_the_line() -> None:
    """A syntax error is located by file and line."""
    with pytest.raises(ConfigError, match=r"suites/x\.json:3"):
        parse_suite(b'{"name": "x",\n "rows": [\n  oops]}', path="suites/x.json")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "not a JSON object"),
        ({"expectations": []}, "'rows'"),
        ({"row": []}, "'row'"),
        ({"name": 3}, "name"),
        ({"rows": {}}, "not a list"),
        ({"rows": [NOT_NULL, 5]}, "rows[1]"),
        ({"table": [{"type": "unexpected_rows_expectation"}]}, "table[0]"),
        ({"rows": [{**NOT_NULL, "severity": "fatal"}]}, "'fatal'"),
        ({"rows": [{**NOT_NULL, "severity": ["critical"]}]}, "severity"),
        ({"rows": [{**NOT_NULL, "kwarg": {}}]}, "'kwarg'"),
        ({"rows": [{**NOT_NULL, "kwargs": []}]}, "kwargs"),
        ({"rows": [{**NOT_NULL, "kwargs": {"result_format": "BASIC"}}]}, "result_format"),
    ],
)
def test_a_wrong_suite_is_explained(values: object, said: str) -> None:
    """Every mistake in a suite's shape names the file and the place."""
    message = wrong(values)
    assert "suites/x.json" in message
    assert said in message


@pytest.mark.parametrize("kind", ["documents", "database", "api"])
def test_a_default_suite_is_a_valid_contract(kind: str) -> None:
    """What init writes can be read, built, and passes an ordinary record and fails an empty one."""
    suite = parse_suite(json.dumps(default_suite(kind)).encode(), path=f"{kind}.json")
    check_suite(suite)
    rows = pa.table(
        {
            "key": ["a", "b"],
            "text": ["some text", ""],
            "title": ["A", "B"],
            "url": ["https://docs.example/a", None],
            "metadata": ["{}", "{}"],
            "source_ts": pa.array([None, None], pa.timestamp("us", tz="UTC")),
        }
    )
    verdict = check_rows(suite, rows)
    assert verdict.refused == (1,)
    assert list(verdict.failures) == [1]
    assert verdict.broken == ()
    results = check_table(suite, PROJECTION.slice(0, 2))
    assert {result.status for result in results} == {"passed"}


def test_there_is_no_default_suite_for_an_unknown_kind() -> None:
    """An unknown kind of source is named together with the known ones."""
    with pytest.raises(NotFoundError, match="fax") as caught:
        default_suite("fax")
    assert "documents" in caught.value.todo


def test_table_expectations_see_the_whole_projection() -> None:
    """Table expectations report what they observed, critical or not."""
    suite = parse_suite(
        json.dumps(
            {
                "table": [
                    {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "key"}},
                    {
                        "type": "expect_column_mean_to_be_between",
                        "kwargs": {"column": "text_length", "min_value": 1, "max_value": 20},
                    },
                    {
                        "type": "expect_table_row_count_to_be_between",
                        "kwargs": {"min_value": 5},
                        "severity": "warning",
                    },
                    {
                        "type": "expect_column_values_to_be_in_set",
                        "kwargs": {"column": "lang", "value_set": ["de", "en"]},
                    },
                ]
            }
        ).encode(),
        path="t.json",
    )
    results = check_table(suite, PROJECTION)
    assert [result.status for result in results] == ["failed", "passed", "failed", "passed"]
    assert results[0].failed == 2
    assert results[1].detail == "found 15"
    assert results[2].detail == "found 3"
    assert [result.stops for result in results] == [True, False, False, False]
    gate = critical_tables(results, source="handbook")
    assert not gate.passed
    assert "expect_column_values_to_be_unique (key) failed" in gate.detail
    assert critical_tables(results[1:]).passed


def test_a_quantile_expectation_cannot_take_the_others_down() -> None:
    """An expectation that aborts the run counts as raised; the others keep their verdict."""
    ranges = {"quantiles": [0.5], "value_ranges": [[0, 1]]}
    suite = parse_suite(
        json.dumps(
            {
                "table": [
                    {
                        "type": "expect_column_quantile_values_to_be_between",
                        "kwargs": {"column": "text_length", "quantile_ranges": ranges},
                    },
                    {"type": "expect_table_row_count_to_equal", "kwargs": {"value": 3}},
                    {"type": "expect_column_max_to_be_between", "kwargs": {"column": "nope"}},
                ]
            }
        ).encode(),
        path="t.json",
    )
    results = check_table(suite, PROJECTION)
    # The median, 10, is outside the range: a later release that can compute it must fail it.
    assert results[0].status in ("raised", "failed")
    assert results[0].stops
    assert results[1].status == "passed"
    assert results[2].status == "raised"
    assert "'nope'" in results[2].detail


def test_a_missing_column_may_be_expected() -> None:
    """`expect_column_to_exist` fails on a missing column instead of raising."""
    data = {"table": [{"type": "expect_column_to_exist", "kwargs": {"column": "nope"}}]}
    results = check_table(parse_suite(json.dumps(data).encode(), path="t.json"), PROJECTION)
    assert results[0].status == "failed"
