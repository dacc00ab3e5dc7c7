"""`python -m examples.python_environment --kb demo`: what `make run` runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.python_environment.facts import read_environment
from examples.python_environment.tour import BrokenPromiseError, take_tour


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the tour; returns 1 when headwater did not do what the tour promises."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.python_environment", description="Your Python environment, known."
    )
    parser.add_argument("--kb", type=Path, default=Path("demo"), help="the folder (default: demo)")
    root = parser.parse_args(arguments).kb
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", "100")
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        take_tour(root, read_environment())
    except BrokenPromiseError as error:
        print(f"\nThe tour ends here: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; `make run` goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
