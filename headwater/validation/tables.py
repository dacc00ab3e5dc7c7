"""Table checks: is the candidate's whole state of a source believable?"""

from __future__ import annotations

import pyarrow as pa

from headwater.validation.contracts import Expectation, Suite
from headwater.validation.expectations import Outcome, run
from headwater.validation.frame import projection_frame
from headwater.validation.verdicts import FAILED, PASSED, RAISED, CheckResult, shown


def check_table(suite: Suite, projection: pa.Table) -> tuple[CheckResult, ...]:
    """Run the suite's table expectations on the candidate's projection of its source.

    Args:
        suite: the contract; without table expectations Great Expectations is not even imported.
        projection: key, title, url, source_ts, content_hash, text_length and the metadata, either
            as one column per field or as a string column `metadata` holding JSON. No text.

    Returns:
        One result per table expectation, in the order of the suite. A critical one that failed or
        raised must stop the publication (`gates.critical_tables`).

    Raises:
        ConfigError: an expectation is unknown or has wrong arguments.
        MissingExtraError: Great Expectations is not installed.
    """
    if not suite.table:
        return ()
    frame = projection_frame(projection)
    outcomes = run(frame, suite, "table", range(len(suite.table)))
    return tuple(
        _result(expectation, outcome, projection.num_rows)
        for expectation, outcome in zip(suite.table, outcomes, strict=True)
    )


def _result(expectation: Expectation, outcome: Outcome, rows: int) -> CheckResult:
    status = RAISED if outcome.raised else PASSED if outcome.success else FAILED
    return CheckResult(
        type=expectation.type,
        column=expectation.column,
        severity=expectation.severity,
        status=status,
        level="table",
        checked=rows,
        failed=int(outcome.result.get("unexpected_count") or 0),
        detail=outcome.raised or _found(outcome),
    )


def _found(outcome: Outcome) -> str:
    """What was observed: a value, or how many rows do not conform and the first of their values."""
    if "observed_value" in outcome.result:
        return f"found {shown(outcome.result['observed_value'])}"
    count = outcome.result.get("unexpected_count") or 0
    if not count:
        return ""
    values = (outcome.result.get("partial_unexpected_list") or [])[:3]
    return f"{count} rows, such as {', '.join(shown(value) for value in values)}"
