"""A small world for the archive-writer: embedded log and objects, and two clocks set by hand.

Not here: any test. Metadata and keys are no part of it: what is tested here never asks for them.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.adapters.embedded.objects import EmbeddedObjects
from audit_platform.operations.coverage import range_records
from audit_platform.ports import NewRecord, Objects, ObjectVersion, Platform
from audit_platform.record.event import complete_event, format_time_ms, stored_line
from audit_platform.record.layout import EVENTS_TOPIC, PREFIX_OF_TOPIC, ZERO_HASH
from audit_platform.record.ranges import RangeRecord
from audit_platform.services.archive_writer import METRICS, ArchiveWriter
from audit_platform.telemetry import Telemetry
from audit_platform_tests.clocks import START_MS, ManualClock

PARTITIONS = 2
RANGE_SECONDS = 60.0

_NOT_ASKED: Any = object()


@dataclass
class World:
    """One folder with a log and objects in it, and the two clocks of everything."""

    folder: Path
    clock: ManualClock = field(default_factory=ManualClock)
    seconds: float = 1000.0
    closers: list[EmbeddedLog] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log = self.open_log()
        self.objects = EmbeddedObjects(self.folder / "objects", RealFiles(), self.clock)
        self.platform = self.platform_with(self.objects)

    def open_log(self) -> EmbeddedLog:
        """The log as another process would open it."""
        log = EmbeddedLog(
            self.folder / "log",
            RealFiles(),
            self.clock,
            PARTITIONS,
            segment_bytes=1,
            monotonic=self.monotonic,
            boot="this",
        )
        self.closers.append(log)
        return log

    def platform_with(self, objects: Objects) -> Platform:
        """The platform with these objects."""
        return Platform(
            self.clock, self.log, objects, _NOT_ASKED, _NOT_ASKED, _NOT_ASKED, lambda: None
        )

    def monotonic(self) -> float:
        """Real seconds, as far as anything here can tell."""
        return self.seconds

    def close(self) -> None:
        """End the logs' threads."""
        for log in self.closers:
            log.close()

    def writer(
        self, name: str = "w", *, objects: Objects | None = None, range_bytes: int = 1 << 20
    ) -> tuple[ArchiveWriter, Telemetry]:
        """A new writer process, as it were; ranges close after `RANGE_SECONDS`."""
        telemetry = Telemetry(METRICS)
        writer = ArchiveWriter(
            self.platform if objects is None else self.platform_with(objects),
            telemetry,
            member=name,
            range_seconds=RANGE_SECONDS,
            range_bytes=range_bytes,
            monotonic=self.monotonic,
        )
        return writer, telemetry

    def archive(self, writer: ArchiveWriter | None = None) -> ArchiveWriter:
        """Let a writer read all there is and commit it."""
        if writer is None:
            writer, _ = self.writer()
        while writer.step():
            pass
        self.seconds += RANGE_SECONDS
        while writer.step():
            pass
        return writer

    # ------------------------------------------------------------------------------- what is sent

    def send(
        self,
        lines: list[bytes],
        tenant: str = "north",
        partition: int = 0,
        *,
        topic: str = EVENTS_TOPIC,
        headers: dict[str, str] | None = None,
    ) -> int:
        """Append stored lines as one log record; returns its offset."""
        value = b"".join(line + b"\n" for line in lines)
        return self.send_value(value, tenant, len(lines), partition, topic=topic, headers=headers)

    def send_value(
        self,
        value: bytes,
        tenant: str = "north",
        count: int = 1,
        partition: int = 0,
        *,
        topic: str = EVENTS_TOPIC,
        headers: dict[str, str] | None = None,
    ) -> int:
        """Append any value as one log record; `headers` replace the usual ones."""
        usual = {"v": "1", "tenant": tenant, "count": str(count)}
        record = NewRecord(partition, value, usual if headers is None else headers)
        return self.log.append(topic, [record])[0]

    # --------------------------------------------------------------------------- what is archived

    def ranges(self, topic: str = EVENTS_TOPIC, partition: int = 0) -> list[RangeRecord]:
        """Range records of a partition."""
        return list(range_records(self.objects, topic, 1, partition))

    def tables(self, topic: str = EVENTS_TOPIC) -> Iterator[tuple[str, str, pa.Table]]:
        """(tenant, day, rows) of every object that a range record names."""
        for partition in range(PARTITIONS):
            for record in self.ranges(topic, partition):
                for o in record.objects:
                    data = self.objects.get(o.key, o.version_id)
                    yield o.tenant_id, o.day, pq.read_table(io.BytesIO(data))

    def archived(self) -> Counter[tuple[str, str, bytes]]:
        """(tenant, day, eventHash) of all archived events, with how often each is there."""
        return Counter(
            (tenant, day, event_hash)
            for tenant, day, table in self.tables()
            for event_hash in table["event_hash"].drop_null().to_pylist()
        )

    def stored_keys(self, topic: str = EVENTS_TOPIC) -> list[str]:
        """Keys of everything that lies in landing or quarantine."""
        return [v.key for v in self.objects.versions(f"{PREFIX_OF_TOPIC[topic]}/")]


@dataclass(frozen=True, slots=True)
class Sent:
    """Stored lines and what must be found of them: (tenant, day, eventHash) of each."""

    lines: list[bytes]
    expected: Counter[tuple[str, str, bytes]]


def stored(
    count: int,
    tenant: str = "north",
    *,
    device: str = "pump-1",
    first: int = 0,
    ingested_ms: int = START_MS,
) -> Sent:
    """`count` stored events of one device, in order."""
    lines: list[bytes] = []
    expected: Counter[tuple[str, str, bytes]] = Counter()
    previous = ZERO_HASH
    for n in range(first, first + count):
        event = complete_event(
            {
                "deviceId": device,
                "eventType": "heartbeat",
                "eventVersion": 1,
                "eventTime": format_time_ms(START_MS + n),
                "sequenceNumber": n,
                "payload": {"batteryPercent": n % 100},
            },
            tenant_id=tenant,
            hospital_id="h-1",
            chain_id="00112233aabbccdd",
            prev_hash=previous,
            criticality="low",
        )
        previous = event.event_hash.hex()
        ingested = format_time_ms(ingested_ms)
        lines.append(stored_line(event.canonical, ingested.encode()))
        expected[tenant, ingested[:10], event.event_hash] += 1
    return Sent(lines, expected)


class Crash(BaseException):
    """The process dies here. Not an `Exception`: nothing of ours may catch it."""


@dataclass
class Stumbling:
    """Objects that fail at one call, before it or after it was done, and count the calls."""

    inner: Objects
    fail_at: int = 0
    after: bool = False
    error: BaseException = field(default_factory=Crash)
    calls: int = 0
    names: list[str] = field(default_factory=list)
    lock: str = "advisory"

    def _before(self, name: str) -> bool:
        self.calls += 1
        self.names.append(name)
        if self.calls == self.fail_at and not self.after:
            raise self.error
        return self.calls == self.fail_at

    def _finish(self, fails: bool) -> None:  # noqa: FBT001 - passed on from `_before`
        if fails:
            raise self.error

    def put(self, key: str, data: bytes, *, retain_until_ms: int, if_absent: bool) -> ObjectVersion:
        """See `ports.Objects`."""
        fails = self._before("put")
        out = self.inner.put(key, data, retain_until_ms=retain_until_ms, if_absent=if_absent)
        self._finish(fails)
        return out

    def get(self, key: str, version_id: str) -> bytes:
        """See `ports.Objects`."""
        fails = self._before("get")
        out = self.inner.get(key, version_id)
        self._finish(fails)
        return out

    def open(self, key: str, version_id: str) -> AbstractContextManager[BinaryIO]:
        """See `ports.Objects`."""
        self._finish(self._before("open"))
        return self.inner.open(key, version_id)

    def head(self, key: str, version_id: str) -> ObjectVersion:
        """See `ports.Objects`."""
        self._finish(self._before("head"))
        return self.inner.head(key, version_id)

    def oldest(self, key: str) -> ObjectVersion | None:
        """See `ports.Objects`."""
        self._finish(self._before("oldest"))
        return self.inner.oldest(key)

    def versions(self, prefix: str, *, after_key: str = "") -> Iterator[ObjectVersion]:
        """See `ports.Objects`."""
        self._finish(self._before("versions"))
        return self.inner.versions(prefix, after_key=after_key)

    def extend(self, key: str, version_id: str, retain_until_ms: int) -> ObjectVersion:
        """See `ports.Objects`."""
        fails = self._before("extend")
        out = self.inner.extend(key, version_id, retain_until_ms)
        self._finish(fails)
        return out

    def set_legal_hold(self, key: str, version_id: str, *, hold: bool) -> None:
        """See `ports.Objects`."""
        self.inner.set_legal_hold(key, version_id, hold=hold)

    def delete(self, key: str, version_id: str | None = None) -> None:
        """See `ports.Objects`."""
        self.inner.delete(key, version_id)


def total(parts: Iterable[Sent]) -> Counter[tuple[str, str, bytes]]:
    """What must be found of several."""
    out: Counter[tuple[str, str, bytes]] = Counter()
    for part in parts:
        out += part.expected
    return out
