"""Which vector stands for a text?

Owns the protocol of embedding in bulk, one file per backend, the canary texts that tell whether two
of them speak of the same space, and the twin that needs no model. Never decides which backend a
knowledge base uses, and never writes a vector anywhere.
"""

from headwater.retrieval.embedding.canary import (
    CANARY_TEXTS,
    SAME_SPACE,
    agreement,
    canary_vectors,
    least_agreement,
)
from headwater.retrieval.embedding.graph import OpenVinoEmbedder
from headwater.retrieval.embedding.protocol import Embedder, groups_by_length
from headwater.retrieval.embedding.sentence_models import SentenceTransformersEmbedder, quiet
from headwater.retrieval.embedding.twin import HashEmbedder

__all__ = [
    "CANARY_TEXTS",
    "SAME_SPACE",
    "Embedder",
    "HashEmbedder",
    "OpenVinoEmbedder",
    "SentenceTransformersEmbedder",
    "agreement",
    "canary_vectors",
    "groups_by_length",
    "least_agreement",
    "quiet",
]
