"""A LlamaIndex retriever over a knowledge base."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from headwater.errors import MissingExtraError
from headwater.retrieval.adapters.asked import Asked, hit_id, told_of
from headwater.retrieval.hits import Hit
from headwater.retrieval.retriever import Retriever

try:
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import (
        NodeRelationship,
        NodeWithScore,
        QueryBundle,
        RelatedNodeInfo,
        TextNode,
    )
except ImportError:
    raise MissingExtraError.of("llama-index-core", "llama-index") from None

_FOR_THE_MODEL = ("title", "citation")
"""What of the metadata a language model is shown beside the text."""


class HeadwaterRetriever(BaseRetriever):  # type: ignore[misc]
    """Nodes for a query engine: `HeadwaterRetriever(Retriever.open(path), k=8)`.

    Args:
        retriever: of the knowledge base.
        options: the arguments of `Retriever.search`, as `Asked` has them.
    """

    def __init__(self, retriever: Retriever, **options: Any) -> None:
        self._headwater = retriever
        self._asked = Asked(**options)
        super().__init__()

    @classmethod
    def open(cls, path: str | Path, **options: Any) -> HeadwaterRetriever:
        """Open a knowledge base; `options` are the arguments of `Retriever.search`.

        Raises:
            HeadwaterError: as `Retriever.open`.
        """
        return cls(Retriever.open(path), **options)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [_node(hit) for hit in self._asked.search(self._headwater, query_bundle.query_str)]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _node(hit: Hit) -> NodeWithScore:
    told = told_of(hit)
    node = TextNode(
        id_=hit_id(hit),
        text=hit.text,
        metadata=told,
        excluded_embed_metadata_keys=list(told),
        excluded_llm_metadata_keys=[name for name in told if name not in _FOR_THE_MODEL],
        start_char_idx=hit.start,
        end_char_idx=hit.end,
        relationships={
            NodeRelationship.SOURCE: RelatedNodeInfo(
                node_id=f"{hit.source}/{hit.key}", metadata={"version_id": hit.version_id}
            )
        },
    )
    return NodeWithScore(node=node, score=hit.score)
