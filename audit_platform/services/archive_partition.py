"""One partition of the archive-writer: where it stands, what it has buffered, what it commits.

Belongs here: opening at the end of the last range record, when the log is compared with what was
read or archived of it, the buffer, committing one range. Does not: the comparison
(`operations/log_check.py`), which partitions are ours, back-off, time (`archive_writer.py`).
Source: design sections 2 and 5.

A log that loses its tail and is filled again looks whole from behind: reading on would pass over
its new records. So the record before what is read or committed next is compared with the one that
was there: before each commit, when the log's end steps back, and before reading on after the log
did not answer or nobody looked for a while (a leader cannot change within that unnoticed).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from audit_platform.errors import GenerationMismatch, LogTrouble, NotAssigned
from audit_platform.killpoints import Killpoint, reach
from audit_platform.operations.coverage import range_records
from audit_platform.operations.generations import check_topic, generations
from audit_platform.operations.log_check import WINDOW, closed, compare, digests_before
from audit_platform.ports import GroupMember, LogRecord, Platform
from audit_platform.record.landing import header_count
from audit_platform.record.layout import PREFIX_OF_TOPIC, RangeAddress, short_digest
from audit_platform.record.ranges import Generation, RangeRecord, RecordDigest
from audit_platform.services.archive_commit import Committed, commit_range
from audit_platform.services.archive_range import BuiltRange, build_range

#: Log records in one range: its record lists each with its digest (about 40 bytes), and whoever
#: reads coverage reads all of them.
MAX_RANGE_RECORDS: Final = 20_000

#: Looks at the log that are no further apart have no leader's change between them: it takes the
#: log seconds, in which it does not answer.
SURE_SECONDS: Final = 5.0


@dataclass(slots=True)
class Partition:
    """A partition that is ours. Covered offsets end at `next_offset`, the buffer at `read_offset`.

    `built` is a range whose commit has not passed yet; nothing is read beside it. `since` is the
    monotonic time at which the first buffered record was read, `seen` that of the last look at the
    log (None: it did not answer). `archived` are the last log records of the last ranges.
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
    archived: list[RecordDigest] = field(default_factory=list)
    seen: float | None = None

    def read(self, max_bytes: int, now: float) -> bool:
        """Read on into the buffer; whether there was anything.

        Raises `OffsetOutOfRange`, `GenerationMismatch` (this partition must stop),
        `LogUnavailable`.
        """
        if self.built is not None:
            return False
        is_sure = self.seen is not None and now - self.seen < SURE_SECONDS
        self.seen = None  # until the log has answered this time
        end = self.platform.log.bounds(self.topic, self.number)[1]
        if not is_sure or end < self.read_offset:
            self._compare_read()
        if end == self.read_offset:
            self.seen = now
            return False
        found = self.platform.log.read(self.topic, self.number, self.read_offset, max_bytes)
        self.seen = now
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

    def _compare_read(self) -> None:
        """The log must still hold the records before the next one to read."""
        read = [
            RecordDigest(r.offset, short_digest(r.value), header_count(r.headers))
            for r in self.buffer[-WINDOW:]
        ]
        last = [*self.archived, *read][-WINDOW:]
        compare(self.platform.log, self.topic, self.number, self.read_offset, last)

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
            raise closed(self.topic, self.number, self.generation)
        self.built = None
        self.archived = [*self.archived, *done.record.records][-WINDOW:]
        self.next_offset = self.read_offset = done.record.end_offset
        # Only a hint: when another member holds the partition now, the assignment will tell.
        with suppress(NotAssigned):
            member.commit(self.number, self.next_offset)
            reach(Killpoint.OFFSET_COMMITTED)
        return built, done

    def _build(self) -> BuiltRange:
        # A topic that was made anew while we read must not come under the old generation's name.
        check_topic(self.platform.log, self.generation, self.topic)
        # What lies between is in the buffer, though retention may have taken it meanwhile.
        last = self.archived[-1:]
        compare(self.platform.log, self.topic, self.number, self.read_offset, last)
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
                trouble=LogTrouble.RECORD,
            )
        last, expected = record, record.end_offset
    if last is not None:
        if last.closed:
            raise closed(topic, number, generation)
        next_offset = last.end_offset
    opened = [g for g in generations(platform) if g.number <= generation.number]
    archived = digests_before(platform.objects, opened, topic, number, next_offset)
    compare(platform.log, topic, number, next_offset, archived)
    return Partition(
        platform, generation, topic, number, next_offset, next_offset, archived=archived
    )
