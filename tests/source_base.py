"""A real knowledge base over one source, refreshed with the model-free twin of the encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from headwater.config import load
from headwater.flows.encoding import twin_encoding
from headwater.flows.refresh import RefreshOptions, refresh
from headwater.flows.report import RefreshReport, SourceReport
from headwater.storage.store import Store
from headwater.storage.tables import open_tables

OPEN_GUARD = {"max_count": 1_000_000, "max_share": 1.0}


class SourceBase:
    """A folder with a `headwater.yaml` of one source, named `source`."""

    def __init__(self, root: Path, options: dict[str, Any]) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.configure({"deletion_guard": OPEN_GUARD, **options})

    def configure(self, options: dict[str, Any]) -> None:
        """Write `headwater.yaml` anew."""
        config = {"name": "test", "sources": {"source": options}}
        (self.root / "headwater.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def refresh(self, **options: Any) -> RefreshReport:
        """Refresh once."""
        return refresh(load(self.root), RefreshOptions(**options), encoding=twin_encoding)

    def pull(self, **options: Any) -> SourceReport:
        """Refresh once; what became of the source."""
        return self.refresh(**options).sources[0]

    @property
    def watermark(self) -> str:
        """Of the current snapshot."""
        manifest = Store.open(self.root / "store").current()
        assert manifest is not None
        return manifest.sources["source"].watermark or ""

    def live(self) -> dict[str, str]:
        """Key -> text of the live documents."""
        store = Store.open(self.root / "store")
        manifest = store.current()
        if manifest is None:
            return {}
        with open_tables(store.objects, manifest) as connection:
            rows = connection.execute(
                "select key, text from live join contents using (content_hash)"
            ).fetchall()
        return dict(rows)

    def manifests(self) -> str:
        """Every byte of the manifests and the run logs, to search for what must not be there."""
        store = self.root / "store"
        files = [*store.glob("snapshots/*"), *store.glob("runs/*")]
        return "\n".join(path.read_text("utf-8", "replace") for path in files)
