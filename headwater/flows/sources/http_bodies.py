"""From the bytes on the wire to the bytes of a body, a bounded piece at a time.

A few kilobytes of gzip can hold gigabytes. The decoder is asked for no more than a piece, so that
whoever counts the pieces stops in time whatever the ratio.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

ACCEPTED = "gzip, deflate"
"""What requests say they take."""

_PIECE = 1 << 18
_GZIP = 31
_ZLIB = 15
_RAW = -15


class CutShortError(Exception):
    """The compressed body ends before its end."""


class WrongEncodingError(Exception):
    """The body is not compressed as the reply says, or in a way that was not asked for."""


def decode(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """The decoded body of a reply whose `Content-Encoding` is `encoding`, in pieces of 256 KiB.

    Raises:
        CutShortError: the body is not whole.
        WrongEncodingError: it cannot be decoded.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return iter(pieces)
    if name in ("gzip", "x-gzip"):
        return _inflate(pieces, _GZIP)
    if name == "deflate":
        return _deflated(pieces)
    raise WrongEncodingError(f"Content-Encoding: {name[:60]}")


def is_gzip(data: bytes) -> bool:
    """Whether `data` starts as a gzip file does."""
    return data[:2] == b"\x1f\x8b"


def _deflated(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """`deflate` means zlib's format; some servers send the bare stream instead."""
    source = iter(pieces)
    head = b""
    while len(head) < 2:
        piece = next(source, None)
        if piece is None:
            break
        head += piece
    zlib_header = len(head) >= 2 and head[0] & 0x0F == 8 and (head[0] << 8 | head[1]) % 31 == 0
    return _inflate(_joined(head, source), _ZLIB if zlib_header else _RAW)


def _joined(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest


def _inflate(pieces: Iterable[bytes], kind: int) -> Iterator[bytes]:
    decoder = zlib.decompressobj(kind)
    started = False
    try:
        for piece in pieces:
            data = piece
            while data:
                if decoder.eof:
                    # A gzip file may be several, one after the other; padding is none.
                    if kind != _GZIP or not is_gzip(data):
                        break
                    decoder = zlib.decompressobj(kind)
                started = True
                yield from _drain(decoder, data)
                data = decoder.unused_data
    except zlib.error as error:
        raise WrongEncodingError(str(error)) from None
    if started and not decoder.eof:
        raise CutShortError("the compressed body has no end")


def _drain(decoder: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    """All that `data` decodes to, a piece at a time."""
    while True:
        out = decoder.decompress(data, _PIECE)
        if out:
            yield out
        data = decoder.unconsumed_tail
        # A full piece may leave output behind although all input was taken.
        if decoder.eof or (not data and len(out) < _PIECE):
            return
