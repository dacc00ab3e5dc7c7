"""The in-memory twin of a source: what the tests of everything above sources pull from.

In a `headwater.yaml`::

    greetings:
      kind: memory
      options:
        records:
          - {key: en, text: hello}
          - {key: fr, text: bonjour}
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from datetime import UTC
from itertools import islice
from pathlib import Path
from typing import Any

from headwater.config import PluginConfig
from headwater.errors import ConfigError, SourceError, SourceUnreachableError
from headwater.flows.sources.protocol import (
    STATES,
    ExtractEnd,
    Pull,
    PullRequest,
    Record,
    record_batch,
)
from headwater.flows.sources.rendering import value_time

_OPTIONS = ("records", "complete", "unchanged", "watermark", "fail", "fail_after", "batch_rows")


class MemorySource:
    """Records held in memory; every attribute may be changed between two pulls.

    Attributes:
        records: what a pull yields.
        complete: whether a pull says that it listed everything.
        unchanged: answer "nothing changed" without listing anything.
        watermark: what a pull hands back.
        error: raised by a pull; None to succeed.
        fail_after: so many records are yielded before `error` is raised.
        batch_rows: rows in a batch.
        requests: every request that was pulled, in order.
        parallel_windows: how many windows of a backfill may be pulled at once.
    """

    parallel_windows = 4

    def __init__(self, name: str, config: PluginConfig, *, root: Path) -> None:
        """Read the records and the behaviour from `config.options`.

        Raises:
            ConfigError: an option or a record's field is unknown, or a value has the wrong type.
        """
        options = config.options
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise ConfigError(
                "The memory source does not know this option",
                obj=f"{name}: {', '.join(unknown)}",
                todo=f"it knows {', '.join(_OPTIONS)}",
            )
        self.name = name
        self.root = root
        self.records: list[Record] = [_read(name, item) for item in options.get("records", ())]
        self.complete = bool(options.get("complete", True))
        self.unchanged = bool(options.get("unchanged", False))
        self.watermark: str | None = options.get("watermark")
        fail = options.get("fail")
        self.error: SourceError | None = fail and SourceUnreachableError(str(fail), obj=name)
        self.fail_after = int(options.get("fail_after", 0))
        self.batch_rows = max(1, int(options.get("batch_rows", 1000)))
        self.requests: list[PullRequest] = []

    @classmethod
    def of(
        cls,
        records: Iterable[Record] = (),
        *,
        name: str = "memory",
        complete: bool = True,
        watermark: str | None = None,
        error: SourceError | None = None,
        fail_after: int = 0,
        batch_rows: int = 1000,
    ) -> MemorySource:
        """A source over `records`, without a configuration; see the attributes of the class."""
        source = cls(name, PluginConfig(kind="memory"), root=Path())
        source.records = list(records)
        source.complete = complete
        source.watermark = watermark
        source.error = error
        source.fail_after = fail_after
        source.batch_rows = batch_rows
        return source

    def pull(self, request: PullRequest) -> Pull:
        """Yield the records; see `Source.pull`."""
        self.requests.append(request)
        narrowed = request.narrowed
        if self.error is None and self.unchanged and not narrowed:
            return ExtractEnd(complete=True, watermark=self.watermark, unchanged=True)
        chosen = iter([_answer(r, request) for r in self.records if _wanted(r, request)])
        if self.error is not None:
            chosen = islice(chosen, self.fail_after)
        while batch := list(islice(chosen, self.batch_rows)):
            yield record_batch(batch)
        if self.error is not None:
            raise self.error
        return ExtractEnd(
            complete=self.complete and not narrowed,
            watermark=request.watermark if narrowed else self.watermark,
            note=f"{len(self.records)} records in memory",
        )


def _wanted(record: Record, request: PullRequest) -> bool:
    if request.keys is not None and record.key not in request.keys:
        return False
    if request.key_range is not None and (record.key or "") not in request.key_range:
        return False
    if request.window is None:
        return True
    when = record.source_ts
    if when is None:
        return False
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    return request.window.start <= when < request.window.end


def _answer(record: Record, request: PullRequest) -> Record:
    if record.state != "present" or record.key is None or record.fingerprint is None:
        return record
    if request.known.get(record.key) != record.fingerprint:
        return record
    return replace(record, state="unchanged", text=None)


def _read(name: str, item: Any) -> Record:
    known = [field.name for field in fields(Record)]
    if not isinstance(item, dict) or "key" not in item or set(item) - set(known):
        raise ConfigError(
            "A record of the memory source is wrong",
            obj=f"{name}: {item!r}",
            todo=f"a record is a mapping with 'key', and may have {', '.join(known[1:])}",
        )
    values = dict(item)
    values["labels"] = tuple(values.get("labels", ()))
    values["source_ts"] = value_time(values.get("source_ts"))
    if values.get("state", "present") not in STATES:
        raise ConfigError(
            "A record of the memory source has no such state",
            obj=f"{name}: {values['state']!r}",
            todo=f"the states are {', '.join(STATES)}",
        )
    return Record(**values)
