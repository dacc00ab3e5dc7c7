"""What a site asks robots to leave alone.

A site without robots.txt (any 4xx) allows everything; one whose robots.txt cannot be had for now is
not asked for pages either, as RFC 9309 wants it.
"""

from __future__ import annotations

from typing import Any

from headwater.errors import MissingExtraError, SourceError, SourceUnreachableError
from headwater.flows.sources.http import HttpSession, Request
from headwater.flows.sources.urls import Origin, normal_url, origin_of, shown

_READ_BYTES = 512_000
_MOST_BYTES = 5_000_000
_LONGEST_DELAY_S = 30.0
_REFUSED = frozenset(range(400, 500)) - {408, 425, 429}


class DisallowedError(Exception):
    """The site asks robots to leave this URL alone."""


class Robots:
    """The rules of each site, read once a pull.

    Args:
        http: to read them with.
        agent: whose rules count.
    """

    def __init__(self, http: HttpSession, agent: str) -> None:
        self._http = http
        self._agent = agent
        self._rules: dict[Origin, Any] = {}

    def check(self, url: str) -> None:
        """See that `url` may be asked for; a crawl delay slows the session down.

        Raises:
            DisallowedError: the site's rules forbid it.
            SourceUnreachableError: the rules cannot be read for now.
            MissingExtraError: the library that reads them is not installed.
        """
        origin = origin_of(url)
        if origin not in self._rules:
            self._rules[origin] = self._read(url)
        rules = self._rules[origin]
        if isinstance(rules, SourceUnreachableError):
            raise rules
        if rules is not None and not rules.can_fetch(url, self._agent):
            raise DisallowedError(shown(url))

    def _read(self, url: str) -> Any:
        try:
            from protego import Protego
        except ImportError:
            raise MissingExtraError.of("protego", "pipeline") from None
        place = normal_url(url).split("/", 3)
        robots = "/".join([*place[:3], "robots.txt"])
        request = Request(
            robots,
            accept="text/plain, */*",
            agent=self._agent,
            max_bytes=_MOST_BYTES,
            keep=_REFUSED,
        )
        try:
            reply = self._http.send(request)
        except SourceError as error:
            return SourceUnreachableError(error.what, obj=error.obj, todo=error.todo)
        if reply.status != 200:
            return None
        rules = Protego.parse(reply.body[:_READ_BYTES].decode("utf-8", "replace"))
        delay = rules.crawl_delay(self._agent)
        if delay:
            self._http.slow_down(min(float(delay), _LONGEST_DELAY_S))
        return rules
