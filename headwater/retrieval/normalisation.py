"""The form of a text that is hashed, embedded and cut into words."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Final

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def normalise(text: str) -> str:
    """The text that is hashed and embedded: NFC, every run of whitespace one space, stripped."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", without_surrogates(text))
    return " ".join(text.split())


def text_hash(text: str) -> bytes:
    """sha256 of `normalise(text)`, 32 bytes: what a vector is cached under."""
    return hashlib.sha256(normalise(text).encode()).digest()


def without_surrogates(text: str) -> str:
    """`text` with each lone surrogate, which no file can hold, replaced by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)
