"""From bytes to text: byte order marks, the configured encoding, and a guess where none is given.

A guess is only made for text that is not UTF-8. It is deterministic, it must decode the whole file,
and it stands in the metadata of the document, as it may be wrong.
"""

from __future__ import annotations

import codecs
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from headwater.errors import ConfigError, MissingExtraError, ParseError

AUTO = "auto"
"""The encoding option that asks for a guess."""

# UTF-32 before UTF-16: the little-endian mark of the latter starts that of the former.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What files of the last forty years are in; rarer ones are named in the configuration.
_LIKELY = [
    "cp1252",
    "cp1250",
    "cp1251",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "cp1257",
    "koi8_r",
    "iso8859_2",
    "iso8859_7",
    "shift_jis",
    "euc_jp",
    "gb18030",
    "big5",
    "euc_kr",
    "mac_roman",
    "cp437",
]
_SAMPLE = 1 << 16
# Fewer bytes above ASCII say too little to tell one language from another.
_ENOUGH = 12


@cache
def detector() -> str:
    """The detector and its version, for fingerprints."""
    try:
        return f"charset-normalizer {version('charset-normalizer')}"
    except PackageNotFoundError:
        return "charset-normalizer absent"


def check_encoding(encoding: str, *, where: str) -> str:
    """The configured encoding, once it is known to exist.

    Raises:
        ConfigError: there is no such encoding.
    """
    if encoding == AUTO:
        return encoding
    try:
        # Empty bytes would be decoded without a look at the name.
        b"\n\n\n\n".decode(encoding)
    except UnicodeError:
        pass
    except LookupError:
        raise ConfigError(
            "No such encoding", obj=f"{where}: {encoding}", todo="auto, utf-8, cp1252, latin-1, …"
        ) from None
    return encoding


def byte_order_mark(data: bytes) -> tuple[str, int] | None:
    """The encoding that the mark at the start of `data` names, and the mark's length in bytes."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding, len(mark)
    return None


def decode(data: bytes, *, name: str, encoding: str) -> str:
    """The text of `data`, as `decode_naming`, and nothing guessed: AUTO stands for UTF-8.

    For formats that are UTF-8 by their own definition.
    """
    return _strictly(data, name=name, encoding="utf-8" if encoding == AUTO else encoding)


def decode_naming(data: bytes, *, name: str, encoding: str) -> tuple[str, dict[str, str]]:
    """The text of `data`, and what to say about its encoding: nothing unless it was guessed.

    The byte order mark decides, or else `encoding`, strictly. With AUTO that is UTF-8, and where
    the bytes are none, a guess. Line ends become line feeds.

    Raises:
        ParseError: the bytes are not of that encoding (it names the offset), or look binary.
    """
    if encoding != AUTO:
        return _strictly(data, name=name, encoding=encoding), {}
    if byte_order_mark(data) is None and (wide := _wide(data)):
        return _strictly(data, name=name, encoding=wide), {"encoding": wide}
    try:
        return _strictly(data, name=name, encoding="utf-8"), {}
    except ParseError:
        if byte_order_mark(data) or b"\x00" in data:
            raise
        guess = guess_encoding(data)
        if guess is None:
            raise
    return _strictly(data, name=name, encoding=guess), {"encoding": guess}


def guess_encoding(data: bytes) -> str | None:
    """The likeliest encoding of text that is not UTF-8, None when nothing fits all of it.

    Raises:
        MissingExtraError: the detector is not installed.
    """
    sample = data[:_SAMPLE]
    high = [byte for byte in sample if byte > 0x7F]
    candidates = ["cp1252"] if len(high) < _ENOUGH else [*_detect(sample), "cp1252"]
    for candidate in candidates:
        try:
            text = data.decode(candidate)
        except UnicodeError:
            continue
        if not _is_garbled(text):
            return candidate
    return None


def _detect(sample: bytes) -> list[str]:
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        raise MissingExtraError.of("charset_normalizer", "pipeline") from None
    found = from_bytes(sample, cp_isolation=list(_LIKELY), preemptive_behaviour=False)
    return [match.encoding for match in found]


def _is_garbled(text: str) -> bool:
    """Whether control characters, which no text holds, came out."""
    return any(ch < "\t" or "\r" < ch < "\x1b" or "\x7f" <= ch < "\xa0" for ch in set(text))


def _wide(data: bytes) -> str | None:
    """UTF-16 without a mark shows in every other byte of western text being NUL."""
    sample = data[:4096]
    if len(sample) < 8 or len(data) % 2:
        return None
    half = len(sample) // 2
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if odd > 0.6 * half and even < 0.05 * half:
        return "utf-16-le"
    if even > 0.6 * half and odd < 0.05 * half:
        return "utf-16-be"
    return None


def _strictly(data: bytes, *, name: str, encoding: str) -> str:
    encoding, skip = byte_order_mark(data) or (encoding, 0)
    try:
        text = data[skip:].decode(encoding)
    except UnicodeDecodeError as error:
        raise ParseError(
            f"The file is not {encoding}",
            obj=name,
            todo=f"byte {skip + error.start}: {error.reason}",
        ) from None
    except UnicodeError as error:
        raise ParseError(f"The file is not {encoding}", obj=name, todo=str(error)) from None
    nul = text.find("\x00")
    if nul >= 0:
        raise ParseError("The file looks binary", obj=name, todo=f"character {nul} is NUL")
    return text.replace("\r\n", "\n").replace("\r", "\n")
