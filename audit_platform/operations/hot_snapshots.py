"""Snapshots of HOT, and a day that comes back out of one: quicker than from the record alone.

A snapshot is named by its time, so names tell which is newest and how old it is. A day that is
restored comes beside the one that is read, gets what the record has and the snapshot has not, loses
what nothing explains, and is proved as a rebuilt one is; only then is it read. Where no snapshot
brings the day back, it is rebuilt from the record, and the result says why.
Belongs here: taking, pruning, restoring, the drill. Does not: how a snapshot is kept (adapters),
filling and proof (`hot_filling.py`), when (`defs/hot_snapshots.py`).
Source: design section 8 (HOT); failures 14 and 17; recovery objective of HOT.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from audit_platform.errors import HotUnavailable, SettingInvalid
from audit_platform.operations.rebuild_hot import (
    RebuildResult,
    bring_into_service,
    fill_and_prove,
    new_generation,
    nobody,
    under_way,
)
from audit_platform.ports import HotSnapshot, HotSnapshots, IndexName, Platform

#: Snapshots are taken so often, and so many are kept: three days and a half. What goes wrong on a
#: Friday evening is still in one on Monday.
SNAPSHOT_HOURS: Final = 6
KEEP: Final = 14

#: Two missed in a row: the newest is stale.
STALE_MS: Final = 2 * SNAPSHOT_HOURS * 3_600_000

_NAME: Final = re.compile(r"hot-\d{8}t\d{6}z")
_FORM: Final = "hot-%Y%m%dt%H%M%Sz"

#: Notes of an index: which snapshot it came out of; that a drill made it.
_FROM: Final = "restored from"
_DRILL: Final = "drill"


def repository(platform: Platform) -> HotSnapshots:
    """Where snapshots are kept. Raises `SettingInvalid` where there is no place for them."""
    if platform.snapshots is None:
        wanted = "a folder that all nodes of OpenSearch share, below their path.repo"
        raise SettingInvalid("AUDIT_OPENSEARCH_SNAPSHOTS", "", wanted)
    return platform.snapshots


def taken_ms(snapshot: HotSnapshot) -> int:
    """When it was taken, by the platform's clock; 0 for one that is not ours."""
    if not _NAME.fullmatch(snapshot.name):
        return 0
    return int(datetime.strptime(snapshot.name, _FORM).replace(tzinfo=UTC).timestamp()) * 1000


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that was taken. `left_out` are indexes that are damaged and could not be."""

    snapshot: HotSnapshot
    documents: int
    left_out: tuple[IndexName, ...]
    pruned: tuple[str, ...]


def take_snapshot(platform: Platform) -> Taken:
    """Snapshot every index that is read, then delete all but the newest `KEEP`.

    Raises `HotUnavailable`, `SettingInvalid`. One that is taken within the same second as another
    is refused.
    """
    place = repository(platform)
    read = [i for i in platform.hot.indexes() if i.is_read]
    whole = [i for i in read if i.documents >= 0]
    if not whole:
        raise HotUnavailable(
            f"there is no index to snapshot ({len(read)} are damaged)",
            remedy="look at what `hot_repair` says; a HOT without events has nothing to snapshot",
        )
    now = datetime.fromtimestamp(platform.clock.now_ms() // 1000, UTC)
    names = [IndexName(i.tenant_id, i.day, i.generation) for i in whole]
    snapshot = place.take(now.strftime(_FORM), names)
    return Taken(
        snapshot=snapshot,
        documents=sum(i.documents for i in whole),
        left_out=tuple(
            IndexName(i.tenant_id, i.day, i.generation) for i in read if i.documents < 0
        ),
        pruned=_prune(place),
    )


def _prune(place: HotSnapshots) -> tuple[str, ...]:
    """Ours only; one that is not whole counts for nothing, and goes."""
    ours = [s for s in place.snapshots() if taken_ms(s)]
    kept = {s.name for s in [s for s in ours if s.complete][-KEEP:]}
    gone = [s.name for s in ours if s.name not in kept]
    for name in gone:
        place.delete(name)
    return tuple(gone)


def newest(platform: Platform) -> HotSnapshot | None:
    """The newest whole snapshot of ours. Raises `HotUnavailable`, `SettingInvalid`."""
    ours = [s for s in repository(platform).snapshots() if s.complete and taken_ms(s)]
    return ours[-1] if ours else None


# --------------------------------------------------------------------------------------- restoring


@dataclass(frozen=True, slots=True)
class Restored:
    """A day that is read out of a snapshot; `snapshot` is "" when it had to be rebuilt.

    `tried` says, for snapshots that did not bring the day back, why.
    """

    snapshot: str
    tried: tuple[str, ...]
    result: RebuildResult


def restore_hot(
    platform: Platform, tenant_id: str, day: str, *, progress: Callable[[int], None] = nobody
) -> Restored:
    """Bring a day back out of the newest snapshot that has it; safe to repeat, and to kill.

    An attempt that died is gone on with. Raises as `rebuild_hot`: the old index is still read.
    """
    hot = platform.hot
    generation = under_way(hot, tenant_id, day)
    tried: list[str] = []
    if not generation:
        generation = _restored(platform, tenant_id, day, tried)
    if not generation:
        generation = new_generation(hot, tenant_id, day)
    result = bring_into_service(platform, tenant_id, day, generation, progress)
    snapshot = hot.notes(tenant_id, day, generation).get(_FROM, "")
    return Restored(snapshot, tuple(tried), result)


def _restored(platform: Platform, tenant_id: str, day: str, tried: list[str]) -> int:
    """The new index out of the newest snapshot that gives one; 0 when none does."""
    place = repository(platform)
    for snapshot in reversed(place.snapshots()):
        found = [i for i in snapshot.indexes if (i.tenant_id, i.day) == (tenant_id, day)]
        if not found or not snapshot.complete:
            continue
        try:
            generation = place.restore(snapshot.name, found[-1])
            platform.hot.note(tenant_id, day, generation, {_FROM: snapshot.name})
        except HotUnavailable as e:
            tried.append(f"{snapshot.name}: {e.reason}")
            continue
        return generation
    if not tried:
        tried.append("no snapshot has the day")
    return 0


# ------------------------------------------------------------------------------------------- drill


@dataclass(frozen=True, slots=True)
class Drilled:
    """A day that was brought back for practice, proved, and thrown away.

    `documents` came out of the snapshot or were added since; of them `added` since, `removed`
    nothing explained; `read` rows of the record stand behind the proof.
    """

    index: IndexName
    snapshot: str
    documents: int
    added: int
    removed: int
    read: int
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Something was read, and the index was proved by it."""
        return self.read > 0 and not self.problems


def drill(platform: Platform, choose: Callable[[list[IndexName]], IndexName]) -> Drilled:
    """Restore a day of the newest snapshot beside the one that is read, prove it, delete it.

    No alias moves. The proof reads all of the day's record. Raises `HotUnavailable`,
    `StoreUnavailable`, `LogUnavailable`, `RecordMalformed`, `SettingInvalid`.
    """
    hot = platform.hot
    _sweep(platform)
    snapshot = newest(platform)
    if snapshot is None or not snapshot.indexes:
        raise HotUnavailable(
            "there is no snapshot to restore from",
            remedy="run the job snapshot_hot, and find out why it did not run by itself",
        )
    index = choose(list(snapshot.indexes))
    tenant_id, day, _ = index
    generation = repository(platform).restore(snapshot.name, index)
    try:
        hot.note(tenant_id, day, generation, {_DRILL: snapshot.name})
        before = len(hot.hashes(tenant_id, day, generation))
        source, _, removed = fill_and_prove(platform, tenant_id, day, generation, read_all=True)
        documents = len(hot.hashes(tenant_id, day, generation))
    finally:
        hot.delete_index(tenant_id, day, generation)
    seen = source.seen
    refused = [f"{seen.refused} archived rows do not rebuild their event"] if seen.refused else []
    return Drilled(
        index=index,
        snapshot=snapshot.name,
        documents=documents,
        added=documents - before + removed,
        removed=removed,
        read=seen.cold + seen.landing + seen.log,
        problems=(*seen.problems, *refused),
    )


def _sweep(platform: Platform) -> None:
    """Delete what a drill that died has left."""
    for index in platform.hot.indexes():
        if index.is_read or index.is_write or index.documents < 0:
            continue
        place = (index.tenant_id, index.day, index.generation)
        if _DRILL in platform.hot.notes(*place):
            platform.hot.delete_index(*place)


# --------------------------------------------------------------------------------------- freshness


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old the newest whole snapshot is. `snapshot` is "" and `age_ms` 0 where there is none."""

    snapshot: str
    age_ms: int
    indexes_read: int

    @property
    def is_fresh(self) -> bool:
        """It is not stale, or there is nothing to snapshot."""
        return not self.indexes_read or (bool(self.snapshot) and self.age_ms < STALE_MS)


def freshness(platform: Platform) -> Freshness:
    """Look at the newest snapshot. Raises `HotUnavailable`, `SettingInvalid`."""
    found = newest(platform)
    now_ms = platform.clock.now_ms()
    return Freshness(
        snapshot=found.name if found else "",
        age_ms=now_ms - taken_ms(found) if found else 0,
        indexes_read=sum(i.is_read for i in platform.hot.indexes()),
    )
