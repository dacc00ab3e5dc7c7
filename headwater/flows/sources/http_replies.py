"""What a server answered, and what an answer that is none means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

from headwater.errors import SourceDataError, SourceUnreachableError

_SETTLED_S = 2.0
_ADVICE = {
    401: "the credentials are missing or no longer valid: check 'token', 'auth' and 'headers'",
    403: "the credentials do not allow this: check what they may read",
    404: "nothing is there: check 'url' (and 'pagination', if it was a later page)",
    410: "it was removed for good: check 'url'",
}


@dataclass(frozen=True)
class Validators:
    """What a server gave to ask "did it change?" with."""

    etag: str | None = None
    last_modified: str | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self:
        """Those of a reply.

        A time of modification counts whole seconds: one that was young when the reply was made may
        stand for two contents, and is left out.
        """
        modified, made = (_http_time(headers.get(name)) for name in ("last-modified", "date"))
        settled = modified and made and (made - modified).total_seconds() >= _SETTLED_S
        return cls(headers.get("etag"), headers.get("last-modified") if settled else None)

    def headers(self) -> dict[str, str]:
        """The conditional request headers."""
        named = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in named.items() if value}


@dataclass(frozen=True)
class Reply:
    """An answer with its whole body.

    Attributes:
        url: what answered, after redirects.
        body: decoded; empty for a 304.
        status: 200, 304, or one that the request takes for an answer.
        content_type: of the header, "" without one.
        next_url: the `Link` with rel=next, as it stands there.
        bounded: the reply said where its body ends. Without that, a body that was cut short looks
            like a whole one.
    """

    url: str
    body: bytes
    validators: Validators
    status: int = 200
    content_type: str = ""
    next_url: str | None = None
    bounded: bool = True

    @classmethod
    def of(cls, url: str, response: Any, body: bytes) -> Self:
        """The reply that a response of httpx2 is."""
        headers = response.headers
        chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        return cls(
            url=url,
            body=body,
            validators=Validators.of(headers),
            status=response.status_code,
            content_type=headers.get("content-type", ""),
            next_url=response.links.get("next", {}).get("url"),
            bounded=chunked or "content-length" in headers,
        )

    @property
    def not_modified(self) -> bool:
        """Whether the server said that nothing changed."""
        return self.status == 304


class RetryableError(Exception):
    """An attempt failed in a way that time may heal.

    Args:
        error: what to raise when no attempt is left.
        wait_s: how long the server asked to wait; None leaves it to the backoff.
    """

    def __init__(
        self, error: SourceUnreachableError | SourceDataError, wait_s: float | None = None
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_s = wait_s


def check_status(url: str, response: Any, *, conditional: bool) -> None:
    """Refuse a status that is no answer.

    Args:
        url: as messages show it.
        response: of httpx2.
        conditional: whether a 304 was asked for.

    Raises:
        RetryableError: the server is busy or broken.
        SourceUnreachableError: it refuses, or has nothing there.
        SourceDataError: any other status.
    """
    status: int = response.status_code
    if (200 <= status < 300 and status != 206) or (status == 304 and conditional):
        return
    answered = f"The server answered {status} {response.reason_phrase}".rstrip()
    if status == 429 or status >= 500:
        error = SourceUnreachableError(answered, obj=url, todo="run again later")
        raise RetryableError(error, retry_after(response.headers.get("retry-after")))
    if status in _ADVICE:
        raise SourceUnreachableError(answered, obj=url, todo=_ADVICE[status])
    raise SourceDataError(answered, obj=url, todo="check 'url', 'params' and 'headers'")


def retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` asks for; None when it says nothing."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    when = _http_time(value)
    return None if when is None else max(0.0, (when - datetime.now(UTC)).total_seconds())


def broken_off(
    url: str, error: Exception, *, cut: bool
) -> SourceUnreachableError | SourceDataError:
    """The error for a connection that failed, before the reply or in the midst of it."""
    what = str(error) or type(error).__name__
    if cut:
        return SourceDataError("The reply was cut short", obj=url, todo=f"{what}; run again")
    return SourceUnreachableError(
        "The server does not answer", obj=url, todo=f"{what}; check 'url' and the network"
    )


def _http_time(value: str | None) -> datetime | None:
    if not value:
        return None
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
