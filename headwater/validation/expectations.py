"""The one door to Great Expectations.

What it was measured to do, and what is done about it here:

- A shared context mixes batches between threads: every run has its own ephemeral context.
- A suite drops an expectation it does not know, with a log line only: each one is built by name
  first, and a run must return as many results as it was given expectations.
- Some expectations break the whole run (quantiles, on pandas 3): then each is run alone, and only
  the culprits count as raised.
- An expectation that raised has an empty result: it is recognised by its exception, never by what
  it did not find.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from headwater.errors import ConfigError, MissingExtraError
from headwater.validation.contracts import Expectation, Suite
from headwater.validation.frame import ROW_ID

# Great Expectations imports itself in circles: two threads must not do it at the same time.
_IMPORTING = threading.Lock()

# Computed row by row, but the verdict of a row depends on the others, and only the changed records
# are looked at, some thousand at a time.
_DEPEND_ON_OTHER_ROWS: Final = frozenset(
    {
        "expect_column_value_z_scores_to_be_less_than",
        "expect_column_values_to_be_decreasing",
        "expect_column_values_to_be_in_type_list",
        "expect_column_values_to_be_increasing",
        "expect_column_values_to_be_of_type",
        "expect_column_values_to_be_unique",
        "expect_column_values_to_not_be_outliers",
        "expect_compound_columns_to_be_unique",
    }
)
_MAY_MISS_ITS_COLUMN: Final = frozenset({"expect_column_to_exist"})


@dataclass(frozen=True)
class Outcome:
    """What one expectation returned.

    Attributes:
        success: it was computed, and it held.
        raised: why it could not be computed; empty when it could.
        result: Great Expectations' result dict; empty when it raised.
    """

    success: bool
    raised: str = ""
    result: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def failing(self) -> list[tuple[int, Any]]:
        """(row of the frame, the value found there) of every row that does not conform."""
        rows = self.result.get("unexpected_index_list") or []
        values = self.result.get("unexpected_list") or []
        return [(int(row[ROW_ID]), value) for row, value in zip(rows, values, strict=True)]


def check_suite(suite: Suite) -> None:
    """Build every expectation of a suite, without data, to find mistakes early.

    Imports Great Expectations when the suite has any expectation.

    Raises:
        ConfigError: an expectation is unknown, has wrong arguments, or is under the wrong list.
        MissingExtraError: Great Expectations is not installed.
    """
    for level, expectations in (("rows", suite.rows), ("table", suite.table)):
        if expectations:
            _build(_import(), suite, level)


def run(frame: Any, suite: Suite, level: str, positions: Sequence[int]) -> tuple[Outcome, ...]:
    """Run expectations of a suite on a frame.

    Args:
        frame: a `pandas.DataFrame` with the column `ROW_ID`.
        suite: the suite.
        level: which of its lists: `rows` or `table`.
        positions: which expectations of that list.

    Returns:
        One outcome per position. An expectation whose column the frame lacks is not run: it counts
        as raised, with a message that names the column.

    Raises:
        ConfigError: see `check_suite`.
        MissingExtraError: Great Expectations is not installed.
    """
    gx = _import()
    built = _build(gx, suite, level)
    expectations: tuple[Expectation, ...] = getattr(suite, level)
    outcomes = {
        position: Outcome(success=False, raised=missing)
        for position in positions
        if (missing := _missing_column(expectations[position], frame))
    }
    left = [position for position in positions if position not in outcomes]
    if left:
        outcomes.update(_run_built(gx, frame, {position: built[position] for position in left}))
    return tuple(outcomes[position] for position in positions)


def _run_built(gx: Any, frame: Any, built: Mapping[int, Any]) -> dict[int, Outcome]:
    batch = _batch(gx, frame)
    # Whatever breaks the run as a whole is found again below, at the expectation that causes it.
    with suppress(Exception):
        suite = gx.ExpectationSuite(name="headwater", expectations=list(built.values()))
        results = batch.validate(suite, result_format=_result_format()).results
        by_position = {
            int(result.expectation_config.meta["position"]): _outcome(result) for result in results
        }
        if by_position.keys() == built.keys():
            return by_position
    return {position: _run_alone(batch, one) for position, one in built.items()}


def _run_alone(batch: Any, expectation: Any) -> Outcome:
    try:
        return _outcome(batch.validate(expectation, result_format=_result_format()))
    except Exception as error:  # noqa: BLE001 - failed closed: whatever it is, nothing was checked
        return Outcome(success=False, raised=_one_line(f"{type(error).__name__}: {error}"))


def _outcome(result: Any) -> Outcome:
    raised = _exception_of(result.exception_info or {})
    if raised:
        return Outcome(success=False, raised=raised)
    return Outcome(success=bool(result.success), result=dict(result.result))


def _exception_of(info: Mapping[str, Any]) -> str:
    """The message of an `exception_info`, which is flat or holds one dict per broken metric."""
    parts = [info] if "raised_exception" in info else list(info.values())
    for part in parts:
        # Some versions hold the flag as a text.
        if str(part.get("raised_exception")) == "True":
            return _one_line(str(part.get("exception_message") or "it raised an exception"))
    return ""


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:299] + "…"


def _batch(gx: Any, frame: Any) -> Any:
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("headwater").add_dataframe_asset("batch")
    definition = asset.add_batch_definition_whole_dataframe("whole")
    return definition.get_batch(batch_parameters={"dataframe": frame})


def _result_format() -> dict[str, Any]:
    return {
        "result_format": "COMPLETE",
        "unexpected_index_column_names": [ROW_ID],
        # A text that lists every index; as long as the data.
        "return_unexpected_index_query": False,
    }


def _import() -> Any:
    with _IMPORTING:
        try:
            import great_expectations as gx
            import great_expectations.expectations.core
        except ImportError:
            raise MissingExtraError.of("great_expectations", "pipeline") from None
        return gx


def _build(gx: Any, suite: Suite, level: str) -> list[Any]:
    expectations: tuple[Expectation, ...] = getattr(suite, level)
    built = []
    for position, expectation in enumerate(expectations):
        where = f"{suite.path or suite.name}: {level}[{position}] ({expectation.type})"
        implementation = _implementation(expectation.type, where)
        if level == "rows":
            _require_row_level(implementation, expectation.type, where)
        try:
            one = implementation(
                **expectation.kwargs, severity=expectation.severity, meta={"position": position}
            )
        except (TypeError, ValueError) as error:  # pydantic's ValidationError is a ValueError
            raise ConfigError(
                "An expectation has wrong arguments", obj=where, todo=_one_line(str(error))
            ) from None
        built.append(one)
    return built


def _implementation(kind: str, where: str) -> Any:
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations import registry

    try:
        return registry.get_expectation_impl(kind)
    except ExpectationNotFoundError:
        from difflib import get_close_matches

        known = registry.list_registered_expectation_implementations()
        close = get_close_matches(kind, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see greatexpectations.io/expectations"
        raise ConfigError("No such expectation", obj=where, todo=hint) from None


def _require_row_level(implementation: Any, kind: str, where: str) -> None:
    from great_expectations.expectations import expectation as gx_expectation

    row_level = (
        gx_expectation.ColumnMapExpectation,
        gx_expectation.ColumnPairMapExpectation,
        gx_expectation.MulticolumnMapExpectation,
    )
    if not issubclass(implementation, row_level) or kind in _DEPEND_ON_OTHER_ROWS:
        raise ConfigError(
            "An expectation under 'rows' cannot be judged record by record",
            obj=where,
            todo="move it to 'table', where the whole source is seen",
        )


def _missing_column(expectation: Expectation, frame: Any) -> str:
    if expectation.type in _MAY_MISS_ITS_COLUMN:
        return ""
    for column in expectation.columns:
        if column not in frame.columns:
            there = ", ".join(str(name) for name in frame.columns if name != ROW_ID)
            return f"the column {column!r} does not exist; there are: {there}"
    return ""
