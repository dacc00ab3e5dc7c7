"""Values inside JSON: where a path leads, and how a request takes what is put into it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urljoin, urlsplit

from headwater.config import expand
from headwater.config.apis import TimeFormat
from headwater.errors import SourceDataError
from headwater.flows.sources.http import Reply
from headwater.flows.sources.urls import shown

MISSING = object()
"""What `at` gives where the path leads nowhere."""


def at(value: Any, path: str) -> Any:
    """The value at a dotted path; a field whose own name has dots is found too."""
    if isinstance(value, dict) and path in value:
        return value[path]
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def present(value: Any) -> Any:
    """`value`, and None for what is missing."""
    return None if value is MISSING else value


def put(body: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of `body` that has `value` at the dotted `path`."""
    head, _, rest = path.partition(".")
    inner = body.get(head)
    if not rest:
        return {**body, head: value}
    return {**body, head: put(inner if isinstance(inner, dict) else {}, rest, value)}


def expand_all(value: Any, *, where: str) -> Any:
    """`value` with each `${NAME}` of its texts replaced.

    Raises:
        ConfigError: the variable is not set.
    """
    if isinstance(value, str):
        return expand(value, where=where)
    if isinstance(value, dict):
        return {k: expand_all(v, where=f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [expand_all(v, where=f"{where}.{i}") for i, v in enumerate(value)]
    return value


def time_value(when: datetime, form: TimeFormat) -> str | int:
    """A time (UTC) as an API takes it."""
    if form == "unix":
        return int(when.timestamp())
    if form == "unix_ms":
        return (when - datetime.fromtimestamp(0, when.tzinfo)) // timedelta(milliseconds=1)
    if form == "date":
        return when.date().isoformat()
    return when.isoformat().replace("+00:00", "Z")


def parse_reply(reply: Reply) -> Any:
    """The JSON of a reply.

    Raises:
        SourceDataError: it is none, or cut short.
    """
    try:
        return json.loads(reply.body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        what = str(error) or type(error).__name__
        raise data_error("The reply is no JSON", reply.url, what) from error


def follow_link(base: str, link: str) -> str:
    """The URL that a link of a reply names.

    Raises:
        SourceDataError: it names none of the web.
    """
    try:
        url = urljoin(base, link)
        usable = urlsplit(url).scheme in ("http", "https")
    except ValueError:
        usable = False
    if not usable:
        raise data_error("The link to the next page is no URL of the web", base)
    return url


def data_error(what: str, url: str, todo: str = "check 'url' and 'pagination'") -> SourceDataError:
    """The error for a reply that cannot be used."""
    return SourceDataError(what, obj=shown(url), todo=todo)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
