"""Any dlt resource as a source: its records become documents, its cursor stays in our manifest.

In a `headwater.yaml`::

    tickets:
      kind: dlt
      options:
        resource: my_package.tickets:open_tickets   # a resource, a source, or what returns one
        arguments: {team: support}
        key: id
        title: subject
        updated_at: changed_at
        cursor: changed_at           # only what is new; left out: everything, compared
        cursor_lag: 10m

A resource is iterated by itself: there is no pipeline, no destination, no state of dlt's own, and
nothing is sent home. Both bounds of the cursor come from the request, so a failed refresh cannot
move one. What a package exports is Python of yours: it runs with the rights of the refresh.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from headwater.config import Duration, PluginConfig, Texts
from headwater.config.fields import Model
from headwater.errors import ConfigError, MissingExtraError, SourceDataError
from headwater.flows.sources.protocol import ExtractEnd, Pull, PullRequest, Window
from headwater.flows.sources.rendering import Layout, join_key, render_batch, signature
from headwater.flows.sources.values import value_text

_BATCH = 1000


class DltOptions(Model):
    """The options of the kind `dlt`."""

    resource: str = Field(description="module:name of a resource, a source, or what returns one")
    select: str | None = Field(None, description="which resource of a source")
    arguments: dict[str, Any] = Field({}, description="given to a function")
    key: Texts = Field(description="the field or fields of the key")
    text: Texts = Field((), description="fields rendered as text; all others if empty")
    metadata: Texts = Field((), description="fields kept as metadata, not embedded")
    ignore: Texts = Field((), description="volatile fields that are no change")
    title: str | None = None
    url: str | None = Field(None, description="a link template over the fields")
    updated_at: str | None = Field(None, description="the source's own time of a record")
    cursor: str | None = Field(None, description="an ever-rising field: pull only what is new")
    cursor_lag: Duration | None = Field(None, description="re-read this much before the watermark")
    cursor_type: Literal["text", "time", "date", "number"] | None = Field(
        None, description="for windows; as last seen, or else text in ISO 8601, when left out"
    )


class DltSource:
    """The records of one dlt resource; see `DltOptions`."""

    def __init__(self, name: str, config: PluginConfig, *, root: Path) -> None:
        """Read the options; nothing is imported before a pull.

        Raises:
            ConfigError: an option is unknown, missing or of the wrong type.
        """
        from pydantic import ValidationError

        self.name = name
        self._labels = config.labels
        try:
            self._options = DltOptions.model_validate(config.options)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(
                "An option of the dlt source is wrong",
                obj=f"{name}: options.{where}",
                todo=first["msg"],
            ) from None
        self._factory: Callable[[], Any] = self._named

    @classmethod
    def of(cls, factory: Callable[[], Any], *, name: str = "dlt", **options: Any) -> DltSource:
        """A source over what `factory` returns, without a configuration."""
        given = {"resource": f"{name}:factory", **options}
        source = cls(name, PluginConfig(kind="dlt", options=given), root=Path())
        source._factory = factory
        return source

    def pull(self, request: PullRequest) -> Pull:
        """Yield the records; see `Source.pull`.

        Raises:
            MissingExtraError: dlt is not installed.
            ConfigError: there is no such resource, or a window is asked for without a cursor.
            SourceDataError: a record lacks its key, or the resource yields what is no record.
        """
        options = self._options
        if request.window is not None and options.cursor is None:
            raise ConfigError(
                "A window needs a field with the source's own time",
                obj=f"sources.{self.name}",
                todo="set 'cursor' to a timestamp field",
            )
        known = _read(request.watermark, self._signature)
        last = None if request.narrowed else known
        resource = self._resource(request.window, last, options.cursor_type or _type_of(known))
        highest, count = last, 0
        for rows in _batches(_records(resource, self.name)):
            if options.cursor is not None:
                seen = [row[options.cursor] for row in rows if row.get(options.cursor) is not None]
                highest = max([*seen, *([] if highest is None else [highest])], default=None)
            if request.keys is not None:
                rows = [row for row in rows if self._key(row) in request.keys]
            count += len(rows)
            if rows:
                yield self._batch(rows)
        if request.narrowed:
            return ExtractEnd(False, request.watermark, note=f"{count} records, as asked for")
        since = "" if last is None else f" since {last}"
        return ExtractEnd(
            complete=last is None,
            watermark=None if highest is None else _written(highest, self._signature),
            note=f"{count} records{since}",
        )

    # --- what is iterated -----------------------------------------------------------------------

    def _resource(self, window: Window | None, last: Any, cursor_type: str) -> Any:
        """The resource, bounded on both sides where a cursor is followed."""
        dlt = _dlt()
        found = self._factory()
        if isinstance(found, dlt.sources.DltSource):
            found = self._selected(found)
        cursor = self._options.cursor
        if cursor is None or (window is None and last is None):
            return found
        if window is not None:
            low, high = (_BOUNDS[cursor_type](moment) for moment in (window.start, window.end))
        else:
            low, high = self._floor(last), _after_all(last)
        bounded = dlt.sources.incremental(
            cursor,
            initial_value=low,
            end_value=high,
            range_start="closed",
            range_end="open",
            on_cursor_value_missing="include" if window is None else "exclude",
        )
        found.apply_hints(incremental=bounded)
        return found

    def _selected(self, source: Any) -> Any:
        names = list(source.resources)
        chosen = self._options.select or (names[0] if len(names) == 1 else None)
        if chosen not in names:
            raise ConfigError(
                "A dlt source with several resources needs 'select'",
                obj=f"{self.name}: {chosen or 'none'}",
                todo=f"it has {', '.join(names)}",
            )
        return source.resources[chosen]

    def _named(self) -> Any:
        module, _, attribute = self._options.resource.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                "The resource cannot be imported",
                obj=f"{self.name}: {self._options.resource}",
                todo=f"name it as module:name ({error})",
            ) from error
        dlt = _dlt()
        if isinstance(found, dlt.sources.DltSource):
            return found
        if isinstance(found, dlt.sources.DltResource) and not self._options.arguments:
            return found
        return found(**self._options.arguments)

    def _floor(self, last: Any) -> Any:
        lag = self._options.cursor_lag
        if lag is None:
            return last
        try:
            return _earlier(last, lag)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(
                "'cursor_lag' needs a timestamp cursor",
                obj=f"sources.{self.name}.cursor: {self._options.cursor} (at {last!r})",
                todo="leave 'cursor_lag' out, or name a timestamp field",
            ) from None

    # --- what becomes of it ---------------------------------------------------------------------

    def _batch(self, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
        options = self._options
        names = list(dict.fromkeys(name for row in rows for name in row))
        apart = {*options.key, *options.metadata, *options.ignore}
        apart |= {name for name in (options.cursor, options.updated_at) if name}
        text = options.text or tuple(sorted(name for name in names if name not in apart))
        layout = Layout(
            text=tuple(name for name in text if name not in options.ignore),
            metadata=options.metadata,
            title=options.title,
            updated_at=options.updated_at,
            url=options.url,
            labels=self._labels,
            bare=len(options.text) == 1,
        )
        wanted = {*names, *layout.text, *layout.metadata}
        wanted |= {name for name in (options.title, options.updated_at) if name}
        columns = {name: [row.get(name) for row in rows] for name in wanted}
        return render_batch([self._key(row) for row in rows], columns, layout)

    def _key(self, row: Mapping[str, Any]) -> str | None:
        missing = [name for name in self._options.key if name not in row]
        if missing:
            raise SourceDataError(
                "A record lacks its key",
                obj=f"{self.name}: {', '.join(missing)}",
                todo=f"its fields are {', '.join(row)}",
            )
        return join_key([value_text(row[name]) for name in self._options.key])

    @property
    def _signature(self) -> str:
        return signature(self._options.model_dump(exclude={"cursor_lag"}))


def _dlt() -> Any:
    """The library, told before it is imported to send nothing anywhere."""
    os.environ.setdefault("RUNTIME__DLTHUB_TELEMETRY", "false")
    try:
        import dlt
    except ImportError as error:
        raise MissingExtraError.of("dlt", "dlt") from error
    return dlt


def _records(resource: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """One mapping per record, whatever pages the resource yields."""
    for page in resource:
        items = page.to_pylist() if isinstance(page, pa.Table | pa.RecordBatch) else page
        for item in items if isinstance(items, list) else [items]:
            if not isinstance(item, Mapping):
                raise SourceDataError(
                    "The resource yields what is no record",
                    obj=f"{name}: {type(item).__name__}",
                    todo="it must yield mappings, lists of them, or Arrow tables",
                )
            yield item


def _batches(records: Iterator[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    while rows := list(islice(records, _BATCH)):
        yield rows


# --- cursors --------------------------------------------------------------------------------------


def _written(value: Any, signed: str) -> str:
    kind, plain = type(value).__name__, value
    if isinstance(value, datetime | date):
        plain = value.isoformat()
    elif not isinstance(value, str | int | float):
        raise SourceDataError(
            "The cursor is of a type that cannot be kept",
            obj=kind,
            todo="name a number, a text or a time as the cursor",
        )
    return json.dumps({"value": plain, "type": kind, "config": signed}, sort_keys=True)


def _read(watermark: str | None, signed: str) -> Any:
    """The cursor value; None when there is none, or records were read in another way then."""
    try:
        found = json.loads(watermark or "null")
        if found["config"] != signed:
            return None
        return _KINDS[found["type"]](found["value"])
    except (ValueError, KeyError, TypeError):
        return None


_KINDS: Mapping[str, Callable[[Any], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "DateTime": datetime.fromisoformat,
    "datetime": datetime.fromisoformat,
    "Date": date.fromisoformat,
    "date": date.fromisoformat,
}


def _after_all(value: Any) -> Any:
    """What no value of this kind reaches: dlt keeps no state of its own where both bounds are set."""
    if isinstance(value, datetime):
        return datetime(9999, 1, 1, tzinfo=value.tzinfo)
    if isinstance(value, date):
        return date(9999, 1, 1)
    return "\U0010ffff" if isinstance(value, str) else type(value)(2**62)


def _earlier(value: Any, lag: timedelta) -> Any:
    """`value - lag`, a text in the shape that it has."""
    if not isinstance(value, str):
        return value - lag
    when = datetime.fromisoformat(value) - lag
    if len(value) == len("2000-01-01"):
        return when.date().isoformat()
    told = when.isoformat(sep=value[10])
    return told.replace("+00:00", "Z") if value.endswith("Z") else told


def _type_of(value: Any) -> str:
    """How a cursor is written, from a value of it."""
    if isinstance(value, datetime):
        return "time"
    if isinstance(value, date):
        return "date"
    return "number" if isinstance(value, int | float) else "text"


_BOUNDS: Mapping[str, Callable[[datetime], Any]] = {
    "time": lambda moment: moment,
    "date": lambda moment: moment.date(),
    "number": lambda moment: int(moment.timestamp()),
    "text": lambda moment: moment.astimezone(UTC).isoformat().replace("+00:00", "Z"),
}
