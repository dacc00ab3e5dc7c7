"""What one refresh is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from headwater.flows.sources.protocol import KeyRange, Window


@dataclass(frozen=True)
class RefreshOptions:
    """What one refresh is asked for.

    Attributes:
        sources: only these; all when empty.
        keys: only these keys (needs exactly one source).
        window: only this range of source time (needs exactly one source).
        key_range: only this range of keys (needs exactly one source).
        observed_at: the knowledge time; now when None. It never runs backwards.
        approved: source -> deletions that a person allowed; a ceiling.
        approved_changes: source -> kind (`withholding.KINDS`) -> changes that a person allowed.
        release: sources whose hold is lifted.
        new_model: build the index anew although the model is another one.
        cause: written into the manifest.
    """

    sources: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    window: Window | None = None
    key_range: KeyRange | None = None
    observed_at: datetime | None = None
    approved: Mapping[str, int] = field(default_factory=dict)
    approved_changes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    release: tuple[str, ...] = ()
    new_model: bool = False
    cause: str = "refresh"

    @property
    def narrowed(self) -> bool:
        """Whether less than whole sources is asked for."""
        return bool(self.keys or self.window or self.key_range)
