"""Closing a day: fix, for all tenants at once, where each partition ended for that day.

A closing record keeps the end offset of every partition of both topics, taken when the wall clock
is past the day's end and the grace. What arrives for the day later makes a revision. Days are
closed one after the other: a later closing never has a smaller end offset than an earlier one.
Belongs here: which days are due, claiming and reading closing records. Does not: whether ranges
reach the ends (`coverage.py`), sealing. Source: design section 5 (closing a day).
"""

from __future__ import annotations

from collections.abc import Sequence

from audit_platform.errors import OffsetOutOfRange, RecordMalformed, SealRefused
from audit_platform.killpoints import Killpoint, reach
from audit_platform.operations.claims import claim, read_claim
from audit_platform.operations.generations import ensure_generation, generations
from audit_platform.ports import LogRecord, Platform
from audit_platform.record.deadletter import record_entries
from audit_platform.record.layout import (
    EVENTS_TOPIC,
    MS_PER_DAY,
    closing_key,
    closings_prefix,
    day_end_ms,
    day_of,
    next_day,
    parse_closing,
)
from audit_platform.record.ranges import ClosedPartition, Closing, Generation


def closed_days(platform: Platform) -> list[str]:
    """Days that have a closing record, in order. One listing, no record is read."""
    versions = platform.objects.versions(closings_prefix())
    found = {parse_closing(v.key) for v in versions if not v.is_delete_marker}
    return sorted(day for day in found if day is not None)


def closing_of(platform: Platform, day: str) -> Closing | None:
    """The closing record of a day, or None. Raises `RecordMalformed`, `StoreUnavailable`."""
    record = read_claim(platform.objects, closing_key(day))
    return None if record is None else Closing.from_bytes(record.key, record.data)


def closings(platform: Platform) -> list[Closing]:
    """All closing records in day order."""
    found = (closing_of(platform, day) for day in closed_days(platform))
    return [closing for closing in found if closing is not None]


def due_days(platform: Platform, grace_ms: int, first_day: str) -> list[str]:
    """Days to close now, in order: past their end and the grace, without a closing record.

    They begin the day after the last closing record. Before the first one they begin at the first
    day that has data by the log's clock (with an empty log: at the day on which the generation was
    opened), but not before `first_day`.
    """
    closed = closed_days(platform)
    if closed:
        day = next_day(closed[-1])
    else:
        ensure_generation(platform)
        day = max(first_day, _first_day_with_data(platform, list(generations(platform))))
    due = []
    while _is_over(platform, day, grace_ms):
        due.append(day)
        day = next_day(day)
    return due


def close_day(platform: Platform, day: str, grace_ms: int) -> Closing:
    """Claim the closing record of `day`; returns the one that counts, whoever wrote it.

    Idempotent. Raises `SealRefused` (nothing changed) before the day's end and grace, and when it
    is not the day after the last closed one; `GenerationMismatch`, `LogUnavailable`,
    `StoreUnavailable`.
    """
    found = closing_of(platform, day)
    if found is not None:
        return found
    if not _is_over(platform, day, grace_ms):
        raise SealRefused(
            f"{day} is not over: its end and a grace of {grace_ms} ms are still to come",
            remedy="close it later",
        )
    closed = closed_days(platform)
    if closed and day != next_day(closed[-1]):
        raise SealRefused(
            f"{day} is not the day after the last closed day {closed[-1]}",
            remedy=f"close {next_day(closed[-1])} next: ends of later days must not be smaller",
        )
    ensure_generation(platform)
    partitions = _ends_now(platform, day)
    now_ms = platform.clock.now_ms()
    offered = Closing(day, now_ms, partitions)
    won = claim(platform.objects, closing_key(day), offered.to_bytes(), now_ms)
    reach(Killpoint.DAY_CLOSED)
    return Closing.from_bytes(won.key, won.data)


def _ends_now(platform: Platform, day: str) -> tuple[ClosedPartition, ...]:
    """The log's ends, and where older generations were closed, as far as that is news.

    Never smaller than in the closing before, also when the log has lost its tail. A generation is
    left out once it is older than all in the closing two days before: that named its end.
    """
    opened = list(generations(platform))
    before, yesterday = (closing_of(platform, next_day(day, -n)) for n in (2, 1))
    from_number = max((p.generation for p in before.partitions), default=1) if before else 1
    least = {
        (p.topic, p.generation, p.partition): p.end_offset
        for p in (yesterday.partitions if yesterday else ())
    }
    partitions = [p for younger in opened for p in younger.closed if p.generation >= from_number]
    for start in opened[-1].topics:
        for number in range(len(start.start_offsets)):
            end = platform.log.bounds(start.topic, number)[1]
            known = least.get((start.topic, opened[-1].number, number), 0)
            partitions.append(
                ClosedPartition(start.topic, opened[-1].number, number, max(end, known))
            )
    return tuple(partitions)


def _is_over(platform: Platform, day: str, grace_ms: int) -> bool:
    return platform.clock.now_ms() >= day_end_ms(day) + grace_ms


def _first_day_with_data(platform: Platform, opened: Sequence[Generation]) -> str:
    # The log's clock and not ingestionTime: one gateway with a clock in 1970 must not make twenty
    # thousand days due.
    first_ms = min(generation.opened_ms for generation in opened)
    for start in opened[-1].topics:
        for partition, offset in enumerate(start.start_offsets):
            try:
                records = platform.log.read(start.topic, partition, offset, 1)
            except OffsetOutOfRange:
                continue  # retention took the first record; days begin with the generation then
            first_ms = min([first_ms, *(_first_ms(r) for r in records[:1])])
    return day_of(first_ms)


def _first_ms(record: LogRecord) -> int:
    """When a log record was appended; the day before, when its first event says it came then.

    A body that is taken just before midnight may be appended just after it.
    """
    day_before = next_day(day_of(record.appended_ms), -1)
    if record.topic == EVENTS_TOPIC:
        came_then = f'"ingestionTime":"{day_before}T'.encode() in record.value.partition(b"\n")[0]
    else:
        try:
            came_then = day_of(record_entries(record.value)[0].received_ms) == day_before
        except RecordMalformed:
            came_then = False
    return record.appended_ms - MS_PER_DAY if came_then else record.appended_ms
