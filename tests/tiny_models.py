"""Models of sentence-transformers with random weights, small enough to be made in a test."""

from __future__ import annotations

from pathlib import Path

WORDS = "the pump feeds hall two three lifts water valve gauge is read at nine a new"


def tiny_model(folder: Path, *, dense: bool = False, seed: int = 1) -> Path:
    """A transformer with mean pooling; with `dense`, one that cannot be exported."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(seed)
    bare = folder.with_name(f"{folder.name}-bare")
    bare.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    (bare / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(bare / "vocab.txt")).save_pretrained(bare)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=128,
        initializer_range=1.0,
    )
    BertModel(config).save_pretrained(bare)
    words = Transformer(str(bare), max_seq_length=64)
    parts = [words, Pooling(16, pooling_mode="mean")]
    if dense:
        parts.append(Dense(16, 8))
    SentenceTransformer(modules=parts, device="cpu").save(str(folder))
    return folder
