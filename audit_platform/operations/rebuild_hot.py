"""Build a tenant's day of HOT anew, beside the old one, from what the record holds.

The order makes it safe at any moment: the write alias moves first to an empty index; then the log's
end is read, so that all before it is filled from COLD, landing and the log, and all behind it is
created by the indexer in the new index; then the set of hashes is proved; the read alias moves
last; then the old index goes. A death at any point leaves the old index read, or the new one whole;
the next call goes on from there.
Belongs here: that order. Does not: the filling and the proof (`hot_filling.py`), where rows come
from (`hot_source.py`), how an index keeps them (HOT adapters). Source: design section 8 (HOT),
failures 13 and 14.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from audit_platform.errors import HotUnavailable
from audit_platform.killpoints import Killpoint, reach
from audit_platform.operations.hot_filling import Filling, as_set
from audit_platform.operations.hot_source import DaySource, OurLog
from audit_platform.ports import Hot, HotIndex, Platform


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """One day's new index, and what the old one was like.

    `manifest` is the number of the manifest that it was made from, 0 for a day that is not sealed.
    `documents` are in the new index. Of the old one: `lacking` documents it did not have, and
    `foreign` ones that nothing in the record explains; both -1 when it could not be read. `removed`
    were put into the new index meanwhile by somebody, and nothing explains them. `refused` rows do
    not rebuild their event; `problems` name what could not be read: the set may lack it. `skipped`
    are parts that a run before had filled: they were proved, not read again.
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
    skipped: tuple[str, ...] = ()

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
    generation = new_generation(platform.hot, tenant_id, day)
    return bring_into_service(platform, tenant_id, day, generation, progress)


def bring_into_service(
    platform: Platform,
    tenant_id: str,
    day: str,
    generation: int,
    progress: Callable[[int], None] = nobody,
) -> RebuildResult:
    """Have an index written, filled, proved and read, in that order; then the others go.

    Raises as `rebuild_hot`.
    """
    hot = platform.hot
    hot.move_write(tenant_id, day, generation)
    reach(Killpoint.HOT_WRITE_MOVED)
    source, filled, removed = fill_and_prove(platform, tenant_id, day, generation, progress)
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
        skipped=filled.skipped,
    )


def fill_and_prove(
    platform: Platform,
    tenant_id: str,
    day: str,
    generation: int,
    progress: Callable[[int], None] = nobody,
    *,
    read_all: bool = False,
) -> tuple[DaySource, Filling, int]:
    """Fill an index with what it lacks and prove it; what was read, and how many were removed.

    `read_all`: also what an earlier run has noted as filled. Moves no alias.
    """
    log = OurLog(platform)
    ends = log.ends()
    archived = log.archived_ends(ends)  # before landing is listed: what comes between is in both
    source = DaySource(platform, tenant_id, day)
    filled = Filling(platform, source, generation, progress, read_all=read_all)
    filled.fill(archived, ends)
    return source, filled, filled.prove(ends)


def _of_day(hot: Hot, tenant_id: str, day: str) -> list[HotIndex]:
    return [index for index in hot.indexes(tenant_id) if index.day == day]


def new_generation(hot: Hot, tenant_id: str, day: str) -> int:
    """The index to fill: what an earlier attempt left written and not read, or a new one."""
    return under_way(hot, tenant_id, day) or hot.new_index(tenant_id, day)


def under_way(hot: Hot, tenant_id: str, day: str) -> int:
    """The index that an earlier attempt left written and not read, or 0; other leavings go."""
    left = 0
    for index in _of_day(hot, tenant_id, day):
        if index.is_write and not index.is_read:
            left = index.generation if index.documents >= 0 else 0
        elif not index.is_write and not index.is_read:
            hot.delete_index(tenant_id, day, index.generation)  # died before or after all of it
    return left


def _compare(hot: Hot, tenant_id: str, day: str, generation: int) -> tuple[int, int]:
    """(documents that the index which is read lacks, documents that only it has)."""
    try:
        held = as_set(hot.hashes(tenant_id, day, generation))
        read = [i.generation for i in _of_day(hot, tenant_id, day) if i.is_read]
        old = as_set(hot.hashes(tenant_id, day, read[0])) if read else held[:0]
    except HotUnavailable:
        return -1, -1
    return len(np.setdiff1d(held, old)), len(np.setdiff1d(old, held))
