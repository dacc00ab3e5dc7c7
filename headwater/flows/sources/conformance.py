"""What every source must keep to, as tests to inherit from.

Your own connector passes when this does, in a file that pytest collects::

    from headwater.flows.sources.conformance import conformance_tests

    TestWiki = conformance_tests(lambda: WikiSource("wiki", config, root=root), {"home", "help"})

Where a source needs something for each test, inherit instead::

    class TestWiki(SourceConformance):
        keys = {"home", "help"}

        @pytest.fixture(autouse=True)
        def _wiki(self, tmp_path):
            self.folder = make_wiki(tmp_path)

        def make_source(self):
            return WikiSource("wiki", config, root=self.folder)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

import pyarrow as pa

from headwater.flows.sources.protocol import (
    RECORD_SCHEMA,
    STATES,
    ExtractEnd,
    PullRequest,
    Source,
)


def pull_all(
    source: Source, request: PullRequest | None = None
) -> tuple[list[pa.RecordBatch], ExtractEnd]:
    """Pull everything: the batches, and what the source said at the end."""
    batches = []
    pull = source.pull(request or PullRequest())
    while True:
        try:
            batches.append(next(pull))
        except StopIteration as stop:
            return batches, stop.value


def pull_rows(source: Source, request: PullRequest | None = None) -> list[dict[str, Any]]:
    """Pull everything, as one mapping per record in the order of the source."""
    batches, _ = pull_all(source, request)
    return [row for batch in batches for row in batch.to_pylist()]


class SourceConformance:
    """Inherit, set `keys`, write `make_source`.

    Attributes:
        keys: the keys of the records the source holds; at least two, none of them null.
        max_rows: rows a batch may have at most.
        supports_keys: whether the source can be asked for some keys only.
    """

    keys: Collection[str] = ()
    max_rows: int = 10_000
    supports_keys: bool = True

    def make_source(self) -> Source:
        """A new source over the same records each time."""
        raise AssertionError("a conformance test must say how its source is made")

    def test_is_a_source(self) -> None:
        """The object has the one method of the protocol."""
        assert isinstance(self.make_source(), Source)
        assert len(set(self.keys)) >= 2, "set `keys` to the keys of at least two records"

    def test_batches_have_the_schema_and_a_bounded_size(self) -> None:
        """Every batch has exactly the record schema and at most `max_rows` rows."""
        batches, _ = pull_all(self.make_source())
        assert batches
        for batch in batches:
            assert batch.schema.equals(RECORD_SCHEMA)
            batch.validate(full=True)
            assert batch.num_rows <= self.max_rows

    def test_rows_say_what_they_are(self) -> None:
        """A row has a known state, text when it is present, an error when it is unreadable."""
        for row in pull_rows(self.make_source()):
            assert row["state"] in STATES
            if row["state"] == "present":
                assert row["text"] is not None
            if row["state"] == "unreadable":
                assert row["error"]
            assert isinstance(json.loads(row["metadata"] or "{}"), dict)

    def test_the_first_pull_lists_every_record(self) -> None:
        """Without a watermark the extract is complete and holds the known keys, each once."""
        batches, end = pull_all(self.make_source())
        assert isinstance(end, ExtractEnd)
        assert end.complete
        assert not end.unchanged
        keys = [key for batch in batches for key in batch.column("key").to_pylist()]
        assert sorted(keys) == sorted(self.keys)

    def test_two_pulls_are_equal(self) -> None:
        """Unchanged records give equal rows, down to the byte."""
        assert self._by_key(self.make_source()) == self._by_key(self.make_source())

    def test_asking_for_keys_yields_only_those(self) -> None:
        """A pull by key yields what was asked for and exists, and is never complete."""
        if not self.supports_keys:
            return
        wanted = min(self.keys)
        request = PullRequest(keys=frozenset({wanted, "no such key"}), watermark="before")
        batches, end = pull_all(self.make_source(), request)
        keys = [key for batch in batches for key in batch.column("key").to_pylist()]
        assert keys == [wanted]
        assert not end.complete
        assert end.watermark == "before", "a narrowed pull leaves the watermark where it was"

    def test_a_pull_can_be_given_up(self) -> None:
        """Closing the generator early raises nothing, and the next pull works."""
        source = self.make_source()
        pull = source.pull(PullRequest())
        next(pull)
        pull.close()
        assert self._by_key(source).keys() == set(self.keys)

    def test_known_fingerprints_lose_no_record(self) -> None:
        """Told the fingerprints of the last pull, the source names the same keys again."""
        before = self._by_key(self.make_source())
        known = {k: row["fingerprint"] for k, row in before.items() if row["fingerprint"]}
        after = self._by_key(self.make_source(), PullRequest(known=known))
        assert after.keys() == before.keys()
        for key, row in after.items():
            if row["state"] == "unchanged":
                assert row["fingerprint"] == known[key]

    def test_the_watermark_is_taken_back(self) -> None:
        """The source accepts its own watermark, and what it then lists are records it holds."""
        _, end = pull_all(self.make_source())
        batches, again = pull_all(self.make_source(), PullRequest(watermark=end.watermark))
        keys = {key for batch in batches for key in batch.column("key").to_pylist()}
        assert keys <= set(self.keys)
        if again.complete and not again.unchanged:
            assert keys == set(self.keys)

    def test_an_unreadable_watermark_means_a_first_pull(self) -> None:
        """A watermark the source cannot read never makes it miss a record."""
        _, end = pull_all(self.make_source(), PullRequest(watermark="not a watermark {"))
        assert end.complete
        assert not end.unchanged

    def _by_key(self, source: Source, request: PullRequest | None = None) -> dict[str, Any]:
        return {row["key"]: row for row in pull_rows(source, request)}


def conformance_tests(
    make: Callable[[], Source], keys: Collection[str], *, supports_keys: bool = True
) -> type[SourceConformance]:
    """The suite for one source, to be assigned to a name that pytest collects (`TestWiki`).

    Args:
        make: makes a new source over the same records each time.
        keys: the keys of those records; at least two.
        supports_keys: whether the source can be asked for some keys only.
    """

    class Conformance(SourceConformance):
        def make_source(self) -> Source:
            return make()

    Conformance.keys = keys
    Conformance.supports_keys = supports_keys
    return Conformance
