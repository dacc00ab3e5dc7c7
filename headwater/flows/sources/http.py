"""The one place that speaks HTTP: requests with retries, a deadline and a cap on decoded bytes.

Redirects are followed by hand, each hop is judged anew, and what is secret (credentials and the
configured headers) goes only to the origins the configuration names. Messages show a URL without
its query, which may hold a key; the sources take out what else is secret.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urljoin

from headwater.errors import MissingExtraError, SourceDataError, SourceUnreachableError
from headwater.flows.sources.http_access import Access
from headwater.flows.sources.http_bodies import ACCEPTED, CutShortError, WrongEncodingError, decode
from headwater.flows.sources.http_guard import Addresses, PrivateAddressError, guarded_transport
from headwater.flows.sources.http_replies import (
    Reply,
    RetryableError,
    Validators,
    broken_off,
    check_status,
)
from headwater.flows.sources.urls import origin_of, shown, with_params

__all__ = ["HttpSession", "Reply", "Validators", "shown"]

ATTEMPTS = 5
MAX_REDIRECTS = 5
LONGEST_RETRY_AFTER_S = 120.0
MAX_WAITS = 20
"""How often one request waits because the server said how long; this is no failed attempt."""

_REDIRECTS = (301, 302, 303, 307, 308)
_KEEP_METHOD = (307, 308)
_NO_STATUS: frozenset[int] = frozenset()
_UNCONDITIONAL = Validators()


@dataclass(frozen=True)
class Limits:
    """How far a session goes.

    Attributes:
        timeout_s: for connecting and for each read.
        deadline_s: for everything the session fetches, waits included.
        max_bytes: decoded, until `start_over`.
        rate: requests per second at most; None for no limit.
        attempts: of one request.
    """

    timeout_s: float
    deadline_s: float
    max_bytes: int
    rate: float | None = None
    attempts: int = ATTEMPTS


@dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes:
        url: without credentials.
        method: GET, or POST for a search.
        body: JSON of a POST.
        accept, agent: of the headers.
        validators: ask only whether it changed.
        max_bytes: decoded, for this reply; None leaves it to the session.
        keep: statuses that are answers, and no errors.
        check: called with each URL before it is asked, the first and those of redirects.
    """

    url: str
    method: str = "GET"
    body: bytes | None = None
    accept: str = "application/json"
    agent: str = "headwater"
    validators: Validators = _UNCONDITIONAL
    max_bytes: int | None = None
    keep: Collection[int] = _NO_STATUS
    check: Callable[[str], None] | None = None


class HttpSession:
    """Requests that share one deadline, one budget of bytes and one connection pool."""

    def __init__(self, access: Access, limits: Limits, addresses: Addresses) -> None:
        """Start the clock.

        Args:
            access: credentials, and the origins they belong to.
            limits: how far to go.
            addresses: which of them may be connected to.

        Raises:
            MissingExtraError: the HTTP client is not installed.
        """
        try:
            import httpx2
        except ImportError:
            raise MissingExtraError.of("httpx2", "pipeline") from None
        self._access = access
        self._limits = limits
        self._ends = time.monotonic() + limits.deadline_s
        self._gap_s = 1 / limits.rate if limits.rate else 0.0
        self._next_at = 0.0
        self._bytes = 0
        self._client: Any = httpx2.Client(
            transport=guarded_transport(addresses), follow_redirects=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self._ends - time.monotonic()

    def start_over(self) -> None:
        """Give the budget of bytes back: everything is read once more."""
        self._bytes = 0

    def slow_down(self, gap_s: float) -> None:
        """Leave at least `gap_s` seconds between two requests from now on."""
        self._gap_s = max(self._gap_s, gap_s)

    def get(self, url: str, validators: Validators | None = None) -> Reply:
        """GET `url`, only if it changed when `validators` are given; see `send`."""
        return self.send(Request(url, validators=validators or _UNCONDITIONAL))

    def send(self, request: Request) -> Reply:
        """The answer to a request, after retries and redirects.

        Raises:
            SourceUnreachableError: no usable answer within the attempts and the deadline, or an
                address that may not be connected to.
            SourceDataError: the answer is cut short, too large, or refuses the request itself.
        """
        for waits in range(MAX_WAITS + 1):
            try:
                return self._try(request)
            except RetryableError as error:
                # A server that says when to come back is waited for, within reason.
                wait_s = error.wait_s
                longest = min(LONGEST_RETRY_AFTER_S, self.left_s)
                if wait_s is None or wait_s > longest or waits == MAX_WAITS:
                    raise error.error from error.__cause__
                time.sleep(max(wait_s, 0.05 * waits))
        raise AssertionError("the last wait ends by returning or raising")

    def _try(self, request: Request) -> Reply:
        try:
            import stamina
        except ImportError:
            raise MissingExtraError.of("stamina", "pipeline") from None
        for attempt in stamina.retry_context(
            on=_heals,
            attempts=self._limits.attempts,
            timeout=max(0.01, self._left(request.url)),
            wait_max=20,
        ):
            with attempt:
                return self._follow(request)
        raise AssertionError("a retry loop ends by returning or raising")

    def _left(self, url: str) -> float:
        left = self.left_s
        if left <= 0:
            raise SourceUnreachableError(
                f"The deadline of {self._limits.deadline_s:g} s for the whole pull has passed",
                obj=shown(url),
                todo="raise 'deadline', or ask for less",
            )
        return left

    def _follow(self, request: Request) -> Reply:
        current = request.url
        for _ in range(MAX_REDIRECTS + 1):
            if request.check is not None:
                request.check(current)
            found = self._once(request, current)
            if isinstance(found, Reply):
                return found
            status, target = found
            self._judge_redirect(request, current, status, target)
            current = target
        raise SourceUnreachableError(
            f"More than {MAX_REDIRECTS} redirects", obj=shown(request.url), todo="check 'url'"
        )

    def _judge_redirect(self, request: Request, current: str, status: int, target: str) -> None:
        here, there = origin_of(current), origin_of(target)
        if there[0] not in ("http", "https"):
            raise SourceUnreachableError(
                "A redirect leads out of the web", obj=shown(target), todo="check 'url'"
            )
        if here[0] == "https" and there[0] != "https":
            raise SourceUnreachableError(
                "A redirect leaves HTTPS", obj=shown(target), todo="check 'url'"
            )
        if request.method != "GET" and (status not in _KEEP_METHOD or here != there):
            # Another origin must not see what is asked, and a GET would ask something else.
            raise SourceUnreachableError(
                "The search is redirected", obj=shown(current), todo="put the new URL in 'url'"
            )

    def _once(self, request: Request, url: str) -> Reply | tuple[int, str]:
        """One request: the reply, or the status and the URL it redirects to."""
        import httpx2

        self._pace(url)
        timeout = min(self._limits.timeout_s, self._left(url))
        own = {
            "Accept": request.accept,
            "User-Agent": request.agent,
            "Accept-Encoding": ACCEPTED,
            # A cache between us and the server may hold pages of different ages.
            "Cache-Control": "max-age=0",
            **request.validators.headers(),
        }
        if request.body is not None:
            own["Content-Type"] = "application/json"
        headers, target = own, url
        if self._access.covers(url):
            given = {name.lower() for name in self._access.headers}
            kept = {name: text for name, text in own.items() if name.lower() not in given}
            headers = {**kept, **self._access.headers}
            target = with_params(url, self._access.params)
        got_headers = False
        try:
            with self._client.stream(
                request.method, target, content=request.body, headers=headers, timeout=timeout
            ) as response:
                got_headers = True
                location: str | None = response.headers.get("location")
                if response.status_code in _REDIRECTS and location:
                    return response.status_code, urljoin(url, location)
                if response.status_code not in request.keep:
                    check_status(
                        shown(url), response, conditional=bool(request.validators.headers())
                    )
                return Reply.of(url, response, self._read(request, url, response))
        except PrivateAddressError as error:
            raise self._private(url, error) from None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
            raise SourceDataError(
                "This is no request that can be sent",
                obj=shown(url),
                todo=str(error),
            ) from None
        except WrongEncodingError as error:
            raise SourceDataError(
                "The reply is compressed wrongly", obj=shown(url), todo=str(error)
            ) from None
        except (httpx2.TransportError, CutShortError) as error:
            self._left(url)
            cut = isinstance(error, CutShortError) or (
                got_headers and isinstance(error, httpx2.RemoteProtocolError)
            )
            raise RetryableError(broken_off(shown(url), error, cut=cut)) from error

    def _private(self, url: str, error: PrivateAddressError) -> SourceUnreachableError:
        return SourceUnreachableError(
            f"The address {error.address} is not public, and was not asked",
            obj=shown(url),
            todo="if it is meant, allow it: 'allow_private: true', or its network",
        )

    def _pace(self, url: str) -> None:
        """Wait until the next request may start."""
        if not self._gap_s:
            return
        wait_s = self._next_at - time.monotonic()
        if wait_s > 0:
            time.sleep(min(wait_s, max(0.0, self._left(url))))
        self._next_at = time.monotonic() + self._gap_s

    def _read(self, request: Request, url: str, response: Any) -> bytes:
        chunks = []
        size = 0
        for chunk in decode(
            self._timed(url, response.iter_raw()), response.headers.get("content-encoding", "")
        ):
            self._bytes += len(chunk)
            if self._bytes > self._limits.max_bytes:
                raise SourceDataError(
                    f"More than {self._limits.max_bytes} bytes in one pull",
                    obj=shown(url),
                    todo="raise 'max_bytes', or ask for less",
                )
            size += len(chunk)
            if request.max_bytes is not None and size > request.max_bytes:
                raise SourceDataError(
                    f"The reply is larger than {request.max_bytes} bytes",
                    obj=shown(url),
                    todo="raise 'page_bytes', or leave it out",
                )
            chunks.append(chunk)
        return b"".join(chunks)

    def _timed(self, url: str, pieces: Iterable[bytes]) -> Iterable[bytes]:
        for piece in pieces:
            self._left(url)
            yield piece


def _heals(error: Exception) -> bool | float:
    """Whether an attempt is worth another, after the usual backoff."""
    return isinstance(error, RetryableError) and error.wait_s is None
