"""Models of sentence-transformers with random weights, small enough to be made in a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import BertConfig

WORDS = "the pump feeds hall two three lifts water valve gauge is read at nine a new"


def bert_files(folder: Path, words: Sequence[str], **more: Any) -> BertConfig:
    """Write the tokenizer of these words into `folder`; returns the smallest model's configuration."""
    from transformers import BertConfig, BertTokenizerFast

    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        **more,
    )


def tiny_model(folder: Path, *, dense: bool = False, seed: int = 1) -> Path:
    """A transformer with mean pooling; with `dense`, one that cannot be exported."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
    from transformers import BertModel

    torch.manual_seed(seed)
    bare = folder.with_name(f"{folder.name}-bare")
    config = bert_files(bare, WORDS.split(), max_position_embeddings=128, initializer_range=1.0)
    BertModel(config).save_pretrained(bare)
    words = Transformer(str(bare), max_seq_length=64)
    parts = [words, Pooling(16, pooling_mode="mean")]
    if dense:
        parts.append(Dense(16, 8))
    SentenceTransformer(modules=parts, device="cpu").save(str(folder))
    return folder
