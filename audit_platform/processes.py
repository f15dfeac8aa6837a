"""How a long-running process is set up: the allocator's variables and the garbage collector.

Belongs here: what must be so before or right after a service starts, whatever it does. Does not:
metrics and logs (`telemetry.py`), the services themselves.
Source: limits measured on this layout: with glibc's defaults, freeing and asking again for the
blocks of each batch costs 10-20 % of ingest and 25 % of reading large records.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Final

#: Read by glibc and Arrow when a process starts: they must stand in the environment before `exec`.
MALLOC_VARIABLES: Final = {
    # Never give the heap's top back: the next batch needs it again.
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    # Never map a large block on its own: each map and unmap is a page fault per 4 KiB.
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    # Grow the heap in steps of 64 MiB.
    "MALLOC_TOP_PAD_": "67108864",
    # Arrow's default (mimalloc) gives pages back between steps: archive cost 0.5 refs and 30 MB
    # more. Where Arrow was built without jemalloc it says so and takes its default.
    "ARROW_DEFAULT_MEMORY_POOL": "jemalloc",
}


def tune_process() -> None:
    """Start this program again, once, with the allocator's variables set; same process id.

    Call it first in a service's entry point: all state of the process is lost. Returns at once
    when the variables are there, whatever their values: an operator's choice is kept.
    """
    if all(name in os.environ for name in MALLOC_VARIABLES):
        return
    environment = MALLOC_VARIABLES | dict(os.environ)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - no shell is the point: the same program with the same arguments


#: Objects made before the collector looks at the young ones. A batch of 500 events makes about
#: 4,000, which all die with it: by Python's own 700 it would look at them for nothing.
YOUNG_OBJECTS: Final = 50_000


def freeze_startup_objects() -> None:
    """Take what start-up made out of the garbage collector's sight; let it look less often.

    Call when start-up is complete.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
