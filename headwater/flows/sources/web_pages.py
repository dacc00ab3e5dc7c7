"""One page: asked for, and turned into a document or into the reason why there is none."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit

from headwater.errors import ConfigError, ParseError, SourceDataError, SourceUnreachableError
from headwater.flows.sources.http import HttpSession, Reply, Request, Validators
from headwater.flows.sources.parsing import ParsedDocument
from headwater.flows.sources.parsing.decoding import AUTO, check_encoding, detector
from headwater.flows.sources.parsing.formats import BY_NAME, FORMATS, Format, finish, no_text
from headwater.flows.sources.parsing.worker import ParserWorker
from headwater.flows.sources.protocol import canonical_json
from headwater.flows.sources.web_robots import DisallowedError
from headwater.flows.sources.web_visits import Visit, Visits

MISSING = frozenset({404, 410})
"""Twice in a row, in two pulls, they are a deletion."""

_ANSWERS = frozenset(range(400, 500)) - {408, 425, 429}
_ACCEPT = "text/html, application/xhtml+xml, text/*;q=0.8, application/pdf;q=0.8, */*;q=0.1"
_FORMATS = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "text/plain": "text",
    "text/markdown": "markdown",
    "text/csv": "csv",
    "application/json": "json",
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
}


@dataclass(frozen=True)
class Outcome:
    """What came of asking for one page.

    Attributes:
        state: of the record, as in the protocol; "down" when the site did not answer, and the
            record is unreadable.
        fingerprint: of the document.
        error: why it is unreadable.
        advice: what to do about a site that is down.
        status: 404 or 410 where the page is missing, else 0.
        document: of a page that is present.
        url: where it was found, after redirects.
        modified: when the server says that it changed (UTC).
        size: decoded bytes that were read.
    """

    state: str
    fingerprint: str | None = None
    error: str | None = None
    advice: str = ""
    status: int = 0
    document: ParsedDocument | None = None
    url: str | None = None
    modified: datetime | None = None
    size: int = 0


class PageVisitor:
    """Asks for pages.

    Args:
        http: to ask with.
        allowed: called with each URL before it is asked for.
        worker: parses.
        visits: what is remembered of each page.
        known: key -> fingerprint of live documents.
        page_bytes: a larger page is not read.
        by_name: the pages are those that somebody asked for by name.
        agent: who asks.
    """

    def __init__(
        self,
        *,
        http: HttpSession,
        allowed: Callable[[str], None] | None,
        worker: ParserWorker,
        visits: Visits,
        known: Mapping[str, str],
        page_bytes: int,
        agent: str,
        by_name: bool,
    ) -> None:
        self._http = http
        self._allowed = allowed
        self._worker = worker
        self._visits = visits
        self._known = known
        self._page_bytes = page_bytes
        self._agent = agent
        self._by_name = by_name

    def last(self, url: str) -> Visit | None:
        """The last visit of a page, if the live document is the one it gave."""
        visit = self._visits.get(url)
        return visit if visit and self._known.get(url) == visit.fingerprint else None

    def visit(self, url: str, hint: str | None) -> Outcome:
        """Ask for one page, only if it changed since its last visit."""
        last = self.last(url)
        try:
            reply = self._ask(url, last.validators if last else Validators())
        except DisallowedError:
            return Outcome("unreadable", error="robots.txt asks to leave it alone")
        except SourceUnreachableError as error:
            # Without the details, which differ from time to time: a refusal that stays the same
            # is no news.
            return Outcome("down", error=_lower(error.what), advice=error.todo)
        except SourceDataError as error:
            return Outcome("unreadable", error=_lower(error.what))
        if reply.status in MISSING:
            why = f"the server answered {reply.status}; if it does again next time, it is deleted"
            return Outcome("unreadable", error=why, status=reply.status)
        if reply.status >= 400:
            return Outcome("unreadable", error=f"the server answered {reply.status}")
        if last is not None:
            body = _body_hash(reply)
            if reply.not_modified or body == last.body:
                proof = last.validators if reply.not_modified else reply.validators
                kept = replace(last, validators=proof, hint=hint, at=time.time())
                self._visits.keep(url, kept)
                return Outcome("unchanged", last.fingerprint, size=len(reply.body))
        return self._read(url, reply, hint)

    def _ask(self, url: str, validators: Validators) -> Reply:
        return self._http.send(
            Request(
                url,
                accept=_ACCEPT,
                agent=self._agent,
                validators=validators,
                max_bytes=self._page_bytes,
                keep=_ANSWERS,
                check=self._allowed,
            )
        )

    def _read(self, url: str, reply: Reply, hint: str | None) -> Outcome:
        try:
            document, fingerprint = self._parse(url, reply)
            whole = _shows_its_end(reply)
            if not whole:
                self._doubt(url, reply, fingerprint)
        except ParseError as error:
            return Outcome("unreadable", error=_reason(error), size=len(reply.body))
        except (SourceUnreachableError, SourceDataError) as error:
            return Outcome("unreadable", error=_lower(error.what), size=len(reply.body))
        visit = Visit(fingerprint, _body_hash(reply), reply.validators, hint, time.time(), whole)
        self._visits.keep(url, visit)
        return Outcome(
            "present",
            fingerprint,
            document=document,
            url=reply.url,
            modified=_modified(reply),
            size=len(reply.body),
        )

    def _doubt(self, url: str, reply: Reply, fingerprint: str) -> None:
        """See that a body without an end is what the page is: it always was so, and is so again.

        A server may close the connection early without having said how long the body is, or say
        too small a number.

        Raises:
            ParseError: it may be cut short.
            SourceUnreachableError, SourceDataError: it cannot be read again.
        """
        if _is_html(reply):
            before = self._visits.get(url)
            if before is not None and before.whole and not self._by_name:
                raise ParseError(
                    "It ends without </html>, which it used to have, and may be cut short",
                    todo="if it is so for good, pull it by name: --key",
                )
        elif reply.bounded:
            return
        again = self._ask(url, Validators())
        if again.status != 200 or self._parse(url, again)[1] != fingerprint:
            raise ParseError("Two readings of it differ, and neither shows its end")

    def _parse(self, url: str, reply: Reply) -> tuple[ParsedDocument, str]:
        """The document, and a fingerprint of all that makes its record.

        It is taken from the text: a page sends other bytes each time (a token, a counter) and says
        the same.
        """
        fmt, encoding = _format_of(reply)
        if not reply.body.strip():
            raise no_text(url)
        fmt.check_installed()
        parsed = finish(self._worker.parse(fmt, reply.body, name=url, encoding=encoding), name=url)
        own = {**parsed.metadata, "format": fmt.name}
        document = ParsedDocument(parsed.text, parsed.title or title_of(url), own)
        said = json.dumps([document.text, document.title, reply.url, canonical_json(own)])
        return document, f"{hashlib.sha256(said.encode()).hexdigest()}:{fmt.parser_id(AUTO)}"


def parsers_id() -> str:
    """What a visit depends on besides the page: another parser may read the same bytes otherwise."""
    ids = ";".join(fmt.parser_id(AUTO) for fmt in FORMATS)
    return hashlib.sha256(f"{ids};{detector()}".encode()).hexdigest()[:16]


def title_of(url: str) -> str:
    """A title for a page that has none: the last part of its path, or its host."""
    parts = urlsplit(url)
    name = unquote(parts.path).rstrip("/").rpartition("/")[2]
    return name or parts.netloc


def _format_of(reply: Reply) -> tuple[Format, str]:
    """How a body is read: the format and the encoding that its Content-Type tells.

    Raises:
        ParseError: no parser reads it.
    """
    header = Message()
    header["Content-Type"] = reply.content_type or "text/html"
    name = _FORMATS.get(header.get_content_type())
    if name is None or name not in BY_NAME:
        raise ParseError(f"No parser reads {header.get_content_type()[:80]}")
    charset = header.get_content_charset()
    if charset is None:
        return BY_NAME[name], AUTO
    try:
        return BY_NAME[name], check_encoding(charset, where="Content-Type")
    except ConfigError:
        return BY_NAME[name], AUTO


def _is_html(reply: Reply) -> bool:
    return "html" in (reply.content_type or "text/html")


def _shows_its_end(reply: Reply) -> bool:
    """Whether a body can be seen to be whole: HTML usually ends with its closing tag."""
    return _is_html(reply) and b"</html" in reply.body[-4096:].lower()


def _body_hash(reply: Reply) -> str:
    return hashlib.sha256(reply.content_type.encode() + b"\0" + reply.body).hexdigest()


def _modified(reply: Reply) -> datetime | None:
    if not reply.validators.last_modified:
        return None
    try:
        when = parsedate_to_datetime(reply.validators.last_modified)
    except ValueError:
        return None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _reason(error: ParseError) -> str:
    what = _lower(error.what)
    return f"{what}: {error.todo}" if error.todo else what
