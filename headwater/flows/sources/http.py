"""The one place that speaks HTTP: conditional GET with retries, a deadline and a cap on bytes.

Redirects are followed by hand, and what is secret (the token and the configured headers) goes only
to the origin the configuration names. Messages show a URL without its query, which may hold a key.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

from headwater.errors import MissingExtraError, SourceDataError, SourceUnreachableError

ATTEMPTS = 5
MAX_REDIRECTS = 5
LONGEST_RETRY_AFTER_S = 120.0
_REDIRECTS = (301, 302, 303, 307, 308)
_ADVICE = {
    401: "the credentials are missing or no longer valid: check 'token' and 'headers'",
    403: "the credentials do not allow this: check what the token may read",
    404: "nothing is there: check 'url' (and 'pagination', if it was a later page)",
    410: "it was removed for good: check 'url'",
}


@dataclass(frozen=True)
class Validators:
    """What a server gave to ask "did it change?" with."""

    etag: str | None = None
    last_modified: str | None = None

    def headers(self) -> dict[str, str]:
        """The conditional request headers."""
        named = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in named.items() if value}


@dataclass(frozen=True)
class Reply:
    """An answer with its whole body; `not_modified` for a 304, which has none."""

    url: str
    body: bytes
    validators: Validators
    not_modified: bool = False


class _RetryableError(Exception):
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


class HttpSession:
    """GETs that share one deadline, one budget of bytes and one connection pool."""

    def __init__(
        self,
        origin_url: str,
        *,
        headers: Mapping[str, str],
        token: str | None,
        timeout_s: float,
        deadline_s: float,
        max_bytes: int,
    ) -> None:
        """Start the clock.

        Args:
            origin_url: `headers` and `token` are sent to its origin only.
            headers: extra request headers.
            token: a bearer token.
            timeout_s: for connecting and for each read.
            deadline_s: for everything this session fetches, waits included.
            max_bytes: decoded, for everything this session fetches.

        Raises:
            MissingExtraError: the HTTP client is not installed.
        """
        try:
            import httpx2
        except ImportError:
            raise MissingExtraError.of("httpx2", "pipeline") from None
        self._origin = _origin(origin_url)
        self._secret = dict(headers) | ({"Authorization": f"Bearer {token}"} if token else {})
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._ends = time.monotonic() + deadline_s
        self._max_bytes = max_bytes
        self._bytes = 0
        self._client: Any = httpx2.Client(follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def get(self, url: str, validators: Validators | None = None) -> Reply:
        """GET `url`, only if it changed when `validators` are given.

        Raises:
            SourceUnreachableError: no usable answer within the attempts and the deadline.
            SourceDataError: the answer is cut short, too large, or refuses the request itself.
        """
        try:
            import stamina
        except ImportError:
            raise MissingExtraError.of("stamina", "pipeline") from None
        try:
            for attempt in stamina.retry_context(
                on=self._backoff, attempts=ATTEMPTS, timeout=max(0.01, self._left(url)), wait_max=20
            ):
                with attempt:
                    return self._follow(url, validators or Validators())
        except _RetryableError as error:
            raise error.error from error.__cause__
        raise AssertionError("a retry loop ends by returning or raising")

    def _backoff(self, error: Exception) -> bool | float:
        if not isinstance(error, _RetryableError):
            return False
        if error.wait_s is None:
            return True
        # Coming back sooner than asked is rude, waiting for hours holds the others up: give up.
        longest = min(LONGEST_RETRY_AFTER_S, self._ends - time.monotonic())
        return error.wait_s if error.wait_s <= longest else False

    def _left(self, url: str) -> float:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise SourceUnreachableError(
                f"The deadline of {self._deadline_s:g} s for the whole pull has passed",
                obj=shown(url),
                todo="raise 'deadline', or ask for less",
            )
        return left

    def _follow(self, url: str, validators: Validators) -> Reply:
        current = url
        for _ in range(MAX_REDIRECTS + 1):
            reply = self._once(current, validators)
            if isinstance(reply, Reply):
                return reply
            if urlsplit(current).scheme == "https" and urlsplit(reply).scheme != "https":
                raise SourceUnreachableError(
                    "A redirect leaves HTTPS", obj=shown(reply), todo="check 'url'"
                )
            current = reply
        raise SourceUnreachableError(
            f"More than {MAX_REDIRECTS} redirects", obj=shown(url), todo="check 'url'"
        )

    def _once(self, url: str, validators: Validators) -> Reply | str:
        """One request: the reply, or the URL it redirects to."""
        import httpx2

        timeout = min(self._timeout_s, self._left(url))
        headers = {"Accept": "application/json"} | validators.headers()
        if _origin(url) == self._origin:
            headers |= self._secret
        got_headers = False
        try:
            with self._client.stream("GET", url, headers=headers, timeout=timeout) as response:
                got_headers = True
                location: str | None = response.headers.get("location")
                if response.status_code in _REDIRECTS and location:
                    return urljoin(url, location)
                _check_status(url, response, conditional=bool(validators.headers()))
                return Reply(
                    url=url,
                    body=self._read(url, response),
                    validators=Validators(
                        response.headers.get("etag"), response.headers.get("last-modified")
                    ),
                    not_modified=response.status_code == 304,
                )
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
            raise SourceDataError(
                "This is no request that can be sent", obj=shown(url), todo=str(error)
            ) from error
        except httpx2.DecodingError as error:
            raise SourceDataError(
                "The reply is compressed wrongly", obj=shown(url), todo=str(error)
            ) from error
        except httpx2.TransportError as error:
            self._left(url)
            raise _RetryableError(_broken_off(url, error, cut=got_headers)) from error

    def _read(self, url: str, response: Any) -> bytes:
        chunks = []
        for chunk in response.iter_bytes():
            self._bytes += len(chunk)
            if self._bytes > self._max_bytes:
                raise SourceDataError(
                    f"More than {self._max_bytes} bytes in one pull",
                    obj=shown(url),
                    todo="raise 'max_bytes', or ask for less",
                )
            self._left(url)
            chunks.append(chunk)
        return b"".join(chunks)


def shown(url: str) -> str:
    """A URL as messages show it: without its credentials, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        return parts.scheme, parts.hostname or "", port
    except ValueError as error:
        raise SourceDataError("This is no URL", obj=shown(url), todo=str(error)) from error


def _check_status(url: str, response: Any, *, conditional: bool) -> None:
    status: int = response.status_code
    if 200 <= status < 300 or (status == 304 and conditional):
        return
    answered = f"The server answered {status} {response.reason_phrase}".rstrip()
    if status == 429 or status >= 500:
        error = SourceUnreachableError(answered, obj=shown(url), todo="run again later")
        raise _RetryableError(error, _retry_after(response.headers.get("retry-after")))
    if status in _ADVICE:
        raise SourceUnreachableError(answered, obj=shown(url), todo=_ADVICE[status])
    raise SourceDataError(answered, obj=shown(url), todo="check 'url', 'params' and 'headers'")


def _retry_after(value: str | None) -> float | None:
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _broken_off(
    url: str, error: Exception, *, cut: bool
) -> SourceUnreachableError | SourceDataError:
    import httpx2

    what = str(error) or type(error).__name__
    if cut and isinstance(error, httpx2.RemoteProtocolError):
        return SourceDataError("The reply was cut short", obj=shown(url), todo=f"{what}; run again")
    return SourceUnreachableError(
        "The server does not answer", obj=shown(url), todo=f"{what}; check 'url' and the network"
    )
