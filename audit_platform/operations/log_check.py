"""Is the log still the one that was archived? Compared by recorded digests, place by place.

A log that lost its tail and was filled again has other records at offsets that ranges cover: the
records before the first offset that is not covered tell. Belongs here: that comparison, for the
archive-writer, for closing and opening a generation, for whoever looks. Does not: topic ids and
partition counts (`generations.py`), what is done about it (`open_generation.py`).
Source: design section 5 (landing: compares the log record before its start; log generation).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from audit_platform.errors import (
    GenerationMismatch,
    LogTrouble,
    LogUnavailable,
    OffsetOutOfRange,
    RecordMalformed,
)
from audit_platform.operations.coverage import range_records
from audit_platform.operations.generations import TOPICS, check_topic, generations
from audit_platform.ports import Log, LogRecord, Objects, Platform
from audit_platform.record.layout import short_digest
from audit_platform.record.ranges import Generation, RangeRecord, RecordDigest, TopicStart

REMEDY: Final = (
    "never reset offsets; see which records differ by `audit-platform generation check`, then run"
    " `audit-platform generation open`"
)

#: Archived log records that are compared before the first that is not: what a producer sends again
#: may come to stand at its old offset, behind others that do not.
WINDOW: Final = 64

#: Bytes of log values read at a time.
READ_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Broken:
    """What is wrong with a partition, or with all of a topic (`partition` is None)."""

    topic: str
    partition: int | None
    trouble: LogTrouble
    reason: str
    remedy: str


def check(platform: Platform) -> list[Broken]:
    """Everything in which the log is not the one that the open generation means; at best nothing.

    Reads the last range record and one log record of each partition. Empty before the first
    generation. Raises `LogUnavailable`, `UnknownTopic`, `StoreUnavailable`.
    """
    opened = list(generations(platform))
    found: list[Broken] = []
    for topic in TOPICS if opened else ():
        try:
            start = check_topic(platform.log, opened[-1], topic)
        except GenerationMismatch as e:
            found.append(Broken(topic, None, e.trouble, e.reason, e.remedy))
            continue
        for number in range(len(start.start_offsets)):
            try:
                _check_partition(platform, opened, topic, number)
            except GenerationMismatch as e:
                found.append(Broken(topic, number, e.trouble, e.reason, e.remedy))
            except RecordMalformed as e:
                found.append(Broken(topic, number, LogTrouble.RECORD, e.reason, e.remedy))
    return found


def _check_partition(
    platform: Platform, opened: Sequence[Generation], topic: str, number: int
) -> None:
    start = start_of(opened[-1], topic, number)
    assert start is not None, "the topic was checked"
    last = last_range(platform, opened[-1], topic, number)
    covered = start if last is None else last.end_offset
    wanted = digests_before(platform.objects, opened, topic, number, covered)
    compare(platform.log, topic, number, covered, wanted)
    if last is not None and last.closed:
        raise closed(topic, number, opened[-1])


def last_range(
    platform: Platform, generation: Generation, topic: str, number: int
) -> RangeRecord | None:
    """The last range record of a partition, or None. Raises `RecordMalformed`, as `check`."""
    there = number < platform.log.describe(topic).partitions
    end = platform.log.bounds(topic, number)[1] if there else 0
    last = None
    for record in range_records(platform.objects, topic, generation.number, number, holding=end):
        last = record
    return last


def start_of(generation: Generation, topic: str, number: int) -> int | None:
    """Where a partition starts in a generation; None when that does not name it."""
    found: TopicStart | None = generation.topic(topic)
    known = found is not None and number < len(found.start_offsets)
    return found.start_offsets[number] if found is not None and known else None


def of_topic(opened: Sequence[Generation], topic: str) -> Iterator[Generation]:
    """Generations from the newest back, for as long as they name the very same topic."""
    newest = opened[-1].topic(topic)
    for generation in reversed(opened):
        named = generation.topic(topic)
        if named is None or newest is None or named.topic_id != newest.topic_id:
            return
        yield generation


def digests_before(
    objects: Objects,
    opened: Sequence[Generation],
    topic: str,
    number: int,
    offset: int,
    most: int = WINDOW,
) -> list[RecordDigest]:
    """The last log records below `offset` that range records name, at most `most`, in order.

    Those of the newest generation, and of older ones as far as they name the same topic id, up to
    where the younger one starts. Raises `RecordMalformed`, `StoreUnavailable`.
    """
    found: list[RecordDigest] = []
    for generation in of_topic(opened, topic):
        start = start_of(generation, topic, number)
        if start is None:
            break
        place = (topic, generation.number, number)
        at = offset - 1
        while at >= start and len(found) < most:
            record = next(range_records(objects, *place, holding=at), None)
            if record is None or record.first_offset > at:
                break
            found = [*(r for r in record.records if r.offset <= at), *found]
            at = record.first_offset - 1
        offset = min(offset, start)
    return found[-most:]


def compare(
    log: Log, topic: str, number: int, covered: int, wanted: Sequence[RecordDigest]
) -> None:
    """The log must hold `wanted`, records before offset `covered`, and go on from there.

    They may be gone by retention, as long as nothing that is not covered is. Raises
    `GenerationMismatch`, `LogUnavailable`.
    """
    where = f"{topic}/{number}"
    first, end = log.bounds(topic, number)
    if not first <= covered <= end:
        raise GenerationMismatch(
            f"{where} now has offsets {first}..{end}; archived up to {covered}",
            remedy=REMEDY,
            trouble=LogTrouble.TAIL if end < covered else LogTrouble.RETENTION,
        )
    other = first_other(log, topic, number, wanted)
    if other is not None:
        raise GenerationMismatch(
            f"{where} holds another record at {other.offset} than the one archived, or none",
            remedy=REMEDY,
            trouble=LogTrouble.DIGEST,
        )


def first_other(
    log: Log, topic: str, number: int, wanted: Sequence[RecordDigest]
) -> RecordDigest | None:
    """The first of some archived records, in order, that is not in the log; None for none.

    What retention took is passed over. Raises `LogUnavailable`, also when the log's bounds moved
    over a record just now.
    """
    first, end = log.bounds(topic, number)
    held: dict[int, str] = {}
    read = -1
    for record in wanted:
        if record.offset < first:
            continue
        if record.offset >= end:
            return record
        while read < record.offset:
            records = _read(log, topic, number, max(read + 1, record.offset))
            held |= {r.offset: short_digest(r.value) for r in records}
            read = records[-1].offset if records else end
        if held.get(record.offset) != record.digest:
            return record
    return None


def _read(log: Log, topic: str, number: int, offset: int) -> list[LogRecord]:
    try:
        return log.read(topic, number, offset, READ_BYTES)
    except OffsetOutOfRange as e:
        raise LogUnavailable(f"the log changed while we looked: {e.reason}", remedy="again") from e


def closed(topic: str, number: int, generation: Generation) -> GenerationMismatch:
    """What to raise where a partition's last range record is the closing of its generation."""
    return GenerationMismatch(
        f"{topic}/{number} is closed in log generation {generation.number}",
        remedy="open the next one: `audit-platform generation open`",
        trouble=LogTrouble.CLOSED,
    )
