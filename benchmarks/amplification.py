"""Amplification: texts embedded over the distinct texts that are really new, through real history."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.corpora import ABSENT, SHARED, lay_out, write_documents
from benchmarks.figures import Figure, skipped
from benchmarks.knowledge import Counter, make_base, pulled
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import refresh
from headwater.retrieval.embedding import HashEmbedder

_EIPS = range(30, 35)
_KEV = range(6)
_GENERATED = range(4)
_VULNERABILITIES = {
    "kind": "api",
    "records": "vulnerabilities",
    "key": "cveID",
    "title": "vulnerabilityName",
    "text": ["vulnerabilityName", "shortDescription", "requiredAction"],
    "metadata": ["vendorProject", "product", "dueDate", "knownRansomwareCampaignUse"],
    "pagination": {"style": "none", "total": "count"},
    "allow_private": True,
}


def measure(work: Path) -> Iterator[Figure]:
    """Each history revision by revision, with the twin of the encoder."""
    for what, history in HISTORIES.items():
        name = f"amplification, {what}"
        if history.shared and not (SHARED / "replay.py").is_file():
            yield skipped(name, ABSENT)
            continue
        with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
            yield history.measure(name, Path(folder))


def _generated(name: str, folder: Path) -> Figure:
    """Documents of which a few change at each revision, and one is copied."""

    def advance(revision: int) -> None:
        if revision == 0:
            write_documents(folder / "docs", range(200))
        write_documents(folder / "docs", range(revision, 200, 50), edition=revision)
        write_documents(folder / "docs" / f"copy-{revision}", range(1))

    source = {"kind": "documents", "root": "docs"}
    return _replayed(name, folder, source, _GENERATED, advance)


def _eips(name: str, folder: Path) -> Figure:
    source = {"kind": "documents", "root": "docs"}
    return _replayed(
        name, folder, source, _EIPS, lambda revision: lay_out("eips", revision, folder / "docs")
    )


def _kev(name: str, folder: Path) -> Figure:
    with _api() as (url, reply):

        def advance(revision: int) -> None:
            lay_out("cisa-kev", revision, folder / "kev")
            lines = (folder / "kev" / "records.jsonl").read_text("utf-8").splitlines()
            records = [json.loads(line) for line in lines]
            reply["body"] = json.dumps({"count": len(records), "vulnerabilities": records}).encode()

        return _replayed(name, folder, {**_VULNERABILITIES, "url": url}, _KEV, advance)


def _replayed(
    name: str,
    folder: Path,
    source: dict[str, Any],
    revisions: range,
    advance: Callable[[int], None],
) -> Figure:
    """Refresh at each revision and at once again; count by ourselves what was new."""
    twin = HashEmbedder()
    counter = Counter(twin.tokenizer, max_tokens=twin.space.max_tokens)
    kb = make_base(folder, {"source": source})
    embedded = new = again = 0
    for revision in revisions:
        advance(revision)
        new += counter.new(pulled(kb, "source"))
        first, second = refresh(kb, encoding=twin_encoding), refresh(kb, encoding=twin_encoding)
        if first.exit_code or second.exit_code:
            raise RuntimeError(
                f"revision {revision} ended with {first.exit_code}, then {second.exit_code}"
            )
        embedded += first.embedded
        again += second.embedded
    note = f"revisions {revisions[0]} to {revisions[-1]}, each refreshed twice: "
    note += f"{embedded + again:,} embedded, {new:,} distinct new texts"
    return Figure(name, (embedded + again) / new, most=1.0, least=1.0, note=note)


@contextmanager
def _api() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A JSON API on loopback: its address, and the reply under `body`."""
    reply = {"body": b""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply["body"])))
            self.end_headers()
            self.wfile.write(reply["body"])

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/kev.json", reply
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True)
class History:
    """A history to replay; `shared` when it lies beside the checkout and not in it."""

    measure: Callable[[str, Path], Figure]
    shared: bool


HISTORIES = {
    "generated documents": History(_generated, shared=False),
    "Ethereum proposals": History(_eips, shared=True),
    "exploited vulnerabilities": History(_kev, shared=True),
}
