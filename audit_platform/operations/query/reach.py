"""The completeness line: what was searched, up to when, and what is missing.

Belongs here: how far the log is archived and what waits behind that. Does not: which days and
objects were searched (`scope.py`). Source: issue "One machine, whole" (HOT, queries, readers).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from audit_platform.errors import LogUnavailable, OffsetOutOfRange, StoreUnavailable, UnknownTopic
from audit_platform.operations.query.model import Completeness, PartitionReach, Tier
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import Scope
from audit_platform.record.landing import header_count
from audit_platform.record.layout import EVENTS_TOPIC

#: Bytes of a partition's tail that are read to count its events; a minute's tail of a busy
#: partition is more than anybody's question should wait for, so then the count is a lower bound.
TAIL_BYTES: Final = 8 * 1024 * 1024


def completeness(
    reader: Reader, scope: Scope, tier: Tier, notes: Sequence[str] = ()
) -> Completeness:
    """The completeness of an answer from this scope; what cannot be asked for it is told."""
    try:
        partitions, unavailable = _partitions(reader, scope.tenant_id), False
    except (LogUnavailable, UnknownTopic, StoreUnavailable):
        partitions, unavailable = (), True
    return Completeness(
        tier=tier,
        asked_ms=reader.platform.clock.now_ms(),
        days=tuple(scope.days.values()),
        partitions=partitions,
        log_unavailable=unavailable,
        unavailable=tuple(sorted(scope.unavailable)),
        notes=tuple(dict.fromkeys([*scope.problems, *notes])),
    )


def _partitions(reader: Reader, tenant_id: str) -> tuple[PartitionReach, ...]:
    log = reader.platform.log
    generation = reader.generation()
    topic = generation.topic(EVENTS_TOPIC) if generation else None
    starts = topic.start_offsets if topic else (0,) * log.describe(EVENTS_TOPIC).partitions
    found = []
    for partition, start in enumerate(starts):
        first, end = log.bounds(EVENTS_TOPIC, partition)
        last = None
        if generation is not None:
            last = reader.last_range(EVENTS_TOPIC, generation.number, partition, end)
        archived = max(start, last.end_offset if last else 0)
        events, is_least, oldest = _tail(reader, tenant_id, partition, max(archived, first), end)
        found.append(
            PartitionReach(
                partition=partition,
                archived_ms=last.last_ms if last else 0,
                waiting_events=events,
                waiting_is_least=is_least or first > archived,
                oldest_ms=oldest,
            )
        )
    return tuple(found)


def _tail(
    reader: Reader, tenant_id: str, partition: int, offset: int, end: int
) -> tuple[int, bool, int]:
    """(the tenant's events from an offset on, whether there may be more, log time of the first)."""
    events = oldest = read = 0
    while offset < end:
        if read > TAIL_BYTES:
            return events, True, oldest
        try:
            records = reader.platform.log.read(EVENTS_TOPIC, partition, offset, TAIL_BYTES // 4)
        except OffsetOutOfRange:
            return events, True, oldest  # retention went on while we read
        if not records:
            break
        own = [r for r in records if r.headers.get("tenant") == tenant_id]
        if own:
            oldest = oldest or own[0].appended_ms
            events += sum(header_count(r.headers) for r in own)
        read += sum(len(r.value) for r in records)
        offset = records[-1].offset + 1
    return events, False, oldest
