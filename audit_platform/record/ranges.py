"""The small JSON records that say what counts in landing: generation, range, closing.

Each is one JCS object, claimed once by put-if-absent, and never rewritten. Belongs here: their
fields, their bytes, their checks. Does not: reading or claiming them (`operations/`, services).
Source: design section 5; byte by byte in `docs/formats.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from audit_platform.record.small import encode, headed, parse


@dataclass(frozen=True, slots=True)
class ClosedPartition:
    """Where a partition of a topic ended when a day, or its log generation, was closed."""

    topic: str
    generation: int
    partition: int
    end_offset: int


def _rows_of(partitions: tuple[ClosedPartition, ...]) -> list[list[str | int]]:
    return [[p.topic, p.generation, p.partition, p.end_offset] for p in partitions]


def _closed_partitions(rows: Any) -> tuple[ClosedPartition, ...]:
    return tuple(ClosedPartition(str(t), int(g), int(p), int(e)) for t, g, p, e in rows)


@dataclass(frozen=True, slots=True)
class TopicStart:
    """One topic in a log generation: its id, and the first offset of each partition."""

    topic: str
    topic_id: str
    start_offsets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """`landing/v1/generations/<n>.json`: from here on offsets mean *this* log.

    `closed` says where the partitions of the generation before ended (empty in the first one): what
    of it lies at or behind the start offsets here may be in both, and counts once.
    """

    number: int
    topics: tuple[TopicStart, ...]
    reason: str
    opened_ms: int
    closed: tuple[ClosedPartition, ...] = ()

    def to_bytes(self) -> bytes:
        """JCS bytes."""
        body: dict[str, Any] = {
            "number": self.number,
            "topics": [
                {
                    "topic": t.topic,
                    "topicId": t.topic_id,
                    "startOffsets": list(t.start_offsets),
                }
                for t in self.topics
            ],
            "reason": self.reason,
            "openedMs": self.opened_ms,
        }
        if self.closed:
            body["closed"] = _rows_of(self.closed)
        return encode(headed("generation", body))

    @classmethod
    def from_bytes(cls, where: str, data: bytes) -> Generation:
        """Parse; raises `RecordMalformed`."""
        return parse(where, data, "generation", cls._of)

    @classmethod
    def _of(cls, v: dict[str, Any]) -> Generation:
        return cls(
            number=int(v["number"]),
            topics=tuple(
                TopicStart(t["topic"], t["topicId"], tuple(int(o) for o in t["startOffsets"]))
                for t in v["topics"]
            ),
            reason=str(v["reason"]),
            opened_ms=int(v["openedMs"]),
            closed=_closed_partitions(v.get("closed", ())),
        )

    def topic(self, name: str) -> TopicStart | None:
        """The entry of one topic."""
        return next((t for t in self.topics if t.topic == name), None)


@dataclass(frozen=True, slots=True)
class RangeObject:
    """A data object that a range record names.

    `rows` counts Parquet rows, `events` the events that they stand for (a dead letter cut into
    several rows is one event).
    """

    key: str
    version_id: str
    sha256: str
    size: int
    tenant_id: str
    day: str
    rows: int
    events: int


@dataclass(frozen=True, slots=True)
class RecordDigest:
    """One log record in a range: offset, first 16 hex of SHA-256 of its value, event count."""

    offset: int
    digest: str
    count: int


@dataclass(frozen=True, slots=True)
class RangeRecord:
    """`.../ranges/g<n>/p<p>/o<first>.json`: the commit of one range, and the only coverage.

    Covers offsets `first_offset <= o < end_offset`. `events` is the sum of the log records' counts;
    `undecodable` of them stand in rows that hold a log record's raw value.
    """

    topic: str
    generation: int
    partition: int
    first_offset: int
    end_offset: int
    records: tuple[RecordDigest, ...]
    objects: tuple[RangeObject, ...]
    events: int
    undecodable: int
    written_ms: int
    first_ms: int
    last_ms: int
    closed: bool = False

    def to_bytes(self) -> bytes:
        """JCS bytes."""
        return encode(
            headed(
                "range",
                {
                    "topic": self.topic,
                    "generation": self.generation,
                    "partition": self.partition,
                    "firstOffset": self.first_offset,
                    "endOffset": self.end_offset,
                    "records": [[r.offset, r.digest, r.count] for r in self.records],
                    "objects": [
                        {
                            "key": o.key,
                            "versionId": o.version_id,
                            "sha256": o.sha256,
                            "size": o.size,
                            "tenantId": o.tenant_id,
                            "day": o.day,
                            "rows": o.rows,
                            "events": o.events,
                        }
                        for o in self.objects
                    ],
                    "events": self.events,
                    "undecodable": self.undecodable,
                    "writtenMs": self.written_ms,
                    "firstMs": self.first_ms,
                    "lastMs": self.last_ms,
                    "closed": self.closed,
                },
            )
        )

    @classmethod
    def from_bytes(cls, where: str, data: bytes) -> RangeRecord:
        """Parse; raises `RecordMalformed`."""
        return parse(where, data, "range", cls._of)

    @classmethod
    def _of(cls, v: dict[str, Any]) -> RangeRecord:
        return cls(
            topic=str(v["topic"]),
            generation=int(v["generation"]),
            partition=int(v["partition"]),
            first_offset=int(v["firstOffset"]),
            end_offset=int(v["endOffset"]),
            records=tuple(RecordDigest(int(o), str(d), int(n)) for o, d, n in v["records"]),
            objects=tuple(
                RangeObject(
                    key=str(o["key"]),
                    version_id=str(o["versionId"]),
                    sha256=str(o["sha256"]),
                    size=int(o["size"]),
                    tenant_id=str(o["tenantId"]),
                    day=str(o["day"]),
                    rows=int(o["rows"]),
                    events=int(o["events"]),
                )
                for o in v["objects"]
            ),
            events=int(v["events"]),
            undecodable=int(v["undecodable"]),
            written_ms=int(v["writtenMs"]),
            first_ms=int(v["firstMs"]),
            last_ms=int(v["lastMs"]),
            closed=bool(v["closed"]),
        )


@dataclass(frozen=True, slots=True)
class LateRange:
    """A range that holds rows of a tenant for a day beyond the ends of the closing before."""

    tenant_id: str
    topic: str
    generation: int
    partition: int
    first_offset: int


@dataclass(frozen=True, slots=True)
class Closing:
    """`landing/v1/closed/<day>.json`: the end offset of every partition of both topics.

    A further closing (`<day>-r<revision>.json`, revision 2 on) has later ends and names each range
    that holds late rows of the day between the ends of the closing before and its own.
    """

    day: str
    closed_ms: int
    partitions: tuple[ClosedPartition, ...]
    revision: int = 1
    late: tuple[LateRange, ...] = ()

    def to_bytes(self) -> bytes:
        """JCS bytes."""
        body: dict[str, Any] = {
            "day": self.day,
            "closedMs": self.closed_ms,
            "partitions": _rows_of(self.partitions),
        }
        if self.revision > 1:
            body["revision"] = self.revision
            body["late"] = [
                [x.tenant_id, x.topic, x.generation, x.partition, x.first_offset] for x in self.late
            ]
        return encode(headed("closing", body))

    @classmethod
    def from_bytes(cls, where: str, data: bytes) -> Closing:
        """Parse; raises `RecordMalformed`."""
        return parse(where, data, "closing", cls._of)

    @classmethod
    def _of(cls, v: dict[str, Any]) -> Closing:
        return cls(
            day=str(v["day"]),
            closed_ms=int(v["closedMs"]),
            partitions=_closed_partitions(v["partitions"]),
            revision=int(v.get("revision", 1)),
            late=tuple(
                LateRange(str(tenant), str(t), int(g), int(p), int(o))
                for tenant, t, g, p, o in v.get("late", ())
            ),
        )
