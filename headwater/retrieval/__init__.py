"""What does the knowledge say?

Owns chunks, embeddings, segments, search and serving. Never writes to what is published and never
needs a network.
"""

from headwater.retrieval.hits import Hit
from headwater.retrieval.retriever import Retriever

__all__ = ["Hit", "Retriever"]
