"""Coverage of a closed day: do range records reach its ends, and which objects hold its rows?

Range records are the only coverage. A walk starts at the record that holds the end of the closing
two days before, not at the generation's start. It stays exact: a day's rows are appended between
that end (the day has not begun before it) and the day's own end; earlier rows that carry the day
all the same (a gateway's clock ran ahead) are found by listing the tenant's day, whose objects
name the range that they belong to.
Belongs here: the walk over range records, holes, a day's input objects. Does not: reading rows
(`reconcile.py`, `seal.py`), judging bytes (the verifier). Source: design section 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.errors import RecordMalformed, SealRefused
from audit_platform.operations.claims import read_claim
from audit_platform.operations.closing import closing_of
from audit_platform.operations.generations import stored_generations
from audit_platform.ports import Objects, ObjectVersion, Platform
from audit_platform.record.layout import (
    DLQ_TOPIC,
    EVENTS_TOPIC,
    PREFIX_OF_TOPIC,
    RangeAddress,
    generation_key,
    next_day,
    parse_range_object,
    parse_range_record,
    range_objects_prefix,
    range_records_prefix,
)
from audit_platform.record.ranges import (
    ClosedPartition,
    Closing,
    Generation,
    RangeObject,
    RangeRecord,
)

#: Offsets to look back at first for the record that holds an offset; eight times as many after a
#: miss. A range holds a minute of a partition, mostly fewer log records than this.
LOOK_BACK: Final = 4096


@dataclass(frozen=True, slots=True)
class Missing:
    """Offsets `first_offset <= o < end_offset` that no range record covers, or covers twice."""

    topic: str
    generation: int
    partition: int
    first_offset: int
    end_offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the range records up to a day's closing cover. `ranges` may straddle the day's ends."""

    day: str
    closing: Closing
    ranges: tuple[RangeRecord, ...]
    missing: tuple[Missing, ...]

    @property
    def complete(self) -> bool:
        """Range records reach the end offset of every partition without a hole."""
        return not self.missing


@dataclass(frozen=True, slots=True)
class DayObject:
    """An object with rows of a day: those count with `from_offset <= log_offset < end_offset`.

    Not those at `doubled` offsets: an older log generation has archived the same log records.
    """

    topic: str
    generation: int
    partition: int
    first_offset: int
    end_offset: int
    object: RangeObject
    from_offset: int = 0
    doubled: frozenset[int] = frozenset()

    def counting(self, table: pa.Table) -> pa.Table:
        """The rows of a table of this object (with its `log_offset`) that count."""
        offset = table["log_offset"]
        below = pc.less(offset, self.end_offset)
        mask = pc.and_(below, pc.greater_equal(offset, self.from_offset))
        if self.doubled:
            again = pc.is_in(offset, value_set=pa.array(sorted(self.doubled), pa.int64()))
            mask = pc.and_(mask, pc.invert(again))
        # Nearly always all of them do: then nothing is copied.
        return table if pc.all(mask, skip_nulls=False).as_py() else table.filter(mask)


@dataclass(frozen=True, slots=True)
class DayInputs:
    """All objects of one tenant and closed day, in (topic, generation, partition, offset) order.

    `absent` are named by a range record and not in the store: a finding, and no seal without it.
    """

    tenant_id: str
    day: str
    landing: tuple[DayObject, ...]
    quarantine: tuple[DayObject, ...]
    absent: tuple[DayObject, ...]


# ---------------------------------------------------------------------------------------- ranges


def address_of(record: RangeRecord) -> RangeAddress:
    """Where a range record stands."""
    prefix = PREFIX_OF_TOPIC[record.topic]
    return RangeAddress(prefix, record.generation, record.partition, record.first_offset)


def parse_record(key: str, data: bytes) -> RangeRecord:
    """The range record that stands under a key. Raises `RecordMalformed`, also for another's."""
    record = RangeRecord.from_bytes(key, data)
    if record.topic not in PREFIX_OF_TOPIC or address_of(record).record_key != key:
        raise RecordMalformed(key, "topic/partition/firstOffset", "another range's record")
    return record


def range_records(
    objects: Objects, topic: str, generation: int, partition: int, *, holding: int = 0
) -> Iterator[RangeRecord]:
    """Range records of a partition in offset order, from the one that holds offset `holding` on.

    The first is the last one that starts at or before `holding`, wherever it ends. Requests: two
    or three listings, and one `get` a record as it is taken. Raises `RecordMalformed`,
    `StoreUnavailable`.
    """
    prefix = range_records_prefix(PREFIX_OF_TOPIC[topic], generation, partition)
    start = _last_at_or_before(objects, prefix, holding)
    if start is not None:
        yield parse_record(start.key, objects.get(start.key, start.version_id))
    for version in _oldest_records(objects, prefix, "" if start is None else start.key):
        yield parse_record(version.key, objects.get(version.key, version.version_id))


def _oldest_records(objects: Objects, prefix: str, after_key: str) -> Iterator[ObjectVersion]:
    seen = ""
    for version in objects.versions(prefix, after_key=after_key):
        is_record = parse_range_record(version.key) is not None
        if version.is_delete_marker or version.key == seen or not is_record:
            continue
        seen = version.key
        yield version


def _last_at_or_before(objects: Objects, prefix: str, offset: int) -> ObjectVersion | None:
    # Listings only go forward: look from further and further back.
    back = LOOK_BACK
    while True:
        low = offset - back
        found = None
        for version in _oldest_records(objects, prefix, f"{prefix}o{low:020d}" if low > 0 else ""):
            address = parse_range_record(version.key)
            if address is None or address.first_offset > offset:
                break
            found = version
        if found is not None or low <= 0:
            return found
        back *= 8


# -------------------------------------------------------------------------------------- coverage


def coverage(platform: Platform, day: str) -> Coverage:
    """Walk the range records up to the closing of `day`.

    Raises `SealRefused` for a day that is not closed, `RecordMalformed`, `StoreUnavailable`.
    """
    closing = closing_of(platform, day)
    if closing is None:
        raise SealRefused(f"{day} is not closed", remedy="close the day first")
    starts = _starts(platform, closing)
    ranges: list[RangeRecord] = []
    missing: list[Missing] = []
    for end in closing.partitions:
        found = starts.get((end.topic, end.generation, end.partition))
        if found is None:
            missing.append(_hole(end, 0, end.end_offset, "its generation has no start for it"))
            continue
        walked, holes = _walk(platform.objects, end, found)
        ranges += walked
        missing += holes
    return Coverage(day, closing, tuple(ranges), tuple(missing))


def _starts(platform: Platform, closing: Closing) -> dict[tuple[str, int, int], int]:
    """First offset to be covered of each (topic, generation, partition)."""
    before = closing_of(platform, next_day(closing.day, -2))
    ends = before.partitions if before else ()
    starts = {(p.topic, p.generation, p.partition): p.end_offset for p in ends}
    # A generation that was opened since begins at its own start.
    known = {p.generation for p in ends}
    for number in {p.generation for p in closing.partitions} - known:
        record = read_claim(platform.objects, generation_key(number))
        if record is None:
            continue
        for topic in Generation.from_bytes(record.key, record.data).topics:
            for partition, offset in enumerate(topic.start_offsets):
                starts[topic.topic, number, partition] = offset
    return starts


def _hole(end: ClosedPartition, first: int, last: int, reason: str) -> Missing:
    return Missing(end.topic, end.generation, end.partition, first, last, reason)


def _walk(
    objects: Objects, end: ClosedPartition, start: int
) -> tuple[list[RangeRecord], list[Missing]]:
    ranges: list[RangeRecord] = []
    holes: list[Missing] = []
    reached = start
    if start >= end.end_offset:
        return ranges, holes
    for record in range_records(objects, end.topic, end.generation, end.partition, holding=start):
        if record.closed:
            return (
                ranges,
                holes,
            )  # the log behind it is the next generation's, and late for this day
        if record.first_offset >= end.end_offset:
            break
        if record.end_offset <= start:
            continue  # the record before the start, when none holds it
        ranges.append(record)
        if record.first_offset > reached:
            holes.append(_hole(end, reached, record.first_offset, "no range record"))
        elif record.first_offset < reached and len(ranges) > 1:
            overlap = min(reached, record.end_offset)
            holes.append(_hole(end, record.first_offset, overlap, "two range records"))
        reached = max(reached, record.end_offset)
    if reached < end.end_offset:
        holes.append(_hole(end, reached, end.end_offset, "not archived yet"))
    return ranges, holes


# ------------------------------------------------------------------------------------ day inputs


def tenants_of_day(platform: Platform, day: str) -> list[str]:
    """Tenants that have an object of this closed day in its ranges, by id. Raises as `coverage`."""
    ranges = coverage(platform, day).ranges
    return sorted({o.tenant_id for r in ranges for o in r.objects if o.day == day})


def day_objects(platform: Platform, tenant_id: str, day: str) -> DayInputs:
    """All objects with rows of this tenant and closed day, from the ranges up to its closing.

    Raises `SealRefused` when the coverage is not complete, and as `coverage`.
    """
    return inputs_of(platform, coverage(platform, day), tenant_id)


def inputs_of(platform: Platform, found: Coverage, tenant_id: str) -> DayInputs:
    """As `day_objects`, for several tenants of one day whose coverage was read once."""
    if not found.complete:
        first = found.missing[0]
        raise SealRefused(
            f"{found.day} is not covered: {len(found.missing)} holes, first {first.topic}"
            f"/{first.partition} {first.first_offset}..{first.end_offset} ({first.reason})",
            remedy="let the archive-writer reach the closing's end offsets, then seal",
        )
    ends = {(p.topic, p.generation, p.partition): p.end_offset for p in found.closing.partitions}
    named: dict[tuple[str, str], DayObject] = {}
    doubles = Doubles(platform.objects)
    for record in found.ranges:
        end = min(record.end_offset, ends[record.topic, record.generation, record.partition])
        _name(named, record, end, tenant_id, found.day, doubles)
    stored: set[tuple[str, str]] = set()
    for topic, prefix in PREFIX_OF_TOPIC.items():
        listed = versions_of_day(platform.objects, prefix, tenant_id, found.day)
        stored |= {(v.key, v.version_id) for v in listed}
        for address in _earlier(listed, topic, found):
            claimed = read_claim(platform.objects, address.record_key)
            if claimed is not None:
                record = parse_record(claimed.key, claimed.data)
                _name(named, record, record.end_offset, tenant_id, found.day, doubles)
    ordered = sorted(
        named.values(), key=lambda o: (o.topic, o.generation, o.partition, o.first_offset)
    )
    return DayInputs(
        tenant_id,
        found.day,
        landing=tuple(o for o in ordered if o.topic == EVENTS_TOPIC),
        quarantine=tuple(o for o in ordered if o.topic == DLQ_TOPIC),
        absent=tuple(o for o in ordered if (o.object.key, o.object.version_id) not in stored),
    )


def _name(
    named: dict[tuple[str, str], DayObject],
    record: RangeRecord,
    end_offset: int,
    tenant_id: str,
    day: str,
    doubles: Doubles,
) -> None:
    for o in record.objects:
        if o.tenant_id == tenant_id and o.day == day:
            named[o.key, o.version_id] = DayObject(
                record.topic,
                record.generation,
                record.partition,
                record.first_offset,
                end_offset,
                o,
                doubled=doubles.of(record),
            )


class Doubles:
    """Log records that two generations have archived: the same offset of one topic, and digest."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._opened: list[Generation] = []

    def of(self, record: RangeRecord) -> frozenset[int]:
        """Offsets of a range whose log records an older generation has archived already.

        No request for a range of the first generation, nor, but for the generations once, for one
        behind the end of the older ones. Raises `RecordMalformed`, `StoreUnavailable`.
        """
        if record.generation == 1 or not record.records:
            return frozenset()
        if len(self._opened) < record.generation:
            self._opened = list(stored_generations(self._objects))
        digests = {r.offset: r.digest for r in record.records}
        again: set[int] = set()
        for older in self._older(record):
            place = (record.topic, older, record.partition)
            for found in range_records(self._objects, *place, holding=record.first_offset):
                if found.first_offset >= record.end_offset:
                    break
                again |= {r.offset for r in found.records if digests.get(r.offset) == r.digest}
        return frozenset(again)

    def _older(self, record: RangeRecord) -> Iterator[int]:
        """Older generations whose ranges reach over the start of this one."""
        own = self._opened[record.generation - 1].topic(record.topic)
        for older, younger in pairwise(self._opened[: record.generation]):
            named = older.topic(record.topic)
            if named is None or own is None or named.topic_id != own.topic_id:
                continue
            place = (record.topic, older.number, record.partition)
            ends = {(p.topic, p.generation, p.partition): p.end_offset for p in younger.closed}
            if record.first_offset < ends.get(place, 0):
                yield older.number


def versions_of_day(objects: Objects, prefix: str, tenant_id: str, day: str) -> list[ObjectVersion]:
    """Objects of a tenant's day in landing or quarantine, without delete markers."""
    versions = objects.versions(range_objects_prefix(prefix, tenant_id, day))
    return [v for v in versions if not v.is_delete_marker]


def _earlier(listed: list[ObjectVersion], topic: str, found: Coverage) -> set[RangeAddress]:
    """Ranges of listed objects that lie before the walked ones."""
    ends = [p for p in found.closing.partitions if p.topic == topic]
    newest = max((p.generation for p in ends), default=0)
    walked_from = {(p.generation, p.partition): p.end_offset for p in ends}
    for record in found.ranges:
        if record.topic == topic:
            place = (record.generation, record.partition)
            walked_from[place] = min(walked_from[place], record.first_offset)
    addresses = {parsed[0] for v in listed if (parsed := parse_range_object(v.key)) is not None}
    return {
        a
        for a in addresses
        if a.generation < newest or a.first_offset < walked_from.get((a.generation, a.partition), 0)
    }
