"""Where texts come from: a seeded generator, and the shared corpora where they lie beside us."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.processes import REPOSITORY

SHARED = REPOSITORY.parent / "shared" / "corpora"
ABSENT = "the shared corpora are not beside this checkout"
SECTIONS = 3

_NOUN_LIST = """
account address agent alarm archive audit backup balance batch battery boundary branch bridge budget
buffer cable cache calendar camera canal capacity carrier catalogue channel charge circuit clause
client cluster column command committee compass compound condition contract controller cooling copy
corridor counter coupling credit current customer cycle damage database deadline delay delivery
density deposit design device document drainage driver duty engine entry error estimate event
exception exchange exhaust failure feature feedback fence field filter flange forecast formula frame
frequency fuel function gate gauge generator grain grid guard handle harbour heater hinge holder
humidity index input inspection invoice journal junction kernel label ladder lantern layer ledger
lever licence limit link load lock machine magnet manual margin market measure membrane memory meter
mixture module monitor motor network nozzle number object office operator order outlet output
oxygen package panel parcel passage patch path payment permit pipe piston plate policy port pressure
price printer probe process product profile protocol pump quality quantity query queue rack radio
range receipt record reference refund region relay report request reserve resistor resource response
return review ring river rotor router rule sample scale schedule screen screw seal season section
segment sensor server session shaft shelf shift signal slope socket source spare spring stage
standard station storage stream surface surplus switch system table tank target tariff task
temperature tender terminal threshold ticket timber token tool tower track trade traffic transfer
treaty tunnel turbine unit valve vector vehicle vendor version vessel voltage volume voucher
warehouse warning warranty water weight wheel window winter wire witness yard zone
"""
_VERB_LIST = """
blocks carries checks closes confirms controls cools covers delays drains feeds follows guards holds
limits lifts marks measures meets moves needs opens orders passes protects raises reads records
releases replaces reports requires returns sends serves shifts stops stores supplies tests turns
"""
_NOUNS = _NOUN_LIST.split()
_VERBS = _VERB_LIST.split()


def sentence(chance: random.Random) -> str:
    """A sentence of 8 to 14 words that means little but tokenizes like English."""
    noun, other, third, last = chance.sample(_NOUNS, 4)
    verb, second = chance.sample(_VERBS, 2)
    number = chance.randrange(2, 900)
    shape = chance.randrange(4)
    if shape == 0:
        return f"The {noun} {verb} the {other} before the {third} {second} every {last}."
    if shape == 1:
        return f"When a {noun} {verb} {number} {other}s, the {third} {second} its {last}."
    if shape == 2:
        return f"After {number} days the {noun} of the {other} {verb} another {third} and {last}."
    return f"No {noun} {verb} the {other} unless its {third} {second} at {number} {last}s."


def document(number: int, *, edition: int = 0) -> str:
    """A Markdown document of `SECTIONS` sections; a later edition differs in the second one."""
    chance = random.Random(f"document {number}")
    parts = [f"# {' '.join(chance.sample(_NOUNS, 3)).capitalize()} {number}\n"]
    for section in range(SECTIONS):
        if edition and section == 1:
            writer = random.Random(f"document {number}, edition {edition}")
        else:
            writer = random.Random(f"document {number}, section {section}")
        heading = " ".join(chance.sample(_NOUNS, 2)).capitalize()
        body = " ".join(sentence(writer) for _ in range(7))
        parts.append(f"## {heading}\n\n{body}\n")
    return "\n".join(parts)


def write_documents(folder: Path, numbers: range, *, edition: int = 0) -> None:
    """Write documents below `folder`, a hundred to a subfolder."""
    for number in numbers:
        path = folder / f"part-{number // 100:03d}" / f"document-{number:05d}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document(number, edition=edition), "utf-8")


def sentences(count: int) -> tuple[str, list[str]]:
    """What they are, and `count` distinct short texts: real ones where the corpora lie beside us."""
    path = SHARED / "ir" / "scifact" / "corpus.jsonl"
    found: dict[str, None] = {}
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            for part in re.split(r"(?<=[.?!])\s+(?=[A-Z])", json.loads(line)["text"]):
                if 40 <= len(part) <= 200:
                    found[" ".join(part.split())] = None
            if len(found) >= count:
                return "scifact", list(found)[:count]
    chance = random.Random("sentences")
    while len(found) < count:
        found[sentence(chance)] = None
    return "generated", list(found)


def questions(count: int) -> list[str]:
    """Queries that are no text of `sentences`."""
    path = SHARED / "ir" / "scifact" / "queries.jsonl"
    if path.is_file():
        return [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()][:count]
    chance = random.Random("questions")
    return [sentence(chance) for _ in range(count)]


def passages(count: int) -> tuple[str, list[str]]:
    """What they are, and `count` texts of a chunk's length."""
    path = SHARED / "ir" / "scifact" / "corpus.jsonl"
    if path.is_file():
        records = map(json.loads, path.read_text("utf-8").splitlines()[:count])
        return "scifact abstracts", [f"{r['title']}\n\n{r['text']}" for r in records]
    return "generated documents", [document(number) for number in range(count)]


def lay_out(corpus: str, revision: int, folder: Path) -> None:
    """Write a revision of a shared corpus, as its users found it.

    Raises:
        CalledProcessError: there is no such revision.
    """
    show = [sys.executable, str(SHARED / "replay.py"), "show", corpus, str(revision), str(folder)]
    subprocess.run(show, check=True)
