"""The dataset card: what the rows are, where they come from, and how far to trust them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from headwater.retrieval.datasets.release import LINEAGE

_WHAT = {
    "pairs": "`anchor`, `positive`: a query made of title and headings, and the text it should find "
    "(sentence-transformers, in this column order)",
    "instructions": "`messages`: a question with its section as context, answered by the passage "
    "word for word (chat format)",
    "text": "`text`: the section below its title and headings",
}

_LIMITS = """\
- Queries and questions are made by templates from titles, headings and field names. Measure a model
  trained on them with real questions, not with the test split alone.
- Answers are passages, word for word: the instructions teach to answer from a context, not facts.
- Equal texts are kept once and never cross the split. Near-duplicates are not looked for.
- A title or heading may have changed since its text settled; staleness looks at texts.
- Personal data is not looked for. Labels (access rights) are listed above, not enforced.
- Settled means past stability, not a forecast of how long the texts will stay true.
"""


def dataset_card(manifest: Mapping[str, Any]) -> bytes:
    """The README of a release: a YAML header for `load_dataset`, then the card.

    Args:
        manifest: the release's manifest, its version included.
    """
    sections = [
        f"# {manifest['name']} {manifest['version']}",
        _evidence(manifest),
        _contents(manifest),
        _origins(manifest),
        _rejections(manifest),
        _staleness(manifest),
        f"## Limits\n\n{_LIMITS}",
    ]
    return (_header(manifest) + "\n" + "\n\n".join(s.rstrip() for s in sections) + "\n").encode()


def _header(manifest: Mapping[str, Any]) -> str:
    configs = []
    for recipe in manifest["config"]["recipes"]:
        paths = [p for p in _training_files(manifest) if p.startswith(f"{recipe}/")]
        data = [{"split": p.partition("/")[2].removesuffix(".jsonl"), "path": p} for p in paths]
        if data:
            configs.append({"config_name": recipe, "data_files": data})
    header: dict[str, Any] = {"pretty_name": manifest["name"], "tags": ["headwater"]}
    licences = {state["licence"] for state in manifest["sources"].values()}
    if licences and None not in licences:
        header["license"] = sorted(str(name).lower() for name in licences)
    header["configs"] = configs
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def _evidence(manifest: Mapping[str, Any]) -> str:
    evidence, counts = manifest["evidence"], manifest["counts"]
    origin = (
        f"Cut from snapshot `{manifest['snapshot']}`, knowledge of {manifest['observed_at']}, "
        f"by headwater {manifest['headwater']}."
    )
    measured = (
        f"The texts of its rows came to stay between {evidence['since_first']} and "
        f"{evidence['since_last']} and were confirmed {evidence['checks_min']} to "
        f"{evidence['checks_max']} times (median {evidence['checks_median']}); the last "
        f"confirmation counted is of {evidence['confirmed_until']}."
    )
    if manifest["unproven"]:
        return (
            f"> **UNPROVEN.** Emitted without evidence that these texts have settled. Asked for were "
            f"{evidence['settled_for']} unchanged and {evidence['min_checks']} checks; "
            f"{counts['settled']} of {counts['chunks']} chunks fulfil both.\n\n{origin} {measured}"
        )
    return (
        f"{origin} Only settled chunks were used: unchanged for at least {evidence['settled_for']} "
        f"and confirmed by at least {evidence['min_checks']} refreshes of their source. "
        f"{counts['settled']} of {counts['chunks']} chunks are settled.\n\n{measured}"
    )


def _contents(manifest: Mapping[str, Any]) -> str:
    lines = ["## Contents", "", "| file | rows |", "|---|---|"]
    lines += [f"| {p} | {manifest['files'][p]['rows']} |" for p in _training_files(manifest)]
    lines += ["", *(f"- {name}: {_WHAT[name]}" for name in manifest["config"]["recipes"])]
    lines += [
        "",
        (
            "Line n of `<split>.lineage.jsonl` tells where line n of `<split>.jsonl` comes from: "
            "source, document, version, span in characters, and the evidence of its chunk. A "
            "document is train or test by the hash of its name, whatever else comes and goes "
            f"({manifest['config']['test_share']:.0%} test)."
        ),
    ]
    return "\n".join(lines)


def _origins(manifest: Mapping[str, Any]) -> str:
    lines = [
        "## Sources and licences",
        "",
        "| source | licence | labels | rows |",
        "|---|---|---|---|",
    ]
    for name, state in sorted(manifest["sources"].items()):
        labels = ", ".join(state["labels"]) or "none"
        lines.append(
            f"| {name} | {state['licence'] or 'not stated'} | {labels} | {state['rows']} |"
        )
    return "\n".join(lines)


def _rejections(manifest: Mapping[str, Any]) -> str:
    lines = ["## Left out", "", "| recipe | reason | chunks |", "|---|---|---|"]
    for recipe, reasons in sorted(manifest["rejections"].items()):
        lines += [f"| {recipe} | {reason} | {count} |" for reason, count in sorted(reasons.items())]
    return "\n".join(lines) if len(lines) > 4 else "## Left out\n\nNothing."


def _staleness(manifest: Mapping[str, Any]) -> str:
    return (
        "## Is it still true?\n\n"
        f"`headwater dataset status {manifest['name']}` compares every row with the current snapshot "
        "and says what share is contradicted: fresh up to 1 %, aging up to "
        f"{manifest['config']['stale_above']:.0%}, stale above. It also checks the files against "
        "`manifest.json`."
    )


def _training_files(manifest: Mapping[str, Any]) -> list[str]:
    found = [p for p in manifest["files"] if p.endswith(".jsonl") and not p.endswith(LINEAGE)]
    return sorted(found, key=lambda p: (p.partition("/")[0], not p.endswith("train.jsonl")))
