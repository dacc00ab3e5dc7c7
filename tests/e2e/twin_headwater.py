"""The command line with the model-free twin in place of the embedding model: `headwater` for tests."""

from __future__ import annotations

import sys

from headwater.cli import main
from headwater.flows.backfill import backfill, run_backfill
from headwater.flows.encoding import twin_encoding
from headwater.flows.estimate import estimate_backfill
from headwater.flows.refresh import refresh

for function in (refresh, backfill, run_backfill, estimate_backfill):
    assert function.__kwdefaults__ is not None
    function.__kwdefaults__["encoding"] = twin_encoding

if __name__ == "__main__":
    sys.exit(main())
