"""Contracts: what a source promises about its records, read from `suites/<source>.json`.

A suite is a JSON object `{"name": ..., "rows": [...], "table": [...]}`. Both lists hold Great
Expectations dicts: `{"type": ..., "kwargs": {...}, "severity": "critical", "meta": {...}}`. `rows`
judge single changed records; `table` judges the candidate's whole projection of the source.
Nothing here imports Great Expectations: reading a suite is cheap.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from headwater.errors import ConfigError

SEVERITIES: Final = ("critical", "warning", "info")
"""`critical` row: the record goes to quarantine. `critical` table: the publication stops.
`warning` and `info`: published and reported."""

_TYPE = re.compile(r"expect_[a-z][a-z0-9_]*")
_SUITE_KEYS = frozenset({"$schema", "name", "rows", "table", "meta"})
_EXPECTATION_KEYS = frozenset({"type", "kwargs", "severity", "meta", "description", "notes"})
# headwater asks for the result format that names every failing row, and runs its own batches.
_OWN_KWARGS = frozenset({"result_format", "catch_exceptions", "batch_id"})


@dataclass(frozen=True)
class Expectation:
    """One expectation of a suite.

    Attributes:
        type: the registered name, `expect_column_values_to_not_be_null`.
        kwargs: its arguments, as in the file.
        severity: one of `SEVERITIES`.
        meta: free notes of the suite's author.
    """

    type: str
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    severity: str = "critical"
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads; empty for one about the table as a whole."""
        single = (self.kwargs.get(name) for name in ("column", "column_A", "column_B"))
        several = self.kwargs.get("column_list") or ()
        return tuple(str(name) for name in (*single, *several) if name is not None)

    @property
    def column(self) -> str:
        """`columns` as one text, for reports."""
        return ", ".join(self.columns)


@dataclass(frozen=True)
class Suite:
    """The contract of one source.

    Attributes:
        name: shown in reports.
        rows: judged on the changed records, one by one.
        table: judged on the candidate's projection of the source.
        sha256: of the file's bytes; a refusal remembers which contract refused it.
        path: the file, for messages; empty for the empty suite.
    """

    name: str
    rows: tuple[Expectation, ...] = ()
    table: tuple[Expectation, ...] = ()
    sha256: str = hashlib.sha256(b"").hexdigest()
    path: str = ""


EMPTY_SUITE: Final = Suite(name="(no suite)")
"""What a source without a suite file promises: nothing beyond the built-in checks."""


def load_suite(path: str | Path) -> Suite:
    """Read a suite file; a file that is not there is `EMPTY_SUITE`.

    Raises:
        ConfigError: the file cannot be read, is not JSON (with the line), or an expectation in it
            has a wrong shape (naming its list, position and type).
    """
    file = Path(path)
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return EMPTY_SUITE
    except OSError as error:
        raise ConfigError(
            "The suite cannot be read", obj=str(file), todo=str(error.strerror or error)
        ) from None
    return parse_suite(data, path=str(file))


def parse_suite(data: bytes, *, path: str) -> Suite:
    """Read the bytes of a suite file.

    Raises:
        ConfigError: see `load_suite`; `path` names the file in the message.
    """
    try:
        values = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError("The suite is not UTF-8", obj=path, todo=str(error)) from None
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}"
        todo = f"{error.msg} at column {error.colno}"
        raise ConfigError("The suite is not valid JSON", obj=where, todo=todo) from None
    except RecursionError:
        raise ConfigError("The suite is nested too deeply", obj=path, todo="flatten it") from None
    if not isinstance(values, dict):
        raise _wrong(path, "it is not a JSON object", 'expected {"name", "rows", "table"}')
    if "expectations" in values:
        raise _wrong(
            path,
            "it has the key 'expectations'",
            "split the list: what judges single records under 'rows', the others under 'table'",
        )
    if unknown := sorted(set(values) - _SUITE_KEYS):
        known = ", ".join(sorted(_SUITE_KEYS))
        raise _wrong(path, f"it has the unknown key {unknown[0]!r}", f"known: {known}")
    name = values.get("name", Path(path).stem)
    if not isinstance(name, str) or not name.strip():
        raise _wrong(path, "its name is not a text", 'give it one: "name": "handbook"')
    return Suite(
        name=name,
        rows=_expectations(values.get("rows", []), path=path, key="rows"),
        table=_expectations(values.get("table", []), path=path, key="table"),
        sha256=hashlib.sha256(data).hexdigest(),
        path=path,
    )


def _expectations(items: object, *, path: str, key: str) -> tuple[Expectation, ...]:
    if not isinstance(items, list):
        raise _wrong(path, f"{key!r} is not a list", "expected a list of expectations")
    return tuple(
        _expectation(item, path=path, where=f"{key}[{position}]")
        for position, item in enumerate(items)
    )


def _expectation(item: object, *, path: str, where: str) -> Expectation:
    if not isinstance(item, dict):
        raise _wrong(path, f"{where} is not an object", 'expected {"type", "kwargs", "severity"}')
    kind = item.get("type")
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind):
        raise _wrong(
            path,
            f"{where} has the type {kind!r}, which is the name of no expectation on data frames",
            "expected a name such as 'expect_column_values_to_not_be_null'",
        )
    where = f"{where} ({kind})"
    if unknown := sorted(set(item) - _EXPECTATION_KEYS):
        known = ", ".join(sorted(_EXPECTATION_KEYS))
        raise _wrong(path, f"{where} has the unknown key {unknown[0]!r}", f"known: {known}")
    severity = item.get("severity", "critical")
    if severity not in SEVERITIES:
        raise _wrong(
            path, f"{where} has the severity {severity!r}", f"expected {', '.join(SEVERITIES)}"
        )
    kwargs, meta = item.get("kwargs", {}), item.get("meta", {})
    if not isinstance(kwargs, dict) or not isinstance(meta or {}, dict):
        raise _wrong(path, f"{where}: 'kwargs' and 'meta' must be objects", "expected {...}")
    if reserved := sorted(_OWN_KWARGS & set(kwargs)):
        raise _wrong(path, f"{where} sets {reserved[0]!r}", "leave it out: headwater sets it")
    return Expectation(type=kind, kwargs=kwargs, severity=severity, meta=meta or {})


def _wrong(path: str, problem: str, todo: str) -> ConfigError:
    return ConfigError("The suite is wrong", obj=f"{path}: {problem}", todo=todo)
