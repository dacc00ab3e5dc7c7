"""Documents in archives, repositories, buckets and behind web servers: one source over all."""

from __future__ import annotations

import functools
import http.server
import io
import os
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from headwater.config import DocumentsConfig, load
from headwater.errors import ConfigError, SourceUnreachableError
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import refresh
from headwater.flows.sources import git as git_place
from headwater.flows.sources.archive import ZipPlace
from headwater.flows.sources.conformance import SourceConformance, pull_all, pull_rows
from headwater.flows.sources.documents import DocumentsSource
from headwater.flows.sources.git import GitPlace
from headwater.flows.sources.protocol import PullRequest, Source, Window
from headwater.storage.history import live_state
from headwater.storage.store import Store

PAGES = {"guide/a b.md": "# A\n\nfirst", "guide/ü.md": "# B\n\nsecond", "top.txt": "third"}

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def _source(root: str, at: Path, **options: Any) -> DocumentsSource:
    config = DocumentsConfig(kind="documents", root=root, **options)
    return DocumentsSource("docs", config, root=at)


def _known(source: Source) -> dict[str, str]:
    return {row["key"]: row["fingerprint"] for row in pull_rows(source)}


def _states(source: Source, **request: Any) -> dict[str, str]:
    return {row["key"]: row["state"] for row in pull_rows(source, PullRequest(**request))}


# --- a folder -------------------------------------------------------------------------------------


class TestFolder(SourceConformance):
    keys = frozenset(PAGES)

    @pytest.fixture(autouse=True)
    def _site(self, tmp_path: Path) -> None:
        _folder(tmp_path)
        self.root = tmp_path

    def make_source(self) -> Source:
        return _source("site", self.root)

    def test_asking_for_keys_yields_only_those(self) -> None:
        """Besides what was asked for, what is not there is said to be gone."""
        request = {"top.txt": "present", "no such key": "gone"}
        assert _states(self.make_source(), keys=frozenset(request)) == request


# --- zip ------------------------------------------------------------------------------------------


def _zip(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _zipped(files: dict[str, str | bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


class TestZip(SourceConformance):
    keys = frozenset(PAGES)

    @pytest.fixture(autouse=True)
    def _archive(self, tmp_path: Path) -> None:
        _zip(tmp_path / "pages.zip", dict(PAGES))
        self.root = tmp_path

    def make_source(self) -> Source:
        return _source("pages.zip", self.root)

    def test_asking_for_keys_yields_only_those(self) -> None:
        """Besides what was asked for, what is not there is said to be gone."""
        request = {"top.txt": "present", "no such key": "gone"}
        assert _states(self.make_source(), keys=frozenset(request)) == request

    def test_an_unchanged_archive_is_not_unpacked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its size and times prove every entry; a rewritten archive proves only what is equal."""
        os.utime(self.root / "pages.zip", (1, 1))
        stamp = "headwater.flows.sources.archive.stamp_of"
        monkeypatch.setattr(stamp, lambda _: "1:2:3")
        known = _known(self.make_source())
        with monkeypatch.context() as patch:
            patch.setattr(ZipPlace, "read", None)
            assert set(_states(self.make_source(), known=known).values()) == {"unchanged"}
        monkeypatch.setattr(stamp, lambda _: "1:2:4")
        _zip(self.root / "pages.zip", {**PAGES, "top.txt": "other"})
        assert _states(self.make_source(), known=known) == {
            "guide/a b.md": "unchanged",
            "guide/ü.md": "unchanged",
            "top.txt": "present",
        }


def test_archives_in_an_archive_are_listed_two_deep(tmp_path: Path) -> None:
    """An inner archive is a folder; one that lies deeper, or is broken, is refused by its name."""
    deepest = _zipped({"deep.md": "deep"})
    middle = _zipped({"in.md": "inner", "third.zip": deepest})
    _zip(tmp_path / "a.zip", {"x.md": "outer", "second.zip": middle, "bad.zip": b"PK"})
    rows = {row["key"]: row for row in pull_rows(_source("a.zip", tmp_path))}
    assert {key: row["state"] for key, row in rows.items()} == {
        "x.md": "present",
        "second.zip/in.md": "present",
        "second.zip/third.zip": "unreadable",
        "bad.zip": "unreadable",
    }
    assert "more than 2 deep" in rows["second.zip/third.zip"]["error"]


def test_hostile_entries_are_refused_one_by_one(tmp_path: Path) -> None:
    """Bombs, protected and damaged entries say why; names that climb are left out."""
    _zip(
        tmp_path / "a.zip",
        {"../up.md": "up", "/etc/x.md": "x", "bomb.txt": b" " * 60_000_000, "ok.md": "fine"},
    )
    data = bytearray((tmp_path / "a.zip").read_bytes())
    (tmp_path / "a.zip").write_bytes(data)
    rows = {row["key"]: row for row in pull_rows(_source("a.zip", tmp_path))}
    assert set(rows) == {"bomb.txt", "ok.md"}
    assert "too large" in rows["bomb.txt"]["error"]
    _zip(tmp_path / "b.zip", {"a.md": "# damaged page " * 50, "b.md": "fine"})
    data = bytearray((tmp_path / "b.zip").read_bytes())
    data[40:50] = b"\xff" * 10
    (tmp_path / "b.zip").write_bytes(data)
    rows = {row["key"]: row for row in pull_rows(_source("b.zip", tmp_path))}
    assert "damaged" in rows["a.md"]["error"]
    assert rows["b.md"]["text"] == "fine"


def test_a_broken_archive_is_no_empty_one(tmp_path: Path) -> None:
    """An archive that is missing or cut short cannot be listed; nothing is deleted for it."""
    with pytest.raises(SourceUnreachableError, match="archive"):
        pull_all(_source("none.zip", tmp_path))
    whole = _zip(tmp_path / "a.zip", dict(PAGES)).read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[:-30])
    with pytest.raises(SourceUnreachableError, match="archive"):
        pull_all(_source("a.zip", tmp_path))


# --- git ------------------------------------------------------------------------------------------


class Repository:
    """A repository to write to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, when: str = "") -> str:
        who = {
            f"GIT_{role}_{part}": "t@example.org"
            for role in ("AUTHOR", "COMMITTER")
            for part in ("NAME", "EMAIL")
        }
        dates = {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when} if when else {}
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            env={**os.environ, **who, **dates, "GIT_CONFIG_GLOBAL": os.devnull},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def commit(self, files: dict[str, str | None], when: str) -> str:
        for key, text in files.items():
            path = self.folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", "x", when=when)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "repo")
    made.commit(dict(PAGES), "2024-03-01T10:00:00Z")
    return made


@needs_git
class TestGit(SourceConformance):
    keys = frozenset(PAGES)

    @pytest.fixture(autouse=True)
    def _repository(self, repository: Repository, tmp_path: Path) -> None:
        self.root = tmp_path

    def make_source(self) -> Source:
        return _source("git+repo", self.root)

    def test_asking_for_keys_yields_only_those(self) -> None:
        """Besides what was asked for, what is not there is said to be gone."""
        request = {"top.txt": "present", "no such key": "gone"}
        assert _states(self.make_source(), keys=frozenset(request)) == request


@needs_git
@pytest.mark.parametrize("root", ["git+repo", "git+file://{repo}", "served"])
def test_a_repository_names_contents_and_times(
    repository: Repository, tmp_path: Path, root: str, serve: Callable[[Path], str]
) -> None:
    """Fingerprints are blob ids, times are those of the last commit that changed a file."""
    repository.commit({"top.txt": "changed", "guide/new.md": "# New"}, "2024-05-01T10:00:00Z")
    if root == "served":
        repository.git("update-server-info")
        root = f"git+{serve(repository.folder)}.git"
    source = _source(root.replace("{repo}", str(repository.folder)), tmp_path)
    rows = {row["key"]: row for row in pull_rows(source)}
    assert rows["top.txt"]["fingerprint"].startswith(repository.git("rev-parse", "HEAD:top.txt"))
    assert rows["top.txt"]["source_ts"] == datetime(2024, 5, 1, 10, tzinfo=UTC)
    assert rows["guide/a b.md"]["source_ts"] == datetime(2024, 3, 1, 10, tzinfo=UTC)
    assert rows["guide/ü.md"]["text"] == "# B\n\nsecond"


@needs_git
def test_a_branch_that_is_put_back_while_deletions_wait_is_noticed(tmp_path: Path) -> None:
    """What came with the later commit goes again: the earlier one is no proof of what is served."""
    repository = Repository(tmp_path / "repo")
    first = repository.commit(
        {f"page{n}.md": f"# Page {n}\n\nThe pump feeds hall {n}." for n in range(5)},
        "2024-05-01T10:00:00Z",
    )
    (tmp_path / "headwater.yaml").write_text(
        "name: pages\nsources:\n  docs: {kind: documents, root: git+repo, "
        "deletion_guard: {max_count: 1, max_share: 0.0}}\n"
    )

    def pulled() -> tuple[int, set[str]]:
        report = refresh(load(tmp_path), encoding=twin_encoding)
        store = Store.open(tmp_path / "store")
        return report.exit_code, set(live_state(store.objects, store.current())["docs"])

    pages = {f"page{n}.md" for n in range(5)}
    assert pulled() == (0, pages)
    gone: dict[str, str | None] = {f"page{n}.md": None for n in range(3)}
    repository.commit({**gone, "new.md": "# New\n\nA new pump."}, "2024-06-01T10:00:00Z")
    assert pulled() == (4, {*pages, "new.md"})
    repository.git("reset", "--quiet", "--hard", first)
    assert pulled() == (0, pages)


@needs_git
def test_the_same_commit_is_not_listed_again(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watermark is the commit: nothing is listed until it, or an option, is another one."""
    source = _source("git+repo", tmp_path)
    _, end = pull_all(source)
    with monkeypatch.context() as patch:
        patch.setattr(GitPlace, "list_files", None)
        batches, again = pull_all(source, PullRequest(watermark=end.watermark))
    assert (batches, again.unchanged, again.complete) == ([], True, True)
    other = _source("git+repo", tmp_path, glob="*.txt")
    assert not pull_all(other, PullRequest(watermark=end.watermark))[1].unchanged
    repository.commit({"top.txt": "changed"}, "2024-05-01T10:00:00Z")
    known = _known(source)
    assert not pull_all(source, PullRequest(watermark=end.watermark, known=known))[1].unchanged


@needs_git
def test_only_changed_blobs_are_read(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit costs its own files; a rename is the same blob under another key."""
    source = _source("git+repo", tmp_path)
    known = _known(source)
    repository.git("mv", "top.txt", "renamed.txt")
    repository.commit({"guide/a b.md": "# A\n\nedited"}, "2024-05-01T10:00:00Z")
    read: list[str] = []
    blob = GitPlace._blob
    monkeypatch.setattr(
        GitPlace, "_blob", lambda self, item: (read.append(item.key), blob(self, item))[1]
    )
    rows = {row["key"]: row for row in pull_rows(source, PullRequest(known=known))}
    assert {key: row["state"] for key, row in rows.items()} == {
        "guide/a b.md": "present",
        "guide/ü.md": "unchanged",
        "renamed.txt": "present",
    }
    assert sorted(read) == ["guide/a b.md", "renamed.txt"]
    assert rows["renamed.txt"]["fingerprint"] == known["top.txt"]


@needs_git
def test_branches_tags_and_commits(repository: Repository, tmp_path: Path) -> None:
    """`ref` chooses what is read; one that is not there is an error, not an empty repository."""
    first = repository.git("rev-parse", "HEAD")
    repository.git("tag", "-a", "v1", "-m", "one")
    repository.commit({"top.txt": "changed"}, "2024-05-01T10:00:00Z")
    url = f"git+file://{repository.folder}"
    for ref, text in (("main", "changed"), ("v1", "third"), (first, "third"), ("HEAD", "changed")):
        rows = {row["key"]: row for row in pull_rows(_source(url, tmp_path, ref=ref))}
        assert rows["top.txt"]["text"] == text, ref
    with pytest.raises(SourceUnreachableError, match="repository"):
        pull_all(_source(url, tmp_path, ref="nowhere"))
    with pytest.raises(SourceUnreachableError, match="repository"):
        pull_all(_source("git+nothing", tmp_path))
    with pytest.raises(ConfigError):
        pull_all(_source(url, tmp_path, ref="--upload-pack=x"))


@needs_git
def test_a_window_chooses_by_the_time_of_the_last_change(
    repository: Repository, tmp_path: Path
) -> None:
    """A backfill takes what last changed in the window, and is not complete."""
    repository.commit({"top.txt": "changed"}, "2024-05-01T10:00:00Z")
    window = Window(datetime(2024, 4, 1, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC))
    batches, end = pull_all(_source("git+repo", tmp_path), PullRequest(window=window))
    assert [row["key"] for batch in batches for row in batch.to_pylist()] == ["top.txt"]
    assert not end.complete


@needs_git
def test_links_submodules_and_lfs_are_not_followed(repository: Repository, tmp_path: Path) -> None:
    """A link is counted; a pointer of Git LFS is refused, as it is not the file."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
    (repository.folder / "link.md").symlink_to("/etc/passwd")
    repository.commit({"big.txt": pointer}, "2024-05-01T10:00:00Z")
    batches, end = pull_all(_source("git+repo", tmp_path))
    rows = {row["key"]: row for batch in batches for row in batch.to_pylist()}
    assert "link.md" not in rows
    assert "1 links not followed" in end.note
    assert "Git LFS" in rows["big.txt"]["error"]


def test_without_git_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without git is told what to install."""
    (tmp_path / "repo").mkdir()
    monkeypatch.setattr(git_place.shutil, "which", lambda _: None)
    with pytest.raises(Exception, match="not installed"):
        pull_all(_source("git+repo", tmp_path))


# --- buckets --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A server that speaks S3, on loopback."""
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("obstore")
    one = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    one.start()
    host, port = one.get_host_and_port()
    yield f"http://{host}:{port}"
    one.stop()


@pytest.fixture
def bucket(s3: str, request: pytest.FixtureRequest) -> Any:
    """A client and a bucket with the pages, under a prefix."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=s3,
        aws_access_key_id="reader",
        aws_secret_access_key="not-to-be-shown",
        region_name="us-east-1",
    )
    name = f"docs-{abs(hash(request.node.nodeid)) % 10**9}"
    client.create_bucket(Bucket=name)
    for key, text in PAGES.items():
        client.put_object(Bucket=name, Key=f"kb/{key}", Body=text.encode())
    client.put_object(Bucket=name, Key="other/secret.md", Body=b"not below the prefix")
    client.put_object(Bucket=name, Key="kb/folder/", Body=b"")
    return client, name


def _storage(s3: str) -> dict[str, str]:
    return {
        "endpoint": s3,
        "region": "us-east-1",
        "access_key_id": "reader",
        "secret_access_key": "${S3_SECRET}",
    }


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_SECRET", "not-to-be-shown")


class TestBucket(SourceConformance):
    keys = frozenset(PAGES)

    @pytest.fixture(autouse=True)
    def _bucket(self, bucket: Any, s3: str, tmp_path: Path) -> None:
        self.client, self.name = bucket
        self.root, self.storage = tmp_path, _storage(s3)

    def make_source(self) -> Source:
        return _source(f"s3://{self.name}/kb", self.root, storage=self.storage)

    def test_asking_for_keys_yields_only_those(self) -> None:
        """Besides what was asked for, what is not there is said to be gone."""
        request = {"top.txt": "present", "no such key": "gone"}
        assert _states(self.make_source(), keys=frozenset(request)) == request

    def test_an_unchanged_object_is_not_fetched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The ETag of the listing proves it; a written object is fetched, and a dropped one gone."""
        import obstore

        known = _known(self.make_source())
        got: list[str] = []
        get = obstore.get
        monkeypatch.setattr(
            obstore, "get", lambda store, path: (got.append(path), get(store, path))[1]
        )
        assert set(_states(self.make_source(), known=known).values()) == {"unchanged"}
        assert got == []
        self.client.put_object(Bucket=self.name, Key="kb/top.txt", Body=b"changed")
        self.client.delete_object(Bucket=self.name, Key="kb/guide/ü.md")
        states = _states(self.make_source(), known=known)
        assert states == {"guide/a b.md": "unchanged", "top.txt": "present"}
        assert got == ["top.txt"]

    def test_times_are_those_of_the_store(self) -> None:
        """A record's time is when its object was written."""
        for row in pull_rows(self.make_source()):
            assert abs((datetime.now(UTC) - row["source_ts"]).total_seconds()) < 600


def test_a_bucket_that_cannot_be_read_is_no_empty_one(s3: str, tmp_path: Path) -> None:
    """A missing bucket, a silent server and an unknown option are errors, and show no secret."""
    with pytest.raises(SourceUnreachableError) as caught:
        pull_all(_source("s3://no-such-bucket/kb", tmp_path, storage=_storage(s3)))
    assert "not-to-be-shown" not in str(caught.value)
    with pytest.raises(SourceUnreachableError) as caught:
        pull_all(_source("s3://b/kb", tmp_path, storage=_storage("http://127.0.0.1:1")))
    assert "not-to-be-shown" not in str(caught.value)
    wrong = {**_storage(s3), "colour": "${S3_SECRET}"}
    with pytest.raises(ConfigError, match="storage") as config:
        pull_all(_source("s3://b/kb", tmp_path, storage=wrong))
    assert "not-to-be-shown" not in str(config.value)


# --- a web server's listing -----------------------------------------------------------------------


class _Handler(http.server.SimpleHTTPRequestHandler):
    asked: ClassVar[list[tuple[str, str]]] = []
    token = ""

    def _noted(self, method: str) -> bool:
        self.asked.append((method, self.path))
        if self.token and self.headers.get("Authorization") != f"Bearer {self.token}":
            self.send_error(401)
            return False
        return True

    def do_GET(self) -> None:
        if self._noted("GET"):
            super().do_GET()

    def do_HEAD(self) -> None:
        if self._noted("HEAD"):
            super().do_HEAD()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves a folder as `http.server` does, pages of links included; gives its address."""
    servers = []

    def start(folder: Path) -> str:
        handler = functools.partial(_Handler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    _Handler.asked, _Handler.token = [], ""
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _folder(at: Path) -> Path:
    for key, text in PAGES.items():
        path = at / "site" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return at / "site"


class TestWeb(SourceConformance):
    keys = frozenset(PAGES)

    @pytest.fixture(autouse=True)
    def _site(self, serve: Callable[[Path], str], tmp_path: Path) -> None:
        pytest.importorskip("obstore")
        self.folder = _folder(tmp_path)
        self.url = serve(self.folder)
        self.root = tmp_path

    def make_source(self) -> Source:
        return _source(self.url, self.root, allow_private=True)

    def test_asking_for_keys_yields_only_those(self) -> None:
        """Besides what was asked for, what is not there is said to be gone."""
        request = {"top.txt": "present", "no such key": "gone"}
        assert _states(self.make_source(), keys=frozenset(request)) == request

    def test_an_unchanged_file_is_not_fetched(self) -> None:
        """Size and time of the server prove it; a changed file is fetched."""
        for key in PAGES:
            os.utime(self.folder / key, (1_700_000_000, 1_700_000_000))
        known = _known(self.make_source())
        _Handler.asked.clear()
        assert set(_states(self.make_source(), known=known).values()) == {"unchanged"}
        assert not [path for method, path in _Handler.asked if method == "GET" and "." in path]
        (self.folder / "top.txt").write_text("changed")
        assert _states(self.make_source(), known=known)["top.txt"] == "present"

    def test_a_folder_that_fails_makes_the_listing_incomplete(self) -> None:
        """What cannot be listed is not deleted; a top page that fails is an error."""
        (self.folder / "broken").symlink_to(self.folder / "nowhere", target_is_directory=True)
        page = '<a href="guide/">g</a><a href="lost/">l</a><a href="top.txt">t</a><a href="http://x.example/">x</a><a href="../up.md">u</a>'
        (self.folder / "index.html").write_text(page)
        batches, end = pull_all(self.make_source())
        assert {key for b in batches for key in b.column("key").to_pylist()} == set(PAGES)
        assert not end.complete
        assert "lost/ cannot be listed" in end.note

    def test_a_token_is_asked_for(self) -> None:
        """With a token the listing opens; without it, it is no empty listing."""
        _Handler.token = "not-to-be-shown"
        with pytest.raises(SourceUnreachableError):
            pull_all(self.make_source())
        source = _source(self.url, self.root, token="${S3_SECRET}", allow_private=True)
        assert {row["key"] for row in pull_rows(source)} == set(PAGES)


def test_a_private_address_is_not_asked(serve: Callable[[Path], str], tmp_path: Path) -> None:
    """A server of this network is only asked where the configuration allows it."""
    url = serve(_folder(tmp_path))
    with pytest.raises(SourceUnreachableError, match="cannot be read"):
        pull_all(_source(url, tmp_path))
    assert _Handler.asked == []


def test_an_unknown_kind_of_place_is_an_error(tmp_path: Path) -> None:
    """A root of a scheme that nobody knows says which there are, and shows no password."""
    with pytest.raises(ConfigError, match="ftp") as caught:
        _source("ftp://user:hidden@example.org/x", tmp_path)
    assert "hidden" not in str(caught.value)
