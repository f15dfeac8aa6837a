"""Log records of events, judged and decoded: which lines are events, of which day, and why not.

The archive-writer, the search-indexer and a rebuild of HOT read by these same rules, so that what
is a row in landing is a row in HOT, and nothing else is. Nothing that the log can hold raises.
Belongs here: form and headers of a log record, decoding for HOT. Does not: rows of landing
(`record/landing.py`), what is done with them. Source: design section 4 (records), 5 (landing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.ports import LogRecord
from audit_platform.record.columns import EVENT_SCHEMA
from audit_platform.record.landing import (
    COUNT_PATTERN,
    WHOLE_RECORD,
    LogValue,
    event_rows,
    header_count,
)
from audit_platform.record.layout import TENANT_PATTERN

RECORD_VERSION: Final = "1"

_NEWLINE: Final = ord("\n")
_TENANT_LABEL: Final = b',"tenantId":"'

#: Bytes of values parsed in one call: as many as the parser keeps in the processor's cache.
PARSE_BYTES: Final = 2 * 1024 * 1024


def tenant_of(record: LogRecord) -> str | None:
    """The tenant that a log record's header names; None for anything that is no tenant id."""
    tenant_id = record.headers.get("tenant", "")
    return tenant_id if TENANT_PATTERN.fullmatch(tenant_id) else None


def is_as_stated(record: LogRecord) -> bool:
    """Whether the headers are as they should be."""
    return (
        record.headers.get("v") == RECORD_VERSION
        and tenant_of(record) is not None
        and COUNT_PATTERN.fullmatch(record.headers.get("count", "")) is not None
    )


def holds_lines(record: LogRecord) -> bool:
    """Whether a record of events holds as many whole lines as its header counts."""
    value = record.value
    return (
        is_as_stated(record)
        and (not value or value.endswith(b"\n"))
        # numpy counts four times as fast as bytes.count.
        and np.count_nonzero(np.frombuffer(value, np.uint8) == _NEWLINE)
        == header_count(record.headers)
    )


def log_value(record: LogRecord) -> LogValue:
    """A record as the landing table takes it."""
    return LogValue(record.offset, record.appended_ms, record.value, header_count(record.headers))


def by_tenant(
    records: Sequence[LogRecord],
) -> tuple[list[tuple[str, list[LogValue]]], list[LogRecord]]:
    """(values that hold lines, of one tenant each time, in log order; the records that do not).

    Several values of a tenant are parsed at a time: fewer, larger calls cost less an event.
    """
    groups: list[tuple[str, list[LogValue]]] = []
    others: list[LogRecord] = []
    waiting: dict[str, list[LogValue]] = {}
    sizes: dict[str, int] = {}
    for record in records:
        tenant_id = tenant_of(record)
        if tenant_id is None or not holds_lines(record):
            others.append(record)
            continue
        if sizes.get(tenant_id, 0) + len(record.value) > PARSE_BYTES and tenant_id in waiting:
            groups.append((tenant_id, waiting.pop(tenant_id)))
            sizes[tenant_id] = 0
        waiting.setdefault(tenant_id, []).append(log_value(record))
        sizes[tenant_id] = sizes.get(tenant_id, 0) + len(record.value)
    return [*groups, *waiting.items()], others


# --------------------------------------------------------------------------------- events of HOT


class Reason(StrEnum):
    """Why something in the log is no event."""

    RECORD = "record"  # headers or number of lines not as stated: the whole record
    TENANT = "tenant"  # the line names another tenant than the record's header
    LINE = "line"  # the line does not decode, or its checksum is not that of its payload


@dataclass(frozen=True, slots=True)
class NoEvent:
    """What is in the log and is no event. `line` counts from 0; -1 is the whole record."""

    partition: int
    offset: int
    line: int
    reason: Reason


@dataclass(slots=True)
class LogEvents:
    """Events of some log records: batches of `EVENT_SCHEMA` by (tenant, day), and the rest."""

    rows: dict[tuple[str, str], list[pa.RecordBatch]] = field(default_factory=dict)
    others: list[NoEvent] = field(default_factory=list)


def log_events(records: Sequence[LogRecord]) -> LogEvents:
    """Decode records of one partition, each line of them exactly once."""
    found = LogEvents()
    if not records:
        return found
    partition = records[0].partition
    groups, others = by_tenant(records)
    found.others += [NoEvent(partition, r.offset, WHOLE_RECORD, Reason.RECORD) for r in others]
    for tenant_id, values in groups:
        for day in event_rows(tenant_id, values):
            rows = day.rows
            if day.raw:
                found.others += _no_events(partition, tenant_id, rows)
                rows = rows.filter(pc.is_null(rows["raw"]))
            if rows.num_rows:
                batch = rows.select(EVENT_SCHEMA.names)
                found.rows.setdefault((tenant_id, day.day), []).append(batch)
    return found


def _no_events(partition: int, tenant_id: str, rows: pa.RecordBatch) -> list[NoEvent]:
    own = _TENANT_LABEL + tenant_id.encode() + b'"}'
    raw = rows.filter(pc.is_valid(rows["raw"]))
    places = zip(
        *(raw[name].to_pylist() for name in ("log_offset", "log_index", "raw")), strict=True
    )
    return [
        NoEvent(
            partition,
            offset,
            line,
            Reason.TENANT if _TENANT_LABEL in data and not data.endswith(own) else Reason.LINE,
        )
        for offset, line, data in places
    ]
