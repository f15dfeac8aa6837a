"""From log records to the objects of one range: decoded, grouped by tenant and day, as Parquet.

Nothing that the log can hold makes this fail: a record that is not as stated becomes one raw row.
Belongs here: judging a log record's headers and form, building objects and digests in memory. Does
not: storing or claiming anything (`archive_commit.py`), the loop (`archive_writer.py`).
Source: design section 4 (records), 5 (landing).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from audit_platform.errors import RecordMalformed
from audit_platform.operations.log_events import (
    by_tenant,
    is_as_stated,
    log_value,
    tenant_of,
)
from audit_platform.ports import LogRecord
from audit_platform.record.deadletter import DeadLetter, record_entries
from audit_platform.record.landing import (
    LANDING_SCHEMA,
    WHOLE_RECORD,
    LogValue,
    event_rows,
    header_count,
    raw_row,
    to_parquet,
)
from audit_platform.record.layout import (
    EVENTS_TOPIC,
    PLATFORM_TENANT,
    RangeAddress,
    day_end_ms,
    day_of,
    short_digest,
)
from audit_platform.record.quarantine import QUARANTINE_SCHEMA, QuarantineRow, to_table
from audit_platform.record.ranges import RecordDigest

#: First time that has no day in a key any more.
_END_OF_DAYS_MS: Final = day_end_ms("9999-12-31")


@dataclass(frozen=True, slots=True)
class BuiltObject:
    """One Parquet object that is not stored yet. `sha256` is lower hex of `data`."""

    key: str
    data: bytes
    sha256: str
    tenant_id: str
    day: str
    rows: int
    events: int


@dataclass(frozen=True, slots=True)
class BuiltRange:
    """A range that is not committed yet. `raw_rows` of its rows hold bytes that did not decode.

    `first_ms` and `last_ms` are the log's times of its first and last record; 0 without records.
    """

    topic: str
    address: RangeAddress
    end_offset: int
    records: tuple[RecordDigest, ...]
    objects: tuple[BuiltObject, ...]
    events: int
    undecodable: int
    raw_rows: int
    first_ms: int
    last_ms: int


@dataclass(slots=True)
class _Pile:
    """Rows of one tenant and day while a range is built."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    events: int = 0
    raw: int = 0


class _Piles:
    """All rows of a range while it is built."""

    def __init__(self) -> None:
        self.by_day: dict[tuple[str, str], _Pile] = {}
        self.undecodable = 0

    def add(self, tenant_id: str, day: str, rows: pa.RecordBatch, events: int, raw: int) -> None:
        pile = self.by_day.setdefault((tenant_id, day), _Pile())
        pile.batches.append(rows)
        pile.events += events
        pile.raw += raw


def build_range(
    topic: str, address: RangeAddress, end_offset: int, records: Sequence[LogRecord]
) -> BuiltRange:
    """The range of these records, in offset order, up to `end_offset`; holes are covered too.

    Never raises for what a record holds.
    """
    piles = _Piles()
    if topic == EVENTS_TOPIC:
        schema = LANDING_SCHEMA
        _pile_events(piles, records)
    else:
        schema = QUARANTINE_SCHEMA
        _pile_dead_letters(piles, records)
    objects = tuple(
        _object(address, schema, tenant_id, day, pile)
        for (tenant_id, day), pile in sorted(piles.by_day.items())
    )
    digests = tuple(
        RecordDigest(r.offset, short_digest(r.value), header_count(r.headers)) for r in records
    )
    return BuiltRange(
        topic=topic,
        address=address,
        end_offset=end_offset,
        records=digests,
        objects=objects,
        events=sum(d.count for d in digests),
        undecodable=piles.undecodable,
        raw_rows=sum(pile.raw for pile in piles.by_day.values()),
        first_ms=records[0].appended_ms if records else 0,
        last_ms=records[-1].appended_ms if records else 0,
    )


def _object(
    address: RangeAddress, schema: pa.Schema, tenant_id: str, day: str, pile: _Pile
) -> BuiltObject:
    data = to_parquet(schema, pile.batches)
    sha256 = hashlib.sha256(data).hexdigest()
    key = address.object_key(tenant_id, day, sha256)
    rows = sum(len(batch) for batch in pile.batches)
    pile.batches.clear()  # the memory of one tenant is free before the next is written
    return BuiltObject(key, data, sha256, tenant_id, day, rows, pile.events)


# ---------------------------------------------------------------------------------------- events


def _pile_events(piles: _Piles, records: Sequence[LogRecord]) -> None:
    groups, others = by_tenant(records)
    for record in others:
        _pile_whole(piles, record)
    for tenant_id, values in groups:
        _pile_values(piles, tenant_id, values)


def _pile_values(piles: _Piles, tenant_id: str, values: list[LogValue]) -> None:
    for found in event_rows(tenant_id, values):
        piles.add(tenant_id, found.day, found.rows, len(found.rows), found.raw)


def _pile_whole(piles: _Piles, record: LogRecord) -> None:
    """An undecodable log record: one raw row, under its tenant if that is well-formed."""
    count = header_count(record.headers)
    found = raw_row(log_value(record), WHOLE_RECORD, record.value)
    piles.undecodable += count
    piles.add(tenant_of(record) or PLATFORM_TENANT, found.day, found.rows, count, found.raw)


# ---------------------------------------------------------------------------------- dead letters


def _pile_dead_letters(piles: _Piles, records: Sequence[LogRecord]) -> None:
    for record in records:
        tenant_id = tenant_of(record)
        entries = _entries(record)
        if tenant_id is None or entries is None:
            _pile_whole_dead_letter(piles, record)
            continue
        by_day: dict[str, list[QuarantineRow]] = {}
        for index, entry in enumerate(entries):
            row = QuarantineRow(record.offset, index, entry, None)
            by_day.setdefault(day_of(entry.received_ms), []).append(row)
        for day, rows in by_day.items():
            events = sum(row.entry is not None and row.entry.chunk == 0 for row in rows)
            piles.add(tenant_id, day, _batch(rows), events, 0)


def _entries(record: LogRecord) -> list[DeadLetter] | None:
    """The entries of a record that is as stated, all of its header's tenant; else None."""
    if not is_as_stated(record):
        return None
    try:
        entries = record_entries(record.value)
    except RecordMalformed:
        return None
    if sum(entry.chunk == 0 for entry in entries) != header_count(record.headers):
        return None
    tenant_id = tenant_of(record)
    if any(e.tenant_id != tenant_id or e.received_ms >= _END_OF_DAYS_MS for e in entries):
        return None
    return entries


def _pile_whole_dead_letter(piles: _Piles, record: LogRecord) -> None:
    count = header_count(record.headers)
    row = QuarantineRow(record.offset, WHOLE_RECORD, None, record.value)
    piles.undecodable += count
    tenant_id = tenant_of(record) or PLATFORM_TENANT
    piles.add(tenant_id, day_of(record.appended_ms), _batch([row]), count, 1)


def _batch(rows: list[QuarantineRow]) -> pa.RecordBatch:
    return to_table(rows).combine_chunks().to_batches()[0]
