"""A new knowledge base: a configuration to edit, expectations to tighten, a schema for editors."""

from __future__ import annotations

import json
import re
from pathlib import Path

from headwater.config import CONFIG_NAME, Config, json_schema, load, parse
from headwater.errors import StorageUnavailableError
from headwater.validation.defaults import default_suite

SCHEMA_NAME = "headwater.schema.json"

_TEMPLATE = """\
# yaml-language-server: $schema=./headwater.schema.json
# A knowledge base of headwater. `headwater plan` says what a refresh would do.
version: 1
name: {name}
model: sentence-transformers/all-MiniLM-L6-v2   # or the path of a folder

schedule: {{every: 1h}}                           # of all sources; 'headwater schedule' serves it

sources:
  documents:
    kind: documents
    root: documents                             # a folder beside this file
    glob: ["**/*"]
    freshness: 1d                               # the objective that 'headwater status' checks
  # customers:
  #   kind: database
  #   dsn: postgresql://reader:${{PGPASSWORD}}@db.example/crm
  #   table: customers
  #   key: id
  #   ignore: [last_seen]                       # volatile columns are no change
  # tickets:
  #   kind: api
  #   url: https://api.example/tickets
  #   token: ${{TICKETS_TOKEN}}
  #   records: items
  #   key: id
  #   pagination: {{style: next, next: links.next}}

datasets:
  settled:
    recipes: [pairs, instructions, text]
    settled_for: 30d                            # unchanged for this long ...
    min_checks: 5                               # ... and confirmed this often
"""


def initialise(folder: Path, *, name: str | None = None) -> list[Path]:
    """Write what a knowledge base in `folder` lacks; returns the files written.

    Args:
        folder: created if missing.
        name: the knowledge base's name; made from the folder's when None.

    Raises:
        ConfigError: the folder holds a `headwater.yaml` that is wrong.
        StorageUnavailableError: the folder cannot be written.
    """
    written: list[Path] = []

    def write(path: Path, text: str) -> None:
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        written.append(path)

    try:
        path = folder / CONFIG_NAME
        if not path.exists():
            text = _TEMPLATE.format(name=name or _name_of(folder))
            parse(text.encode(), name=str(path))
            write(path, text)
            (folder / "documents").mkdir(exist_ok=True)
        write(folder / SCHEMA_NAME, json.dumps(json_schema(), indent=1) + "\n")
        for suite, kind in suites(load(folder).config).items():
            write(folder / suite, json.dumps(default_suite(kind), indent=2) + "\n")
    except OSError as error:
        raise StorageUnavailableError.of(error, folder) from None
    return written


def suites(config: Config) -> dict[str, str]:
    """The suite file of each source, relative to the knowledge base, and the source's kind."""
    return {
        source.suite or f"suites/{name}.json": source.kind
        for name, source in config.sources.items()
    }


def _name_of(folder: Path) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_") or "knowledge"
