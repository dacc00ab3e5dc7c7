"""What a pull of an API leaves for the next one, and what must not stand in it.

The watermark is part of a manifest. A secret of the environment, and a configured parameter, stay
names in it: `<NAME:0>` stands for what `${NAME}` was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, quote_plus

from headwater.config import expand
from headwater.flows.sources.http import Validators

_ENV = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_MOST_PAGES = 200
"""Of a longer list no page is remembered, only the hash of all: a manifest is no place for more."""


@dataclass(frozen=True)
class KnownPage:
    """A page as the watermark keeps it; `url` is masked, `sha256` is of its body."""

    url: str
    validators: Validators
    sha256: str


@dataclass(frozen=True)
class ApiWatermark:
    """What the last published extract was.

    Attributes:
        pages: of a complete listing that is still what the documents are; empty otherwise.
        digest: of the records of that listing; "" without one.
        since: the newest time of a record that was seen; None where records have no time.
    """

    pages: tuple[KnownPage, ...] = ()
    digest: str = ""
    since: datetime | None = None

    @property
    def askable(self) -> bool:
        """Whether the server can be asked, page by page, if it changed."""
        return bool(self.pages) and all(page.validators.headers() for page in self.pages)

    def write(self, signature: str) -> str:
        """The watermark of a configuration with this signature, as JSON."""
        data: dict[str, Any] = {"config": signature}
        if self.digest:
            data["digest"] = self.digest
        if self.since is not None:
            data["since"] = self.since.isoformat()
        if len(self.pages) <= _MOST_PAGES:
            data["pages"] = [
                {
                    "url": page.url,
                    "etag": page.validators.etag,
                    "last_modified": page.validators.last_modified,
                    "sha256": page.sha256,
                }
                for page in self.pages
            ]
        return json.dumps(data, sort_keys=True)


def read_watermark(text: str | None, signature: str) -> ApiWatermark:
    """The watermark in `text`; an empty one when it is of another configuration, or no watermark."""
    try:
        data = json.loads(text or "null")
        if data["config"] != signature:
            return ApiWatermark()
        pages = tuple(
            KnownPage(p["url"], Validators(p["etag"], p["last_modified"]), p["sha256"])
            for p in data.get("pages", ())
        )
        since = data.get("since")
        return ApiWatermark(pages, data.get("digest", ""), since and datetime.fromisoformat(since))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ApiWatermark()


class Mask:
    """Puts names in the place of secrets, and back.

    Args:
        templates: texts of the configuration that may hold `${NAME}`.
        named: further texts by name that are to be masked.
    """

    def __init__(self, templates: tuple[str, ...], named: Mapping[str, str]) -> None:
        found: dict[str, str] = {}
        texts = {
            name: expand(name, where="a configured text")
            for text in templates
            for name in _ENV.findall(text)
        }
        for name, value in {**texts, **named}.items():
            for form, spelled in enumerate((value, quote(value, safe=""), quote_plus(value))):
                if spelled and spelled not in found.values():
                    found[f"<{name}:{form}>"] = spelled
        self._pairs = sorted(found.items(), key=lambda item: -len(item[1]))

    def hide(self, url: str) -> str:
        """`url` with what was secret named instead of shown."""
        for name, value in self._pairs:
            url = url.replace(value, name)
        return url

    def show(self, url: str) -> str:
        """`url` as it was."""
        for name, value in reversed(self._pairs):
            url = url.replace(name, value)
        return url

    def page(self, url: str, validators: Validators, sha256: str) -> KnownPage:
        """A page as the watermark may keep it."""
        masked = self.hide(url)
        # A page that cannot be asked for again proves nothing next time.
        usable = self.show(masked) == url
        return KnownPage(masked, validators if usable else Validators(), sha256)
