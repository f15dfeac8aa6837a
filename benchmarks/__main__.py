"""All benchmarks, one after the other: `python -m benchmarks [events]` (default 1,000,000)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

LARGE: Final = 1_000_000


def main() -> None:
    """Each in a process of its own; a failure ends the run."""
    events = sys.argv[1] if len(sys.argv) > 1 else "1000000"
    # The spool of a gigabyte and 50,000 segments only where the rest is large, too.
    is_large = int(events) >= LARGE
    segments, size = ("50000", "1000000000") if is_large else ("2000", "20000000")
    for module, arguments in (
        ("rows", ["--events", events]),
        ("ingest", ["--events", events]),
        ("edge", ["--events", str(min(int(events), 200_000))]),
        ("archive", [events]),
        ("index", [events]),
        ("seal", [events]),
        ("query", [events]),
        ("spool", [segments, size]),
        ("uplink", ["--events", str(min(int(events), 200_000))]),
    ):
        print(f"--- {module}", flush=True)
        subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", f"benchmarks.{module}", *arguments],
            cwd=Path(__file__).parent.parent,
            check=True,
        )


main()
