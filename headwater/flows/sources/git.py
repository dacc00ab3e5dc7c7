"""The files of a git repository at one commit, by the `git` command line.

Blob ids name contents, so that nothing is read to find out that it did not change; the history
tells when a file last did. A repository of another machine is fetched into a temporary folder that
goes with the pull: a clone that stayed would keep what is erased.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

from headwater.errors import (
    ConfigError,
    EnvironmentLacksError,
    ParseError,
    SourceDataError,
    SourceUnreachableError,
)
from headwater.flows.sources.folder import too_large
from headwater.flows.sources.places import Choice, Item, Listing, encodes, format_of, normal
from headwater.flows.sources.urls import shown

_LFS = b"version https://git-lfs.github.com/spec/"
_QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
_COMMIT = frozenset("0123456789abcdef")


class GitPlace:
    """A repository at one branch, tag or commit.

    Symbolic links and submodules are not followed. What lies in Git LFS is not fetched.

    Args:
        name: of the source, for messages.
        url: of the repository, or the path of one on this machine.
        ref: a branch, a tag or a commit.
        deadline_s: for everything that is asked of git in one pull.

    Raises:
        ConfigError: `ref` is no name that git would take.
    """

    dated = True

    def __init__(self, name: str, url: str, ref: str, *, deadline_s: float) -> None:
        if not ref or ref.startswith("-") or ".." in ref or any(ch.isspace() for ch in ref):
            raise ConfigError(
                "This is no branch, tag or commit", obj=f"sources.{name}.ref: {ref}", todo="main, …"
            )
        self._name = name
        self._url = url
        self._ref = ref
        self._deadline_s = deadline_s
        self._ends = time.monotonic() + deadline_s
        self._local = "://" not in url
        self._folder: str | None = url if self._local else None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._commit = ""
        self._times: dict[str, datetime] | None = None
        self._blobs: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._blobs is not None:
            self._blobs.kill()
            self._blobs.wait()
            for pipe in (self._blobs.stdin, self._blobs.stdout):
                if pipe is not None:
                    pipe.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def state(self) -> str | None:
        """The commit's id; of another machine's repository without fetching it."""
        if self._local:
            return self._resolved()
        if len(self._ref) in (40, 64) and set(self._ref) <= _COMMIT:
            return self._ref
        listed = self._git("ls-remote", "--", self._url, self._ref, f"{self._ref}^{{}}")
        found: dict[str, str] = {}
        for line in listed.decode().splitlines():
            commit, _, full = line.partition("\t")
            found[full] = commit
        for name in ("refs/heads/", "refs/tags/", ""):
            # A tag that is an object of its own has a second line, for the commit it names.
            for full in (f"{name}{self._ref}^{{}}", f"{name}{self._ref}"):
                if full in found:
                    return found[full]
        raise self._unreachable(f"it has no branch or tag '{self._ref}': check 'ref'")

    def list_files(self, choice: Choice) -> Listing:
        """See `Place.list_files`."""
        if self._folder is None:
            self._fetch()
        self._commit = self._resolved()
        tree = self._git("ls-tree", "-r", "-z", "-l", "--full-tree", self._commit)
        listing = Listing()
        for line in tree.split(b"\0"):
            if line:
                about, _, path = line.partition(b"\t")
                _add(listing, about.decode().split(), os.fsdecode(path), choice)
        listing.close()
        return listing

    def read(self, item: Item, max_bytes: int) -> bytes:
        """See `Place.read`."""
        _, size = item.at
        if size > max_bytes:
            raise too_large(item.key, size, max_bytes)
        data = self._blob(item)
        if data.startswith(_LFS) and size < 1024:
            raise ParseError(
                "The file lies in Git LFS", obj=item.key, todo="the repository holds a pointer only"
            )
        return data

    def time_of(self, item: Item) -> datetime | None:
        """When the last commit that changed the file was made."""
        if self._times is None:
            self._times = self._history()
        return self._times.get(item.key)

    def _history(self) -> dict[str, datetime]:
        """Path -> the time of its last change. The log is read once, newest first."""
        log = self._git(
            "log", "--format=%x01%ct", "--name-only", "--no-renames", "-z", self._commit
        )
        times: dict[str, datetime] = {}
        for entry in log.split(b"\x01")[1:]:
            seconds, _, names = entry.partition(b"\n")
            when = datetime.fromtimestamp(int(seconds.strip(b"\0 ")), UTC)
            for name in names.split(b"\0"):
                if name:
                    times.setdefault(normal(os.fsdecode(name)), when)
        return times

    def _resolved(self) -> str:
        ref = self._ref if self._local else "refs/headwater/pulled"
        return (
            self._git("rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
            .decode()
            .strip()
        )

    def _fetch(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="headwater-git-")
        self._folder = self._temporary.name
        self._git("init", "--quiet", "--bare", ".")
        self._git(
            "fetch", "--quiet", "--no-tags", "--", self._url, f"+{self._ref}:refs/headwater/pulled"
        )

    def _git(self, *arguments: str) -> bytes:
        """What git answers.

        Raises:
            EnvironmentLacksError: git is not installed.
            SourceUnreachableError: it failed, or took longer than the deadline.
        """
        left = self._ends - time.monotonic()
        if self._local and not Path(self._url).is_dir():
            raise self._unreachable("there is no such folder: check 'root'")
        try:
            done = subprocess.run(
                [_program(), "-c", "protocol.ext.allow=never", *arguments],
                cwd=self._folder,
                env={**os.environ, **_QUIET},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=max(0.01, left),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise self._unreachable(
                f"git took longer than {self._deadline_s:g} s: raise 'deadline'"
            ) from None
        if done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip().replace(self._url, "…")
            raise self._unreachable(words[-300:] or f"git ended with {done.returncode}")
        return done.stdout

    def _blob(self, item: Item) -> bytes:
        """One blob, by a git that stays and answers one after the other."""
        blob, size = item.at
        if self._blobs is None:
            self._blobs = subprocess.Popen(
                [_program(), "cat-file", "--batch"],
                cwd=self._folder,
                env={**os.environ, **_QUIET},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        watch = threading.Timer(max(0.01, self._ends - time.monotonic()), self._blobs.kill)
        watch.start()
        try:
            asked, answers = (cast(BinaryIO, p) for p in (self._blobs.stdin, self._blobs.stdout))
            asked.write(f"{blob}\n".encode())
            asked.flush()
            head = answers.readline().split()
            data = answers.read(size + 1) if len(head) == 3 else b""
        except OSError:
            head, data = [], b""
        finally:
            watch.cancel()
        if len(head) != 3 or int(head[2]) != size or len(data) != size + 1:
            raise SourceDataError(
                "The repository does not hand out a file",
                obj=f"{self._name}: {item.key}",
                todo="run 'git fsck' there, or raise 'deadline'",
            )
        return data[:-1]

    def _unreachable(self, why: str) -> SourceUnreachableError:
        where = self._url if self._local else shown(self._url)
        return SourceUnreachableError(
            "The repository cannot be read", obj=f"{self._name}: {where}", todo=why
        )


def _program() -> str:
    found = shutil.which("git")
    if found is None:
        raise EnvironmentLacksError(
            "A program is not installed", obj="git", todo="install git; it reads repositories"
        )
    return found


def _add(listing: Listing, about: list[str], path: str, choice: Choice) -> None:
    """One line of the tree: mode, type, id, size, and the path."""
    mode, kind, blob, size = about
    key = normal(path)
    if not choice.takes_path(key):
        return
    fmt = format_of(key.rpartition("/")[2])
    if mode == "120000":
        listing.links += 1
    elif kind != "blob" or fmt is None:
        listing.other += 1
    elif not encodes(key):
        shown_key = key.encode("utf-8", "backslashreplace").decode()
        listing.unnamed.append(f"the file's name is not UTF-8: {shown_key}")
    else:
        listing.files.append(Item(key, (blob, int(size)), fmt, version=blob))
