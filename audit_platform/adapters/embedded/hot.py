"""HOT of the embedded profile: an SQLite file for each tenant, day and generation.

Belongs here: which indexes a call concerns, in which order they are searched, what becomes of
faults. Does not: one file (`hot_index.py`), open files (`hot_pool.py`), aliases (`hot_aliases.py`).
Source: design section 8 (HOT), 9 (embedded); the promises are those of `ports.Hot`.

A file that is damaged makes calls that need it raise `HotUnavailable` with its name; the others go
on. It is mended by `rebuild_hot`, which makes the next generation beside it.
"""

from __future__ import annotations

import sqlite3
import time
from bisect import insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from audit_platform.adapters.embedded import hot_find, hot_index, hot_upkeep
from audit_platform.adapters.embedded.files import Files, FsyncSite, RealFiles
from audit_platform.adapters.embedded.hot_aliases import (
    Aliases,
    DayIndexes,
    Days,
    index_name,
    move,
)
from audit_platform.adapters.embedded.hot_days import Searched, concerned, days_before
from audit_platform.adapters.embedded.hot_index import Row
from audit_platform.adapters.embedded.hot_pool import Connections, stamp_of
from audit_platform.errors import HotUnavailable, QueryCancelled
from audit_platform.ports import (
    EventPosition,
    EventQuery,
    HotIndex,
)
from audit_platform.record.columns import ints_of
from audit_platform.record.layout import MS_PER_DAY, day_end_ms, day_start_ms
from audit_platform.record.words import words

#: Steps of SQLite's machine between two looks at `is_cancelled`: well below a millisecond of work.
STEPS_PER_LOOK: Final = 5000

#: A file that changed less than this ago may change again within one tick of the file system.
_SETTLED_SECONDS: Final = 2.0

_Found = tuple[EventPosition, Row]


class EmbeddedHot:
    """`ports.Hot` in a folder. Any number of processes; safe from several threads."""

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self._files = files or RealFiles()
        self._aliases = Aliases(folder, self._files)
        self._connections = Connections()
        self._counts: dict[Path, tuple[tuple[int, ...], int]] = {}

    def close(self) -> None:
        """Close all files. Idempotent."""
        self._connections.close()

    # ------------------------------------------------------------------------------------ writing

    def create(self, tenant_id: str, day: str, rows: pa.RecordBatch) -> int:
        """See `ports.Hot.create`."""
        if not rows.num_rows:
            return 0
        blocks = _checked(day, rows)
        with _told(f"HOT of {tenant_id} {day}"):
            indexes = self._written(tenant_id, day, blocks)
            while True:
                try:
                    return self._write(tenant_id, day, indexes.write, blocks)
                except FileNotFoundError:
                    # Deleted after its alias moved: then there is another one to write to.
                    now = self._written(tenant_id, day, blocks)
                    if now.write == indexes.write:
                        raise
                    indexes = now

    def fill(self, tenant_id: str, day: str, generation: int, rows: pa.RecordBatch) -> int:
        """See `ports.Hot.fill`."""
        if not rows.num_rows:
            return 0
        blocks = _checked(day, rows)
        with _told(index_name(tenant_id, day, generation)):
            self._widen(tenant_id, day, blocks)
            return self._write(tenant_id, day, generation, blocks)

    def _written(
        self, tenant_id: str, day: str, blocks: Sequence[hot_index.Prepared]
    ) -> DayIndexes:
        """The day's indexes with one to write to, made when there is none; bounds are widened."""
        indexes = self._aliases.durable_days(tenant_id).get(day)
        if indexes is None or not indexes.write:

            def begin(days: Days) -> None:
                found = days.get(day, DayIndexes())
                if not found.write:
                    made = self._make(tenant_id, day, found)
                    number = made.generations[-1]
                    days[day] = replace(made, read=made.read or number, write=number)

            self._aliases.change(tenant_id, begin)
        return self._widen(tenant_id, day, blocks)

    def _widen(self, tenant_id: str, day: str, blocks: Sequence[hot_index.Prepared]) -> DayIndexes:
        first = min(b.event[0] for b in blocks) // MS_PER_DAY
        last = max(b.event[1] for b in blocks) // MS_PER_DAY
        indexes = self._aliases.durable_days(tenant_id).get(day, DayIndexes())
        if not indexes.holds_events_of(first, last):

            def widen(days: Days) -> None:
                days[day] = days.get(day, DayIndexes()).widened(first, last)

            indexes = self._aliases.change(tenant_id, widen)[day]
        return indexes

    def _write(
        self, tenant_id: str, day: str, generation: int, blocks: Sequence[hot_index.Prepared]
    ) -> int:
        path = self._aliases.index_path(tenant_id, day, generation)
        with _named(path), self._connections.lent(path) as connection:
            return hot_index.write(connection, blocks)

    def remove(self, tenant_id: str, day: str, generation: int, hashes: Sequence[bytes]) -> int:
        """See `ports.Hot.remove`."""
        path = self._aliases.index_path(tenant_id, day, generation)
        with _told(path.stem), self._connections.lent(path) as connection:
            return hot_index.remove(connection, hashes)

    # ------------------------------------------------------------------------------------ aliases

    def new_index(self, tenant_id: str, day: str, source: Path | None = None) -> int:
        """See `ports.Hot.new_index`. With a `source`: what that index file holds."""

        def add(days: Days) -> None:
            days[day] = self._make(tenant_id, day, days.get(day, DayIndexes()), source)

        with _told(f"HOT of {tenant_id} {day}"):
            return self._aliases.change(tenant_id, add)[day].generations[-1]

    def _make(
        self, tenant_id: str, day: str, indexes: DayIndexes, source: Path | None = None
    ) -> DayIndexes:
        """Make the file of the next generation, durable; the caller holds the lock.

        Empty, or with all that an index file `source` has.
        """
        standing = self._aliases.files_of(tenant_id, day)
        generation = max([0, *indexes.generations, *standing]) + 1
        for number, paths in standing.items():
            if number not in indexes.generations:
                self._delete(paths)  # a process died before it named it, or after it did no more
        path = self._aliases.index_path(tenant_id, day, generation)
        bounds = hot_upkeep.make(path, source)
        self._files.fsync_dir(path.parent, FsyncSite.HOT_INDEX_NAME)
        made = replace(indexes, generations=(*indexes.generations, generation))
        return made.widened(*bounds) if bounds else made

    def move_write(self, tenant_id: str, day: str, generation: int) -> None:
        """See `ports.Hot.move_write`."""
        with _told(index_name(tenant_id, day, generation)):
            self._aliases.change(
                tenant_id,
                lambda days: move(days, day, generation, write=generation),
            )

    def move_read(self, tenant_id: str, day: str, generation: int) -> None:
        """See `ports.Hot.move_read`."""
        with _told(index_name(tenant_id, day, generation)):
            self._aliases.change(
                tenant_id,
                lambda days: move(days, day, generation, read=generation),
            )

    def delete_index(self, tenant_id: str, day: str, generation: int) -> None:
        """See `ports.Hot.delete_index`."""

        def drop(days: Days) -> None:
            found = days.get(day)
            if found is None or generation not in found.generations:
                return
            left = replace(
                found,
                generations=tuple(g for g in found.generations if g != generation),
                read=0 if found.read == generation else found.read,
                write=0 if found.write == generation else found.write,
            )
            if left.generations:
                days[day] = left
            else:
                del days[day]

        with _told(index_name(tenant_id, day, generation)):
            self._aliases.change(tenant_id, drop)
            self._delete(self._aliases.files_of(tenant_id, day).get(generation, []))

    @contextmanager
    def opened(self, tenant_id: str, day: str, generation: int) -> Iterator[sqlite3.Connection]:
        """A connection to an index, for upkeep and copies. Raises `HotUnavailable`."""
        path = self._aliases.index_path(tenant_id, day, generation)
        with _told(path.stem), self._connections.lent(path) as connection:
            yield connection

    def stamp(self, tenant_id: str, day: str, generation: int) -> list[int]:
        """What tells that an index's file is as it was; nothing just after a change."""
        path = self._aliases.index_path(tenant_id, day, generation)
        stamp = stamp_of(path)
        return [path.stat().st_ino, *stamp] if _is_settled(stamp) else []

    def compact(self, tenant_id: str, day: str, generation: int) -> None:
        """See `ports.Hot.compact`."""
        with self.opened(tenant_id, day, generation) as connection:
            hot_upkeep.compact(connection)

    def note(self, tenant_id: str, day: str, generation: int, notes: Mapping[str, str]) -> None:
        """See `ports.Hot.note`."""
        with self.opened(tenant_id, day, generation) as connection:
            hot_upkeep.note(connection, notes)

    def notes(self, tenant_id: str, day: str, generation: int) -> dict[str, str]:
        """See `ports.Hot.notes`."""
        found = self._aliases.days(tenant_id).get(day, DayIndexes())
        if generation not in found.generations:
            return {}
        with self.opened(tenant_id, day, generation) as connection:
            return hot_upkeep.notes(connection)

    def _delete(self, paths: Sequence[Path]) -> None:
        for path in sorted(paths):
            self._connections.forget(path)
            self._counts.pop(path, None)
        for path in sorted(paths):
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------ reading

    def indexes(self, tenant_id: str | None = None) -> list[HotIndex]:
        """See `ports.Hot.indexes`."""
        with _told("the folder of HOT"):
            tenants = self._aliases.tenants() if tenant_id is None else [tenant_id]
            return [
                HotIndex(
                    tenant_id=tenant,
                    day=day,
                    generation=generation,
                    documents=self._count(self._aliases.index_path(tenant, day, generation)),
                    is_read=generation == found.read,
                    is_write=generation == found.write,
                )
                for tenant in tenants
                for day, found in self._aliases.days(tenant).items()
                for generation in found.generations
            ]

    def _count(self, path: Path) -> int:
        """Documents of an index; remembered while its files stay as they are."""
        try:
            stamp = stamp_of(path)
            known = self._counts.get(path)
            if known is not None and known[0] == stamp:
                return known[1]
            with self._connections.lent(path) as connection:
                count = hot_index.documents(connection)
        except (sqlite3.Error, OSError, TypeError):
            return -1
        if _is_settled(stamp):
            self._counts[path] = (stamp, count)
        return count

    def hashes(self, tenant_id: str, day: str, generation: int) -> npt.NDArray[np.uint8]:
        """See `ports.Hot.hashes`."""
        path = self._aliases.index_path(tenant_id, day, generation)
        with _told(path.stem):
            found = self._aliases.days(tenant_id).get(day, DayIndexes())
            if generation not in found.generations:
                return np.zeros((0, 32), np.uint8)
            with self._connections.lent(path) as connection:
                return hot_index.hashes(connection)

    def search(self, query: EventQuery, *, is_cancelled: Callable[[], bool]) -> pa.Table:
        """See `ports.Hot.search`."""
        if is_cancelled():
            raise QueryCancelled("the search was stopped before it began")
        with _told(f"HOT of {query.tenant_id}"):
            try:
                found = self._search(query, is_cancelled)
            except FileNotFoundError:
                # Its generation was deleted after the read alias moved: read the aliases again.
                found = self._search(query, is_cancelled)
        return hot_index.to_table([row for _, row in found])

    def _search(self, query: EventQuery, is_cancelled: Callable[[], bool]) -> list[_Found]:
        needed = frozenset(words(query.text or ""))
        days = self._aliases.days(query.tenant_id)
        found: list[_Found] = []
        for searched in concerned(days, query):
            is_full = len(found) >= query.limit
            if is_full and (not found or searched.from_ms > found[-1][0].ms):
                break
            to_ms = min(query.to_ms, found[-1][0].ms + 1) if is_full else query.to_ms
            rows = self._search_one(
                days, searched, replace(query, to_ms=to_ms), needed, is_cancelled
            )
            known = {event for event, _ in found}
            for event in rows:
                if event[0] not in known:
                    insort(found, event, key=lambda e: e[0])
            del found[query.limit :]
        return found

    def _search_one(
        self,
        days: Days,
        searched: Searched,
        query: EventQuery,
        needed: frozenset[str],
        is_cancelled: Callable[[], bool],
    ) -> list[_Found]:
        path = self._aliases.index_path(query.tenant_id, searched.day, searched.indexes.read)
        with _named(path), self._connections.lent(path) as connection:
            connection.set_progress_handler(is_cancelled, STEPS_PER_LOOK)
            with closing(hot_find.find(connection, query, needed)) as rows:
                first_copies = (r for r in rows if not self._is_copy(days, searched, query, r))
                found = [
                    (hot_find.position(row, query.clock), row)
                    for row in islice(first_copies, query.limit)
                ]
            connection.set_progress_handler(None, 0)
            return found

    def _is_copy(self, days: Days, searched: Searched, query: EventQuery, row: Row) -> bool:
        """Whether an earlier day has this very event."""
        event_day = hot_index.event_ms(row) // MS_PER_DAY
        for day in days_before(searched.day):
            found = days.get(day)
            if found is None or not found.read or not found.holds_events_of(event_day, event_day):
                continue
            path = self._aliases.index_path(query.tenant_id, day, found.read)
            with _named(path), self._connections.lent(path) as connection:
                if hot_index.has(connection, row):
                    return True
        return False


# --------------------------------------------------------------------------------------- helpers


def _checked(day: str, rows: pa.RecordBatch) -> list[hot_index.Prepared]:
    ingestion = ints_of(rows["ingestion_time"])
    if ingestion.min() < day_start_ms(day) or ingestion.max() >= day_end_ms(day):
        raise ValueError(f"a row's ingestionTime is not on {day}")
    return hot_index.prepare(rows)


def _is_settled(stamp: tuple[int, ...]) -> bool:
    return time.time() - max(stamp[0], stamp[2]) / 1e9 > _SETTLED_SECONDS


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Faults of one index get its name; an interrupted search is no fault."""
    try:
        yield
    except sqlite3.Error as e:
        if getattr(e, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            raise QueryCancelled("the search was stopped") from e
        raise _unavailable(path.stem, e) from e


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as e:
        raise _unavailable(what, e) from e


def _unavailable(what: str, cause: Exception) -> HotUnavailable:
    return HotUnavailable(
        f"{what} cannot be used: {cause}",
        remedy="check that the disk is writable and not full; a damaged index is mended by"
        " `audit-platform rebuild-hot`",
    )
