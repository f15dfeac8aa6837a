"""How far the archive is, counted from small records: nothing skipped, nothing gone, how late.

What can be asked every five minutes: the last ranges of each partition follow on each other, hold
as many events as their log records' headers say, and their objects are there; what is behind them
is in the log still, and how old it is. Belongs here: that count. Does not: rows and positions of
all time (`reconcile.py`, nightly), a day's coverage (`coverage.py`).
Source: issue "reconcile every 5 min and exactly each night"; design section 6.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from audit_platform.errors import ObjectNotFound
from audit_platform.operations.coverage import range_records
from audit_platform.operations.generations import ensure_generation
from audit_platform.ports import Platform
from audit_platform.record.ranges import RangeRecord

#: Log records looked back from the end of each partition: far more than five minutes hold.
LOOK_BACK: Final = 4096

#: Ranges looked at in each partition. A range holds a minute; sixteen overlap with the last look.
LAST_RANGES: Final = 16

#: COLD may be this late (the mission: at most 5 minutes; twice that is a fault).
MAX_LAG_SECONDS: Final = 600

_ONE_RECORD: Final = 1


@dataclass(frozen=True, slots=True)
class PartitionState:
    """One partition. `pending`: log records behind the last range; `lag_seconds`: of the first."""

    topic: str
    partition: int
    ranges: int
    objects: int
    events: int
    pending: int
    lag_seconds: float


@dataclass(slots=True)
class ArchiveState:
    """All partitions of the open log generation, and what is wrong in words."""

    partitions: list[PartitionState] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    @property
    def ranges(self) -> int:
        """Range records read."""
        return sum(p.ranges for p in self.partitions)

    @property
    def objects(self) -> int:
        """Objects that were asked for."""
        return sum(p.objects for p in self.partitions)

    @property
    def events(self) -> int:
        """Events of the ranges looked at, by the log records' headers."""
        return sum(p.events for p in self.partitions)

    @property
    def pending(self) -> int:
        """Log records that no range covers yet."""
        return sum(p.pending for p in self.partitions)

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest log record that is not archived; 0 for none."""
        return max((p.lag_seconds for p in self.partitions), default=0.0)


def archive_state(platform: Platform) -> ArchiveState:
    """Look at the last ranges of each partition. A missing range or object is a finding.

    Raises `GenerationMismatch`, `RecordMalformed`, `LogUnavailable`, `StoreUnavailable`.
    """
    generation = ensure_generation(platform)
    state = ArchiveState()
    for start in generation.topics:
        for partition, first in enumerate(start.start_offsets):
            at = (start.topic, generation.number, partition)
            state.partitions.append(_partition(platform, state, at, first))
    return state


def _partition(
    platform: Platform, state: ArchiveState, at: tuple[str, int, int], start: int
) -> PartitionState:
    topic, generation, partition = at
    first, end = platform.log.bounds(topic, partition)
    holding = max(start, end - LOOK_BACK)
    last: deque[RangeRecord] = deque(maxlen=LAST_RANGES)
    reached = -1
    for record in range_records(platform.objects, topic, generation, partition, holding=holding):
        if reached not in (-1, record.first_offset):
            state.findings.append(
                f"{topic}/{partition}: a range starts at {record.first_offset}, not at {reached}"
            )
        reached = record.end_offset
        last.append(record)
    reached = max(reached, start)
    objects = sum(_objects(platform, state, record) for record in last)
    if first > reached:
        state.findings.append(
            f"{topic}/{partition}: the log begins at {first}, archived is only up to {reached}"
        )
    pending = max(0, end - reached)
    return PartitionState(
        topic=topic,
        partition=partition,
        ranges=len(last),
        objects=objects,
        events=sum(r.events for r in last),
        pending=pending,
        lag_seconds=_age(platform, topic, partition, max(first, reached)) if pending else 0.0,
    )


def _objects(platform: Platform, state: ArchiveState, record: RangeRecord) -> int:
    """How many objects of a range were asked for; what differs is a finding."""
    said = sum(r.count for r in record.records)
    held = sum(o.events for o in record.objects)
    where = f"{record.topic}/{record.partition} from {record.first_offset}"
    if said != held:
        state.findings.append(f"{where}: {said} events by their headers, {held} in its objects")
    for named in record.objects:
        try:
            size = platform.objects.head(named.key, named.version_id).size
        except ObjectNotFound:
            state.findings.append(f"{named.key}: not in the store")
            continue
        if size != named.size:
            state.findings.append(f"{named.key}: {size} bytes, its range record says {named.size}")
    return len(record.objects)


def _age(platform: Platform, topic: str, partition: int, offset: int) -> float:
    found = platform.log.read(topic, partition, offset, _ONE_RECORD)
    if not found:
        return 0.0
    return max(0, platform.clock.now_ms() - found[0].appended_ms) / 1000
