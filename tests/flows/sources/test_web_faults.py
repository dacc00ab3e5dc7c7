"""A site that misbehaves, in a real knowledge base: no page is lost, mixed or deleted for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina
from faulty_server import FAULTS, Answer, Asked, FaultyServer, as_html
from source_base import SourceBase

NOBODY_CAN_TELL = ("html",)
"""An error page with status 200 is a page; many at once are held back by the gate on stubs."""

HEALED = ("reset", "slow", "429")


class Site:
    """Pages by path, a sitemap of them, and a knowledge base over it."""

    def __init__(self, root: Path) -> None:
        self.server = FaultyServer()
        self.server.answer = self._answer
        self.texts = {f"/{name}": f"text {name} " + "and more of it " * 8 for name in "abcd"}
        self.listed = list(self.texts)
        self.base = SourceBase(
            root,
            {
                "kind": "web",
                "sitemaps": f"{self.server.url}/sitemap.xml",
                "allow_private": ["127.0.0.0/8"],
                "rate": 10_000,
                "page_bytes": 1_000_000,
            },
        )

    def _answer(self, asked: Asked) -> Answer:
        if asked.path == "/sitemap.xml":
            rows = "".join(f"<url><loc>{self.server.url}{p}</loc></url>" for p in self.listed)
            return Answer(f"<urlset>{rows}</urlset>".encode())
        if asked.path in self.texts:
            return as_html(f"<html><body><p>{self.texts[asked.path]}</p></body></html>")
        return Answer(b"nothing here", 404)

    @property
    def live(self) -> dict[str, str]:
        return {key.removeprefix(self.server.url): t for key, t in self.base.live().items()}

    @property
    def truth(self) -> dict[str, str]:
        return {path: text.strip() for path, text in self.texts.items()}

    def spoil(self, path: str, fault: str, *, times: int) -> None:
        """The first `times` replies for a path go wrong."""
        left = [times]

        def faults(asked: Asked) -> str:
            if asked.path != path or not left[0]:
                return ""
            left[0] -= 1
            return fault

        self.server.fault = faults

    def heal(self) -> None:
        self.server.fault = lambda asked: ""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site that was read once."""
    with stamina.set_testing(True, attempts=2):
        running = Site(tmp_path / "kb")
        assert running.base.pull().outcome == "verified"
        assert running.live == running.truth
        yield running
        running.server.close()


@pytest.mark.slow
def test_a_page_that_goes_wrong_keeps_its_document(site: Site) -> None:
    """Whatever becomes of its reply, once or always: the document is the old or the new one."""
    for number, fault in enumerate(f for f in FAULTS if f not in NOBODY_CAN_TELL):
        for times in (1, 10_000):
            before = site.live
            site.texts["/b"] = f"text b, number {number} of {times} " + "and more of it " * 8
            site.texts["/c"] = f"text c, number {number} of {times} " + "and more of it " * 8
            site.spoil("/b", fault, times=times)
            report = site.base.pull()
            assert report.removed == 0, (fault, report)
            live = site.live
            assert live["/b"] in (before["/b"], site.truth["/b"]), (fault, times, live["/b"])
            if fault == "slow" or (fault in HEALED and times == 1):
                assert live["/b"] == site.truth["/b"], fault
            assert live | {"/b": ""} == site.truth | {"/b": ""}, "the other pages are refreshed"
            site.heal()
            assert site.base.pull().outcome == "verified"
            assert site.live == site.truth, fault


@pytest.mark.slow
def test_a_sitemap_that_goes_wrong_deletes_nothing(site: Site) -> None:
    """A list that was not read whole is no list."""
    for fault in FAULTS:
        site.spoil("/sitemap.xml", fault, times=10_000)
        report = site.base.pull()
        assert report.outcome == ("verified" if fault == "slow" else "failed"), (fault, report)
        assert site.live == site.truth
        site.heal()


def test_a_page_missing_twice_is_deleted_and_once_is_held_back(site: Site) -> None:
    """The count lives in the manifest: it survives a run with nothing else to publish."""
    del site.texts["/b"]
    first = site.base.pull()
    assert (first.removed, first.refused) == (0, 1)
    assert "/b" in site.live and "/b" in site.base.watermark
    (site.base.root / ".headwater" / "web" / "source.json").unlink()
    second = site.base.pull()
    assert (second.removed, second.refused) == (1, 0)
    assert site.live == site.truth
    assert not site.base.refresh().published, "what is gone is no news the third time"


def test_a_page_missing_once_that_comes_back_is_as_it_was(site: Site) -> None:
    """It leaves quarantine, nothing is embedded, and the count starts anew."""
    text = site.texts.pop("/b")
    site.base.pull()
    site.texts["/b"] = text
    report = site.base.refresh()
    assert (report.embedded, report.sources[0].refused) == (0, 0)
    assert "/b" not in site.base.watermark
    assert site.live == site.truth


def test_a_refused_page_stays_quiet(site: Site) -> None:
    """A page that answers 403 each time is held back once, and is no news after that."""
    real = site.server.answer
    site.server.answer = lambda a: Answer(b"no", 403) if a.path == "/b" else real(a)
    assert site.base.refresh().published
    assert [site.base.refresh().published for _ in range(3)] == [False] * 3
    assert site.live == site.truth


def test_a_site_that_loses_most_pages_waits_for_a_person(site: Site) -> None:
    """A sitemap that shrinks is guarded like any other list."""
    text = (site.base.root / "headwater.yaml").read_text()
    guarded = text.replace("max_count: 1000000", "max_count: 1").replace(
        "max_share: 1.0", "max_share: 0.1"
    )
    (site.base.root / "headwater.yaml").write_text(guarded)
    site.listed = ["/a"]
    report = site.base.pull()
    assert (report.withheld, report.removed) == (3, 0)
    assert site.live == site.truth
    assert site.base.pull(approved={"source": 3}).removed == 3
    assert set(site.live) == {"/a"}


def test_a_page_that_lost_its_end_is_not_believed_until_somebody_asks(site: Site) -> None:
    """Half a page that always comes back alike looks whole, but it used to end with </html>."""
    site.texts["/b"] = "another text of b"
    site.spoil("/b", "truncated", times=10_000)
    before = site.live["/b"]
    assert site.base.pull().refused == 1
    assert site.live["/b"] == before
    site.base.pull(sources=("source",), keys=(f"{site.server.url}/b",))
    assert site.live["/b"] != before


def test_a_page_without_a_closing_tag_is_read_twice(site: Site) -> None:
    """Some pages have none: they are believed when they are the same again."""
    real, count = site.server.answer, [0]

    def open_ended(asked: Asked) -> Answer:
        if asked.path != "/e":
            return real(asked)
        count[0] += 1
        return Answer(b"<html><body><p>no end", 200, {"Content-Type": "text/html"})

    site.server.answer = open_ended
    site.listed.append("/e")
    site.base.pull()
    assert (site.live["/e"], count[0]) == ("no end", 2)
