"""Row checks: is this one record fit to be served?

Built-in rules run always and need no Great Expectations; the suite's row expectations run on the
changed records, by batch, so that memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.validation.contracts import Expectation, Suite
from headwater.validation.expectations import Outcome, run
from headwater.validation.frame import ROW_ID, metadata_object, record_frame
from headwater.validation.reasons import sentence
from headwater.validation.verdicts import (
    FAILED,
    PASSED,
    RAISED,
    CheckResult,
    Reason,
    RowVerdict,
    shown,
)

MAX_KEY_CHARS: Final = 1024
MAX_TEXT_BYTES: Final = 20_000_000

_MAX_BATCH_BYTES = 64 * 2**20
# What most metadata looks like, an object of plain values, recognised without parsing it. A text
# that does not match may be an object all the same. Numbers are short: Python refuses huge ones.
_STRING = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])*"'
_VALUE = rf"(?:{_STRING}|-?(?:0|[1-9][0-9]{{0,15}})(?:\.[0-9]+)?|true|false|null)"
_PLAIN_OBJECT = rf"^\{{(?:{_STRING}: ?{_VALUE}(?:, ?{_STRING}: ?{_VALUE})*)?\}}$"
# Each run costs about 0.1 s; enough to single out a few bad records among 20 000.
_MAX_ISOLATION_RUNS = 64


def built_in_failures(batch: pa.Table) -> dict[int, Reason]:
    """The first built-in rule that each bad record breaks; all of them are critical.

    Args:
        batch: records with the columns key, text, metadata, state and error. Only `present` records
            have their text and metadata judged.

    Returns:
        Row index -> reason.
    """
    found: dict[int, Reason] = {}
    keys, texts, errors = batch.column("key"), batch.column("text"), batch.column("error")
    unreadable = pc.equal(batch.column("state"), "unreadable")
    present = pc.equal(batch.column("state"), "present")

    def add(mask: Any, rule: str, detail: str, column: str) -> None:
        for row in pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist():
            observed = keys[row].as_py() if column == "key" else None
            reason = Reason(rule, detail, column=column, observed=shown(observed))
            found.setdefault(row, reason)

    def text_rule(mask: Any, rule: str, detail: str) -> None:
        add(pc.and_kleene(present, mask), rule, detail, "text")

    add(_blank(keys), "key-missing", "the key is null or empty", "key")
    too_long = pc.greater(pc.utf8_length(keys), MAX_KEY_CHARS)
    add(too_long, "key-too-long", f"the key is longer than {MAX_KEY_CHARS} characters", "key")
    if _may_hold_nul(keys):
        add(pc.match_substring(keys, "\x00"), "key-nul", "the key holds a NUL character", "key")
    for row in pc.indices_nonzero(pc.fill_null(unreadable, False)).to_pylist():
        why = errors[row].as_py() or "the source could not read it and gave no reason"
        found.setdefault(row, Reason("unreadable", why, column="text"))
    text_rule(_blank(texts), "text-empty", "the text is null or blank")
    limit = f"the text is larger than {MAX_TEXT_BYTES:,} bytes"
    text_rule(pc.greater(pc.binary_length(texts), MAX_TEXT_BYTES), "text-too-large", limit)
    if _may_hold_nul(texts):
        nul = "the text holds a NUL character: it is binary, or was decoded wrongly"
        text_rule(pc.match_substring(texts, "\x00"), "text-nul", nul)
    for row in _without_object(batch.column("metadata"), present):
        detail = "the metadata is not a JSON object"
        found.setdefault(row, Reason("metadata-not-json", detail, "critical", "metadata"))
    return dict(sorted(found.items()))


def check_rows(suite: Suite, batch: pa.Table, *, known_fields: Iterable[str] = ()) -> RowVerdict:
    """Judge changed records by the suite's row expectations.

    A failing row is listed even where the expectation's `mostly` lets it pass. An expectation that
    raises is tried on ever smaller parts: if single records cause it, they fail it; if it raises
    throughout, nothing is known and it is `broken` when critical.

    Args:
        suite: the contract; without row expectations Great Expectations is not even imported.
        batch: present records (`flows.sources.protocol.RECORD_SCHEMA`) that passed the built-in
            rules.
        known_fields: metadata fields the source is known to have. A field that neither they nor the
            batch hold makes every expectation about it raise.

    Raises:
        ConfigError: an expectation is unknown, has wrong arguments, or judges more than one record.
        MissingExtraError: Great Expectations is not installed.
    """
    if not suite.rows:
        return RowVerdict()
    if not batch.num_rows:
        return RowVerdict(results=tuple(_result(one, PASSED) for one in suite.rows))
    frame = record_frame(batch, known_fields=known_fields)
    outcomes = run(frame, suite, "rows", range(len(suite.rows)))
    failures: dict[int, list[Reason]] = {}
    results = []
    for position, (expectation, outcome) in enumerate(zip(suite.rows, outcomes, strict=True)):
        if outcome.raised and not _lacks_column(expectation, frame):
            failing, raised = _isolate(frame, suite, position, outcome)
        else:
            failing, raised = _reasons(expectation, outcome, 0), outcome.raised
        for row, reason in failing:
            failures.setdefault(row, []).append(reason)
        status = RAISED if raised else FAILED if not outcome.success else PASSED
        results.append(_result(expectation, status, batch.num_rows, len(failing), raised))
    return RowVerdict(
        failures={row: tuple(reasons) for row, reasons in sorted(failures.items())},
        results=tuple(results),
        broken=_broken(suite, results),
    )


def check_batches(
    suite: Suite,
    batches: Iterable[pa.Table | pa.RecordBatch],
    *,
    max_rows: int = 20_000,
    known_fields: Iterable[str] = (),
) -> RowVerdict:
    """Judge a stream of changed records, at most `max_rows` (and about 64 MiB) at a time.

    Args:
        suite: the contract.
        batches: the records; they are consumed one by one and not kept.
        max_rows: rows per run; small batches are put together, large ones cut.
        known_fields: see `check_rows`; a field met in one batch is known in those after it.

    Returns:
        One verdict; its row indexes count over all the batches.

    Raises:
        ConfigError: see `check_rows`.
        MissingExtraError: see `check_rows`.
    """
    if not suite.rows:
        return RowVerdict()
    failures: dict[int, tuple[Reason, ...]] = {}
    results = [_result(one, PASSED) for one in suite.rows]
    fields = set(known_fields)
    start = 0
    for portion in _portions(batches, max_rows):
        verdict = check_rows(suite, portion, known_fields=fields)
        failures.update({start + row: reasons for row, reasons in verdict.failures.items()})
        results = [_add(old, new) for old, new in zip(results, verdict.results, strict=True)]
        for text in portion.column("metadata").to_pylist():
            fields.update(metadata_object(text) or ())
        start += portion.num_rows
    return RowVerdict(failures=failures, results=tuple(results), broken=_broken(suite, results))


def _blank(column: pa.ChunkedArray) -> Any:
    empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0)
    return pc.or_kleene(pc.is_null(column), empty)


def _may_hold_nul(column: pa.Array | pa.ChunkedArray) -> bool:
    """False when no string holds a NUL: all their bytes are looked at in one sweep."""
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        data = chunk.buffers()[2]
        if data is not None and not np.frombuffer(data, np.uint8).all():
            return True
    return False


def _without_object(metadata: pa.Array | pa.ChunkedArray, present: Any) -> list[int]:
    """The present rows whose metadata is no JSON object."""
    plain = pc.fill_null(pc.match_substring_regex(metadata, _PLAIN_OBJECT), True)
    unsure = pc.indices_nonzero(pc.and_(pc.fill_null(present, False), pc.invert(plain)))
    texts = zip(unsure.to_pylist(), metadata.take(unsure).to_pylist(), strict=True)
    return [row for row, text in texts if metadata_object(text) is None]


def _lacks_column(expectation: Expectation, frame: Any) -> bool:
    return any(column not in frame.columns for column in expectation.columns)


def _reasons(expectation: Expectation, outcome: Outcome, first: int) -> list[tuple[int, Reason]]:
    return [
        (
            row + first,
            Reason(
                rule=expectation.type,
                detail=sentence(expectation),
                severity=expectation.severity,
                column=expectation.column,
                observed=shown(value),
            ),
        )
        for row, value in outcome.failing
    ]


def _isolate(
    frame: Any, suite: Suite, position: int, whole: Outcome
) -> tuple[list[tuple[int, Reason]], str]:
    """Find the records that make an expectation raise, by halving.

    Returns:
        (row, reason) of every failing record, and "" or, when no part could be judged or the runs
        are used up, why the expectation raised.
    """
    expectation = suite.rows[position]
    failing: list[tuple[int, Reason]] = []
    judged, runs = 0, 0
    parts = _halves(frame)
    while parts:
        part = parts.pop()
        if runs == _MAX_ISOLATION_RUNS:
            return [], whole.raised
        runs += 1
        outcome = run(part, suite, "rows", [position])[0]
        if not outcome.raised:
            judged += len(part)
            failing += _reasons(expectation, outcome, 0)
        elif len(part) > 1:
            parts += _halves(part)
        else:
            row = int(part.iloc[0][ROW_ID])
            detail = f"{sentence(expectation)}: it cannot be computed ({outcome.raised})"
            failing.append((row, _unjudged(expectation, part, detail)))
    return (failing, "") if judged else ([], whole.raised)


def _unjudged(expectation: Expectation, part: Any, detail: str) -> Reason:
    values = [part.iloc[0][column] for column in expectation.columns]
    observed = shown(values[0] if len(values) == 1 else values)
    return Reason(expectation.type, detail, expectation.severity, expectation.column, observed)


def _halves(frame: Any) -> list[Any]:
    middle = len(frame) // 2
    return [frame.iloc[:middle], frame.iloc[middle:]] if middle else []


def _portions(batches: Iterable[pa.Table | pa.RecordBatch], max_rows: int) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    rows = size = 0
    for batch in batches:
        table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
        for piece in _cut(table, max_rows):
            if waiting and (
                rows + piece.num_rows > max_rows or size + piece.nbytes > _MAX_BATCH_BYTES
            ):
                yield pa.concat_tables(waiting)
                waiting, rows, size = [], 0, 0
            waiting.append(piece)
            rows, size = rows + piece.num_rows, size + piece.nbytes
    if waiting:
        yield pa.concat_tables(waiting)


def _cut(table: pa.Table, max_rows: int) -> Iterator[pa.Table]:
    """Pieces of at most `max_rows` rows and `_MAX_BATCH_BYTES`, but at least one row."""
    for start in range(0, table.num_rows, max(1, max_rows)):
        pieces = [table.slice(start, max(1, max_rows))]
        while pieces:
            piece = pieces.pop()
            if piece.nbytes <= _MAX_BATCH_BYTES or piece.num_rows == 1:
                yield piece
            else:
                middle = piece.num_rows // 2
                pieces += [piece.slice(middle), piece.slice(0, middle)]


def _result(
    expectation: Expectation, status: str, checked: int = 0, failed: int = 0, detail: str = ""
) -> CheckResult:
    return CheckResult(
        type=expectation.type,
        column=expectation.column,
        severity=expectation.severity,
        status=status,
        level="rows",
        checked=checked,
        failed=failed,
        detail=detail or (f"{failed} of {checked} records" if failed else ""),
    )


def _add(old: CheckResult, new: CheckResult) -> CheckResult:
    """The result over two batches: the worse status, the sums."""
    ranks = (PASSED, FAILED, RAISED)
    checked, failed = old.checked + new.checked, old.failed + new.failed
    raised = next((one.detail for one in (old, new) if one.status == RAISED), "")
    return CheckResult(
        type=old.type,
        column=old.column,
        severity=old.severity,
        status=max(old.status, new.status, key=ranks.index),
        level=old.level,
        checked=checked,
        failed=failed,
        detail=raised or (f"{failed} of {checked} records" if failed else ""),
    )


def _broken(suite: Suite, results: Sequence[CheckResult]) -> tuple[str, ...]:
    return tuple(
        f"{suite.name}: {result.type} could not be computed: {result.detail}"
        for result in results
        if result.stops
    )
