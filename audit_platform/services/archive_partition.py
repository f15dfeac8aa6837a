"""One partition of the archive-writer: where it stands, what it has buffered, what it commits.

Belongs here: opening at the end of the last range record, comparing the log with the recorded
digest, the buffer, committing one range. Does not: which partitions are ours, back-off, time
(`archive_writer.py`). Source: design sections 2 and 5.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from audit_platform.errors import GenerationMismatch, NotAssigned, OffsetOutOfRange
from audit_platform.killpoints import Killpoint, reach
from audit_platform.operations.coverage import range_records
from audit_platform.operations.generations import check_topic
from audit_platform.ports import GroupMember, LogRecord, Platform
from audit_platform.record.landing import header_count
from audit_platform.record.layout import PREFIX_OF_TOPIC, RangeAddress, short_digest
from audit_platform.record.ranges import Generation, RangeRecord
from audit_platform.services.archive_commit import Committed, commit_range
from audit_platform.services.archive_range import BuiltRange, build_range

#: Log records in one range: its record lists each with its digest (about 40 bytes), and whoever
#: reads coverage reads all of them.
MAX_RANGE_RECORDS: Final = 20_000

_REMEDY: Final = (
    "never reset offsets; close this log generation and open the next one at the first offset"
    " that differs"
)


@dataclass(slots=True)
class Partition:
    """A partition that is ours. Covered offsets end at `next_offset`, the buffer at `read_offset`.

    `built` is a range whose commit has not passed yet; nothing is read beside it. `since` is the
    monotonic time at which the first buffered record was read.
    """

    platform: Platform
    generation: Generation
    topic: str
    number: int
    next_offset: int
    read_offset: int
    buffer: list[LogRecord] = field(default_factory=list)
    size: int = 0
    events: int = 0
    since: float = 0.0
    built: BuiltRange | None = None
    events_per_record: float = 1.0

    def read(self, max_bytes: int, now: float) -> bool:
        """Read on into the buffer; whether there was anything. Raises `OffsetOutOfRange`."""
        end = self.platform.log.bounds(self.topic, self.number)[1]
        if self.built is not None or end == self.read_offset:
            return False
        found = self.platform.log.read(self.topic, self.number, self.read_offset, max_bytes)
        if self.read_offset == self.next_offset:
            self.since = now
        if not found:
            # A hole up to an end that was durable before we looked: an append that failed, or
            # damage. A range covers it too, or the day's closing would never be reached.
            self.read_offset = end
            return True
        events = sum(header_count(record.headers) for record in found)
        self.buffer += found
        self.read_offset = found[-1].offset + 1
        self.size += sum(len(record.value) for record in found)
        self.events += events
        self.events_per_record = events / len(found)
        return True

    @property
    def pending(self) -> bool:
        """Whether there is anything to commit."""
        return self.read_offset > self.next_offset

    def is_due(self, now: float, range_seconds: float, range_bytes: int) -> bool:
        """Whether the range is to be committed now."""
        if self.built is not None:
            return True
        if not self.pending:
            return False
        full = self.size >= range_bytes or len(self.buffer) >= MAX_RANGE_RECORDS
        return full or now - self.since >= range_seconds

    def commit(self, member: GroupMember) -> tuple[BuiltRange, Committed]:
        """Commit what is pending as one range, then the group's offset.

        Raises `StoreUnavailable` and `LogUnavailable` (call again), `GenerationMismatch`,
        `RecordMalformed` (this partition must stop).
        """
        built = self.built or self._build()
        done = commit_range(self.platform.objects, self.platform.clock, built)
        if done.record.closed:
            raise _closed(self.topic, self.number, self.generation)
        self.built = None
        self.next_offset = self.read_offset = done.record.end_offset
        # Only a hint: when another member holds the partition now, the assignment will tell.
        with suppress(NotAssigned):
            member.commit(self.number, self.next_offset)
            reach(Killpoint.OFFSET_COMMITTED)
        return built, done

    def _build(self) -> BuiltRange:
        # A topic that was made anew while we read must not come under the old generation's name.
        check_topic(self.platform.log, self.generation, self.topic)
        prefix = PREFIX_OF_TOPIC[self.topic]
        address = RangeAddress(prefix, self.generation.number, self.number, self.next_offset)
        self.built = build_range(self.topic, address, self.read_offset, self.buffer)
        self.buffer, self.size, self.events = [], 0, 0
        return self.built

    def lag(self, now_ms: int) -> tuple[int, float, float]:
        """(log records, events, seconds) behind the log's end.

        Events of records that are not read yet are taken to be as many as in the last ones read.
        """
        end = self.platform.log.bounds(self.topic, self.number)[1]
        events, oldest_ms = self.events, now_ms
        if self.built is not None:
            events, oldest_ms = self.built.events, self.built.first_ms or now_ms
        elif self.buffer:
            oldest_ms = self.buffer[0].appended_ms
        unread = max(0, end - self.read_offset) * self.events_per_record
        return end - self.next_offset, events + unread, max(0, now_ms - oldest_ms) / 1000


def open_partition(
    platform: Platform, generation: Generation, topic: str, number: int, hint: int | None
) -> Partition:
    """A partition at the end of its last range record, after comparing log and record there.

    `hint` is the group's offset: where to begin looking, never the truth. Raises
    `GenerationMismatch`, `RecordMalformed`, `LogUnavailable`, `StoreUnavailable`.
    """
    next_offset = check_topic(platform.log, generation, topic).start_offsets[number]
    expected = None if hint else next_offset
    last: RangeRecord | None = None
    walk = range_records(platform.objects, topic, generation.number, number, holding=hint or 0)
    for record in walk:
        if expected is not None and record.first_offset != expected:
            raise GenerationMismatch(
                f"range records of {topic}/{number} are not contiguous: wanted one at {expected},"
                f" found {record.first_offset}",
                remedy="look for a range record that was removed or hidden; do not write over it",
            )
        last, expected = record, record.end_offset
    if last is not None:
        if last.closed:
            raise _closed(topic, number, generation)
        _compare(platform, last)
        next_offset = last.end_offset
    return Partition(platform, generation, topic, number, next_offset, next_offset)


def _compare(platform: Platform, last: RangeRecord) -> None:
    """The log must still hold the last archived record as it was archived."""
    if not last.records:
        return
    wanted = last.records[-1]
    where = f"{last.topic}/{last.partition}"
    try:
        found = platform.log.read(last.topic, last.partition, wanted.offset, 1)
    except OffsetOutOfRange as e:
        if wanted.offset < e.start <= last.end_offset:
            return  # retention took it, and nothing that is not archived
        raise GenerationMismatch(
            f"{where} now has offsets {e.start}..{e.end}; archived up to {last.end_offset}",
            remedy=_REMEDY,
        ) from e
    if not found or found[0].offset != wanted.offset:
        raise GenerationMismatch(f"{where} does not hold offset {wanted.offset}", remedy=_REMEDY)
    if short_digest(found[0].value) != wanted.digest:
        raise GenerationMismatch(
            f"{where} holds another record at {wanted.offset} than the one archived",
            remedy=_REMEDY,
        )


def _closed(topic: str, number: int, generation: Generation) -> GenerationMismatch:
    return GenerationMismatch(
        f"{topic}/{number} is closed in log generation {generation.number}",
        remedy="open the next log generation",
    )
