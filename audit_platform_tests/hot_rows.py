"""Rows for tests of HOT, and what a search must find in them, said in the plainest way.

Belongs here: made-up events as columns, and the naive model of `ports.Hot.search`. Does not: any
test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from audit_platform.ports import HOT_COPY_DAYS, EventClock, EventPosition, EventQuery
from audit_platform.record.columns import EVENT_SCHEMA, TIMESTAMP
from audit_platform.record.layout import day_of, day_start_ms, next_day
from audit_platform.record.words import TEXT_COLUMNS, words

DAY = "2026-03-01"
DAY_MS = day_start_ms(DAY)


@dataclass(frozen=True, slots=True)
class Event:
    """One event; its hash is made of everything but the ingestionTime."""

    device_id: str = "pump-1"
    sequence_number: int = 0
    event_time: int = DAY_MS
    ingestion_time: int = DAY_MS
    hospital_id: str = "h-1"
    event_type: str = "heartbeat"
    criticality: str = "normal"
    payload: str = '{"note":"fine"}'

    @property
    def event_hash(self) -> bytes:
        """Its identity."""
        said = (
            self.device_id,
            self.sequence_number,
            self.event_time,
            self.hospital_id,
            self.event_type,
            self.criticality,
            self.payload,
        )
        return hashlib.sha256(repr(said).encode()).digest()

    @property
    def event_id(self) -> str:
        """Something of the form of an event id."""
        digits = f"{self.event_time % 2**48:012x}7{self.event_hash.hex()[:19]}"
        return "-".join(digits[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))

    @property
    def day(self) -> str:
        """The day of its index."""
        return day_of(self.ingestion_time)

    def row(self) -> dict[str, object]:
        """As a row of `EVENT_SCHEMA`."""
        return {
            "hospital_id": self.hospital_id,
            "device_id": self.device_id,
            "chain_id": "0123456789abcdef",
            "event_type": self.event_type,
            "event_version": 1,
            "event_id": self.event_id,
            "event_time": self.event_time,
            "ingestion_time": self.ingestion_time,
            "sequence_number": self.sequence_number,
            "schema_ref": f"{self.event_type}/1",
            "criticality": self.criticality,
            "payload": self.payload,
            "prev_hash": bytes(32),
            "event_hash": self.event_hash,
        }

    def position(self, clock: EventClock) -> EventPosition:
        """Where it stands by a clock."""
        ms = self.event_time if clock is EventClock.EVENT else self.ingestion_time
        return EventPosition(ms, self.device_id, self.sequence_number, self.event_hash)

    def has(self, needed: Iterable[str]) -> bool:
        """Whether all these words stand in it."""
        row = self.row()
        return set(needed) <= set(words(" ".join(str(row[name]) for name in TEXT_COLUMNS)))


def batch(events: Iterable[Event]) -> pa.RecordBatch:
    """Events as columns."""
    rows = [event.row() for event in events]
    arrays = []
    for field in EVENT_SCHEMA:
        values = [row[field.name] for row in rows]
        if field.type == TIMESTAMP:
            arrays.append(pa.array(values, pa.int64()).cast(TIMESTAMP))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=EVENT_SCHEMA)


def found_by(events: Iterable[Event], query: EventQuery) -> list[bytes]:
    """Hashes that a search must give, in order. `events` are of its tenant, in any order."""
    by_day = {(e.day, e.event_hash): e for e in events}

    def is_copy(event: Event) -> bool:
        back = range(1, HOT_COPY_DAYS + 1)
        return any((next_day(event.day, -n), event.event_hash) in by_day for n in back)

    wanted = {
        "device_id": query.device_id,
        "hospital_id": query.hospital_id,
        "event_type": query.event_type,
        "criticality": query.criticality,
    }
    needed = words(query.text or "")
    first: dict[EventPosition, Event] = {}
    for (_, event_hash), event in sorted(by_day.items()):
        position = event.position(query.clock)
        good = (
            query.from_ms <= position.ms < query.to_ms
            and all(v is None or getattr(event, k) == v for k, v in wanted.items())
            and event.has(needed)
            and (query.after is None or position > query.after)
            and not is_copy(event)
        )
        if good:
            first.setdefault(position, event)
            assert event.event_hash == event_hash
    return [first[p].event_hash for p in sorted(first)][: query.limit]
