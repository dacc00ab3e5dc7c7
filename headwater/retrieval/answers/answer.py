"""Search, prompt, ask, check: a question in, an answer that can be believed or not out."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from headwater.retrieval.answers.checking import Checked, check
from headwater.retrieval.answers.prompt import ABSTENTION, Message, Prompt, build_prompt
from headwater.retrieval.filters import Expression
from headwater.retrieval.hits import Hit, Mode
from headwater.storage.manifest import format_time

if TYPE_CHECKING:
    from headwater.config import AnswersConfig
    from headwater.retrieval.retriever import Retriever

_NOTHING = Checked((), (), (), (), ())


@dataclass(frozen=True)
class Answer:
    """An answer, what it stands on, and what is wrong with it.

    Attributes:
        question: as asked.
        text: of the answer; empty where it abstains or nobody was asked.
        abstained: the knowledge does not hold the answer.
        asked: whether a model was; not without an endpoint, and not without a passage.
        citations: number -> the passage, for each that the answer cites.
        checked: what the checks found.
        warnings: what a reader should know before relying on it.
        prompt: what the model was, or would be, shown.
        snapshot: that was searched.
        as_of: its time.
        model: that wrote it; empty where nobody did.
        finish_reason: why it stopped, as the endpoint says: `stop`; `length` where it was cut off.
        usage: tokens, as the endpoint counts them.
    """

    question: str
    text: str
    abstained: bool
    asked: bool
    citations: Mapping[int, Hit]
    checked: Checked
    warnings: tuple[str, ...]
    prompt: Prompt
    snapshot: str
    as_of: datetime
    model: str = ""
    finish_reason: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)

    @property
    def grounded(self) -> bool:
        """Whether it cites passages, is whole, and passed every check."""
        return bool(self.text) and self.finish_reason != "length" and self.checked.grounded

    def as_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; the passages are those of the prompt, by number."""
        return {
            "question": self.question,
            "answer": self.text or None,
            "abstained": self.abstained,
            "asked": self.asked,
            "grounded": self.grounded,
            "citations": list(self.citations),
            "checks": asdict(self.checked),
            "warnings": list(self.warnings),
            "passages": [
                {"number": number, **hit.as_dict()}
                for number, hit in enumerate(self.prompt.passages, 1)
            ],
            "left_out": self.prompt.left_out,
            "prompt": [dict(message) for message in self.prompt.messages],
            "snapshot": self.snapshot,
            "as_of": format_time(self.as_of),
            "model": self.model or None,
            "finish_reason": self.finish_reason or None,
            "usage": dict(self.usage),
        }


class AnswerStream:
    """The pieces of an answer as they come; `answer` is there when they are through.

    Leaving early (`close`, or the end of a `with` block) ends the request. One thread may read while
    another closes; it does not wait for the reader, who ends with the piece that comes next.
    """

    def __init__(self, asked: _Asked) -> None:
        self._asked = asked
        self._pieces = asked.pieces()
        self._reading = threading.Lock()
        self._left = False

    def __iter__(self) -> Iterator[str]:
        """Each piece of the text; nothing at all where it abstains."""
        return self

    def __next__(self) -> str:
        """The next piece.

        Raises:
            EndpointError: the model cannot be asked, or its reply cannot be used.
        """
        try:
            with self._reading:
                if self._left:
                    raise StopIteration
                return next(self._pieces)
        finally:
            if self._left:
                self.close()

    def __enter__(self) -> Self:
        """The stream itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End the request, if it goes on; there are no more pieces then."""
        self._left = True
        # Whoever reads at this moment closes when it is through.
        if self._reading.acquire(blocking=False):
            try:
                self._pieces.close()
            finally:
                self._reading.release()

    @property
    def answer(self) -> Answer:
        """The checked answer; what was not read yet is read first.

        Raises:
            EndpointError: as when the pieces are read.
        """
        for _ in self:
            pass
        return self._asked.answer()


def answer(
    retriever: Retriever,
    question: str,
    *,
    config: AnswersConfig,
    as_of: str | datetime | None = None,
    sources: Sequence[str] | None = None,
    max_staleness: timedelta | None = None,
    where: str | Expression | None = None,
    allow: Sequence[str] | None = None,
    changed_since: datetime | None = None,
    mode: Mode = "hybrid",
    freshness: Mapping[str, timedelta] | None = None,
    now: datetime | None = None,
) -> Answer:
    """Answer a question from what a search finds.

    Args:
        retriever: of the knowledge base.
        question: a person's words.
        config: the endpoint and the budgets; without an endpoint the answer holds the prompt alone.
        as_of: as in `Retriever.search`, like the other restrictions.
        sources: only documents of these.
        max_staleness: only documents confirmed within this time.
        where: only documents for which this filter is true.
        allow: the caller's labels.
        changed_since: only documents that changed later.
        mode: what the search looks for.
        freshness: source -> how long ago it may have been confirmed before a citation of it is
            warned of; None warns of none.
        now: for these warnings; the clock when None.

    Raises:
        EndpointError: the model cannot be asked, or its reply cannot be used.
        HeadwaterError: whatever `Retriever.search` raises.
    """
    return answer_stream(
        retriever,
        question,
        config=config,
        as_of=as_of,
        sources=sources,
        max_staleness=max_staleness,
        where=where,
        allow=allow,
        changed_since=changed_since,
        mode=mode,
        freshness=freshness,
        now=now,
    ).answer


def answer_stream(
    retriever: Retriever,
    question: str,
    *,
    config: AnswersConfig,
    as_of: str | datetime | None = None,
    sources: Sequence[str] | None = None,
    max_staleness: timedelta | None = None,
    where: str | Expression | None = None,
    allow: Sequence[str] | None = None,
    changed_since: datetime | None = None,
    mode: Mode = "hybrid",
    freshness: Mapping[str, timedelta] | None = None,
    now: datetime | None = None,
) -> AnswerStream:
    """The same, piece by piece: the search is done when this returns, the model not yet asked."""
    hits = retriever.search(
        question,
        config.passages,
        as_of=as_of,
        sources=sources,
        max_staleness=max_staleness,
        where=where,
        allow=allow,
        changed_since=changed_since,
        mode=mode,
    )
    # All hits are of one snapshot; which one may have moved since the search began.
    manifest = retriever.manifest_of(hits[0].snapshot if hits else as_of)
    prompt = build_prompt(question, hits, tokens=config.context_tokens, as_of=manifest.time)
    past = as_of is not None
    return AnswerStream(
        _Asked(
            question,
            config,
            prompt,
            manifest.name(),
            manifest.time,
            {} if past or freshness is None else dict(freshness),
            now or datetime.now(UTC),
            past=past,
        )
    )


class _Asked:
    """One question on its way to an answer."""

    def __init__(
        self,
        question: str,
        config: AnswersConfig,
        prompt: Prompt,
        snapshot: str,
        as_of: datetime,
        freshness: Mapping[str, timedelta],
        now: datetime,
        *,
        past: bool,
    ) -> None:
        self._question, self._config, self._prompt = question, config, prompt
        self._snapshot, self._as_of = snapshot, as_of
        self._freshness, self._now, self._past = freshness, now, past
        self._text, self._finish, self._asked = "", "", False
        self._usage: dict[str, int] = {}

    def pieces(self) -> Generator[str, None, None]:
        """What the model says, as it says it; held back while it may become an abstention."""
        endpoint = self._config.endpoint
        if endpoint is None or not self._worth_asking():
            return
        from headwater.retrieval.answers.endpoint import said_by

        self._asked = True
        shown = 0
        for said in said_by(
            endpoint,
            self._prompt.messages,
            max_tokens=self._config.answer_tokens,
            temperature=self._config.temperature,
            deadline=self._config.deadline,
            stream=self._config.stream,
        ):
            self._text += said.text
            self._finish = said.finish_reason or self._finish
            self._usage |= said.usage
            begun = self._text.lstrip(" \n\"'*")
            if not ABSTENTION.startswith(begun[: len(ABSTENTION)]) and len(self._text) > shown:
                piece, shown = self._text[shown:], len(self._text)
                yield piece
        if shown < len(self._text) and not self._abstains():
            yield self._text[shown:]

    def answer(self) -> Answer:
        """The checked answer."""
        abstains = self._abstains() if self._asked else not self._worth_asking()
        text = "" if abstains else self._text.strip()
        checked = check(text, self._prompt.passages) if text else _NOTHING
        passages = self._prompt.passages
        endpoint = self._config.endpoint
        return Answer(
            question=self._question,
            text=text,
            abstained=abstains,
            asked=self._asked,
            citations={number: passages[number - 1] for number in checked.cited},
            checked=checked,
            warnings=tuple(self._warnings(checked)),
            prompt=self._prompt,
            snapshot=self._snapshot,
            as_of=self._as_of,
            model=endpoint.model if endpoint and self._asked else "",
            finish_reason=self._finish,
            usage=self._usage,
        )

    def _worth_asking(self) -> bool:
        """Whether there is a passage near enough to ask about."""
        passages, least = self._prompt.passages, self._config.min_cosine
        if least is None:
            return bool(passages)
        return any(hit.cosine is None or hit.cosine >= least for hit in passages)

    def _abstains(self) -> bool:
        return ABSTENTION in self._text[: len(ABSTENTION) + 8]

    def _warnings(self, checked: Checked) -> Iterator[str]:
        for number in checked.cited:
            hit = self._prompt.passages[number - 1]
            if hit.held_back:
                yield f"[{number}] a newer version of {hit.source}/{hit.key} waits in quarantine"
            allowed = self._freshness.get(hit.source)
            if allowed is not None and self._now - hit.verified_at > allowed:
                yield (
                    f"[{number}] {hit.source}/{hit.key} was last confirmed "
                    f"{hit.verified_at:%Y-%m-%d %H:%M} UTC, longer ago than its source promises"
                )
        if self._past:
            yield f"this is what was known on {self._as_of:%Y-%m-%d %H:%M} UTC, not what is now"
        if self._finish == "length":
            yield "the answer was cut off at its limit of tokens"
        if self._finish == "content_filter":
            yield "the endpoint's filter took something out of the answer"
        named = (
            ("cites passages that do not exist", checked.invented),
            ("quotes what no cited passage says", checked.misquoted),
            ("says what the cited passages do not support", checked.unsupported),
            ("makes statements without a citation", checked.uncited),
        )
        for what, found in named:
            if found:
                yield f"the answer {what}: {'; '.join(str(item) for item in found[:3])}"


__all__ = ["ABSTENTION", "Answer", "AnswerStream", "Message", "answer", "answer_stream"]
