"""The bytes of a release: training files, their lineage, and what its manifest says of them. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import median_low
from typing import Any

from headwater import __version__
from headwater.config import DatasetConfig, format_duration
from headwater.retrieval.datasets.examples import Example, Examples
from headwater.retrieval.datasets.release import FORMAT, lineage_of, version_of
from headwater.retrieval.datasets.sections import Section
from headwater.retrieval.datasets.settled import Judgement
from headwater.storage.manifest import Manifest, format_time

# Some readers split lines at these too; JSON holds them only inside strings.
_LINE_BREAKS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def training_files(examples: Examples, snapshot: str) -> dict[str, tuple[bytes, int]]:
    """Path -> (bytes, rows) of the training files that have rows, and of their sidecars."""
    found: dict[str, tuple[bytes, int]] = {}
    for recipe, splits in examples.rows.items():
        for split, rows in splits.items():
            if rows:
                path = f"{recipe}/{split}.jsonl"
                found[path] = _lines(e.payload for e in rows), len(rows)
                found[lineage_of(path)] = _lines(_lineage(e, snapshot) for e in rows), len(rows)
    return found


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    lines = (json.dumps(row, ensure_ascii=False).translate(_LINE_BREAKS) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def _lineage(example: Example, snapshot: str) -> dict[str, Any]:
    section = example.section
    return {
        "text_hash": section.text_hash.hex(),
        "source": section.source,
        "key": section.key,
        "version_id": section.version_id,
        "start": example.start,
        "end": example.end,
        "heading_path": list(section.heading_path),
        "snapshot": snapshot,
        "since": format_time(section.since),
        "checks": section.checks,
    }


def release_record(
    name: str,
    config: DatasetConfig,
    manifest: Manifest,
    judged: Sequence[Judgement],
    examples: Examples,
    contents: Mapping[str, tuple[bytes, int]],
    *,
    unproven: bool,
) -> dict[str, Any]:
    """The manifest of the release, with its version and without its card."""
    used = [e.section for s in examples.rows.values() for rows in s.values() for e in rows]
    chunks = {(s.source, s.key, s.text_hash): s for s in used}.values()
    record: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "headwater": __version__,
        "snapshot": manifest.name(),
        "seq": manifest.seq,
        "observed_at": manifest.observed_at,
        "unproven": unproven,
        "config": config.model_dump(mode="json"),
        "counts": {
            "chunks": len(judged),
            "settled": sum(j.settled for j in judged),
            "chunks_used": len(chunks),
            "rows": examples.count,
        },
        "evidence": {
            "settled_for": format_duration(config.settled_for),
            "min_checks": config.min_checks,
            "since_first": format_time(min(s.since for s in chunks)),
            "since_last": format_time(max(s.since for s in chunks)),
            "checks_min": min(s.checks for s in chunks),
            "checks_median": median_low(s.checks for s in chunks),
            "checks_max": max(s.checks for s in chunks),
            "confirmed_until": format_time(max(s.confirmed_at for s in chunks)),
        },
        "sources": _origins(used),
        "rejections": examples.rejections,
        "files": {path: file_entry(data, rows) for path, (data, rows) in contents.items()},
    }
    return {**record, "version": version_of(record)}


def _origins(used: Sequence[Section]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for section in used:
        state = found.setdefault(
            section.source, {"licence": section.licence, "labels": set(), "rows": 0}
        )
        state["labels"] |= set(section.labels)
        state["rows"] += 1
    return {name: {**state, "labels": sorted(state["labels"])} for name, state in found.items()}


def file_entry(data: bytes, rows: int) -> dict[str, Any]:
    """A file as the manifest names it."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "rows": rows}
