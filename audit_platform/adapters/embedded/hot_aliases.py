"""Which generations of a day's search index there are, and which one is read and written.

One small JSON file per tenant, `hot.<tenant>.aliases.json`, replaced whole: so an alias moves at
one instant, also over a power cut. Belongs here: that file, its lock, names of index files. Does
not: what is in an index (`hot_index.py`), when an alias moves (`operations/rebuild_hot.py`).
Source: design section 8 (HOT); `ports.Hot`.

The order of writes makes a name in the file a promise: an index file is durable before the aliases
name it, and is named no more before it is deleted. What no alias file names means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from audit_platform.adapters.embedded.files import (
    Files,
    FsyncSite,
    mkdirs,
    read_whole,
    write_file,
)
from audit_platform.errors import HotUnavailable
from audit_platform.record.layout import TENANT_PATTERN

_FILE: Final = re.compile(r"hot\.(?P<tenant>[a-z0-9-]+)\.aliases\.json")
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class DayIndexes:
    """One day's generations (ascending). `read` and `write` are 0 while there is none.

    `first_event_day` to `last_event_day` (days since 1970) hold the eventTime of every row that any
    of them has: written before the rows are, so that a search may pass over the rest. Empty while
    the first is after the last.
    """

    generations: tuple[int, ...] = ()
    read: int = 0
    write: int = 0
    first_event_day: int = 1
    last_event_day: int = 0

    def holds_events_of(self, first: int, last: int) -> bool:
        """Whether the stated bounds hold these days already."""
        return self.first_event_day <= first and last <= self.last_event_day

    def widened(self, first: int, last: int) -> DayIndexes:
        """The same with bounds that hold these days too."""
        if self.first_event_day <= self.last_event_day:
            first = min(first, self.first_event_day)
            last = max(last, self.last_event_day)
        return DayIndexes(self.generations, self.read, self.write, first, last)


Days = dict[str, DayIndexes]


def index_name(tenant_id: str, day: str, generation: int) -> str:
    """Name of an index, `hot.<tenant>.<yyyymmdd>.g<n>`; its file has `.db` behind."""
    return f"hot.{tenant_id}.{day.replace('-', '')}.g{generation}"


class Aliases:
    """The alias files of a folder. Any number of processes and threads."""

    def __init__(self, folder: Path, files: Files) -> None:
        self.folder = folder
        self._files = files
        self._durable: dict[str, Days] = {}

    def tenants(self) -> list[str]:
        """Tenants that have an alias file, by id."""
        if self._files.stat(self.folder) is None:
            return []
        names = (_FILE.fullmatch(name) for name in self._files.listdir(self.folder))
        return sorted(m["tenant"] for m in names if m)

    def days(self, tenant_id: str) -> Days:
        """The days of a tenant, in order. Raises `HotUnavailable`, `OSError`."""
        path = self._path(tenant_id)
        if self._files.stat(path) is None:
            return {}
        try:
            found = orjson.loads(read_whole(self._files, path))
            return {day: _parsed(day, value) for day, value in sorted(found.items())}
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise HotUnavailable(
                f"the alias file {path.name} is damaged: {e}",
                remedy=f"move it away and run `audit-platform rebuild-hot {tenant_id} --all`",
            ) from e

    def durable_days(self, tenant_id: str) -> Days:
        """The same, and they survive a power cut: what is promised may rest on them.

        Whoever wrote them may have died before it came to its own fsync.
        """
        days = self.days(tenant_id)
        if self._durable.get(tenant_id, {}) == days:
            return days
        return self.change(tenant_id, lambda _: None)

    def change(self, tenant_id: str, what: Callable[[Days], None]) -> Days:
        """Change the days of a tenant, alone among all processes; durable on return."""
        if not TENANT_PATTERN.fullmatch(tenant_id):
            raise ValueError(f"not a tenant id: {tenant_id!r}")
        mkdirs(self._files, self.folder, FsyncSite.HOT_FOLDER)
        lock = self._files.open(self.folder / f"hot.{tenant_id}.lock", create=True)
        try:
            self._files.lock(lock)
            days = self.days(tenant_id)
            before = dict(days)
            what(days)
            if days != before:
                self._write(tenant_id, days)
            self._files.fsync_dir(self.folder, FsyncSite.HOT_ALIASES_NAME)
            self._durable[tenant_id] = dict(days)
            return days
        finally:
            self._files.close(lock)

    def _write(self, tenant_id: str, days: Days) -> None:
        path = self._path(tenant_id)
        draft = path.with_suffix(".draft")
        data = orjson.dumps({d: asdict(v) for d, v in days.items()}, option=orjson.OPT_SORT_KEYS)
        write_file(self._files, draft, data, FsyncSite.HOT_ALIASES)
        self._files.rename(draft, path)

    def index_path(self, tenant_id: str, day: str, generation: int) -> Path:
        """The file of an index."""
        return self.folder / f"{index_name(tenant_id, day, generation)}.db"

    def files_of(self, tenant_id: str, day: str) -> dict[int, list[Path]]:
        """Generation -> files that stand in the folder for it, named by the aliases or not."""
        form = re.compile(
            re.escape(f"hot.{tenant_id}.{day.replace('-', '')}.g") + r"(\d+)\.db(-wal|-shm)?"
        )
        found: dict[int, list[Path]] = {}
        for name in self._files.listdir(self.folder):
            if m := form.fullmatch(name):
                found.setdefault(int(m[1]), []).append(self.folder / name)
        return found

    def _path(self, tenant_id: str) -> Path:
        return self.folder / f"hot.{tenant_id}.aliases.json"


def _parsed(day: str, value: dict[str, Any]) -> DayIndexes:
    if not _DAY.fullmatch(day):
        raise ValueError(f"not a day: {day}")
    found = DayIndexes(**value | {"generations": tuple(value["generations"])})
    numbers = (*found.generations, found.read, found.write)
    if any(type(n) is not int for n in (*numbers, found.first_event_day, found.last_event_day)):
        raise ValueError(f"{day}: not numbers")
    return found


def move(days: Days, day: str, generation: int, *, read: int = 0, write: int = 0) -> None:
    """Move aliases of a day to a generation. Raises `HotUnavailable` for one it does not have."""
    found = days.get(day, DayIndexes())
    if generation not in found.generations:
        raise HotUnavailable(
            f"{day} has no generation {generation}",
            remedy="somebody else rebuilds this day too: run rebuild-hot again when it is done",
        )
    days[day] = replace(found, read=read or found.read, write=write or found.write)
