"""The objects of a bucket and the files behind a web server's listing, by obstore."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from headwater.errors import (
    ConfigError,
    MissingExtraError,
    ParseError,
    SourceUnreachableError,
)
from headwater.flows.sources.folder import too_large
from headwater.flows.sources.places import Choice, Item, Listing, Local, format_of, normal
from headwater.flows.sources.urls import shown

_AT_ONCE = 8
_MAX_PAGES = 10_000
_MAX_PAGE_BYTES = 20_000_000
_TIMEOUT_S = 30


class _Remote(Local):
    """What a bucket and a web server have in common.

    Args:
        name: of the source, for messages.
        url: of the root.
        secrets: what no message may show.
        deadline_s: for the whole pull.
    """

    dated = True

    def __init__(self, name: str, url: str, secrets: tuple[str, ...], deadline_s: float) -> None:
        self._name = name
        self._url = url
        self._secrets = tuple(one for one in secrets if len(one) > 3)
        self._deadline_s = deadline_s
        self._ends = time.monotonic() + deadline_s
        self._store: Any = None

    def read(self, item: Item, max_bytes: int) -> bytes:
        """See `Place.read`."""
        path, _ = item.at
        try:
            return self._get(path, max_bytes)
        except FileNotFoundError:
            raise ParseError("The file is gone since it was listed", obj=item.key) from None

    def time_of(self, item: Item) -> datetime | None:
        """When it was written, as the server says."""
        _, changed = item.at
        return changed if changed is not None and changed.timestamp() > 0 else None

    def _get(self, path: str, max_bytes: int) -> bytes:
        import obstore

        with self._speaking():
            found = obstore.get(self._store, path)
            if found.meta["size"] > max_bytes:
                raise too_large(path, found.meta["size"], max_bytes)
            parts, size = [], 0
            for part in found.stream(min_chunk_size=1 << 20):
                size += len(part)
                if size > max_bytes:
                    raise too_large(path, size, max_bytes)
                self._check_time()
                parts.append(bytes(part))
            return b"".join(parts)

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Turn what the library raises into what the refresh understands."""
        from obstore.exceptions import BaseError

        self._check_time()
        try:
            yield
        except FileNotFoundError:
            raise
        except (BaseError, OSError, ValueError) as error:
            raise self._unreachable(self._words(error)) from None

    def _words(self, error: Exception) -> str:
        text = " ".join(str(error).partition("Debug source")[0].split())
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text[:300]

    def _check_time(self) -> None:
        if time.monotonic() > self._ends:
            raise self._unreachable(f"it took longer than {self._deadline_s:g} s: raise 'deadline'")

    def _unreachable(self, why: str) -> SourceUnreachableError:
        return SourceUnreachableError(
            "The listing cannot be read", obj=f"{self._name}: {shown(self._url)}", todo=why
        )


class BucketPlace(_Remote):
    """The objects below a prefix of a bucket: S3 and what speaks like it, Google, Azure.

    Args:
        name: of the source, for messages.
        url: `s3://bucket/prefix`, `gs://…`, `az://…`.
        options: of the store, as obstore names them; the environment's where they are left out.
        deadline_s: for the whole pull.

    Raises:
        ConfigError: an option is unknown or wrong.
        MissingExtraError: obstore is not installed.
    """

    def __init__(
        self, name: str, url: str, options: Mapping[str, str], *, deadline_s: float
    ) -> None:
        super().__init__(name, url, tuple(options.values()), deadline_s)
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError:
            raise MissingExtraError.of("obstore", "pipeline") from None
        plain = options.get("endpoint", "").startswith("http://")
        try:
            self._store = from_url(
                url,
                config=dict(options),
                client_options=_client(allow_http=plain),
                retry_config=_retries(),
            )
        except (BaseError, ValueError) as error:
            raise ConfigError(
                "The object store's options are wrong",
                obj=f"sources.{name}.storage",
                todo=self._words(error),
            ) from None

    def list_files(self, choice: Choice) -> Listing:
        """See `Place.list_files`. An ETag tells contents apart; it is never taken for a hash."""
        import obstore

        listing = Listing()
        with self._speaking():
            try:
                for batch in obstore.list(self._store, chunk_size=1000):
                    self._check_time()
                    for one in batch:
                        _add(listing, normal(one["path"]), one["path"], one, choice)
            except FileNotFoundError as error:
                raise self._unreachable(self._words(error)) from None
        listing.close()
        return listing


class WebPlace(_Remote):
    """The files that a web server lists as links, in its pages of folders.

    Args:
        name: of the source, for messages.
        url: of the top page.
        token: a bearer token, sent to that server only.
        deadline_s: for the whole pull.

    Raises:
        ConfigError: the address is none.
        MissingExtraError: obstore is not installed.
    """

    def __init__(self, name: str, url: str, token: str | None, *, deadline_s: float) -> None:
        url = url.partition("?")[0].partition("#")[0].rstrip("/") + "/"
        super().__init__(name, url, (token,) if token else (), deadline_s)
        try:
            from obstore.exceptions import BaseError
            from obstore.store import HTTPStore
        except ImportError:
            raise MissingExtraError.of("obstore", "pipeline") from None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        options = _client(allow_http=url.startswith("http://"))
        if headers:
            options["default_headers"] = headers
        try:
            self._store = HTTPStore.from_url(url, client_options=options, retry_config=_retries())
        except (BaseError, ValueError) as error:
            raise ConfigError(
                "This is no address",
                obj=f"sources.{name}.root: {shown(url)}",
                todo=self._words(error),
            ) from None

    def list_files(self, choice: Choice) -> Listing:
        """See `Place.list_files`. A folder's page that fails makes the listing incomplete."""
        listing = Listing()
        wanted: list[str] = []
        folders, seen = [""], {""}
        while folders:
            folder = folders.pop()
            try:
                links = self._links(folder)
            except (SourceUnreachableError, ParseError, FileNotFoundError) as error:
                if not folder:
                    raise self._unreachable(_todo(error)) from None
                listing.failed[folder] = _todo(error)
                continue
            for path in links:
                key = normal(path.rstrip("/"))
                if path.endswith("/"):
                    if path not in seen and not choice.leaves_out(key) and not _hidden(key):
                        seen.add(path)
                        folders.append(path)
                elif path not in seen and choice.takes_path(key):
                    seen.add(path)
                    wanted.append(path)
            if len(seen) > _MAX_PAGES and len(folders) > _MAX_PAGES:
                raise self._unreachable(f"more than {_MAX_PAGES:,} folders")
        self._look_at(wanted, listing, choice)
        listing.close()
        return listing

    def _links(self, folder: str) -> list[str]:
        """Paths below the root that a folder's page links to; those of folders end with `/`."""
        from lxml import etree

        page = self._get(folder.rstrip("/"), _MAX_PAGE_BYTES)
        tree = etree.fromstring(page, etree.HTMLParser(no_network=True)) if page.strip() else None
        base = urljoin(self._url, quote(folder))
        top, below = (unquote(urlsplit(one).path) for one in (self._url, base))
        found = []
        for link in [] if tree is None else tree.iter("a"):
            target = urlsplit(urljoin(base, link.get("href", "")))
            path = unquote(target.path)
            if target[:2] == urlsplit(base)[:2] and path.startswith(below) and path != below:
                found.append(path[len(top) :])
        return found

    def _look_at(self, paths: list[str], listing: Listing, choice: Choice) -> None:
        """Ask for size, time and ETag of each file, some at a time."""
        import obstore

        def head(path: str) -> Any:
            try:
                with self._speaking():
                    return obstore.head(self._store, path)
            except FileNotFoundError:
                return None

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for path, about in zip(paths, pool.map(head, paths), strict=True):
                if about is not None:
                    _add(listing, normal(path), path, about, choice)


def _add(listing: Listing, key: str, path: str, about: Mapping[str, Any], choice: Choice) -> None:
    if not choice.takes_path(key):
        return
    fmt = format_of(key.rpartition("/")[2])
    changed, size, etag = about["last_modified"], about["size"], about["e_tag"]
    if fmt is None:
        # Some stores list a folder as an empty object.
        listing.other += bool(size)
        return
    if fmt.name == "text" and not size and "." not in key.rpartition("/")[2]:
        return
    version = stamp = None
    if etag:
        version = f"etag-{hashlib.sha256(f'{etag}:{size}'.encode()).hexdigest()[:32]}"
    elif changed.timestamp() > 0:
        stamp = f"{int(changed.timestamp() * 1e9)}:{size}"
    listing.files.append(Item(key, (path, changed), fmt, stamp or "", version))


def _hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))


def _todo(error: Exception) -> str:
    return str(getattr(error, "todo", "") or getattr(error, "what", "") or "there is no such page")


def _client(*, allow_http: bool) -> dict[str, Any]:
    return {"allow_http": allow_http, "timeout": f"{_TIMEOUT_S}s", "connect_timeout": "10s"}


def _retries() -> dict[str, Any]:
    return {"max_retries": 3, "retry_timeout": timedelta(seconds=2 * _TIMEOUT_S)}
