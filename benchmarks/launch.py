"""Run a command and print what it cost, as JSON: `launch.py COMMAND...`.

It stands between the benchmarks and what they measure because a child's peak memory starts at that
of whoever started it: this process is smaller than everything it starts. Standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile


def main() -> None:
    """Run the rest of the command line; its descendants are counted once they were waited for."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            sys.argv[1:], stdin=subprocess.DEVNULL, stdout=out, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        found = {
            "code": process.returncode,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            # Linux counts kibibytes, macOS bytes.
            "rss_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            "out": out.read().decode(errors="replace"),
            "errors": errors.read().decode(errors="replace"),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
