"""What arrives for a day after its closing: found, fixed by a further closing, handed to the seal.

A row is late when it lies beyond the ends of the newest closing of its day (a gateway's clock
lagged, a log record was appended after the closing). A further closing `<day>-r<k>.json` is claimed
like the first: it keeps how far was looked and names every range that holds late rows, so that two
seals of a revision have the same input.
Belongs here: finding late ranges, claiming further closings, a revision's inputs. Does not: closing
a day for the first time (`closing.py`), building the revision (`seal.py`).
Source: design section 5 (closing a day: what arrives for it later makes a revision).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import pyarrow.compute as pc

from audit_platform.errors import ObjectNotFound, SealRefused
from audit_platform.killpoints import Killpoint, reach
from audit_platform.operations.claims import claim, read_claim
from audit_platform.operations.closing import closed_days, closing_of
from audit_platform.operations.coverage import (
    DayInputs,
    DayObject,
    Doubles,
    Missing,
    parse_record,
    range_records,
    versions_of_day,
)
from audit_platform.operations.generations import generations
from audit_platform.ports import Objects, Platform
from audit_platform.record import layout
from audit_platform.record.manifest import Manifest
from audit_platform.record.parquet import read_columns
from audit_platform.record.ranges import (
    ClosedPartition,
    Closing,
    LateRange,
    RangeObject,
    RangeRecord,
)

#: (topic, generation, partition) -> an offset of it.
Place = tuple[str, int, int]
Ends = Mapping[Place, int]

#: Range records of one partition that one further closing looks through. A day's ranges are about
#: 1,440; where more have come since, the next closing goes on from there.
MAX_WALK: Final = 20_000

#: The longest rest between two further closings of a day, which doubles with each: a gateway that
#: lags for hours makes a handful of revisions, not one a minute.
MAX_REST_MS: Final = layout.MS_PER_DAY

_EVERYTHING: Final = 2**62


def ends_of(closing: Closing) -> dict[Place, int]:
    """How far a closing reaches."""
    return {(p.topic, p.generation, p.partition): p.end_offset for p in closing.partitions}


def ends_of_manifest(manifest: Manifest) -> dict[Place, int]:
    """How far the inputs of a manifest reach."""
    return {(i.topic, i.generation, i.partition): i.end_offset for i in manifest.inputs}


def end_at(ends: Ends, place: Place) -> int:
    """Rows below this offset of a place lie within `ends`.

    Of a log generation older than those that `ends` name everything does, of a younger one nothing.
    """
    if place in ends:
        return ends[place]
    topic, generation, _ = place
    named = [g for t, g, _ in ends if t == topic]
    return _EVERYTHING if named and generation < min(named) else 0


# ------------------------------------------------------------------------------------- closings


def further_closings(platform: Platform, day: str) -> list[Closing]:
    """The further closings of a day, in order. Raises `RecordMalformed`, `StoreUnavailable`."""
    found: list[Closing] = []
    while True:
        key = layout.late_closing_key(day, len(found) + 2)
        record = read_claim(platform.objects, key)
        if record is None:
            return found
        found.append(Closing.from_bytes(key, record.data))


def newest_closing(platform: Platform, day: str) -> Closing | None:
    """The closing of a day that reaches furthest, or None when it was never closed."""
    first = closing_of(platform, day)
    return None if first is None else [first, *further_closings(platform, day)][-1]


def listed_closings(platform: Platform) -> list[tuple[str, int]]:
    """(day, revision) of every further closing, in order. One listing, no record is read."""
    versions = platform.objects.versions(f"{layout.LANDING}/closed/")
    found = {layout.parse_late_closing(v.key) for v in versions if not v.is_delete_marker}
    return sorted(place for place in found if place is not None)


def is_rested(closing: Closing, now_ms: int, grace_ms: int) -> bool:
    """Whether a day may be closed again: as long after its newest closing as the grace, doubled."""
    rest = min(grace_ms << min(closing.revision - 1, 40), MAX_REST_MS)
    return now_ms >= closing.closed_ms + rest


# ----------------------------------------------------------------------------------- looking out


@dataclass(slots=True)
class Look:
    """What a walk over range records found. `late`: day -> ranges with late rows of it.

    `reached` is how far each place was looked at without a hole; `cut`: there was more to read.
    `unclosed` are (day, tenant) of rows for days before the last closed one that have no closing.
    """

    reached: dict[Place, int] = field(default_factory=dict)
    late: dict[str, set[LateRange]] = field(default_factory=dict)
    unclosed: set[tuple[str, str]] = field(default_factory=set)
    holes: list[Missing] = field(default_factory=list)
    records: int = 0
    cut: bool = False


def look(platform: Platform, start: Ends, *, day: str | None = None, most: int = MAX_WALK) -> Look:
    """Walk the range records of every place from `start` (or its beginning) on, `most` of each.

    Rows are late against the newest closing of their day; with `day` only those of that day count.
    Raises `RecordMalformed`, `StoreUnavailable`.
    """
    found = Look()
    judge = _Judge(platform, found, day)
    for place, begin in _places(platform).items():
        if place not in start and end_at(start, place):
            continue  # a log generation that was looked through to its end long ago
        wanted, seen = start.get(place, begin), begin
        new = 0
        for record in range_records(platform.objects, *place, holding=wanted):
            if record.end_offset <= wanted:
                seen = record.end_offset
                continue
            reached = max(seen, wanted)
            if record.first_offset > reached:
                hole = Missing(*place, reached, record.first_offset, "no range record")
                found.holes.append(hole)
                break
            if new == most:
                found.cut = True
                break
            new += 1
            judge.record(record)
            seen = record.end_offset
        # Where ranges end before the start (another store, not archived yet) it steps back to them.
        found.reached[place] = seen
        found.records += new
    return found


def _places(platform: Platform) -> dict[Place, int]:
    """First offset of every partition of every log generation."""
    return {
        (topic.topic, generation.number, partition): offset
        for generation in generations(platform)
        for topic in generation.topics
        for partition, offset in enumerate(topic.start_offsets)
    }


class _Judge:
    """Sorts what range records name: late for a closed day, of a day without a closing, or fine."""

    def __init__(self, platform: Platform, found: Look, day: str | None) -> None:
        self._platform, self._found, self._day = platform, found, day
        self._last_closed = max(closed_days(platform), default="")
        self._closings: dict[str, Closing | None] = {}

    def record(self, record: RangeRecord) -> None:
        place = (record.topic, record.generation, record.partition)
        for o in record.objects:
            if self._day not in (None, o.day) or o.day > self._last_closed:
                continue
            if o.day not in self._closings:
                self._closings[o.day] = newest_closing(self._platform, o.day)
            closing = self._closings[o.day]
            if closing is None:
                self._found.unclosed.add((o.day, o.tenant_id))
                continue
            end = end_at(ends_of(closing), place)
            if record.end_offset <= end:
                continue
            # A range that straddles the end may hold rows of the day on either side of it.
            if record.first_offset >= end or rows_from(self._platform.objects, o, end):
                late = LateRange(o.tenant_id, *place, record.first_offset)
                self._found.late.setdefault(o.day, set()).add(late)


def rows_from(objects: Objects, named: RangeObject, offset: int) -> int:
    """How many rows of an object lie at log offset `offset` or beyond; all, when it is absent."""
    try:
        with objects.open(named.key, named.version_id) as file:
            offsets = read_columns(file, ["log_offset"])["log_offset"]
    except ObjectNotFound:
        return named.rows
    return int(pc.sum(pc.greater_equal(offsets, offset)).as_py() or 0)


def close_again(platform: Platform, day: str) -> Closing | None:
    """Claim a further closing of a closed day when rows came after its newest one.

    Returns the closing that was claimed, whoever wrote it; None when nothing came or the day was
    never closed. Safe to repeat, and by several at once. After None there is nothing late up to the
    ends of the range records; after a closing there may be more. Raises `RecordMalformed`,
    `StoreUnavailable`.
    """
    newest = newest_closing(platform, day)
    if newest is None:
        return None
    ends = ends_of(newest)
    found = look(platform, ends, day=day)
    late = found.late.get(day, set())
    if not late and not found.cut:
        return None
    for place, reached in found.reached.items():
        ends[place] = max(reached, ends.get(place, 0))
    now_ms = platform.clock.now_ms()
    offered = Closing(
        day,
        now_ms,
        tuple(ClosedPartition(*place, end) for place, end in sorted(ends.items())),
        revision=newest.revision + 1,
        late=tuple(sorted(late, key=_order)),
    )
    key = layout.late_closing_key(day, offered.revision)
    won = claim(platform.objects, key, offered.to_bytes(), now_ms)
    reach(Killpoint.DAY_CLOSED)
    return Closing.from_bytes(won.key, won.data)


def _order(late: LateRange) -> tuple[str, str, int, int, int]:
    return (late.tenant_id, late.topic, late.generation, late.partition, late.first_offset)


# ------------------------------------------------------------------------------ what a seal takes


def late_inputs(
    objects: Objects, tenant_id: str, day: str, since: Ends, closings: Iterable[Closing]
) -> DayInputs:
    """The objects of a tenant's day with rows beyond `since` that further closings name.

    `absent` are named and not in the store. Raises `SealRefused` for a named range that has no
    record, `RecordMalformed`, `StoreUnavailable`.
    """
    found: list[DayObject] = []
    absent: list[DayObject] = []
    doubles = Doubles(objects)
    named = {x for closing in closings for x in closing.late if x.tenant_id == tenant_id}
    for late in sorted(named, key=_order):
        prefix = layout.PREFIX_OF_TOPIC[late.topic]
        address = layout.RangeAddress(prefix, late.generation, late.partition, late.first_offset)
        claimed = read_claim(objects, address.record_key)
        if claimed is None:
            raise SealRefused(
                f"{address.record_key} is named by a further closing of {day} and is not there",
                remedy="run `audit-platform fsck` and keep everything as it is",
            )
        record = parse_record(claimed.key, claimed.data)
        for o in _objects_beyond(record, tenant_id, day, since, doubles):
            (found if _is_there(objects, o) else absent).append(o)
    return DayInputs(
        tenant_id,
        day,
        landing=tuple(o for o in found if o.topic == layout.EVENTS_TOPIC),
        quarantine=tuple(o for o in found if o.topic == layout.DLQ_TOPIC),
        absent=tuple(absent),
    )


def waiting_rows(platform: Platform, tenant_id: str, day: str, since: Ends) -> int:
    """Rows of a tenant's day beyond `since` that are in range records, whether or not claimed.

    Found by listing the tenant's day, not by any closing: what a revision has still to take in.
    """
    return sum(
        rows_from(platform.objects, o.object, o.from_offset)
        for topic in layout.PREFIX_OF_TOPIC
        for o in landed_beyond(platform.objects, tenant_id, day, topic, since)
    )


def landed_beyond(
    objects: Objects, tenant_id: str, day: str, topic: str, since: Ends
) -> Iterator[DayObject]:
    """Objects of a tenant's day with rows beyond `since` that range records name.

    Found by listing the tenant's day; `since` without any place means all of them. Raises
    `RecordMalformed`, `StoreUnavailable`.
    """
    listed = versions_of_day(objects, layout.PREFIX_OF_TOPIC[topic], tenant_id, day)
    addresses = {p[0] for v in listed if (p := layout.parse_range_object(v.key)) is not None}
    doubles = Doubles(objects)
    for address in _beyond(addresses, topic, since):
        claimed = read_claim(objects, address.record_key)
        if claimed is not None:  # else an orphan: no range record names it
            record = parse_record(claimed.key, claimed.data)
            yield from _objects_beyond(record, tenant_id, day, since, doubles)


def _beyond(
    addresses: set[layout.RangeAddress], topic: str, since: Ends
) -> list[layout.RangeAddress]:
    """Those that start beyond `since`, and of each place the last before it: it may straddle."""
    beyond: list[layout.RangeAddress] = []
    straddling: dict[Place, layout.RangeAddress] = {}
    for address in sorted(addresses, key=lambda a: a.first_offset):
        place = (topic, address.generation, address.partition)
        if address.first_offset >= end_at(since, place):
            beyond.append(address)
        else:
            straddling[place] = address
    return [*straddling.values(), *beyond]


def _objects_beyond(
    record: RangeRecord, tenant_id: str, day: str, since: Ends, doubles: Doubles
) -> list[DayObject]:
    place = (record.topic, record.generation, record.partition)
    begin = end_at(since, place)
    own = [o for o in record.objects if (o.tenant_id, o.day) == (tenant_id, day)]
    if record.end_offset <= begin or not own:
        return []
    again = doubles.of(record)
    span = (record.first_offset, record.end_offset)
    return [DayObject(*place, *span, o, from_offset=begin, doubled=again) for o in own]


def _is_there(objects: Objects, o: DayObject) -> bool:
    try:
        with objects.open(o.object.key, o.object.version_id):
            return True
    except ObjectNotFound:
        return False
