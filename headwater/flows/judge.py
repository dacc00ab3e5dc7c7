"""From an intake to a decision: what is believed, what is held back, what may go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import pyarrow as pa

from headwater.config import KnowledgeBase
from headwater.flows.intake import Intake
from headwater.storage.changes import Changes, LiveDocument, plan_changes
from headwater.storage.manifest import Gate, SourceState
from headwater.validation.contracts import Suite, load_suite


@dataclass(frozen=True)
class Judged:
    """What is to be done with one source.

    Attributes:
        changes: what is believed, with the deletions that are allowed.
        state: the source's new state; None when it is to be forgotten.
        refused: rows of the quarantine; None when the quarantine is left as it is.
        cleared_keys: keys that leave the quarantine unless refused again.
        gates: results of the checks.
        withheld: deletions that wait for a person.
        note: why, in one line.
    """

    changes: Changes
    state: SourceState | None
    refused: pa.Table | None = None
    cleared_keys: frozenset[str] = frozenset()
    gates: tuple[Gate, ...] = ()
    withheld: int = 0
    note: str = ""
