"""Web pages as a source, against a real server on a loopback socket."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
import stamina
from faulty_server import Answer, Asked, FaultyServer, as_html

from headwater.config import WebConfig
from headwater.errors import ConfigError, SourceDataError, SourceUnreachableError
from headwater.flows.sources.conformance import SourceConformance, pull_all, pull_rows
from headwater.flows.sources.protocol import PullRequest, Source, Window
from headwater.flows.sources.web import WebSource
from headwater.flows.sources.web_listing import parse_list

PAGE = """<!doctype html><html><head><title>{title}</title></head><body>
<nav><a href="/">Home</a> menu</nav><main><h1>{title}</h1><p>{text}</p><h2>More</h2>
<p>Below.</p><aside>See also</aside></main><footer>imprint</footer><script>var x;</script>
</body></html>"""


class Site:
    """Pages by path, served with ETags; a path may also answer with a status."""

    def __init__(self) -> None:
        self.server = FaultyServer()
        self.url = self.server.url
        self.pages: dict[str, str] = {}
        self.statuses: dict[str, int] = {}
        self.dates: dict[str, str] = {}
        self.other: dict[str, Answer] = {}
        self.server.answer = self.answer

    def put(self, path: str, text: str) -> None:
        self.pages[path] = PAGE.format(title=f"About {path}", text=text)

    def sitemap(self) -> bytes:
        rows = "".join(
            f"<url><loc>{escape(self.url + path)}</loc>"
            + (f"<lastmod>{self.dates[path]}</lastmod>" if path in self.dates else "")
            + "</url>"
            for path in self.pages
        )
        return (
            f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{rows}</urlset>'.encode()
        )

    def answer(self, asked: Asked) -> Answer:
        if asked.path in self.statuses:
            return Answer(b"no", self.statuses[asked.path])
        if asked.path in self.other:
            return self.other[asked.path]
        if asked.path == "/sitemap.xml":
            return Answer(self.sitemap(), 200, {"Content-Type": "application/xml"})
        if asked.path in self.pages:
            return as_html(self.pages[asked.path])
        return Answer(b"nothing here", 404)

    def paths(self) -> list[str]:
        """What was asked for since the last time, robots.txt and lists left out."""
        found = [a.path for a in self.server.asked if not re.search(r"\.(txt|xml|gz)$", a.path)]
        self.server.forget()
        return found


@pytest.fixture
def site() -> Iterator[Site]:
    """A site of three pages."""
    running = Site()
    for path in ("/a", "/b", "/c"):
        running.put(path, f"The text of {path}.")
    yield running
    running.server.close()


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    """Two attempts and no waiting between them."""
    with stamina.set_testing(True, attempts=2):
        yield


def web(site: Site, root: Path, **options: Any) -> WebSource:
    """The source under test."""
    base = {"kind": "web", "sitemaps": f"{site.url}/sitemap.xml", "allow_private": True}
    config = WebConfig.model_validate(base | {"rate": 10_000} | options)
    return WebSource("site", config, root=root)


class Live:
    """What a store would hold after each pull: enough of it to ask again as the refresh does."""

    def __init__(self, source: WebSource) -> None:
        self.source = source
        self.texts: dict[str, str] = {}
        self.known: dict[str, str] = {}
        self.watermark: str | None = None
        self.states: dict[str, str] = {}
        self.errors: dict[str, str] = {}

    def pull(self, **options: Any) -> Any:
        request = PullRequest(watermark=self.watermark, known=dict(self.known), **options)
        batches, end = pull_all(self.source, request)
        rows = [row for batch in batches for row in batch.to_pylist()]
        self.states = {row["key"].rpartition("/")[2]: row["state"] for row in rows}
        self.errors = {row["key"].rpartition("/")[2]: row["error"] for row in rows if row["error"]}
        seen = {row["key"] for row in rows if row["state"] != "gone"}
        for row in rows:
            if row["state"] == "present":
                self.texts[row["key"]] = row["text"]
                self.known[row["key"]] = row["fingerprint"]
        gone = [k for k in self.texts if end.complete and k not in seen]
        gone += [row["key"] for row in rows if row["state"] == "gone"]
        for key in set(gone):
            self.texts.pop(key, None)
            self.known.pop(key, None)
        self.watermark = end.watermark
        return end

    @property
    def names(self) -> list[str]:
        return sorted(key.rpartition("/")[2] for key in self.texts)


class TestWeb(SourceConformance):
    @pytest.fixture(autouse=True)
    def _site(self, site: Site, tmp_path: Path) -> None:
        self.site, self.root = site, tmp_path
        self.keys = tuple(f"{site.url}/{name}" for name in "abc")

    def make_source(self) -> Source:
        return web(self.site, self.root)


def test_the_main_content_stays_with_its_headings(site: Site, tmp_path: Path) -> None:
    """Navigation, asides, footers and scripts are no knowledge; title, link and format are kept."""
    row = pull_rows(web(site, tmp_path))[0]
    assert row["text"] == "# About /a\n\nThe text of /a.\n\n## More\n\nBelow."
    assert (row["title"], row["url"], row["key"]) == ("About /a", f"{site.url}/a", f"{site.url}/a")
    assert json.loads(row["metadata"]) == {"format": "html"}


@pytest.mark.parametrize("tag", ["article", 'div role="main"', "main"])
def test_the_content_is_found_where_pages_put_it(site: Site, tmp_path: Path, tag: str) -> None:
    """<main>, <article> and role=main hold the content; what is around them does not."""
    end = tag.partition(" ")[0]
    site.pages["/a"] = f"<html><body>around <{tag}><h1>In</h1>here</{end}> around</body></html>"
    assert pull_rows(web(site, tmp_path))[0]["text"] == "# In\n\nhere"


def test_unchanged_pages_are_asked_for_by_their_etag(site: Site, tmp_path: Path) -> None:
    """A second pull sends validators, reads no body and parses nothing."""
    live = Live(web(site, tmp_path))
    live.pull()
    site.server.forget()
    end = live.pull()
    assert live.states == dict.fromkeys("abc", "unchanged")
    pages = [a for a in site.server.asked if len(a.path) == 2]
    assert all("if-none-match" in a.headers for a in pages) and len(pages) == 3
    assert end.complete and end.watermark is None


def test_a_page_whose_frame_alone_changed_is_the_same_document(site: Site, tmp_path: Path) -> None:
    """A token or a counter outside of the content changes the bytes, and not the document."""
    live = Live(web(site, tmp_path))
    live.pull()
    before = dict(live.known)
    site.pages["/a"] = site.pages["/a"].replace("<nav>", "<nav>visitor 4711 ")
    live.pull()
    assert live.known == before


def test_the_same_etag_does_not_hide_other_bytes(site: Site, tmp_path: Path) -> None:
    """A server that sends 200 is believed in what it sends, whatever its ETag says."""
    live = Live(web(site, tmp_path))
    stale = as_html(site.pages["/a"]).headers["ETag"]
    live.pull()
    changed = site.pages["/a"].replace("The text", "Another text")
    headers = {"ETag": f"W/{stale}", "Content-Type": "text/html"}
    site.other["/a"] = Answer(changed.encode(), 200, headers)
    live.pull()
    assert "Another text" in live.texts[f"{site.url}/a"]


def test_without_the_visits_everything_is_read_and_nothing_is_new(
    site: Site, tmp_path: Path
) -> None:
    """What lies beside the knowledge base may be lost: it saves work and decides nothing."""
    live = Live(web(site, tmp_path))
    live.pull()
    before = dict(live.known)
    (tmp_path / ".headwater" / "web" / "site.json").write_text("{damaged")
    live.pull()
    assert live.known == before


# --- pages that are missing ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 410])
def test_a_page_missing_twice_in_a_row_is_gone(site: Site, tmp_path: Path, status: int) -> None:
    """The first time its document is stale and kept, the second time it is deleted."""
    live = Live(web(site, tmp_path))
    live.pull()
    site.statuses["/b"] = status
    live.pull()
    assert live.states["b"] == "unreadable" and str(status) in live.errors["b"]
    assert live.names == ["a", "b", "c"]
    live.pull()
    assert live.states["b"] == "gone"
    assert live.names == ["a", "c"]
    live.pull()
    assert live.states["b"] == "gone", "it stays gone while the sitemap still names it"


@pytest.mark.parametrize("between", [200, 503, 403])
def test_missing_twice_but_not_in_a_row_is_no_deletion(
    site: Site, tmp_path: Path, between: int
) -> None:
    """Any other answer between two 404s starts the count anew."""
    live = Live(web(site, tmp_path))
    live.pull()
    for status in (404, between, 404):
        site.statuses["/b"] = status
        if status == 200:
            del site.statuses["/b"]
        live.pull()
        assert live.names == ["a", "b", "c"], status
    live.pull()
    assert live.names == ["a", "c"]


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_refusal_or_a_failure_is_staleness(site: Site, tmp_path: Path, status: int) -> None:
    """However often it happens, the document stays, and the reason is the same each time."""
    live = Live(web(site, tmp_path))
    live.pull()
    site.statuses["/b"] = status
    reasons = set()
    for _ in range(3):
        live.pull()
        assert live.states["b"] == "unreadable"
        assert live.names == ["a", "b", "c"]
        reasons.add(live.errors["b"])
    assert len(reasons) == 1 and str(status) in reasons.pop()


def test_a_page_that_leaves_the_sitemap_is_deleted(site: Site, tmp_path: Path) -> None:
    """A list that was read whole is believed in what it no longer names."""
    live = Live(web(site, tmp_path))
    live.pull()
    del site.pages["/c"]
    assert live.pull().complete
    assert live.names == ["a", "b"]


def test_a_site_that_is_down_fails_as_a_whole(site: Site, tmp_path: Path) -> None:
    """When no page answers, the source failed: no page is put into quarantine for it."""
    live = Live(web(site, tmp_path))
    live.pull()
    for path in site.pages:
        site.statuses[path] = 503
    with pytest.raises(SourceUnreachableError, match="No page could be had"):
        live.pull()


def test_a_site_that_goes_down_midway_is_left_alone(site: Site, tmp_path: Path) -> None:
    """After five pages without an answer the rest is not asked for, and nothing is deleted."""
    for number in range(12):
        site.put(f"/p{number:02d}", "text")
    live = Live(web(site, tmp_path))
    live.pull()
    site.paths()
    for number in range(12):
        site.statuses[f"/p{number:02d}"] = 503
    end = live.pull()
    assert not end.complete and "were not asked for" in end.note
    assert len({path for path in site.paths() if path.startswith("/p")}) == 5
    assert len(live.names) == 15


# --- lists -----------------------------------------------------------------------------------------


def test_an_index_leads_to_sitemaps_plain_and_compressed(site: Site, tmp_path: Path) -> None:
    """Indexes may name indexes, lines of URLs and .gz files; loops end."""
    site.other["/index.xml"] = Answer(
        b"<sitemapindex><sitemap><loc>/packed.xml.gz</loc></sitemap>"
        b"<sitemap><loc>/index.xml</loc></sitemap><sitemap><loc>/lines.txt</loc></sitemap>"
        b"</sitemapindex>"
    )
    only_a = f"<urlset><url><loc>{site.url}/a</loc></url></urlset>".encode()
    site.other["/packed.xml.gz"] = Answer(gzip.compress(only_a))
    site.other["/lines.txt"] = Answer(f"{site.url}/b\n{site.url}/c\n".encode())
    source = web(site, tmp_path, sitemaps=f"{site.url}/index.xml")
    batches, end = pull_all(source)
    assert end.complete
    assert [r["key"][-1] for b in batches for r in b.to_pylist()] == ["a", "b", "c"]


def test_a_list_that_cannot_be_read_fails_the_source(site: Site, tmp_path: Path) -> None:
    """A sitemap that is cut short, damaged or away is never a shorter list."""
    whole = site.sitemap()
    bad = [
        whole[: len(whole) // 2],
        gzip.compress(whole)[:-9],
        b"<html><body>no</body></html>",
        b"",
    ]
    for body in bad:
        site.other["/sitemap.xml"] = Answer(body)
        with pytest.raises(SourceDataError):
            pull_all(web(site, tmp_path))
    site.other.clear()
    site.statuses["/sitemap.xml"] = 404
    with pytest.raises(SourceUnreachableError, match="404"):
        pull_all(web(site, tmp_path))


def test_a_part_that_cannot_be_read_makes_the_list_incomplete(site: Site, tmp_path: Path) -> None:
    """Pages of the part that is away are not deleted, the others are refreshed."""
    site.other["/index.xml"] = Answer(
        b"<sitemapindex><sitemap><loc>/one.xml</loc></sitemap>"
        b"<sitemap><loc>/two.xml</loc></sitemap></sitemapindex>"
    )
    site.other["/one.xml"] = Answer(f"<urlset><url><loc>{site.url}/a</loc></url></urlset>".encode())
    site.other["/two.xml"] = Answer(f"<urlset><url><loc>{site.url}/b</loc></url></urlset>".encode())
    live = Live(web(site, tmp_path, sitemaps=f"{site.url}/index.xml"))
    live.pull()
    site.statuses["/two.xml"] = 503
    end = live.pull()
    assert not end.complete and "two.xml" in end.note
    assert live.names == ["a", "b"]


def test_entries_on_other_hosts_are_left_out(site: Site, tmp_path: Path) -> None:
    """A sitemap speaks for its own host, and for those the configuration names."""
    site.other["/sitemap.xml"] = Answer(
        f"<urlset><url><loc>{site.url}/a</loc></url><url><loc>http://elsewhere.example/b</loc></url>"
        "<url><loc>file:///etc/passwd</loc></url></urlset>".encode()
    )
    batches, end = pull_all(web(site, tmp_path))
    assert [r["key"] for b in batches for r in b.to_pylist()] == [f"{site.url}/a"]
    assert "2 on other hosts left out" in end.note
    site.other["/sitemap.xml"] = Answer(
        b"<urlset><url><loc>http://elsewhere.example/b</loc></url></urlset>"
    )
    with pytest.raises(SourceDataError, match="another host"):
        pull_all(web(site, tmp_path))


def test_globs_choose_among_what_is_listed(site: Site, tmp_path: Path) -> None:
    """`include` and `exclude` work on paths."""
    site.put("/docs/x", "text")
    source = web(site, tmp_path, include=["docs/**", "a", "b"], exclude=["b"])
    assert sorted(r["key"][-1] for r in pull_rows(source)) == ["a", "x"]


def test_more_pages_than_allowed_are_no_deletion(site: Site, tmp_path: Path) -> None:
    """`max_pages` cuts a list, and says so."""
    batches, end = pull_all(web(site, tmp_path, max_pages=2))
    assert sum(b.num_rows for b in batches) == 2
    assert not end.complete and "max_pages" in end.note


def test_a_feed_is_a_window(site: Site, tmp_path: Path) -> None:
    """What leaves a feed is asked for still, and deleted only when it is missing twice."""

    def feed(*paths: str) -> Answer:
        items = "".join(f"<item><link>{site.url}{p}</link></item>" for p in paths)
        return Answer(f"<rss version='2.0'><channel>{items}</channel></rss>".encode())

    site.other["/feed.xml"] = feed("/a", "/b")
    live = Live(web(site, tmp_path, sitemaps=[], feeds=f"{site.url}/feed.xml"))
    live.pull()
    site.other["/feed.xml"] = feed("/b", "/c")
    assert live.pull().complete
    assert live.names == ["a", "b", "c"]
    del site.pages["/a"]
    live.pull()
    live.pull()
    assert live.names == ["b", "c"]


def test_feeds_of_all_kinds_are_read() -> None:
    """RSS, Atom and RDF name pages and dates."""
    rss = b"<rss><channel><item><link>/a</link><pubDate>x</pubDate></item></channel></rss>"
    atom = (
        b'<feed xmlns="http://www.w3.org/2005/Atom"><entry><link rel="self" href="/no"/>'
        b'<link href="/a"/><updated>x</updated></entry></feed>'
    )
    rdf = (
        b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        b'xmlns:dc="http://purl.org/dc/elements/1.1/"><item><link>/a</link>'
        b"<dc:date>x</dc:date></item></rdf:RDF>"
    )
    for body in (rss, atom, rdf):
        assert parse_list(body, url="https://h.example/f").pages == (("https://h.example/a", "x"),)


def test_entities_of_a_list_are_not_expanded() -> None:
    """A list cannot make the parser read files or grow."""
    body = (
        b'<!DOCTYPE urlset [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        b"<urlset><url><loc>https://h.example/&x;</loc></url></urlset>"
    )
    assert "root" not in str(parse_list(body, url="https://h.example/s"))


# --- order, dates and time -------------------------------------------------------------------------


def test_dates_order_and_do_not_skip(site: Site, tmp_path: Path) -> None:
    """New pages come first, then those whose date moved; those that stood still are asked too."""
    site.dates = dict.fromkeys(site.pages, "2024-01-01")
    live = Live(web(site, tmp_path))
    live.pull()
    site.paths()
    site.dates["/c"] = "2024-02-02"
    site.put("/d", "new")
    live.pull()
    assert site.paths() == ["/d", "/c", "/a", "/b"]


def test_a_date_that_stands_still_saves_a_request_until_the_age(site: Site, tmp_path: Path) -> None:
    """With `max_age` a page is not asked for again too soon, and beyond it always."""
    site.dates = {"/a": "2024-01-01", "/b": "2024-01-01"}
    live = Live(web(site, tmp_path, max_age="1h"))
    live.pull()
    site.paths()
    live.pull()
    assert site.paths() == ["/c"], "without a date it is always asked for"
    assert live.states == dict.fromkeys("abc", "unchanged")
    path = tmp_path / ".headwater" / "web" / "site.json"
    visits = json.loads(path.read_text())
    for visit in visits["visits"].values():
        visit[5] -= 3601
    path.write_text(json.dumps(visits))
    site.pages["/a"] = PAGE.format(title="About /a", text="Changed without a word in the sitemap.")
    live.pull()
    assert set(site.paths()) == {"/a", "/b", "/c"}
    assert "Changed" in live.texts[f"{site.url}/a"]


def test_the_deadline_ends_a_pull_and_the_next_goes_on(site: Site, tmp_path: Path) -> None:
    """What there was no time for comes first next time, and nothing is deleted meanwhile."""
    for number in range(30):
        site.put(f"/p{number:02d}", "text")
    live = Live(web(site, tmp_path, deadline="0.7s", rate=20))
    end = live.pull()
    assert not end.complete and "were not asked for" in end.note
    first = set(live.names)
    assert 0 < len(first) < 33
    for _ in range(8):
        end = live.pull()
        if len(live.names) == 33:
            break
    assert len(live.names) == 33


# --- manners and safety ----------------------------------------------------------------------------


def test_robots_are_respected(site: Site, tmp_path: Path) -> None:
    """Wildcards and the rules of our own agent count; what is forbidden is not asked for."""
    site.other["/robots.txt"] = Answer(
        b"User-agent: *\nDisallow: /\n\nUser-agent: headwater\nDisallow: /*b$\nCrawl-delay: 0.01\n"
    )
    live = Live(web(site, tmp_path))
    live.pull()
    assert live.states == {"a": "present", "b": "unreadable", "c": "present"}
    assert "robots.txt" in live.errors["b"]
    assert set(site.paths()) == {"/a", "/c"}
    assert Live(web(site, tmp_path, robots="ignore")).pull().complete
    assert "/b" in site.paths()


def test_a_page_that_robots_forbid_later_keeps_its_document(site: Site, tmp_path: Path) -> None:
    """A rule is no deletion."""
    live = Live(web(site, tmp_path))
    live.pull()
    site.other["/robots.txt"] = Answer(b"User-agent: *\nDisallow: /b\n")
    live.pull()
    assert live.names == ["a", "b", "c"] and live.states["b"] == "unreadable"


def test_robots_that_cannot_be_read_close_the_site(site: Site, tmp_path: Path) -> None:
    """A robots.txt that fails means: do not ask now."""
    site.statuses["/robots.txt"] = 503
    with pytest.raises(SourceUnreachableError, match="No page could be had"):
        pull_all(web(site, tmp_path))
    assert site.paths() == []


def test_a_redirect_is_judged_by_robots_too(site: Site, tmp_path: Path) -> None:
    """A page that leads to a forbidden one is not followed."""
    site.other["/robots.txt"] = Answer(b"User-agent: *\nDisallow: /hidden\n")
    site.other["/a"] = Answer(b"", 302, {"Location": "/hidden"})
    site.other["/hidden"] = as_html("<html>secret</html>")
    live = Live(web(site, tmp_path))
    live.pull()
    assert live.states["a"] == "unreadable"
    assert "/hidden" not in site.paths()


def test_a_moved_page_keeps_its_key_and_shows_its_new_place(site: Site, tmp_path: Path) -> None:
    """The listed URL is the key; the link is where it was found."""
    site.other["/a"] = Answer(b"", 301, {"Location": "/b"})
    row = next(r for r in pull_rows(web(site, tmp_path)) if r["key"].endswith("/a"))
    assert row["url"] == f"{site.url}/b"


def test_private_addresses_are_refused(site: Site, tmp_path: Path) -> None:
    """Without leave no loopback address is asked, and a redirect to a private one never."""
    with pytest.raises(SourceUnreachableError, match="not public"):
        pull_all(web(site, tmp_path, allow_private=False))
    pages = [f"{site.url}/a", f"{site.url}/b"]
    with pytest.raises(SourceUnreachableError, match=r"not public[\s\S]*-> .*allow_private"):
        pull_all(web(site, tmp_path, sitemaps=[], pages=pages, allow_private=False))
    assert site.server.asked == []
    site.other["/a"] = Answer(b"", 302, {"Location": "http://10.0.0.1/"})
    live = Live(web(site, tmp_path, allow_private=["127.0.0.0/8"]))
    live.pull()
    assert live.states["a"] == "unreadable" and "10.0.0.1 is not public" in live.errors["a"]


def test_credentials_are_sent_to_one_origin(site: Site, tmp_path: Path) -> None:
    """They go with every request to it; pages of two origins need two sources."""
    source = web(site, tmp_path, auth={"style": "basic", "user": "u", "password": "pass word"})
    pull_all(source)
    assert {a.headers.get("authorization") for a in site.server.asked} == {"Basic dTpwYXNzIHdvcmQ="}
    with pytest.raises(ConfigError, match="one origin"):
        web(site, tmp_path, pages="https://other.example/", token="t")


def test_odd_pages_go_to_quarantine_alone(site: Site, tmp_path: Path) -> None:
    """Empty, too large, of no readable type: each is refused with its reason, the rest is read."""
    site.pages["/a"] = "<html><body></body></html>"
    site.pages["/b"] = "<html><body>" + "x" * 5000 + "</body></html>"
    site.put("/d", "still here")
    site.other["/c"] = Answer(b"\x00\x01", 200, {"Content-Type": "application/octet-stream"})
    live = Live(web(site, tmp_path, page_bytes=2000))
    assert live.pull().complete
    assert live.states == dict.fromkeys("abc", "unreadable") | {"d": "present"}
    assert "no text" in live.errors["a"] and "2000 bytes" in live.errors["b"]
    assert "application/octet-stream" in live.errors["c"]


def test_the_charset_of_the_header_counts(site: Site, tmp_path: Path) -> None:
    """A page without a charset of its own is read as its Content-Type says."""
    body = "<html><body><p>café</p></body></html>".encode("latin-1")
    site.other["/a"] = Answer(body, 200, {"Content-Type": "text/html; charset=iso-8859-1"})
    assert pull_rows(web(site, tmp_path))[0]["text"] == "café"


def test_pages_can_be_listed_by_hand(site: Site, tmp_path: Path) -> None:
    """One spelling per page, whatever the configuration writes; a window is refused."""
    pages = [f"{site.url}/a#top", f"{site.url.replace('http', 'HTTP')}/a", f"{site.url}/b"]
    source = web(site, tmp_path, sitemaps=[], pages=pages)
    assert [r["key"] for r in pull_rows(source)] == [f"{site.url}/a", f"{site.url}/b"]
    with pytest.raises(ConfigError, match="no time of their own"):
        pull_all(source, PullRequest(window=Window(None, None)))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no URL of the web"):
        web(site, tmp_path, pages="ftp://h.example/x")
