"""The encoding without a model, for tests of everything around one."""

from __future__ import annotations

from dataclasses import replace

from headwater.config import KnowledgeBase
from headwater.flows.encoding.value import Encoding, encoder_of
from headwater.flows.texts import cutter_for
from headwater.retrieval.embedding import HashEmbedder
from headwater.storage.manifest import Encoder
from headwater.storage.objects import ObjectStore


def twin_encoding(
    kb: KnowledgeBase,
    parent: Encoder | None,
    objects: ObjectStore,
    *,
    new_model: bool,
    dry_run: bool,
) -> Encoding:
    """A deterministic encoding; see `EncodingOpener`."""
    twin = HashEmbedder()
    files = {} if dry_run else {"tokenizer": objects.put_bytes(twin.tokenizer, "tokenizer.json")}
    encoder = encoder_of(replace(twin.space, model=kb.config.model), "hash", files)
    return Encoding(encoder, cutter_for(kb, encoder, twin.tokenizer), lambda: twin)
