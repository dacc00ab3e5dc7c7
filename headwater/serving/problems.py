"""Problems: every way in which a request can fail, as a status and the three parts of a message.

What leaves is made here and nowhere else, so that no traceback and no path of the server does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from headwater.errors import (
    BusyError,
    ConfigError,
    EndpointError,
    EnvironmentLacksError,
    HeadwaterError,
    NotFoundError,
    PublicationStoppedError,
    SourceError,
    StoreError,
)

STATUS: Final[dict[type[HeadwaterError], int]] = {
    ConfigError: 400,
    NotFoundError: 404,
    PublicationStoppedError: 409,
    StoreError: 500,
    SourceError: 502,
    BusyError: 503,
    EndpointError: 502,
    EnvironmentLacksError: 503,
    HeadwaterError: 500,
}
"""The HTTP status of every error; a class that is not named has that of its nearest parent."""

_RETRY_S = "1"


@dataclass(frozen=True)
class Problem:
    """A failed request, as its caller is told.

    Attributes:
        status: of HTTP.
        error: what kind, stable and made for programs.
        what: what failed.
        obj: which object.
        todo: what to do next.
        headers: of the reply, besides the usual ones.
    """

    status: int
    error: str
    what: str
    obj: str = ""
    todo: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """The body of the reply, JSON."""
        parts = {"error": self.error, "what": self.what, "object": self.obj, "todo": self.todo}
        return dump_json(parts)


class ProblemError(Exception):
    """Ends a request with a problem that no error of headwater stands for."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what)
        self.problem = problem


def status_of(error: HeadwaterError) -> int:
    """The HTTP status of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem_of(error: HeadwaterError, *, hide: tuple[str, ...] = ()) -> Problem:
    """An error, as its caller is told.

    Args:
        error: what was raised.
        hide: folders of the server; what lies in them is named without them.
    """
    status = status_of(error)
    obj, todo = error.obj, error.todo
    for folder in hide:
        obj, todo = (text.replace(folder, "") for text in (obj, todo))
    headers = {"Retry-After": _RETRY_S} if status == 503 else {}
    return Problem(status, error.kind, error.what, obj, todo, headers)


def unauthorized(*, given: bool) -> Problem:
    """No key, or one that opens nothing."""
    return Problem(
        401,
        "unauthorized",
        "The key is not known" if given else "A key is needed",
        todo="send 'Authorization: Bearer KEY', or 'X-API-Key: KEY'",
        headers={"WWW-Authenticate": "Bearer"},
    )


def needs_full_sight(what: str) -> Problem:
    """The key has labels, and what is asked for tells of every document."""
    return Problem(
        403,
        "forbidden",
        "This key sees some documents only, and this tells of all of them",
        obj=what,
        todo="use a key without labels",
    )


def foreign_host(host: str) -> Problem:
    """A browser was led here under another name."""
    return Problem(
        403,
        "forbidden",
        "Without keys, this service answers to the names of its own machine only",
        obj=host[:100],
        todo="ask for http://127.0.0.1 or http://localhost, or configure keys",
    )


def too_large(limit: int) -> Problem:
    """The body is larger than it may be."""
    return Problem(
        413,
        "too-large",
        "The body of the request is too large",
        obj=f"more than {limit} bytes",
        todo="send less; serving.max_body_bytes of headwater.yaml is the limit",
        headers={"Connection": "close"},
    )


def too_slow_to_send(timeout_s: float) -> Problem:
    """The body did not arrive."""
    return Problem(
        408,
        "timeout",
        "The body of the request did not arrive in time",
        obj=f"{timeout_s:g} s",
        todo="send it again",
        headers={"Connection": "close"},
    )


def too_slow(timeout_s: float) -> Problem:
    """The answer took too long."""
    return Problem(
        504,
        "timeout",
        "The answer took too long",
        obj=f"more than {timeout_s:g} s",
        todo="ask for less; serving.timeout of headwater.yaml is the limit",
    )


def internal(number: str) -> Problem:
    """A bug; the server's log has the rest under `number`."""
    return Problem(
        500,
        "internal",
        "Something failed inside the service",
        obj=number,
        todo="its log says more under this number; please report it",
    )


def of_http(status: int, detail: str) -> Problem:
    """What the framework refused: no such path, or no such method on it."""
    kinds = {404: "not-found", 405: "method-not-allowed"}
    return Problem(
        status, kinds.get(status, "http"), detail, todo="/openapi.json lists what can be asked"
    )


def invalid(errors: list[Any]) -> Problem:
    """What is wrong with a request's parameters, as pydantic lists it; the input is not repeated."""
    first = errors[0] if errors else {"loc": (), "msg": "Invalid request"}
    where = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    return Problem(
        422, "invalid-request", "The request cannot be understood", obj=where[:200], todo=message
    )


def dump_json(value: Any) -> bytes:
    """JSON in UTF-8, which every parser reads: a number that JSON does not have becomes null.

    Half a surrogate pair, which UTF-8 cannot hold, stays an escape.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        # Metadata of a source may hold one. Looked for only here: it is rare, and costs a copy.
        text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
