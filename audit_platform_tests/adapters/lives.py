"""Runs a script through every possible end of its process, and says which promises were broken.

Belongs here: the enumeration of ends, for any store on `PowerCutFiles`. Does not: scripts, promises
(`test_power_cut_log.py`, `test_power_cut_objects.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from audit_platform.adapters.embedded.files import FsyncSite
from audit_platform.errors import AuditPlatformError
from audit_platform_tests.powercut import PowerCut, PowerCutFiles


class Script(Protocol):
    """What one machine does over its lives; remembers what it was told, by return or by read."""

    def run(self, files: PowerCutFiles) -> None:
        """The first life: write, and note each acknowledgement when it comes."""
        ...

    def look(self, files: PowerCutFiles) -> None:
        """A second process on what the first left: read, note what was read, write some more."""
        ...

    def broken(self, files: PowerCutFiles) -> list[str]:
        """After the power came back: whatever was told and is not so any more."""
        ...


def operations(script: Script) -> int:
    """How many operations the first life has, undisturbed."""
    files = PowerCutFiles()
    script.run(files)
    return files.operations


def broken_promises(
    new_script: Callable[[], Script],
    *,
    omit: Collection[FsyncSite] = (),
    seeds: Collection[int | None] = (None,),
) -> Iterator[str]:
    """Every promise broken over all ends of the first life: each operation, then its full length.

    Twice each: the power goes at once; and the process dies, a second one looks, the power goes.
    """
    count = operations(new_script())
    for stop_at in range(1, count + 2):
        for second_process in (False, True):
            for seed in seeds:
                files = PowerCutFiles(omit=omit)
                files.stop_at = stop_at
                script = new_script()
                with contextlib.suppress(PowerCut):
                    script.run(files)
                if second_process:
                    files.end_process()
                    script.look(files)
                files.cut(seed)
                where = f"operation {stop_at}, second process {second_process}, seed {seed}"
                try:
                    found = script.broken(files)
                except AuditPlatformError as e:
                    found = [f"refused: {e}"]
                yield from (f"{where}: {broken}" for broken in found)
