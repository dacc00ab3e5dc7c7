"""URLs: whose they are, how they are shown, and how one is named."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from headwater.errors import SourceDataError

Origin = tuple[str, str, int | None]
_PORTS = {"http": 80, "https": 443}


def shown(url: str) -> str:
    """A URL as messages show it: without its credentials, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def origin_of(url: str) -> Origin:
    """Scheme, host and port.

    Raises:
        SourceDataError: this is no URL.
    """
    try:
        parts = urlsplit(url)
        return parts.scheme.lower(), parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    except ValueError as error:
        raise SourceDataError("This is no URL", obj=shown(url), todo=str(error)) from error


def normal_url(url: str) -> str:
    """The one spelling of a URL: scheme and host in lower case, no default port, no fragment.

    Raises:
        SourceDataError: this is no URL of the web.
    """
    scheme, host, port = origin_of(url)
    if scheme not in _PORTS or not host:
        raise SourceDataError("This is no URL of the web", obj=shown(url), todo="https://…")
    name = f"[{host}]" if ":" in host else host
    place = name if port == _PORTS[scheme] else f"{name}:{port}"
    parts = urlsplit(url)
    return urlunsplit((scheme, place, parts.path or "/", parts.query, ""))


def with_params(url: str, params: Mapping[str, object]) -> str:
    """`url` with `params` in its query, in the place of those it has under these names."""
    if not params:
        return url
    parts = urlsplit(url)
    pairs = [p for p in parse_qsl(parts.query, keep_blank_values=True) if p[0] not in params]
    return urlunsplit(parts._replace(query=urlencode([*pairs, *params.items()])))


def without_params(url: str, names: Mapping[str, object]) -> str:
    """`url` without the parameters of these names."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    if not any(name in names for name, _ in pairs):
        return url
    kept = [pair for pair in pairs if pair[0] not in names]
    return urlunsplit(parts._replace(query=urlencode(kept)))
