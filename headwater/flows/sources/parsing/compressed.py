"""Gzip: the one document in a compressed file, read by its own parser."""

from __future__ import annotations

import zlib

from headwater.errors import ParseError
from headwater.flows.sources.parsing import MAX_DEPTH, ParsedDocument

_MAGIC = b"\x1f\x8b"
_LARGEST = 100_000_000


def parse_gzip(data: bytes, *, name: str, encoding: str) -> ParsedDocument:
    """`notes.md.gz` is read as `notes.md`.

    Raises:
        ParseError: the file is damaged, cut short, too large, or holds archives in archives; or
            no parser reads what is in it.
    """
    from headwater.flows.sources.parsing.formats import BY_SUFFIX

    inner = name
    for _ in range(MAX_DEPTH + 1):
        if not data.startswith(_MAGIC):
            break
        data = _unpack(data, name=name)
        inner = inner[:-3] if inner.lower().endswith(".gz") else inner
    else:
        raise ParseError(
            "The archive is nested too deeply",
            obj=name,
            todo=f"more than {MAX_DEPTH} in each other",
        )
    if inner == name:
        raise ParseError("The file is not gzip", obj=name, todo="it does not start like one")
    last = inner.rpartition("/")[2]
    fmt = BY_SUFFIX.get(last.rpartition(".")[2].lower() if "." in last else "")
    if fmt is None or fmt.name == "gzip":
        raise ParseError("No parser reads what is compressed here", obj=name, todo=last)
    fmt.check_installed()
    return fmt.parser()(data, name=inner, encoding=encoding)


def _unpack(data: bytes, *, name: str) -> bytes:
    parts = []
    size = 0
    while data:
        unpacker = zlib.decompressobj(wbits=31)
        try:
            part = unpacker.decompress(data, _LARGEST + 1 - size)
        except zlib.error as error:
            raise ParseError("The file is not valid gzip", obj=name, todo=str(error)) from None
        size += len(part)
        if size > _LARGEST:
            raise ParseError(
                "The file grows too large", obj=name, todo=f"over {_LARGEST:,} bytes unpacked"
            )
        if not unpacker.eof:
            raise ParseError("The file is cut short", obj=name, todo="fetch or save it again")
        parts.append(part)
        # Members may follow each other; padding may follow the last one.
        data = unpacker.unused_data.lstrip(b"\0")
    return b"".join(parts)
