"""Counting tokens the way the embedding model does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer as _Fast

from headwater.errors import ModelError

ESTIMATING: Final = json.dumps(
    {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {
                    "type": "Split",
                    "pattern": {"Regex": r"[\p{Latin}\p{Cyrillic}\p{Greek}\p{N}_]{1,4}|."},
                    "behavior": "Isolated",
                    "invert": False,
                },
            ],
        },
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
    }
).encode()
"""A `tokenizer.json` for a model whose own is not at hand: four letters of an alphabet are a token,
any other character is one. For nearly every tokenizer in use that is more than it really makes."""


class Tokenizer:
    """The tokenizer of an embedding model, without the truncation and padding its file may ship.

    all-MiniLM-L6-v2 ships truncation at 128, which silently makes every longer text count as 128.

    Args:
        source: a `tokenizer.json`, as a path or as its bytes.
        truncate_at: tokens kept of a text, special tokens not counted. None, which counting needs,
            keeps all.

    Raises:
        ModelError: the file is missing or is no tokenizer.
    """

    def __init__(self, source: Path | bytes, *, truncate_at: int | None = None) -> None:
        try:
            data = source if isinstance(source, bytes) else source.read_bytes()
            self._fast = _Fast.from_buffer(data)
        except (OSError, ValueError) as error:
            raise ModelError(
                "The tokenizer cannot be read",
                obj="tokenizer.json" if isinstance(source, bytes) else str(source),
                todo=f"{error}; fetch the model again",
            ) from None
        self._fast.no_truncation()
        self._fast.no_padding()
        self.specials: Final[int] = self._fast.num_special_tokens_to_add(False)
        if truncate_at is not None:
            self._fast.enable_truncation(truncate_at + self.specials)

    def count(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, special tokens left out."""
        if not texts:
            return []
        batch = self._fast.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(item) for item in batch]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The (start, end) character span of each token, special tokens left out."""
        return list(self._fast.encode(text, add_special_tokens=False).offsets)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, special tokens included, truncated at `truncate_at`."""
        if len(texts) == 1:
            # A batch would start the thread pool of the library, which a later fork regrets.
            return [list(self._fast.encode(texts[0]).ids)]
        return [list(item.ids) for item in self._fast.encode_batch_fast(list(texts))]
