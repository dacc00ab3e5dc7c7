"""Keys: who is asking, and what may they see?

A key is 32 random bytes. headwater.yaml has its SHA-256 alone: nothing can be guessed from that, so
a slow hash would only slow every request down.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from headwater.config import ServingConfig, ServingKey
from headwater.errors import ConfigError


@dataclass(frozen=True)
class Caller:
    """Who is asking.

    Attributes:
        name: of the key; empty where no keys are configured.
        allow: the labels it holds, as `Retriever.search` takes them; None for no restriction.
    """

    name: str = ""
    allow: frozenset[str] | None = None


class Keyring:
    """The keys of a knowledge base. Without any, everybody is let in."""

    def __init__(self, keys: Sequence[ServingKey]) -> None:
        self._keys = [(key.sha256.encode(), Caller(key.name, _allow(key))) for key in keys]

    def __bool__(self) -> bool:
        """Whether a key is needed."""
        return bool(self._keys)

    def caller(self, key: bytes | None) -> Caller | None:
        """Whose key this is; None when nobody's. Takes the same time whichever it is."""
        if not self._keys:
            return Caller()
        given = hashlib.sha256(key or b"").hexdigest().encode()
        found = None
        for digest, caller in self._keys:
            if hmac.compare_digest(digest, given):
                found = caller
        return found if key else None


def _allow(key: ServingKey) -> frozenset[str] | None:
    return None if key.labels is None else frozenset(key.labels)


def presented(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """The key in a request's headers (lower-case names), or None."""
    for name, value in headers:
        if name == b"x-api-key":
            return value.strip() or None
        scheme, _, rest = value.partition(b" ")
        if name == b"authorization" and scheme.lower() == b"bearer":
            return rest.strip() or None
    return None


def new_key(name: str) -> tuple[str, str]:
    """A fresh key for `name`, and the lines that let it in, for headwater.yaml.

    Raises:
        ConfigError: it is no name for a key.
    """
    key = "hw_" + secrets.token_urlsafe(32)
    digest = hashlib.sha256(key.encode()).hexdigest()
    try:
        ServingKey(name=name, sha256=digest)
    except ValueError:
        raise ConfigError(
            "This is no name for a key", obj=name, todo="use a-z, 0-9, '-' and '_', at most 63"
        ) from None
    lines = f'serving:\n  api_keys:\n    - name: {name}\n      sha256: "{digest}"\n'
    return key, lines


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`, a name or an address."""
    name = host.strip().strip("[]").rstrip(".").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str:
    """The name in a Host header, without its port."""
    if header.startswith("["):
        return header.partition("]")[0].lstrip("[")
    return header.partition(":")[0]


def check_exposure(config: ServingConfig, host: str, *, insecure: bool) -> None:
    """Refuse to let a network in without keys.

    Raises:
        ConfigError: `host` is more than this machine, no key is configured, and `insecure` is not
            set.
    """
    if config.api_keys or insecure or is_loopback(host):
        return
    raise ConfigError(
        "Without keys, everybody who reaches this address could read everything",
        obj=f"--host {host}",
        todo="make a key with 'headwater serve --new-key NAME' and add it to headwater.yaml, "
        "or accept that with --insecure",
    )
