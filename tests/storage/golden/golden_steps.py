"""The life of the golden store, step by step; each step says what a reader must see after it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from headwater.config import KnowledgeBase, load
from headwater.flows.encoding import twin_encoding
from headwater.flows.erasure import ErasureRequest, erase
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.report import RefreshReport
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.storage.feed import change_feed
from headwater.storage.sql import run_sql
from headwater.storage.store import Store, new_run_id
from headwater.storage.tags import set_tag
from headwater.storage.vacuum import vacuum

Change = tuple[str, str, str, str | None]
"""What the change feed says of a document: op, source, key, the key before."""

MANUAL = """# Sluice manual

## Opening

Before the sluice is opened the keeper walks the whole length of the upper basin, looks for boats that
are still moored, and rings the bell three times. The paddles are raised by a quarter, then by a half,
and only when the water on both sides stands level may the gates be swung. Nobody stands on the
walkway meanwhile, and the lamp on the pier shows red until both gates rest in their recesses again.

## Closing

To close the sluice the keeper waits until the last boat has passed the white mark, swings the gates
together by hand, and drops the paddles one after the other. The level is written into the log book
together with the hour and the weather. If a gate does not meet its sill the lower basin is drained,
the sill is cleaned with the long rake, and the harbour office is told before the next boat is let in.
"""

FIRST = {
    "basin": "The upper basin holds four boats.",
    "bell": "The bell is rung three times before the gates move.",
    "crane": "The crane lifts two tons and stands on the east quay.",
    "dredger": "The dredger works in March, when the river is high.",
    "ferry": "The ferry leaves at seven and at noon.",
    "gauge": "The gauge reads centimetres above the sill.",
    "manual": MANUAL,
    "pilot": "A pilot is required for boats longer than twenty metres.",
}
MORE = {
    "quay": "The east quay was rebuilt of granite.",
    "rope": "Mooring ropes are replaced every second year.",
    "silt": "Silt is carried to the fields behind the dyke.",
    "tide": "The tide reaches the lower gate twice a day.",
    "toll": "The toll is four coins for a boat and one for a raft.",
    "tower": "The signal tower shows red while the gates move.",
    "warden": "The warden lives beside the upper gate.",
    "winch": "The winch is greased on the first Monday of a month.",
}
NOTICES = {
    "2026-01": "No passage on Sunday: the sill is inspected.",
    "2026-02": "The lamp on the pier is out of order.",
    "2026-03": "The toll stays as it was.",
}


@dataclass
class Golden:
    """The store in the making, and what it must say.

    Attributes:
        world: source -> key -> what the source holds.
        served: source -> key -> text that must be live.
        pasts: sequence number -> `served` at that snapshot.
        feeds: sequence number -> what changed since the snapshot before, written by hand.
        labels: of the handbook.
    """

    root: Path
    world: dict[str, dict[str, Record]] = field(default_factory=dict)
    served: dict[str, dict[str, str]] = field(default_factory=dict)
    pasts: dict[int, dict[str, dict[str, str]]] = field(default_factory=dict)
    feeds: dict[int, list[Change]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()

    @property
    def kb(self) -> KnowledgeBase:
        """The knowledge base."""
        return load(self.root)

    @property
    def store(self) -> Store:
        """The store, opened anew."""
        return Store.open(self.root / "store")

    def configure(self, *, at_most: int = 20) -> None:
        """Write headwater.yaml and the expectations of the handbook."""
        handbook = {"kind": "memory", "licence": "CC-BY-4.0", "labels": list(self.labels)}
        config = {
            "name": "golden",
            "sources": {"handbook": handbook, "notices": {"kind": "memory"}},
            "chunking": {"max_tokens": 128, "min_tokens": 32},
            "index": {"graph_from": 12},
            "retention": {"all_for": "1s", "hourly_for": "1s", "daily_for": "36500d"},
        }
        (self.root / "headwater.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        no_draft = {"column": "text", "regex": "(?i)draft"}
        few = {"min_value": 1, "max_value": at_most}
        rows = [_expectation("expect_column_values_to_not_match_regex", no_draft)]
        table = [_expectation("expect_table_row_count_to_be_between", few)]
        suite = self.root / "suites" / "handbook.json"
        suite.parent.mkdir(exist_ok=True)
        suite.write_text(json.dumps({"rows": rows, "table": table}, indent=1) + "\n")

    def write(self, source: str, texts: dict[str, str], *, held: bool = False) -> None:
        """Put texts into a source; unless they will be held back, they must be served."""
        for key, text in texts.items():
            record = Record(key, text, title=key.title(), source_ts=_day(1))
            self.world.setdefault(source, {})[key] = record
            if not held:
                self.served.setdefault(source, {})[key] = text

    def remove(self, source: str, key: str) -> str:
        """Take a document away; returns its text."""
        del self.world[source][key]
        return self.served[source].pop(key)

    def refresh(self, when: datetime | None, watermark: str) -> RefreshReport:
        """One real refresh."""
        sources = {
            name: MemorySource.of(records.values(), name=name, watermark=f"{name}-{watermark}")
            for name, records in self.world.items()
        }
        options = RefreshOptions(observed_at=when)
        return refresh(self.kb, options, encoding=twin_encoding, sources=sources)

    def publish(self, when: datetime | None, watermark: str, feed: list[Change]) -> None:
        """A refresh that publishes, after which the feed must say what `feed` says."""
        assert self.refresh(when, watermark).published
        self.remember(feed)

    def remember(self, feed: list[Change]) -> None:
        """Hold what is served now against the store, and keep it for format-<n>.json."""
        current = self.store.resolve(None)
        self.pasts[current.seq] = {s: dict(texts) for s, texts in self.served.items()}
        self.feeds[current.seq] = sorted(feed, key=lambda change: change[1:3])
        assert _live(self.store, current.name()) == hashed(self.served), current.name()
        if current.parent:
            found = changes_between(self.store, current.parent, current.name())
            assert found == self.feeds[current.seq], (current.name(), found)

    def expire(self) -> list[int]:
        """One vacuum; returns the sequence numbers that expired."""
        time.sleep(0.05)
        short = timedelta(milliseconds=1)
        plan = vacuum(self.store, config=self.kb.config.retention, grace=short)
        return sorted(int(name.split("-")[0]) for name in plan.expired)


# --- the steps, in their order; a new one goes where its state belongs ----------------------------


def first(golden: Golden) -> None:
    """1: two sources, one document of two chunks, all in a flat segment."""
    golden.write("handbook", FIRST)
    golden.write("notices", NOTICES)
    added = [("added", "handbook", key, None) for key in FIRST]
    added += [("added", "notices", key, None) for key in NOTICES]
    golden.publish(_day(1), "1", added)


def grow(golden: Golden) -> None:
    """2: enough texts for a graph. This snapshot expires, and its graph is deleted."""
    golden.write("handbook", MORE)
    golden.publish(_day(2, 8), "2", [("added", "handbook", key, None) for key in MORE])


def edit(golden: Golden) -> None:
    """3: texts changed, one of them to a text that another document has; a rename, a removal, metadata."""
    silt = golden.world["handbook"]["silt"]
    golden.world["handbook"]["silt"] = replace(
        silt, title="Silt and mud", url="https://harbour.example/silt", metadata={"office": "north"}
    )
    golden.write("handbook", {"dyke": golden.remove("handbook", "winch")})
    golden.remove("handbook", "rope")
    changed = {
        "basin": "The upper basin holds six boats.",
        "crane": "The crane lifts three tons and stands on the east quay.",
        "ferry": "The ferry leaves at eight and at noon.",
        "gauge": "The gauge reads centimetres above the new sill.",
        "toll": NOTICES["2026-03"],
    }
    golden.write("handbook", changed)
    golden.publish(
        _day(2, 20),
        "3",
        [
            *(("changed", "handbook", key, None) for key in changed),
            ("metadata", "handbook", "silt", None),
            ("renamed", "handbook", "dyke", "winch"),
            ("removed", "handbook", "rope", None),
        ],
    )


def hold_back(golden: Golden) -> None:
    """4: a record and a version that are refused, the last good version is served; tombstones; a tag."""
    golden.write("handbook", {"pilot": "DRAFT: nobody needs a pilot."}, held=True)
    golden.write("handbook", {"lamp": "Draft of a page about the lamp."}, held=True)
    golden.write("notices", {"2026-02": "The lamp on the pier is lit again."})
    golden.write("handbook", {"tide": "The tide reaches the lower gate once a day."})
    changed = [("changed", "handbook", "tide", None), ("changed", "notices", "2026-02", None)]
    golden.publish(_day(3), "4", changed)
    set_tag(golden.store, "reviewed")


def label(golden: Golden) -> None:
    """5: the configuration labels every document of a source that is not held back."""
    golden.labels = ("public",)
    golden.configure()
    keys = set(golden.served["handbook"]) - {"pilot"}
    golden.publish(_day(4), "5", [("metadata", "handbook", key, None) for key in keys])


def first_vacuum(golden: Golden) -> None:
    """Snapshot 2 expires; what only it needs is marked."""
    assert golden.expire() == [2]


def spoil(golden: Golden) -> None:
    """6 and 7: an import goes wrong, twice."""
    golden.write("notices", {"2026-03": "The toll is void."})
    golden.publish(_day(5, 8), "6", [("changed", "notices", "2026-03", None)])
    golden.write("notices", {"2026-01": "Everything is void."})
    golden.publish(_day(5, 20), "7", [("changed", "notices", "2026-01", None)])


def roll_back(golden: Golden) -> None:
    """8: the state of 5 again; the notices are left alone until a person releases them."""
    golden.served = {source: dict(texts) for source, texts in golden.pasts[5].items()}
    golden.store.rollback("5", run_id=new_run_id(), hold=("notices",))
    restored = [("changed", "notices", key, None) for key in ("2026-01", "2026-03")]
    golden.remember(restored)


def go_on(golden: Golden) -> None:
    """9: the handbook goes on and has one document more; the notices are on hold."""
    golden.write("handbook", {"weir": "The weir is walked once a week.", "basin": FIRST["basin"]})
    golden.publish(
        None,
        "9",
        [("added", "handbook", "weir", None), ("changed", "handbook", "basin", None)],
    )


def second_vacuum(golden: Golden) -> None:
    """What only 2 needed is deleted; 6 expires, and stays in the trash."""
    marked = set(json.loads((golden.root / "store" / "trash.json").read_bytes())["objects"])
    assert golden.expire() == [6]
    left = set(json.loads((golden.root / "store" / "trash.json").read_bytes())["objects"])
    assert marked and left and not marked & left
    assert not any((golden.root / "store" / "objects" / name).exists() for name in marked)


def fail_a_gate(golden: Golden) -> None:
    """A candidate with more documents than the suite allows: kept, and not served."""
    served = {source: dict(texts) for source, texts in golden.served.items()}
    golden.configure(at_most=17)
    golden.write("handbook", {f"buoy-{n}": f"Buoy number {n} is green." for n in range(3)})
    report = golden.refresh(None, "10")
    assert report.candidate and not report.published
    golden.served = served


def forget(golden: Golden) -> None:
    """10: the crane is erased, from the past as well, and so is what its newest text would bring."""
    golden.remove("handbook", "crane")
    for past in golden.pasts.values():
        past["handbook"].pop("crane", None)
    erase(golden.kb, ErasureRequest((("handbook", "crane"),), reason="it was never ours"))
    golden.remember([])


def leave_a_pin(golden: Golden) -> None:
    """The lease of a reader that never closed; over since long."""
    values = {"snapshot": golden.store.current_name(), "pid": 4711, "boot_id": "0" * 36}
    values |= {"host": "golden", "expires": "2026-02-01T00:00:00.000000Z"}
    path = golden.root / "store" / "pins" / f"{'5f0c' * 8}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values) + "\n")


STEPS: tuple[Callable[[Golden], None], ...] = (
    first,
    grow,
    edit,
    hold_back,
    label,
    first_vacuum,
    spoil,
    roll_back,
    go_on,
    second_vacuum,
    fail_a_gate,
    forget,
    leave_a_pin,
)


def _live(store: Store, name: str) -> list[list[str]]:
    rows = run_sql(store, "select source, key, text from documents", as_of=name).to_pylist()
    return sorted([r["source"], r["key"], sha256(r["text"])] for r in rows)


def hashed(served: dict[str, dict[str, str]]) -> list[list[str]]:
    """Live documents as format-<n>.json lists them: source, key, SHA-256 of the text."""
    return sorted(
        [s, key, sha256(text)] for s, texts in served.items() for key, text in texts.items()
    )


def changes_between(store: Store, before: str, after: str) -> list[Change]:
    """The change feed from one snapshot to another."""
    rows = change_feed(store, before, after).to_pylist()
    return [(r["op"], r["source"], r["key"], r["renamed_from"]) for r in rows]


def _expectation(kind: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "severity": "critical"}


def sha256(text: str) -> str:
    """Of a text, hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def _day(day: int, hour: int = 12) -> datetime:
    return datetime(2026, 1, day, hour, tzinfo=UTC)
