"""Which addresses may be connected to: checked on the address itself, when the connection is made.

A name is resolved here, each address is judged, and the connection goes to an address that was
judged: a name that answers differently the second time gains nothing. Redirects, links to next
pages and entries of sitemaps come from servers, so each new connection passes through here.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class PrivateAddressError(Exception):
    """The address is not public, and the configuration does not allow it.

    Args:
        host: as the URL names it.
        address: what it stands for.
    """

    def __init__(self, host: str, address: str) -> None:
        super().__init__(f"{host} is {address}")
        self.host = host
        self.address = address


@dataclass(frozen=True)
class Addresses:
    """The rule.

    Attributes:
        private: True allows every address, a tuple of networks allows these besides public ones.
    """

    private: bool | tuple[str, ...] = False

    def allows(self, address: str) -> bool:
        """Whether a connection to `address` may be made."""
        if self.private is True:
            return True
        plain = [_plain(ipaddress.ip_address(address.partition("%")[0]))]
        if isinstance(self.private, tuple):
            networks = [ipaddress.ip_network(one) for one in self.private]
            if any(one in net for one in plain for net in networks):
                return True
        return all(one.is_global and not one.is_multicast for one in plain)


def _plain(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 address stands for, where it stands for one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def guarded_transport(addresses: Addresses) -> Any:
    """A transport of httpx2 that connects to allowed addresses only.

    A proxy that the environment names is used as usual; it resolves names itself, so that only
    addresses written as numbers can be judged for it.
    """
    import httpcore2
    import httpx2

    class Backend(httpcore2.NetworkBackend):
        def __init__(self) -> None:
            self._real = httpcore2.SyncBackend()

        def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> Any:
            failure: Exception | None = None
            for address in _allowed(host, port, addresses):
                try:
                    return self._real.connect_tcp(
                        address, port, timeout, local_address, socket_options
                    )
                except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                    failure = error
            raise failure or httpcore2.ConnectError(f"{host} has no address")

        def sleep(self, seconds: float) -> None:
            self._real.sleep(seconds)

    class Route(httpx2.BaseTransport):  # type: ignore[misc]
        def __init__(self) -> None:
            self._direct = httpx2.HTTPTransport()
            # The pool is the public way to choose a network; the transport has no argument for it.
            self._direct._pool = httpcore2.ConnectionPool(
                ssl_context=httpx2.create_ssl_context(),
                max_keepalive_connections=5,
                keepalive_expiry=5.0,
                network_backend=Backend(),
            )
            self._proxied: dict[str, Any] = {}

        def handle_request(self, request: Any) -> Any:
            proxy = proxy_of(str(request.url))
            if proxy is None:
                return self._direct.handle_request(request)
            check_literal(request.url.host, addresses)
            if proxy not in self._proxied:
                self._proxied[proxy] = httpx2.HTTPTransport(proxy=proxy)
            return self._proxied[proxy].handle_request(request)

        def close(self) -> None:
            for transport in (self._direct, *self._proxied.values()):
                transport.close()

    return Route()


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for `url`, None for a direct connection."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def check_literal(host: str, addresses: Addresses) -> None:
    """Judge a host that is written as an address.

    Raises:
        PrivateAddressError: it is one that may not be connected to.
    """
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return
    if not addresses.allows(str(address)):
        raise PrivateAddressError(host, str(address))


def _allowed(host: str, port: int, addresses: Addresses) -> list[str]:
    import httpcore2

    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError(str(error)) from error
    resolved = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    allowed = [address for address in resolved if addresses.allows(address)]
    if resolved and not allowed:
        raise PrivateAddressError(host, resolved[0])
    return allowed
