"""Quarantine: where refused records wait, with the reason; nothing is dropped silently."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from headwater.validation.verdicts import Reason

QUARANTINE_SCHEMA: Final = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("content_hash", pa.string()),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("severity", pa.string(), nullable=False),
        pa.field("payload", pa.string(), nullable=False),
        pa.field("since", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("suite_sha256", pa.string(), nullable=False),
    ]
)
"""One row per refused record and rule.

`key` is `(no key, row N)` for a record without one. `content_hash` is that of the refused record,
null when it has no readable content. `payload` is the record as JSON, its text cut at
`PAYLOAD_TEXT_CHARS`. `since` and `run_id` tell when it was first refused in this state."""

PAYLOAD_TEXT_CHARS: Final = 10_000

_Row = dict[str, Any]


def refused_table(
    batch: pa.Table,
    reasons: Mapping[int, Sequence[Reason]],
    *,
    source: str,
    content_hashes: Sequence[str | None],
    since: datetime,
    run_id: str,
    suite_sha256: str,
    first_row: int = 0,
) -> pa.Table:
    """The quarantine rows of the refused records of a batch.

    Args:
        batch: the records.
        reasons: row of the batch -> why; only critical reasons are kept.
        source: the source's name.
        content_hashes: one per row of the batch, null where there is no readable content.
        since: the knowledge time of this refresh (UTC).
        run_id: this refresh.
        suite_sha256: the contract that refused them.
        first_row: the batch's first row within the extract; it names records without a key.

    Returns:
        A table of `QUARANTINE_SCHEMA`.
    """
    rows: list[_Row] = []
    for index in sorted(reasons):
        critical = [reason for reason in reasons[index] if reason.severity == "critical"]
        if not critical:
            continue
        record = batch.slice(index, 1).to_pylist()[0]
        common = {
            "source": source,
            "key": quarantine_key(record["key"], first_row + index),
            "content_hash": content_hashes[index],
            "payload": _payload(record),
            "since": since,
            "run_id": run_id,
            "suite_sha256": suite_sha256,
        }
        rows += [
            {**common, "rule": r.rule, "reason": _reason(r), "severity": r.severity}
            for r in critical
        ]
    return pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA)


def quarantine_key(key: str | None, row: int) -> str:
    """The key a record has in quarantine: its own, or a synthetic one that names its row."""
    return key if key and key.strip() else f"(no key, row {row})"


def merge_quarantine(
    old: pa.Table, *, source: str, refused: pa.Table, cleared_keys: AbstractSet[str]
) -> pa.Table:
    """The quarantine after a refresh of one source.

    Args:
        old: the quarantine before, of all sources.
        source: the source that was refreshed; rows of others stay as they are.
        refused: its records refused now. A key among them loses its older rows, except that the
            same refusal (key, content hash, rule, suite) keeps its `since` and `run_id`.
        cleared_keys: keys that passed now, or vanished from a complete extract. A key that is also
            refused stays refused.

    Returns:
        A sorted table of `QUARANTINE_SCHEMA`. It depends neither on the order of the inputs nor on
        anything else than them, so an unchanged quarantine is the same bytes.
    """
    before, now = old.to_pylist(), _of_source(refused, source)
    refused_keys = {row["key"] for row in now}
    first = _first_refusals(row for row in before if row["source"] == source)
    kept = [
        row
        for row in before
        if row["source"] != source
        or (row["key"] not in refused_keys and row["key"] not in cleared_keys)
    ]
    dated = [{**row, **first.get(_refusal(row), {})} for row in now]
    # Holders of one key may break the same rule with the same content: once is enough.
    distinct = {_order(row): row for row in [*kept, *dated]}
    rows = [distinct[place] for place in sorted(distinct)]
    return pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA).combine_chunks()


def _of_source(refused: pa.Table, source: str) -> list[_Row]:
    rows: list[_Row] = refused.to_pylist()
    return [row for row in rows if row["source"] == source]


def _refusal(row: _Row) -> tuple[str, str | None, str, str]:
    return (row["key"], row["content_hash"], row["rule"], row["suite_sha256"])


def _first_refusals(rows: Iterable[_Row]) -> dict[tuple[str, str | None, str, str], _Row]:
    """Refusal -> when it was first made: the earliest `since`, with its `run_id`."""
    first: dict[tuple[str, str | None, str, str], _Row] = {}
    for row in sorted(rows, key=lambda row: (row["since"], row["run_id"])):
        first.setdefault(_refusal(row), {"since": row["since"], "run_id": row["run_id"]})
    return first


def _order(row: _Row) -> tuple[Any, ...]:
    """The place of a row: every column counts, a null before any text."""
    names = [name for name in QUARANTINE_SCHEMA.names if name not in ("content_hash", "since")]
    content_hash = row["content_hash"]
    head = (row["source"], row["key"], content_hash is not None, content_hash or "")
    return (*head, *(row[name] for name in names[2:]), row["since"])


def _payload(record: _Row) -> str:
    text = record.get("text")
    if isinstance(text, str) and len(text) > PAYLOAD_TEXT_CHARS:
        cut = {"text": text[:PAYLOAD_TEXT_CHARS], "text_chars": len(text)}
        record = {**record, **cut}
    return json.dumps(record, sort_keys=True, ensure_ascii=False, default=str)


def _reason(reason: Reason) -> str:
    shows = reason.observed and reason.observed != "null"
    return f"{reason.detail} (found: {reason.observed})" if shows else reason.detail
