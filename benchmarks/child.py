"""What runs in a process of its own, to be measured whole: `python -m benchmarks.child TASK ...`."""

from __future__ import annotations

import importlib
import json
import sys
from contextlib import suppress
from pathlib import Path


def refresh_base(root: str, encoding: str) -> None:
    """Refresh a knowledge base; prints what happened and which modules that took."""
    from headwater.config import load
    from headwater.flows.encoding import open_encoding, twin_encoding
    from headwater.flows.refresh import refresh

    opener = {"real": open_encoding, "twin": twin_encoding}[encoding]
    report = refresh(load(root), encoding=opener)
    if report.exit_code:
        raise SystemExit(f"the refresh ended with {report.exit_code}: {report}")
    found = {
        "embedded": report.embedded,
        "texts": report.texts,
        "documents": report.documents,
        "bytes_written": report.bytes_written,
        "published": report.published,
        "modules": sorted(sys.modules),
    }
    print(json.dumps(found))


def start_up(root: str, modules: str) -> None:
    """Import the modules that the file `modules` lists, open the store, and do nothing."""
    wanted = json.loads(Path(modules).read_text("utf-8"))
    if "openvino" in wanted:
        from headwater.retrieval.encoder import import_openvino

        # As headwater imports it: without the tools that report to a statistics server.
        import_openvino()
        if "openvino_telemetry" not in wanted:
            sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    for name in wanted:
        # Some exist only while their library runs; what can be imported is what start-up costs.
        with suppress(Exception):
            importlib.import_module(name)
    from headwater.config import load
    from headwater.storage.store import Store

    Store.create(load(root).store).current()


TASKS = {"refresh": refresh_base, "start-up": start_up}

if __name__ == "__main__":
    TASKS[sys.argv[1]](*sys.argv[2:])
