"""Documents: a hundred thousand files that did not change, and a manual of 400 pages."""

from __future__ import annotations

import json
import random
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure
from benchmarks.knowledge import make_base
from benchmarks.processes import python
from headwater.flows.sources.parsing.formats import BY_NAME

_FILES = 100_000
_FOLDERS = 100
_RUNS = 3
_PAGES = 400
_LINES = 45
_WORDS = [
    "gauge",
    "river",
    "level",
    "water",
    "flood",
    "lock",
    "weir",
    "mill",
    "of",
    "the",
    "a",
    "in",
]
# Counts the files below the documents that a refresh opens, and the folders that it lists.
_COUNTED = """
import json, sys
opened = [0]
def hear(event, arguments):
    if event == "open" and "/docs/" in str(arguments[0]):
        opened[0] += 1
sys.addaudithook(hear)
from headwater.config import load
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import refresh
report = refresh(load(sys.argv[1]), encoding=twin_encoding)
print(json.dumps({"opened": opened[0], "note": report.sources[0].note}))
"""


def measure(work: Path) -> Iterator[Figure]:
    """The prefilter in whole refreshes with the twin, and PDF by its parser."""
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        yield from _unchanged(Path(folder) / "many")
    yield from _manual(tagged=False)
    yield from _manual(tagged=True)


def _unchanged(root: Path) -> Iterator[Figure]:
    make_base(root, {"docs": {"kind": "documents", "root": "docs"}})
    for number in range(_FILES):
        folder = root / "docs" / f"{number % _FOLDERS:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        page = f"# Page {number}\n\nThe gauge of page {number} shows {number % 977} cm.\n"
        (folder / f"page-{number:06d}.md").write_text(page, "utf-8")
    time.sleep(2.1)
    first = python("-m", "benchmarks.child", "refresh", str(root), "twin")
    modules = root / "modules.json"
    modules.write_text(json.dumps(json.loads(first.out)["modules"]), "utf-8")
    idle = python("-m", "benchmarks.child", "start-up", str(root), str(modules), runs=_RUNS)
    quiet = python("-m", "benchmarks.child", "refresh", str(root), "twin", runs=_RUNS)
    found = json.loads(python("-c", _COUNTED, str(root)).out)
    marks = (root / ".headwater" / "seen" / "docs").stat().st_size
    yield Figure(
        f"{_FILES:,} unchanged files: CPU beyond start-up, a file",
        (quiet.cpu_s - idle.cpu_s) / _FILES * 1e6,
        "µs",
        most=50,
        digits=1,
        note=f"median of {_RUNS}; first load {first.cpu_s:.0f} s, {quiet.rss_bytes >> 20} MB",
    )
    yield Figure("  files opened", found["opened"], most=0, digits=0, note=found["note"])
    yield Figure("  bytes remembered, a file", marks / _FILES, "B", most=48, digits=1)


def _manual(*, tagged: bool) -> Iterator[Figure]:
    data = make_pdf(_PAGES, tagged=tagged)
    parse = BY_NAME["pdf"].parser()
    took = []
    for _ in range(_RUNS):
        before = time.process_time()
        parsed = parse(data, name="manual", encoding="auto")
        took.append(time.process_time() - before)
    headings = sum(line.startswith("#") for line in parsed.text.split("\n"))
    yield Figure(
        f"PDF of {_PAGES} pages, {'tagged' if tagged else 'with an outline'}",
        _PAGES / median(took),
        "pages/CPU-s",
        least=50,
        digits=0,
        note=f"{len(parsed.text):,} characters, {headings} headings; median of {_RUNS}",
    )


def make_pdf(pages: int, *, tagged: bool) -> bytes:
    """A PDF of `pages` pages of running text, each under a heading of the outline."""
    objects: list[bytes] = [b"", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]

    def put(content: str, stream: bytes | None = None) -> int:
        body = content.encode("latin-1")
        if stream is not None:
            body += b"\nstream\n" + stream + b"\nendstream"
        objects.append(body)
        return len(objects)

    said = random.Random(400)
    outline, root = put(""), put("")
    kids, entries, elements, parents = [], [], [], []
    for number in range(pages):
        heading = f"Chapter {number + 1}"
        lines = [heading, *(" ".join(said.choices(_WORDS, k=15)) for _ in range(_LINES))]
        stream = put("", b"")
        objects[stream - 1] = _page_stream(lines, tagged=tagged)
        page = put(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {stream} 0 R "
            f"/StructParents {number} /Resources << /Font << /F1 3 0 R >> >> >>"
        )
        kids.append(page)
        entries.append(
            put(f"<< /Title ({heading}) /Parent {outline} 0 R /Dest [{page} 0 R /Fit] >>")
        )
        marked = [
            put(f"<< /S /{kind} /P {root} 0 R /Pg {page} 0 R /K {mark} >>")
            for mark, kind in enumerate(["H1", *["P"] * _LINES] if tagged else [])
        ]
        elements += marked
        parents.append(f"{number} [{' '.join(f'{one} 0 R' for one in marked)}]")
    for at, entry in enumerate(entries[:-1]):
        objects[entry - 1] = objects[entry - 1][:-2] + f"/Next {entries[at + 1]} 0 R >>".encode()
    objects[outline - 1] = (
        f"<< /First {entries[0]} 0 R /Last {entries[-1]} 0 R /Count {pages} >>".encode()
    )
    listed = " ".join(f"{one} 0 R" for one in elements)
    objects[root - 1] = (
        f"<< /Type /StructTreeRoot /K [{listed}] /ParentTree << /Nums [{' '.join(parents)}] >> >>"
    ).encode()
    marks = f"/MarkInfo << /Marked true >> /StructTreeRoot {root} 0 R" if tagged else ""
    objects[0] = f"<< /Type /Catalog /Pages 2 0 R /Outlines {outline} 0 R {marks} >>".encode()
    listed = " ".join(f"{one} 0 R" for one in kids)
    objects[1] = f"<< /Type /Pages /Count {pages} /Kids [{listed}] >>".encode()
    return _written(objects)


def _page_stream(lines: list[str], *, tagged: bool) -> bytes:
    shown = "".join(
        (f"/P <</MCID {mark}>> BDC ({line}) Tj EMC" if tagged else f"({line}) Tj") + " 0 -16 Td "
        for mark, line in enumerate(lines)
    )
    packed = zlib.compress(f"BT /F1 10 Tf 50 770 Td {shown}ET".encode("latin-1"))
    head = f"<< /Filter /FlateDecode /Length {len(packed)} >>\nstream\n".encode()
    return head + packed + b"\nendstream"


def _written(objects: list[bytes]) -> bytes:
    out, offsets = [b"%PDF-1.7\n"], []
    size = len(out[0])
    for number, content in enumerate(objects, 1):
        offsets.append(size)
        out.append(b"%d 0 obj\n%b\nendobj\n" % (number, content))
        size += len(out[-1])
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    count = len(objects) + 1
    out.append(
        f"xref\n0 {count}\n0000000000 65535 f \n{table}trailer\n"
        f"<< /Size {count} /Root 1 0 R >>\nstartxref\n{size}\n%%EOF\n".encode()
    )
    return b"".join(out)
