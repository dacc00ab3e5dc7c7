"""Which model turns texts into vectors in this run, and is it still the one the store was built with?

A knowledge base that was built once needs neither torch nor the model's folder again: the snapshot
carries the exported graph, and the refresh embeds with that. Another model's vectors are never put
beside those that are there: it gets a space of its own, built aside and published in one step.
"""

from __future__ import annotations

from headwater.config import KnowledgeBase
from headwater.flows.encoding.canary import canary_gates
from headwater.flows.encoding.endpoint import endpoint_encoding, is_told
from headwater.flows.encoding.local import LOCAL, export_again, local_encoding
from headwater.flows.encoding.twin import twin_encoding
from headwater.flows.encoding.value import Encoding, EncodingOpener
from headwater.flows.texts import cutter_name
from headwater.storage.manifest import Encoder, Manifest
from headwater.storage.objects import ObjectStore

__all__ = [
    "LOCAL",
    "Encoding",
    "EncodingOpener",
    "canary_gates",
    "export_again",
    "is_current",
    "open_encoding",
    "twin_encoding",
]


def open_encoding(
    kb: KnowledgeBase,
    parent: Encoder | None,
    objects: ObjectStore,
    *,
    new_model: bool,
    dry_run: bool,
) -> Encoding:
    """The configured model, on this machine or at its endpoint; see `EncodingOpener`."""
    opener = local_encoding if kb.config.embedding.endpoint is None else endpoint_encoding
    return opener(kb, parent, objects, new_model=new_model, dry_run=dry_run)


def is_current(kb: KnowledgeBase, parent: Manifest) -> bool:
    """Whether a snapshot was cut and embedded as the configuration says; loads nothing."""
    encoder, endpoint = parent.encoder, kb.config.embedding.endpoint
    if encoder is None or parent.chunker != cutter_name(kb, encoder):
        return False
    if endpoint is None:
        return encoder.model == kb.config.model
    return encoder.model == endpoint.model and is_told(endpoint, encoder, root=kb.root)
