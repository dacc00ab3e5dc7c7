"""Histories drawn at random, against a plain dictionary that remembers everything."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from typing import Any

import pytest

REFRESHES = 15
WORDS = [
    "pump",
    "valve",
    "gauge",
    "spring",
    "water",
    "hall",
    "meter",
    "filter",
    "pressure",
    "basin",
    "turbine",
    "channel",
    "level",
    "flow",
    "reservoir",
    "inlet",
    "outlet",
    "season",
    "repair",
    "record",
    "morning",
    "evening",
    "engineer",
    "contract",
    "delivery",
]


class World:
    """A folder of documents, and what it has been."""

    def __init__(self, base: Any, seed: int) -> None:
        self.base = base
        self.random = random.Random(seed)
        self.model: dict[str, str] = {}
        self.former: dict[str, list[str]] = {}
        self.number = 0

    def marker(self) -> str:
        """A word that no text held before."""
        self.number += 1
        return f"zq{self.number:05d}x"

    def text(self) -> str:
        """A new document of one to six sections, each with a marker of its own."""
        sections = [self.section() for _ in range(self.random.randint(1, 6))]
        return f"# About {self.random.choice(WORDS)}\n\n" + "\n\n".join(sections)

    def section(self) -> str:
        words = [self.random.choice(WORDS) for _ in range(self.random.randint(5, 120))]
        return f"## Section {self.marker()}\n\n{' '.join(words)} {self.marker()}."

    def put(self, key: str, text: str) -> None:
        self.model[key] = text
        self.base.write(key, text)

    def pick(self) -> str:
        return self.random.choice(sorted(self.model))

    def pulled(self) -> None:
        """Remember what a refresh has just seen: reverts go back to that and to nothing else."""
        for key, text in self.model.items():
            self.former.setdefault(key, []).append(text)

    def add(self) -> None:
        self.number += 1
        self.put(f"part{self.number % 3}/note{self.number}.md", self.text())

    def edit(self) -> None:
        key = self.pick()
        parts = self.model[key].split("\n\n## ")
        place = self.random.randrange(1, len(parts)) if len(parts) > 1 else 0
        if self.random.random() < 0.3 and len(parts) > 2:
            del parts[place]
        else:
            parts.insert(max(1, place), self.section().removeprefix("## "))
        self.put(key, "\n\n## ".join(parts))

    def delete(self) -> None:
        if len(self.model) > 4:
            key = self.pick()
            del self.model[key]
            (self.base.root / "docs" / key).unlink()

    def rename(self) -> None:
        old = self.pick()
        self.number += 1
        text = self.model.pop(old)
        (self.base.root / "docs" / old).unlink()
        self.put(f"moved/note{self.number}.md", text)

    def revert(self) -> None:
        key = self.random.choice(sorted(self.former))
        self.put(key, self.random.choice(self.former[key]))

    def duplicate(self) -> None:
        self.number += 1
        self.put(f"copy{self.number}.md", self.model[self.pick()])

    def touch(self) -> None:
        path = self.base.root / "docs" / self.pick()
        os.utime(path, (self.number, self.number))


FREE = ("delete", "rename", "revert", "duplicate", "touch")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_store_is_the_model_at_every_step(make_base: Callable[..., Any], seed: int) -> None:
    """Whatever happens to a folder, every snapshot is what the folder then was and costs its news."""
    base = make_base()
    world = World(base, seed)
    past: dict[str, dict[str, str]] = {}
    for step in range(REFRESHES):
        before = dict(world.model)
        # Every third step draws only from what can bring nothing new.
        kinds = FREE if step % 3 == 2 else ("add", "edit", "edit", *FREE)
        events = [world.random.choice(kinds) for _ in range(world.random.randint(1, 5))]
        if step == 0:
            events = ["add"] * 12
        for event in events:
            getattr(world, event)()
        told = f"seed {seed}, step {step}: {events}"
        planned = base.refresh(dry_run=True)
        report = base.refresh()
        world.pulled()
        assert report.exit_code == 0, told
        assert report.embedded == base.oracle.new(world.model.values()), told
        assert planned.embedded == report.embedded, told
        if set(events) <= set(FREE):
            assert report.embedded == 0, told
        assert report.published == (before != world.model), told
        assert base.live()["docs"] == world.model, told
        assert_no_ghosts(base, world, told)
        past[report.snapshot] = dict(world.model)
    assert len(past) > REFRESHES // 2
    for name, model in past.items():
        assert base.live(name)["docs"] == model
        assert markers("\n".join(base.found("pump", as_of=name))) == markers(*model.values())
    found = base.verify()
    assert found.ok, found.problems


def markers(*texts: str) -> set[str]:
    """The unique words of some texts."""
    return set(re.findall(r"zq\d{5}x", "\n".join(texts)))


def assert_no_ghosts(base: Any, world: World, told: str) -> None:
    """Every live marker is found by a search for all there is, and no other."""
    assert markers(*base.found("pump and valve")) == markers(*world.model.values()), told
