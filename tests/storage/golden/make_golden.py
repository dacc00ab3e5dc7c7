"""Makes the golden store of today's format, by hand: python tests/storage/golden/make_golden.py.

Everything docs/format.md names, by real refreshes of real sources with the model-free twin. Each
step says by hand what a reader must see afterwards; the program stops where the store disagrees, and
writes what was said to format-<n>.json. Run names, wall-clock times and process numbers are new each
time, so a golden store is never made over: remove the folder first, and know why.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from golden_steps import STEPS, Golden, changes_between, hashed, sha256

from headwater.retrieval import Retriever
from headwater.retrieval.embedding import HashEmbedder
from headwater.storage.audit import AuditLog
from headwater.storage.files import remove_tree
from headwater.storage.lineage import document_history
from headwater.storage.manifest import FORMAT
from headwater.storage.sql import run_sql

HERE = Path(__file__).parent
GOLDEN, EXPECTED = HERE / f"format-{FORMAT}", HERE / f"format-{FORMAT}.json"

QUESTIONS = "select source, key, labels, chars from documents order by source, key"


def expectations(golden: Golden) -> dict[str, Any]:
    """Everything format-<n>.json says."""
    store = golden.store
    manifests = {m.seq: m for m in store.chain()}
    retired = json.loads((store.root / "retired.json").read_bytes())["snapshots"]
    snapshots = []
    for seq, served in golden.pasts.items():
        manifest = manifests[seq]
        facts = {n: getattr(manifest, n) for n in ("seq", "cause", "restores", "observed_at")}
        facts |= {"name": manifest.name(), "counts": manifest.counts}
        facts |= {"expired": manifest.name() in retired, "live": hashed(served)}
        snapshots.append(facts)
    opened = [s["seq"] for s in snapshots if not s["expired"]]
    current = store.resolve(None)
    return {
        "format": FORMAT,
        "snapshots": snapshots,
        "current": current.name(),
        "tags": {"reviewed": manifests[4].name()},
        "candidates": store.candidates(),
        "holds": {name: state.hold for name, state in current.sources.items()},
        "watermarks": {name: state.watermark for name, state in current.sources.items()},
        "held_back": [["handbook", "lamp"], ["handbook", "pilot"]],
        "feeds": [
            {"before": a, "after": b, "changes": changes_between(store, str(a), str(b))}
            for a, b in pairwise(opened)
        ],
        "history": {
            "source": "handbook",
            "key": "dyke",
            "spans": [
                [s.began, s.ended, s.key, s.from_seq, s.until_seq]
                for s in document_history(store, "handbook", "dyke")
            ],
        },
        "sql": {"statement": QUESTIONS, "rows": run_sql(store, QUESTIONS).to_pylist()},
        "searches": [
            _search(golden, None, "how many boats in the upper basin"),
            _search(golden, "3", "how many boats in the upper basin"),
            _search(golden, "reviewed", "the lamp on the pier"),
        ],
        "worded": [
            _worded(golden, None, "boats upper basin"),
            _worded(golden, "3", "six boats"),
            _worded(golden, "reviewed", "a lamp on the pier"),
            _worded(golden, None, "crane"),
        ],
        "actions": [entry.action for entry in AuditLog(store.root).entries()],
        "outcomes": sorted(
            json.loads(line)["outcome"]
            for path in (store.root / "runs").glob("*.jsonl")
            for line in path.read_text().splitlines()
        ),
    }


def _search(golden: Golden, as_of: str | None, query: str) -> dict[str, Any]:
    """The five nearest texts, found by computing every one of them."""
    twin = HashEmbedder()
    vector = twin.encode([query])[0]
    rows = run_sql(golden.store, "select distinct text from chunks", as_of=as_of).to_pylist()
    texts = [row["text"] for row in rows]
    scores = twin.encode(texts) @ vector
    best = np.argsort(-scores)[:5]
    hits = [[sha256(texts[i]), round(float(scores[i]), 5)] for i in best]
    with Retriever.open(golden.root) as retriever:
        nearest = retriever.search(query, as_of=as_of, mode="dense")
    found = [[sha256(hit.text), round(hit.score, 5)] for hit in nearest]
    assert [h for h, _ in found] == [h for h, _ in hits], (found, hits)
    return {"as_of": as_of, "query": query, "vector": vector.tobytes().hex(), "hits": hits}


def _worded(golden: Golden, as_of: str | None, query: str) -> dict[str, Any]:
    """What a search for words finds: every text that holds one of them, and no other."""
    with Retriever.open(golden.root) as retriever:
        hits = retriever.search(query, 50, as_of=as_of, mode="lexical")
    rows = run_sql(golden.store, "select distinct text from chunks", as_of=as_of).to_pylist()
    # Words of these queries that no rule of English changes, and that no list of common ones has.
    words = [word for word in query.split() if word in ("basin", "lamp", "pier", "crane", "six")]
    holding = {r["text"] for r in rows if any(re.search(rf"\b{w}\b", r["text"]) for w in words)}
    assert holding <= {hit.text for hit in hits}, (query, holding)
    listed = [[sha256(hit.text), round(hit.score, 5)] for hit in hits]
    return {"as_of": as_of, "query": query, "hits": listed}


def make(root: Path) -> dict[str, Any]:
    """Make the golden store in `root`, which must not be there; returns what it must say."""
    root.mkdir()
    golden = Golden(root)
    golden.configure()
    # The name of the machine and of who runs this are nobody's business.
    with (
        mock.patch("socket.gethostname", return_value="golden"),
        mock.patch("getpass.getuser", return_value="golden"),
    ):
        for step in STEPS:
            step(golden)
            print(f"{step.__name__}: {golden.store.current_name()}")
    expected = expectations(golden)
    golden.configure()
    remove_tree(root / "reports")
    # Git keeps no empty folder: whoever clones the repository has none either.
    for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    return expected


def main() -> int:
    """Make the golden store and what it must say, unless they are there."""
    if GOLDEN.exists():
        print(f"{GOLDEN} is there; it must open for ever, so it is not made over", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        expected = make(Path(folder) / GOLDEN.name)
        shutil.copytree(Path(folder) / GOLDEN.name, GOLDEN)
    text = json.dumps(expected, indent=1, ensure_ascii=False)
    # One row, one line: for whoever compares them by eye.
    flat = re.sub(r"\[[^][{}]*\]", lambda row: re.sub(r"\s*\n\s*", " ", row[0]), text)
    EXPECTED.write_text(flat.replace("[ ", "[").replace(" ]", "]") + "\n")
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
