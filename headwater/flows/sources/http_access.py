"""Credentials: what proves who asks, whom it is sent to, and where it must not show."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote, quote_plus

from headwater.config import expand
from headwater.config.http_options import HttpAuth, HttpOptions
from headwater.errors import ConfigError, SourceError
from headwater.flows.sources.urls import Origin, origin_of

_ENV = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


@dataclass(frozen=True)
class Access:
    """What is sent to the origins of the configuration, and to no other.

    Attributes:
        origins: of the configured URLs.
        headers: credentials and configured headers.
        params: of the query.
        secrets: texts that no message may show, longest first.
    """

    origins: frozenset[Origin]
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, config: HttpOptions, urls: tuple[str, ...], *, where: str, sent: tuple[str, ...] = ()
    ) -> Self:
        """The access that a configuration describes.

        Args:
            config: of the source.
            urls: the configured ones, expanded.
            where: the source's key, for messages.
            sent: other configured texts that are sent; what `${NAME}` stands for in them is secret.

        Raises:
            ConfigError: a `${NAME}` is not set in the environment.
            SourceDataError: one of `urls` is none.
        """
        headers = {k: expand(v, where=f"{where}.headers.{k}") for k, v in config.headers.items()}
        secrets = [text for name, text in headers.items() if text != config.headers[name]]
        secrets += [expand(one, where=where) for text in sent for one in _ENV.findall(text)]
        params: dict[str, str] = {}
        auth = config.auth
        if config.token is not None:
            auth = HttpAuth(style="bearer", token=config.token)
        if auth is not None:
            place = where if config.token is not None else f"{where}.auth"
            own, params, more = _proof(auth, where=place)
            headers |= own
            secrets += more
        return cls(
            frozenset(origin_of(url) for url in urls), headers, params, _spelled(tuple(secrets))
        )

    def covers(self, url: str) -> bool:
        """Whether the credentials belong to the origin of `url`."""
        return origin_of(url) in self.origins

    @contextmanager
    def hiding(self) -> Iterator[None]:
        """Errors of sources raised inside show no secret, whoever made their message."""
        try:
            yield
        except SourceError as error:
            parts = [self.hide(part) for part in (error.what, error.obj, error.todo)]
            if parts == [error.what, error.obj, error.todo]:
                raise
            raise type(error)(parts[0], obj=parts[1], todo=parts[2]) from None

    def hide(self, text: str) -> str:
        """`text` without any secret."""
        for secret in self.secrets:
            text = text.replace(secret, "…")
        return text


def check_plain(url: str, *, where: str) -> str:
    """The URL, once it is known to hold no user and no password.

    Raises:
        ConfigError: it does; it would be kept with pages and documents.
    """
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ConfigError(
            "A URL holds credentials", obj=where, todo="put them under 'auth', as ${NAME}"
        )
    return url


def _proof(auth: HttpAuth, *, where: str) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Headers, parameters and secrets of one way to prove who asks."""

    def value(name: str) -> str:
        return expand(getattr(auth, name) or "", where=f"{where}.{name}")

    if auth.style == "bearer":
        token = value("token")
        return {"Authorization": f"Bearer {token}"}, {}, [token]
    if auth.style == "basic":
        user, password = value("user"), value("password")
        pair = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        return {"Authorization": f"Basic {pair}"}, {}, [password, pair]
    name, secret = value("name"), value("value")
    if auth.style == "header":
        return {name: secret}, {}, [secret]
    return {}, {name: secret}, [secret]


def _spelled(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """Each secret as it is and as URLs spell it; what is too short to be one would hide words."""
    forms = {
        form
        for secret in secrets
        if len(secret) > 3
        for form in (secret, quote(secret, safe=""), quote_plus(secret))
    }
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))
