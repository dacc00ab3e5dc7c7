"""Damage that passes every check of a single record waits for a person, and everything else goes on."""

import json

import pytest

from headwater import config
from headwater.errors import ConfigError, NotFoundError
from headwater.flows.approval import plan_approval, waiting
from headwater.flows.encoding import twin_encoding
from headwater.flows.held import refusals
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.sources.memory import MemorySource
from headwater.flows.sources.protocol import Record
from headwater.retrieval import Retriever
from headwater.storage.audit import AuditLog
from headwater.storage.store import Store
from headwater.storage.tables import open_tables

LONG = "This paragraph about {0} says one thing and then another, at some length, with care. " * 6


class World:
    """A knowledge base over one source in memory."""

    def __init__(self, root, options: str = ""):
        (root / "headwater.yaml").write_text(
            f"name: w\nsources:\n  s:\n    kind: memory\n{options}"
        )
        self.kb = config.load(root)
        self.source = MemorySource.of()

    def refresh(self, records=None, **options):
        if records is not None:
            self.source.records = list(records)
        return refresh(
            self.kb,
            RefreshOptions(**options),
            encoding=twin_encoding,
            sources={"s": self.source},
        )

    def approve(self, **chosen):
        allowed = plan_approval(self.store, "s", **chosen)
        deletes = allowed.pop("deletes", 0)
        return self.refresh(approved={"s": deletes}, approved_changes={"s": allowed})

    @property
    def store(self):
        return Store.open(self.kb.store)

    def live(self):
        with open_tables(self.store.objects, self.store.current()) as connection:
            rows = connection.execute(
                "select key, text, metadata from live join contents using (content_hash)"
            ).fetchall()
        return {key: (text, json.loads(metadata)) for key, text, metadata in rows}

    def waits(self):
        return waiting(self.store, "s")


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def documents(count, *, stubs=(), **changed):
    texts = {f"d{n:03d}": LONG.format(f"subject {n}") for n in range(count)}
    texts |= {f"d{n:03d}": f"This page moved to /new/{n}." for n in stubs}
    return [Record(key=k, text=t) for k, t in (texts | changed).items()]


def rows(count, name="Security", *, start=0, metadata=False):
    for n in range(start, start + count):
        fields = {} if not metadata else {name.lower(): f"Company {n}"}
        yield Record(key=f"r{n:03d}", text=f"{name}: Company {n}\nSector: {n % 7}", metadata=fields)


# --- documents that became stubs ------------------------------------------------------------------


def test_stubs_do_not_replace_documents(world):
    """The last good texts stay served and marked; what is new or merely edited is published."""
    world.refresh(documents(40))
    report = world.refresh(
        documents(40, stubs=range(20), d030=LONG.format("an edit"), new="A new document.")
    )
    (source,) = report.sources
    assert report.exit_code == 4 and report.published
    assert (source.held, source.changed, source.added, source.outcome) == (20, 1, 1, "partial")
    assert "20 of 40 documents were replaced by stubs" in source.note
    assert "d000: it shrank from 5" in source.note and "more than 10" in source.note
    assert "headwater approve s" in source.note
    live = world.live()
    assert all(live[f"d{n:03d}"][0] == LONG.format(f"subject {n}") for n in range(20))
    assert live["d030"][0] == LONG.format("an edit") and "new" in live
    with Retriever.open(world.kb.root) as retriever:
        held = {hit.key: hit.held_back for hit in retriever.search("paragraph", k=50)}
    assert held["d000"] and held["d019"] and not held["d025"] and not held["d030"]
    reasons = refusals(world.store.objects, world.store.current())
    assert {row["rule"] for row in reasons} == {"content-shrink"} and len(reasons) == 20


def test_a_refresh_that_finds_the_same_stubs_writes_nothing(world):
    """What waits keeps waiting at the cost of a line in the run log, and still says so."""
    world.refresh(documents(40))
    before = world.refresh(documents(40, stubs=range(20)))
    again = world.refresh()
    assert again.exit_code == 4 and not again.published and again.bytes_written == 0
    assert again.snapshot == before.snapshot
    assert world.waits() == {"shrink": 20}


def test_one_approval_lets_a_legitimate_turnover_pass(world):
    """Stubs and deletions together need one command; afterwards nothing waits."""
    world.refresh(documents(60))
    turned = documents(60, stubs=range(20))[:40]
    assert world.refresh(turned).exit_code == 4
    assert world.waits() == {"deletes": 20, "shrink": 20}
    report = world.approve()
    assert report.exit_code == 0 and report.published
    assert world.live()["d003"][0] == "This page moved to /new/3."
    assert len(world.live()) == 40 and world.waits() == {}
    assert refusals(world.store.objects, world.store.current()) == []
    said = list(AuditLog(world.store.root).entries())[-1]
    assert said.detail["approved_changes"] == {"s": {"shrink": 20}}
    assert said.detail["approved_deletes"] == {"s": 20}
    assert world.refresh().exit_code == 0


def test_stubs_that_lost_their_fields_too_need_one_approval(world):
    """A page that moved has no front matter either; it is judged once."""
    pages = documents(40)
    world.refresh(Record(key=r.key, text=r.text, metadata={"author": "x"}) for r in pages)
    world.refresh(documents(40, stubs=range(40)))
    assert world.waits() == {"shrink": 40}
    assert world.approve().exit_code == 0 and world.waits() == {}


def test_an_approval_is_a_ceiling(world):
    """If more became stubs since, all of them wait again."""
    world.refresh(documents(60))
    world.refresh(documents(60, stubs=range(20)))
    world.source.records = documents(60, stubs=range(21))
    report = world.approve()
    assert report.exit_code == 4 and report.sources[0].held == 21
    assert "the approval for 20 does not cover them" in report.sources[0].note
    assert world.live()["d003"][0] == LONG.format("subject 3")


def test_an_approval_may_be_of_one_kind(world):
    """Deletions can go while the stubs wait."""
    world.refresh(documents(60))
    world.refresh(documents(60, stubs=range(20))[:40])
    report = world.approve(kinds=("deletes",))
    assert report.exit_code == 4 and len(world.live()) == 40
    assert world.waits() == {"shrink": 20}
    with pytest.raises(NotFoundError, match="waiting: shrink"):
        world.approve(kinds=("schema",))
    with pytest.raises(ConfigError, match="zero or more"):
        world.approve(at_most=-1)
    assert world.approve(at_most=19).exit_code == 4


def test_a_source_that_recovers_needs_no_approval(world):
    """When the real texts are back, nothing waits and nothing is embedded."""
    world.refresh(documents(40))
    world.refresh(documents(40, stubs=range(20)))
    report = world.refresh(documents(40))
    assert report.exit_code == 0 and report.embedded == 0
    assert world.waits() == {} and not refusals(world.store.objects, world.store.current())


def test_one_notice_in_the_place_of_many_documents_is_damage_at_any_length(world):
    """A page that asks for a login may be longer than what it stands for."""
    world.refresh(documents(40))
    notice = "Please log in. " * 100
    report = world.refresh(
        Record(key=r.key, text=notice if n < 15 else r.text) for n, r in enumerate(documents(40))
    )
    assert report.exit_code == 4 and report.sources[0].held == 15
    assert "became one text with many others" in report.sources[0].note


def test_copies_of_one_document_may_change_together(world):
    """Many documents that were one text before may become another one."""
    world.refresh([Record(key=f"c{n}", text=LONG.format("licence")) for n in range(30)])
    report = world.refresh([Record(key=f"c{n}", text=LONG.format("terms")) for n in range(30)])
    assert report.exit_code == 0 and report.sources[0].changed == 30


def test_a_mass_reformat_is_no_damage(world):
    """All documents change, and none shrinks or loses a field: nothing waits."""
    world.refresh(documents(40))
    report = world.refresh(
        Record(key=r.key, text=r.text.replace(". ", ".\n")) for r in documents(40)
    )
    assert report.exit_code == 0 and report.sources[0].changed == 40


def test_short_documents_and_few_documents_may_shrink(world):
    """Ten stubs are no wave, and a line that becomes a shorter line is no stub."""
    world.refresh(
        [*documents(40), *(Record(key=f"t{n}", text="a line of text") for n in range(40))]
    )
    report = world.refresh(
        [*documents(40, stubs=range(8)), *(Record(key=f"t{n}", text=f"l{n}") for n in range(40))]
    )
    assert report.exit_code == 0 and report.sources[0].changed == 48


def test_a_partial_extract_cannot_bring_stubs_either(world):
    """What an incremental source lists is measured by the whole source, and its cursor waits."""
    world.source.watermark = "1"
    world.refresh(documents(40))
    world.source.complete, world.source.watermark = False, "2"
    report = world.refresh(documents(40, stubs=range(12))[:12])
    assert report.exit_code == 4 and report.sources[0].held == 12
    assert world.store.current().sources["s"].watermark == "1"
    assert world.approve().exit_code == 0
    assert world.store.current().sources["s"].watermark == "2"
    assert len(world.live()) == 40


# --- a field that vanished ------------------------------------------------------------------------


def test_a_renamed_column_waits_and_its_return_costs_nothing(world):
    """All rows change when a column is renamed; renamed back, they are what is served."""
    world.refresh(rows(60))
    report = world.refresh(rows(60, "Company"))
    (source,) = report.sources
    assert report.exit_code == 4 and (source.held, source.changed) == (60, 0)
    assert (
        "60 records lack the field 'Security' that was there before; new: 'Company'" in source.note
    )
    assert world.live()["r003"][0].startswith("Security: Company 3")
    report = world.refresh(rows(60))
    assert report.exit_code == 0 and report.embedded == 0
    assert world.waits() == {}


def test_new_records_of_the_new_shape_wait_with_the_others(world):
    """A row that lacks what every row had is not believed either; others are."""
    world.refresh(rows(60))
    report = world.refresh([*rows(62, "Company"), *rows(3, start=100)])
    (source,) = report.sources
    assert (source.held, source.added) == (62, 3)
    assert {"r100", "r102"} <= world.live().keys() and "r061" not in world.live()
    assert world.approve().exit_code == 0
    assert world.live()["r061"][0].startswith("Company: ") and world.waits() == {}


def test_a_field_of_the_metadata_counts_too(world):
    """Filters stop matching when a field of the metadata is renamed, though no text changes."""
    texts = [f"text {n}" for n in range(30)]
    named = lambda name: [Record(key=t, text=t, metadata={name: t}) for t in texts]
    world.refresh(named("link"))
    report = world.refresh(named("policy"))
    assert report.exit_code == 4 and report.sources[0].held == 30
    assert "'link' that was there before; new: 'policy'" in report.sources[0].note
    assert world.live()["text 3"][1] == {"link": "text 3"}
    assert world.approve().exit_code == 0


def test_a_field_that_is_only_added_or_edited_away_here_and_there_is_no_drift(world):
    """A new column loses nothing; a field that some records had is theirs to lose."""
    world.refresh(rows(60))
    more = [Record(key=r.key, text=f"{r.text}\nCity: Bern") for r in rows(60)]
    assert world.refresh(more).exit_code == 0
    some = [r if n % 3 else Record(key=r.key, text=f"Sector: {n}") for n, r in enumerate(more)]
    assert world.refresh(some).exit_code == 0


def test_a_rename_in_a_partial_extract_is_measured_by_what_it_lists(world):
    """An incremental source lists a few rows; if all of them lost a field, they wait."""
    world.refresh(rows(200))
    world.source.complete = False
    report = world.refresh(rows(15, "Company"))
    assert report.exit_code == 4 and report.sources[0].held == 15
    assert "15 records lack" in report.sources[0].note


def test_the_thresholds_are_the_source_s_own(tmp_path):
    """A source whose documents come and go as stubs may say so."""
    world = World(
        tmp_path,
        "    content_shrink: {max_share: 1}\n    schema_drift: {max_count: 2, max_share: 0}\n",
    )
    world.refresh([*documents(30), *rows(5)])
    report = world.refresh([*documents(30, stubs=range(30)), *rows(5)])
    assert report.exit_code == 0 and report.sources[0].changed == 30
    report = world.refresh([*documents(30, stubs=range(30)), *rows(5, "Company")])
    assert report.exit_code == 4 and report.sources[0].held == 5


def test_a_record_that_failed_its_suite_is_no_stub_that_waits(world):
    """Each record has one reason to be held back."""
    world.refresh(documents(40))
    report = world.refresh(
        [Record(key=r.key, text="" if n < 15 else r.text) for n, r in enumerate(documents(40))]
    )
    assert report.exit_code == 0 and report.sources[0].held == 0
    rules = {row["rule"] for row in refusals(world.store.objects, world.store.current())}
    assert rules == {"text-empty"}
