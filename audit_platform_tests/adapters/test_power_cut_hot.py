"""The alias file of HOT over power cuts: what was told, or read by a writer, is there afterwards.

Index files are SQLite's own (write-ahead log, synchronous=FULL): what is ours is the file that
names them. Also that each fsync is needed: with any one left out, the same check finds a loss.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from audit_platform.adapters.embedded.files import FsyncSite
from audit_platform.adapters.embedded.hot_aliases import Aliases, DayIndexes, Days
from audit_platform_tests.adapters.lives import broken_promises
from audit_platform_tests.powercut import PowerCutFiles

ROOT: Final = Path("/srv/audit/hot")
#: `hot_index_name` is the fsync after SQLite made a file: `test_embedded_hot.py`.
SITES: Final = [FsyncSite.HOT_FOLDER, FsyncSite.HOT_ALIASES, FsyncSite.HOT_ALIASES_NAME]


class AliasScript:
    """Adds days and moves aliases; a second process reads them as a writer does."""

    def __init__(self) -> None:
        self.told: Days = {}

    def run(self, files: PowerCutFiles) -> None:
        """See `Script.run`."""
        aliases = Aliases(ROOT, files)
        for number in (1, 2, 3):
            self.told = aliases.change("north", lambda days, n=number: _add(days, n))  # type: ignore[misc] # a lambda's default

    def look(self, files: PowerCutFiles) -> None:
        """See `Script.look`."""
        self.told = Aliases(ROOT, files).durable_days("north")

    def broken(self, files: PowerCutFiles) -> list[str]:
        """See `Script.broken`."""
        found = Aliases(ROOT, files).days("north")
        return [
            f"{day}: {told}, then {found.get(day)}"
            for day, told in self.told.items()
            if day not in found or found[day].write < told.write
        ]


def _add(days: Days, number: int) -> None:
    days[f"2026-03-0{number}"] = DayIndexes((1,), 1, 1)
    first = days["2026-03-01"]
    days["2026-03-01"] = replace(first, generations=(number,), read=number, write=number)


def test_aliases_that_were_told_survive_every_end() -> None:
    assert list(broken_promises(AliasScript, seeds=(None, 1, 2))) == []


@pytest.mark.parametrize("site", SITES)
def test_without_any_one_fsync_an_alias_is_lost(site: FsyncSite) -> None:
    assert next(broken_promises(AliasScript, omit=[site]), None) is not None


def test_the_script_comes_to_every_fsync_of_the_aliases() -> None:
    files = PowerCutFiles()
    script = AliasScript()
    script.run(files)
    script.look(files)
    assert files.synced == set(SITES)
