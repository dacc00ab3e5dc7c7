"""Messages (`.eml`), by the standard library: who wrote what to whom, and what is attached."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from datetime import UTC
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from typing import Any

from headwater.errors import ParseError
from headwater.flows.sources.parsing import MAX_DEPTH, ParsedDocument
from headwater.flows.sources.parsing.decoding import AUTO, decode_naming
from headwater.flows.sources.parsing.markup import html_to_markdown

_PEOPLE = ("from", "to", "cc")
_MAX_PARTS = 1000


def parse_mail(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """The subject as heading, people and date as lines, then the text; HTML where there is none.

    Messages that are attached or forwarded follow, two deep. Other attachments are named in the
    metadata and not read.
    """
    message = email.message_from_bytes(data, policy=email.policy.default)
    if not isinstance(message, EmailMessage) or not any(
        message[header] for header in ("from", "subject", "date", "to")
    ):
        raise ParseError("The file is no message", obj=name, todo="it has no header of one")
    attached: list[str] = []
    text = "\n\n".join(_parts(message, 1, attached, name=name, encoding=encoding))
    about: dict[str, Any] = {key: value for key in _PEOPLE if (value := _header(message, key))}
    if sent := _date(message):
        about["date"] = sent
    if attached:
        about["attachments"] = attached
    return ParsedDocument(text, _header(message, "subject") or None, about)


def _parts(
    message: EmailMessage, depth: int, attached: list[str], *, name: str, encoding: str
) -> Iterator[str]:
    """The blocks of one message and of those in it."""
    subject = _header(message, "subject")
    if subject:
        yield f"{'#' * depth} {subject}"
    named = [(key.capitalize(), _header(message, key)) for key in _PEOPLE]
    named.append(("Date", _date(message)))
    if lines := [f"{title}: {value}" for title, value in named if value]:
        yield "\n".join(lines)
    plain, pages, inner = _sorted_parts(message, attached)
    body = [_content(part, name=name, encoding=encoding) for part in plain]
    if not any(one.strip() for one in body):
        body = [
            html_to_markdown(_content(part, name=name, encoding=encoding), name=name)[0]
            for part in pages
        ]
    yield from (one.strip("\n") for one in body if one.strip())
    for one in inner:
        if depth > MAX_DEPTH:
            raise ParseError(
                "The message is nested too deeply",
                obj=name,
                todo=f"more than {MAX_DEPTH} in each other",
            )
        yield from _parts(one, depth + 1, attached, name=name, encoding=encoding)


def _sorted_parts(
    message: EmailMessage, attached: list[str]
) -> tuple[list[EmailMessage], list[EmailMessage], list[EmailMessage]]:
    """Plain texts, pages and messages of one message, without going into the latter."""
    plain: list[EmailMessage] = []
    pages: list[EmailMessage] = []
    inner: list[EmailMessage] = []
    stack = [message]
    seen = 0
    while stack and seen < _MAX_PARTS:
        part = stack.pop()
        seen += 1
        kind = part.get_content_type()
        filename = part.get_filename()
        if kind == "message/rfc822":
            inner += [one for one in part.iter_parts() if isinstance(one, EmailMessage)]
        elif part.is_multipart():
            stack += reversed([one for one in part.iter_parts() if isinstance(one, EmailMessage)])
        elif filename and (part.is_attachment() or not kind.startswith("text/")):
            attached.append(" ".join(filename.split()))
        elif kind == "text/plain":
            plain.append(part)
        elif kind == "text/html":
            pages.append(part)
    return plain, pages, inner


def _content(part: EmailMessage, *, name: str, encoding: str) -> str:
    """A part's text in the charset it names, or as any other text where that is wrong."""
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    charset = part.get_content_charset()
    if charset:
        try:
            return data.decode(charset).replace("\r\n", "\n")
        except (LookupError, UnicodeError):
            pass
    try:
        return decode_naming(data, name=name, encoding=encoding)[0]
    except ParseError:
        return decode_naming(data.replace(b"\0", b""), name=name, encoding=AUTO)[0]


def _header(message: EmailMessage, key: str) -> str:
    try:
        value = message[key]
    except (ValueError, IndexError, AttributeError, TypeError):
        # The standard library stumbles over some malformed addresses.
        value = next((raw for field, raw in message.raw_items() if field.lower() == key), "")
    return " ".join(str(value or "").split())


def _date(message: EmailMessage) -> str:
    """When it was sent, ISO 8601 in UTC; empty when it does not say or says nonsense."""
    try:
        sent = parsedate_to_datetime(_header(message, "date"))
    except (ValueError, IndexError, TypeError, OverflowError):
        return ""
    sent = sent if sent.tzinfo else sent.replace(tzinfo=UTC)
    try:
        return sent.astimezone(UTC).isoformat()
    except OverflowError:
        return ""
