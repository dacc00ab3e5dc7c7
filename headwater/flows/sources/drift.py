"""What became of a source's columns between two extracts: a name, a type, one more, one less.

A renamed column changes the text of every document at once, and each of them is a valid record.
Only who knows both sets of columns can tell that from a million edits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ColumnTypes = tuple[tuple[str, str], ...]
"""Name and type of each column, in order; the type is empty where the database does not say."""


@dataclass(frozen=True)
class Drift:
    """The difference of two sets of columns.

    Attributes:
        added: names that are new.
        removed: names that are gone.
        renamed: pairs of old and new name: a column of the same type took the place of another.
        retyped: names whose type is another now, with both types.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    retyped: tuple[tuple[str, str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.renamed or self.retyped)

    def sentence(self) -> str:
        """What happened, on one line; empty when nothing did."""
        parts = [f"column '{old}' seems to be '{new}' now" for old, new in self.renamed]
        parts += [f"column '{name}' is gone" for name in self.removed]
        parts += [f"column '{name}' is new" for name in self.added]
        parts += [f"column '{name}' was {old} and is {new}" for name, old, new in self.retyped]
        return "; ".join(parts)


def column_drift(before: ColumnTypes, now: ColumnTypes) -> Drift:
    """Compare the columns of two extracts. Pure.

    Args:
        before: of the last published extract; empty when nothing is known of one.
        now: of this one.
    """
    if not before:
        return Drift()
    was, known = dict(before), dict(now)
    gone = [name for name, _ in before if name not in known]
    new = [name for name, _ in now if name not in was]
    renamed = _renamed(before, now, gone, new)
    old_names, new_names = {old for old, _ in renamed}, {name for _, name in renamed}
    return Drift(
        added=tuple(name for name in new if name not in new_names),
        removed=tuple(name for name in gone if name not in old_names),
        renamed=renamed,
        retyped=tuple(
            (name, was[name], kind)
            for name, kind in now
            if name in was and was[name] and kind and was[name] != kind
        ),
    )


def _renamed(
    before: ColumnTypes, now: ColumnTypes, gone: Sequence[str], new: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Columns that kept their neighbours and their type and lost their name."""
    was, known = dict(before), dict(now)
    found: list[tuple[str, str]] = []
    free = list(new)
    for old in gone:
        place = _place(before, old, frozenset(gone))
        fitting = [
            name
            for name in free
            if known[name] == was[old] and _place(now, name, frozenset(new)) == place
        ]
        if fitting:
            found.append((old, fitting[0]))
            free.remove(fitting[0])
    return tuple(found)


def _place(columns: ColumnTypes, name: str, passing: frozenset[str]) -> int:
    """How many columns that stay stand before this one."""
    names = [column for column, _ in columns]
    return sum(column not in passing for column in names[: names.index(name)])
