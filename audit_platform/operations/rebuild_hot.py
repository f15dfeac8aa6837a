"""Build a tenant's day of HOT anew, beside the old one, from what the record holds.

The order makes it safe at any moment: the write alias moves first to an empty index; then the log's
end is read, so that all before it is filled from COLD, landing and the log, and all behind it is
created by the indexer in the new index; then the set of hashes is proved; the read alias moves
last; then the old index goes. A death at any point leaves the old index read, or the new one whole;
the next call goes on from there.
Belongs here: that order and the proof. Does not: where rows come from (`hot_source.py`), how an
index keeps them (HOT adapters). Source: design section 8 (HOT), failures 13 and 14.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from audit_platform.errors import HotUnavailable
from audit_platform.killpoints import Killpoint, reach
from audit_platform.operations.hot_source import DaySource, OurLog
from audit_platform.ports import Hot, HotIndex, Platform
from audit_platform.record.columns import hashes_of, ints_of

#: Rows put in order of their ingestionTime together, so that blocks of an index are short spans;
#: and their bytes at most. Rows of one fill, which costs about three times as much memory.
SORTED_ROWS: Final = 200_000
SORTED_BYTES: Final = 128 * 1024 * 1024
FILL_ROWS: Final = 20_000

_Set = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """One day's new index, and what the old one was like.

    `manifest` is the number of the manifest that it was made from, 0 for a day that is not sealed.
    `documents` are in the new index. Of the old one: `lacking` documents it did not have, and
    `foreign` ones that nothing in the record explains; both -1 when it could not be read. `removed`
    were put into the new index meanwhile by somebody, and nothing explains them. `refused` rows do
    not rebuild their event; `problems` name what could not be read: the set may lack it.
    """

    tenant_id: str
    day: str
    generation: int
    manifest: int
    documents: int
    from_cold: int
    from_landing: int
    from_log: int
    lacking: int
    foreign: int
    removed: int
    refused: int
    problems: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Everything that the record names was read, and was as it should be."""
        return not self.problems and not self.refused


def nobody(_rows: int) -> None:
    """Nobody wants to know how far it is."""


def rebuild_hot(
    platform: Platform, tenant_id: str, day: str, *, progress: Callable[[int], None] = nobody
) -> RebuildResult:
    """Rebuild one day; `progress` is told the rows filled so far. Safe to repeat, and to kill.

    Raises `HotUnavailable`, `StoreUnavailable`, `LogUnavailable`, `RecordMalformed`: the old index
    is still read, call again.
    """
    hot = platform.hot
    generation = _new_generation(hot, tenant_id, day)
    hot.move_write(tenant_id, day, generation)
    reach(Killpoint.HOT_WRITE_MOVED)
    log = OurLog(platform)
    ends = log.ends()
    archived = log.archived_ends(ends)  # before landing is listed: what comes between is in both
    source = DaySource(platform, tenant_id, day)
    wanted = _Hashes()
    done = 0
    for rows in _sorted(_chained(source.archived(), source.logged(archived, ends))):
        for start in range(0, rows.num_rows, FILL_ROWS):
            some = rows.slice(start, FILL_ROWS)
            hot.fill(tenant_id, day, generation, some)
            wanted.add(some)
            done += some.num_rows
            progress(done)
    expected = wanted.all()
    removed = _prove(platform, source, ends, generation, expected)
    reach(Killpoint.HOT_FILLED)
    lacking, foreign = _compare(hot, tenant_id, day, generation)
    hot.move_read(tenant_id, day, generation)
    reach(Killpoint.HOT_READ_MOVED)
    documents = 0
    for index in _of_day(hot, tenant_id, day):
        if index.generation == generation:
            documents = index.documents
        elif not index.is_write:
            hot.delete_index(tenant_id, day, index.generation)
    return RebuildResult(
        tenant_id=tenant_id,
        day=day,
        generation=generation,
        manifest=source.manifest.number if source.manifest else 0,
        documents=documents,
        from_cold=source.seen.cold,
        from_landing=source.seen.landing,
        from_log=source.seen.log,
        lacking=lacking,
        foreign=foreign,
        removed=removed,
        refused=source.seen.refused,
        problems=tuple(source.seen.problems),
    )


def _of_day(hot: Hot, tenant_id: str, day: str) -> list[HotIndex]:
    return [index for index in hot.indexes(tenant_id) if index.day == day]


def _new_generation(hot: Hot, tenant_id: str, day: str) -> int:
    """The index to fill: what an earlier attempt left written and not read, or a new one."""
    left = None
    for index in _of_day(hot, tenant_id, day):
        if index.is_write and not index.is_read:
            left = index
        elif not index.is_write and not index.is_read:
            hot.delete_index(tenant_id, day, index.generation)  # died before or after all of it
    if left is not None and left.documents >= 0:
        return left.generation
    return hot.new_index(tenant_id, day)


# ----------------------------------------------------------------------------------------- filling


def _chained(*sources: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for source in sources:
        yield from source


def _sorted(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows, some together at a time, in order of their ingestionTime."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        waiting.append(batch)
        rows += batch.num_rows
        size += batch.get_total_buffer_size()
        if rows >= SORTED_ROWS or size >= SORTED_BYTES:
            yield _in_order(waiting)
            waiting, rows, size = [], 0, 0
    if waiting:
        yield _in_order(waiting)


def _in_order(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    rows = pa.concat_batches(batches)
    order = np.argsort(ints_of(rows["ingestion_time"]), kind="stable")
    return rows.take(pa.array(order))


# ----------------------------------------------------------------------------------------- proving


class _Hashes:
    """A set of eventHashes that grows by columns."""

    def __init__(self) -> None:
        self._parts: list[_Set] = []

    def add(self, rows: pa.RecordBatch) -> None:
        self._parts.append(_as_set(hashes_of(rows["event_hash"])))

    def all(self) -> _Set:
        return np.unique(np.concatenate([np.zeros(0, "V32"), *self._parts]))


def _as_set(hashes: npt.NDArray[np.uint8]) -> _Set:
    return np.array(np.ascontiguousarray(hashes).view("V32").ravel())


def _prove(
    platform: Platform,
    source: DaySource,
    ends: dict[int, int],
    generation: int,
    expected: _Set,
) -> int:
    """Hold the new index against what was filled; how many unexplained entries were removed.

    More than was filled is right only where the log says so behind the end that was read. Raises
    `HotUnavailable` when something that was filled is not there.
    """
    hot, tenant_id, day = platform.hot, source.tenant_id, source.day
    held = _as_set(hot.hashes(tenant_id, day, generation))
    missing = len(np.setdiff1d(expected, held))
    if missing:
        raise HotUnavailable(
            f"{missing} events of {tenant_id} {day} were filled and are not in the index",
            remedy="check the disk; run rebuild-hot again",
        )
    more = np.setdiff1d(held, expected)
    if not len(more):
        return 0
    since = _Hashes()
    for rows in source.logged(ends, OurLog(platform).ends()):
        since.add(rows)
    unexplained = np.setdiff1d(more, since.all())
    if len(unexplained):
        hot.remove(tenant_id, day, generation, [bytes(h) for h in unexplained])
    return len(unexplained)


def _compare(hot: Hot, tenant_id: str, day: str, generation: int) -> tuple[int, int]:
    """(documents that the index which is read lacks, documents that only it has)."""
    try:
        held = _as_set(hot.hashes(tenant_id, day, generation))
        read = [i.generation for i in _of_day(hot, tenant_id, day) if i.is_read]
        old = _as_set(hot.hashes(tenant_id, day, read[0])) if read else held[:0]
    except HotUnavailable:
        return -1, -1
    return len(np.setdiff1d(held, old)), len(np.setdiff1d(old, held))
