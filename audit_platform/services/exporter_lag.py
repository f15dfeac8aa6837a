"""How far each group of consumers is behind the log, told though none of them runs.

Belongs here: lag in records, events and seconds. Does not: what a group commits (ports), which
range is archived (range records), alerts.
Source: design sections 5 and 8; issue "The same path on the real servers".

archive-writer is measured by range records: its committed offset is a hint. search-indexer has
nothing but its committed offset. What cannot be had for the moment stays as it was: a store that is
away takes no ranges, and Kafka forgets a group for some seconds when a broker dies. Only the log
itself is needed to go on.

Events are in the headers of log records, which come only with the records. So the first MiB and the
newest record are read when they change: exact for a small lag, the mean of all that was read of it
for a large one.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from audit_platform.errors import OffsetOutOfRange, StoreUnavailable
from audit_platform.operations.claims import read_claim
from audit_platform.operations.coverage import parse_record, range_records
from audit_platform.operations.generations import TOPICS, newest_generation
from audit_platform.ports import Log, Objects, Platform
from audit_platform.record.landing import header_count
from audit_platform.record.layout import (
    ARCHIVE_GROUP,
    EVENTS_TOPIC,
    INDEXER_GROUP,
    PREFIX_OF_TOPIC,
    RangeAddress,
)
from audit_platform.record.ranges import Generation
from audit_platform.services.lag_gauges import tell_lag
from audit_platform.telemetry import Telemetry

#: Read from where a group stands; a log record is up to 1 MiB.
READ_BYTES: Final = 1 << 20

#: Counts of log records that are kept of one group and partition; then every other one goes.
MAX_COUNTS: Final = 512

_Place = tuple[str, int]


@dataclass(slots=True)
class _Behind:
    """What is known of the log records behind which one group is, in one partition.

    `counts` are events by offset. `read_at` is where the group stood when the first of them were
    read, `oldest_ms` the append time of the very first.
    """

    counts: dict[int, int] = field(default_factory=dict)
    read_at: int = -1
    oldest_ms: int = 0
    newest: int = -1

    def of(self, log: Log, place: _Place, next_offset: int, end: int) -> tuple[float, int]:
        """(events, append time of the oldest) of the records `next_offset <= o < end`, some."""
        self.counts = {o: n for o, n in self.counts.items() if next_offset <= o < end}
        if self.read_at != next_offset:
            found = log.read(*place, next_offset, READ_BYTES)
            self.read_at, self.oldest_ms = next_offset, found[0].appended_ms if found else 0
            self.counts |= {r.offset: header_count(r.headers) for r in found}
        if end - 1 not in self.counts and self.newest != end:
            self.counts |= {r.offset: header_count(r.headers) for r in log.read(*place, end - 1, 1)}
            self.newest = end
        if len(self.counts) > MAX_COUNTS:
            self.counts = dict(list(self.counts.items())[::2])
        mean = sum(self.counts.values()) / len(self.counts) if self.counts else 1.0
        return mean * (end - next_offset), self.oldest_ms


class GroupLag:
    """Tells the lag of both groups. One thread."""

    def __init__(self, platform: Platform, telemetry: Telemetry) -> None:
        self._log = platform.log
        self._telemetry = telemetry
        self._archived = _Archived(platform.objects)
        self._committed: dict[tuple[str, int], int] = {}
        self._behind: dict[tuple[str, str, int], _Behind] = {}

    def tell(self) -> None:
        """Look once. Raises `LogUnavailable`: what was told stays. `RecordMalformed`."""
        self._archived.begin()
        self._committed |= {
            (INDEXER_GROUP, p): offset
            for p, offset in self._log.committed(INDEXER_GROUP, EVENTS_TOPIC).items()
        }
        for topic in TOPICS:
            hints = self._log.committed(ARCHIVE_GROUP, topic)
            for number in range(self._log.describe(topic).partitions):
                start, end = self._log.bounds(topic, number)
                archived = self._archived.end(topic, number, end, hints.get(number, start))
                self._tell(ARCHIVE_GROUP, (topic, number), (start, end), archived)
                if topic == EVENTS_TOPIC:
                    indexed = self._committed.get((INDEXER_GROUP, number), start)
                    self._tell(INDEXER_GROUP, (topic, number), (start, end), indexed)

    def _tell(self, group: str, place: _Place, bounds: tuple[int, int], next_offset: int) -> None:
        start, end = bounds
        next_offset = min(max(next_offset, start), end)
        events, seconds = 0.0, 0.0
        if next_offset < end:
            behind = self._behind.setdefault((group, *place), _Behind())
            # Retention may take what is looked at; the next look starts behind it.
            with suppress(OffsetOutOfRange):
                events, oldest_ms = behind.of(self._log, place, next_offset, end)
                seconds = max(0, self._log.now_ms() - oldest_ms) / 1000 if oldest_ms else 0.0
        tell_lag(self._telemetry, group, place, (end - next_offset, round(events), seconds))


class _Archived:
    """Where the range records of each partition end, by as few questions as will do."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._generation: Generation | None = None
        self._ends: dict[_Place, int] = {}

    def begin(self) -> None:
        """Look for a younger log generation: its ranges are others."""
        with suppress(StoreUnavailable):
            known = self._generation
            self._generation = newest_generation(self._objects, known)
            if self._generation is not known:
                self._ends = {}

    def end(self, topic: str, partition: int, log_end: int, hint: int) -> int:
        """The offset behind the last range; `hint` where no range is known and none can be asked.

        Raises `RecordMalformed`.
        """
        start = self._start(topic, partition)
        if start is None:
            return hint
        place = (topic, partition)
        with suppress(StoreUnavailable):
            if place not in self._ends:
                self._ends[place] = max(start, self._last_end(place, log_end))
            while self._ends[place] < log_end and (found := self._next_end(place)) is not None:
                self._ends[place] = found
        return self._ends.get(place, hint)

    def _start(self, topic: str, partition: int) -> int | None:
        found = self._generation.topic(topic) if self._generation else None
        if found is None or partition >= len(found.start_offsets):
            return None
        return found.start_offsets[partition]

    def _last_end(self, place: _Place, log_end: int) -> int:
        assert self._generation is not None, "it names the start"
        number = self._generation.number
        records = range_records(self._objects, place[0], number, place[1], holding=log_end)
        return max((record.end_offset for record in records), default=0)

    def _next_end(self, place: _Place) -> int | None:
        """The end of the range that starts where the last one ended."""
        assert self._generation is not None, "it names the start"
        topic, partition = place
        address = RangeAddress(
            PREFIX_OF_TOPIC[topic], self._generation.number, partition, self._ends[place]
        )
        claimed = read_claim(self._objects, address.record_key)
        if claimed is None:
            return None
        found = parse_record(claimed.key, claimed.data)
        # A closed partition has an empty range at its end.
        return found.end_offset if found.end_offset > self._ends[place] else None
