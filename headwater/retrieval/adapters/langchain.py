"""A LangChain retriever over a knowledge base."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from headwater.errors import MissingExtraError
from headwater.retrieval.adapters.asked import Asked, hit_id, told_of
from headwater.retrieval.hits import Hit, Mode
from headwater.retrieval.retriever import Retriever

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
except ImportError:
    raise MissingExtraError.of("langchain-core", "langchain") from None


class HeadwaterRetriever(BaseRetriever):  # type: ignore[misc]
    """Documents for a chain: `HeadwaterRetriever.open(path, k=8)`.

    The fields are the arguments of `Retriever.search`. A document's `id` names the passage of a
    version; its metadata is the hit, with `citation`, and the document's own under `metadata`.
    """

    retriever: Retriever
    k: int = 5
    mode: Mode = "hybrid"
    as_of: str | datetime | None = None
    sources: Sequence[str] | None = None
    where: str | None = None
    allow: Sequence[str] | None = None
    max_staleness: timedelta | None = None
    changed_since: datetime | None = None
    rerank: int | None = None

    @classmethod
    def open(cls, path: str | Path, **options: Any) -> HeadwaterRetriever:
        """Open a knowledge base; `options` are the fields.

        Raises:
            HeadwaterError: as `Retriever.open`.
        """
        return cls(retriever=Retriever.open(path), **options)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun | None = None
    ) -> list[Document]:
        return [_document(hit) for hit in self._asked().search(self.retriever, query)]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun | None = None
    ) -> list[Document]:
        hits = await asyncio.to_thread(self._asked().search, self.retriever, query)
        return [_document(hit) for hit in hits]

    def _asked(self) -> Asked:
        return Asked(**{name: getattr(self, name) for name in Asked.__dataclass_fields__})


def _document(hit: Hit) -> Document:
    return Document(id=hit_id(hit), page_content=hit.text, metadata=told_of(hit))
