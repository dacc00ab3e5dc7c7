"""A generated history with the events that real histories hold, on every machine, without the corpora.

A folder of documents, a table with a cursor, a whole table and an API go through: an edit, a mass
reformat, stubs, a column renamed and renamed back, a row committed late, a truncated payload.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from one_reply import OneReply

WORDS = [
    "pump",
    "valve",
    "gauge",
    "spring",
    "water",
    "hall",
    "meter",
    "filter",
    "basin",
    "turbine",
    "channel",
    "level",
    "flow",
]
DOCUMENTS, ROWS, TICKETS = 60, 80, 40


@pytest.fixture
def reply() -> Iterator[OneReply]:
    """A running server."""
    running = OneReply()
    yield running
    running.close()


class History:
    """The world that the knowledge base pulls from, and what it should hold."""

    def __init__(self, make_base: Callable[..., Any], reply: OneReply) -> None:
        self.random = random.Random(7)
        self.reply = reply
        table = {"kind": "database", "dsn": "sqlite:///world.db", "key": "id"}
        self.base = make_base(
            {
                "docs": {"kind": "documents", "root": "docs"},
                "companies": {**table, "table": "companies"},
                "events": {
                    **table,
                    "table": "events",
                    "cursor": "at",
                    "cursor_lag": "1h",
                    "text": ["told"],
                },
                "tickets": {
                    "kind": "api",
                    "url": reply.url,
                    "records": "items",
                    "key": "id",
                    "allow_private": True,
                },
            }
        )
        self.db = sqlite3.connect(self.base.root / "world.db", isolation_level=None)
        self.db.execute("create table companies (id text, security text, sector text)")
        self.db.execute("create table events (id text, told text, at text)")
        for n in range(ROWS):
            row = (f"c{n}", f"{self.words(2)} {n}", self.words(1))
            self.db.execute("insert into companies values (?, ?, ?)", row)
            self.event(f"e{n}", f"2026-01-01T{n // 60:02d}:{n % 60:02d}:00")
        for n in range(DOCUMENTS):
            self.base.write(f"page{n:02d}.md", f"# Page {n}\n\n{self.words(120)}.\n")
        self.tickets = [{"id": f"t{n}", "said": self.words(12)} for n in range(TICKETS)]
        self.send()

    def words(self, count: int) -> str:
        return " ".join(self.random.choice(WORDS) for _ in range(count))

    def event(self, key: str, at: str) -> None:
        self.db.execute("insert into events values (?, ?, ?)", (key, f"{key} {self.words(9)}", at))

    def send(self, *, sent: int | None = None) -> None:
        self.reply.body = json.dumps({"items": self.tickets}).encode()
        self.reply.sent = sent

    def rename_column(self, old: str, new: str) -> None:
        self.db.execute(f"alter table companies rename column {old} to {new}")

    def rewrite(self, change: Callable[[str], str], keys: range) -> None:
        for n in keys:
            path = self.base.root / "docs" / f"page{n:02d}.md"
            path.write_text(change(path.read_text()))

    def refresh(self, **options: Any) -> tuple[int, dict[str, Any], Any]:
        """Refresh; the exit code, the sources by name and the report."""
        report = self.base.refresh(**options)
        return report.exit_code, {entry.source: entry for entry in report.sources}, report

    def state(self) -> dict[str, dict[str, str]]:
        """What the sources hold, asked without the refresh."""
        return {name: self.base.pulled(name) for name in self.base.kb.config.sources}

    def is_in_step(self) -> bool:
        return bool(self.base.live() == self.state())


def test_a_history_with_every_event(make_base: Callable[..., Any], reply: OneReply) -> None:
    """Each event does what it should to its own source, and nothing to the others."""
    world = History(make_base, reply)
    code, _, first = world.refresh()
    assert code == 0 and world.is_in_step() and first.embedded > 0
    code, sources, _ = world.refresh()
    assert code == 0 and world.is_in_step()

    # A mass reformat changes every document, and is believed at once.
    world.rewrite(lambda text: text.replace(" water ", "\nwater "), range(DOCUMENTS))
    code, sources, report = world.refresh()
    assert code == 0 and sources["docs"].changed > 0.8 * DOCUMENTS and world.is_in_step()
    assert report.embedded == 0, "lines that are broken elsewhere are the same texts"

    # Stubs wait; the edit beside them, and the other sources' news, do not.
    before = world.base.live()["docs"]
    kept = {n: (world.base.root / "docs" / f"page{n:02d}.md").read_text() for n in range(20)}
    world.rewrite(lambda _: "This page has moved.\n", range(20))
    world.base.write("page30.md", f"# Page 30\n\n{world.words(120)}, edited.\n")
    world.event("e900", "2026-01-01T02:00:00")
    code, sources, report = world.refresh()
    assert code == 4 and report.published
    assert (sources["docs"].held, sources["docs"].changed, sources["docs"].withheld) == (20, 1, 0)
    assert (sources["events"].added, sources["events"].held) == (1, 0)
    live = world.base.live()["docs"]
    assert all(live[f"page{n:02d}.md"] == before[f"page{n:02d}.md"] for n in range(20))
    assert "edited" in live["page30.md"]
    for n, text in kept.items():
        world.base.write(f"page{n:02d}.md", text)
    code, _, report = world.refresh()
    assert code == 0 and report.embedded == 0 and world.is_in_step()

    # A column is renamed, and renamed back two days later.
    world.rename_column("security", "company")
    code, sources, report = world.refresh()
    assert code == 4 and sources["companies"].held == ROWS and report.embedded == 0
    assert "'Security' that was there before; new: 'Company'" in sources["companies"].note
    code, _, report = world.refresh()
    assert code == 4 and not report.published and report.bytes_written == 0
    world.rename_column("company", "security")
    code, _, report = world.refresh()
    assert code == 0 and report.embedded == 0 and world.is_in_step()

    # Renamed for good: one command.
    world.rename_column("security", "company")
    assert world.refresh()[0] == 4
    shell = world.base.run("approve", "companies", check=0)
    assert "80" in shell.stdout and world.is_in_step()

    # A row commits late, below the watermark but within the lag.
    world.event("late", "2026-01-01T01:40:00")
    code, sources, _ = world.refresh()
    assert code == 0 and sources["events"].added == 1 and "late" in world.base.live()["events"]

    # A payload that breaks off is refused whole, and the next one is taken whole.
    world.tickets.append({"id": "new", "said": world.words(12)})
    for broken in ({"sent": 900}, {"body": b'{"items": [{"id": "t0", "sa'}):
        world.send(sent=broken.get("sent"))
        world.reply.body = broken.get("body", world.reply.body)
        code, sources, _ = world.refresh()
        assert code == 3 and sources["tickets"].outcome == "failed"
        assert len(world.base.live()["tickets"]) == TICKETS
    world.send()
    code, sources, _ = world.refresh()
    assert code == 0 and sources["tickets"].added == 1 and world.is_in_step()

    # A wiped listing is no wipe.
    world.tickets.clear()
    world.send()
    code, sources, _ = world.refresh()
    assert code == 4 and sources["tickets"].withheld == TICKETS + 1
    assert len(world.base.live()["tickets"]) == TICKETS + 1
    assert world.base.verify().ok
