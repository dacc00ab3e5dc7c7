"""The objects of a bucket, by obstore."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from headwater.errors import (
    ConfigError,
    MissingExtraError,
    ParseError,
    SourceUnreachableError,
)
from headwater.flows.sources.folder import too_large
from headwater.flows.sources.places import Choice, Item, Listing, Local, format_of, normal
from headwater.flows.sources.urls import shown

_TIMEOUT_S = 30


class BucketPlace(Local):
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

    dated = True

    def __init__(
        self, name: str, url: str, options: Mapping[str, str], *, deadline_s: float
    ) -> None:
        self._name = name
        self._url = url
        # What no message may show.
        self._secrets = tuple(one for one in options.values() if len(one) > 3)
        self._deadline_s = deadline_s
        self._ends = time.monotonic() + deadline_s
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
    version = version_of(f"{etag}:{size}") if etag else None
    stamp = "" if etag else f"{int(changed.timestamp() * 1e9)}:{size}"
    listing.files.append(Item(key, (path, changed), fmt, stamp, version))


def version_of(etag: str) -> str:
    """What an ETag is in a fingerprint: compared for equality, never taken for a hash."""
    return f"etag-{hashlib.sha256(etag.encode()).hexdigest()[:32]}"


def _client(*, allow_http: bool) -> dict[str, Any]:
    return {"allow_http": allow_http, "timeout": f"{_TIMEOUT_S}s", "connect_timeout": "10s"}


def _retries() -> dict[str, Any]:
    return {"max_retries": 3, "retry_timeout": timedelta(seconds=2 * _TIMEOUT_S)}
