"""A whole small installation in one folder, driven by hand: edges, log, archive, close, seal.

Everything is the embedded profile's own; only the wall clock is moved by hand. Belongs here: what
tests of sealing, verifying and fsck share. Does not: any test.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_platform.operations.closing import close_day
from audit_platform.operations.seal import SealResult, seal_day
from audit_platform.operations.verify import verify_day
from audit_platform.ports import NewRecord, Platform
from audit_platform.record import deadletter, layout, signing
from audit_platform.record.event import complete_event, format_time_ms, link_of, stored_line
from audit_platform.record.report import Report
from audit_platform.services.archive_writer import METRICS, ArchiveWriter
from audit_platform.services.search_indexer import METRICS as INDEXER_METRICS
from audit_platform.services.search_indexer import SearchIndexer
from audit_platform.settings import Settings
from audit_platform.telemetry import Telemetry
from audit_platform.wiring import open_platform
from audit_platform_tests.clocks import START_MS, ManualClock

GRACE_MS = 600_000
DAY = layout.day_of(START_MS)


@dataclass
class Edge:
    """One edge of a tenant: its key, its epoch, the head and next number of each device."""

    tenant_id: str
    seed: int = 0
    heads: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    chain_id: str = ""
    epoch_hash: str = ""
    epoch: int = 0

    def __post_init__(self) -> None:
        digest = hashlib.sha256(f"{self.tenant_id}/{self.seed}".encode()).digest()
        self.key = Ed25519PrivateKey.from_private_bytes(digest)

    @property
    def device_id(self) -> str:
        """The edge is itself a device."""
        return f"edge-{self.seed}"

    def start(self, ms: int) -> bytes:
        """Begin a new epoch; its `chain_start`."""
        self.epoch += 1
        place = f"{self.tenant_id}/{self.seed}/{self.epoch}"
        self.chain_id = hashlib.sha256(place.encode()).hexdigest()[:16]
        number = self.numbers[self.device_id]
        payload = signing.chain_start_payload(
            self.key,
            tenant_id=self.tenant_id,
            hospital_id="h-1",
            device_id=self.device_id,
            chain_id=self.chain_id,
            event_time=format_time_ms(ms),
            sequence_number=number,
            reason="start",
        )
        canonical = self.event(self.device_id, "chain_start", payload, ms, layout.ZERO_HASH)
        self.epoch_hash = self.heads[self.device_id]
        return canonical

    def event(
        self,
        device: str,
        kind: str,
        payload: dict[str, Any],
        ms: int,
        prev_hash: str = "",
    ) -> bytes:
        """The next canonical event of a device."""
        number = self.numbers[device]
        done = complete_event(
            {
                "deviceId": device,
                "eventType": kind,
                "eventVersion": 1,
                "eventTime": format_time_ms(ms),
                "sequenceNumber": number,
                "payload": payload,
            },
            tenant_id=self.tenant_id,
            hospital_id="h-1",
            chain_id=self.chain_id,
            prev_hash=prev_hash or self.heads.get(device) or self.epoch_hash,
        )
        self.numbers[device] = number + 1
        self.heads[device] = done.event_hash.hex()
        return done.canonical

    def heartbeats(self, devices: int, each: int, ms: int) -> list[bytes]:
        """`each` events of `devices` devices, device by device in turn."""
        return [
            self.event(f"pump-{d:03}", "heartbeat", {"batteryPercent": (d + n) % 101}, ms + n)
            for n in range(each)
            for d in range(devices)
        ]


@dataclass
class World:
    """One installation. `platform` is wired as the program wires it, but for the clock."""

    folder: Path
    platform: Platform
    clock: ManualClock
    settings: Settings
    bodies: Iterator[int] = field(default_factory=itertools.count)

    def edge(self, tenant_id: str, seed: int = 0) -> Edge:
        """A tenant's edge, its key registered."""
        edge = Edge(tenant_id, seed)
        self.platform.metadata.add_tenant(tenant_id, self.clock.now_ms())
        public = signing.public_bytes(edge.key)
        self.platform.metadata.add_edge_key(tenant_id, public, self.clock.now_ms())
        return edge

    def ingest(self, tenant_id: str, lines: Iterable[bytes], *, at_ms: int | None = None) -> None:
        """Store canonical events as ingest-gateway would, with the clock's ingestionTime."""
        time = format_time_ms(self.clock.now_ms() if at_ms is None else at_ms).encode()
        partitions = self.platform.log.describe(layout.EVENTS_TOPIC).partitions
        cut: dict[int, list[bytes]] = defaultdict(list)
        for line in lines:
            device = line.split(b'"deviceId":"', 1)[1].split(b'"', 1)[0].decode()
            cut[layout.partition_of(tenant_id, device, partitions)].append(stored_line(line, time))
        records = [
            NewRecord(
                partition,
                b"".join(s + b"\n" for s in stored[i : i + 500]),
                {"v": "1", "tenant": tenant_id, "count": str(len(stored[i : i + 500]))},
            )
            for partition, stored in sorted(cut.items())
            for i in range(0, len(stored), 500)
        ]
        self.platform.log.append(layout.EVENTS_TOPIC, records)

    def refuse(self, tenant_id: str, lines: Iterable[bytes]) -> None:
        """Dead-letter lines as ingest-gateway would for a schema violation."""
        body = deadletter.Body(
            tenant_id,
            self.clock.now_ms(),
            "gateway-1",
            hashlib.sha256(str(next(self.bodies)).encode()).hexdigest(),
        )
        refusal = deadletter.Refusal(
            "schema_violation", "payload", "not as the schema says", "mend"
        )
        entries = [
            entry
            for number, line in enumerate(lines)
            for entry in deadletter.entries_for(
                body, number, line, refusal, link_of(line, tenant_id)
            )
        ]
        records = [
            NewRecord(0, value, {"v": "1", "tenant": tenant_id, "count": str(count)})
            for value, count in deadletter.record_values(entries)
        ]
        self.platform.log.append(layout.DLQ_TOPIC, records)

    def archive(self) -> None:
        """Archive everything that is in the log."""
        writer = ArchiveWriter(
            self.platform,
            Telemetry(METRICS),
            member="writer-1",
            range_seconds=0.0,
            range_bytes=1 << 26,
        )
        while writer.step():
            pass
        writer.leave()

    def index(self) -> None:
        """Put everything that is in the log into HOT."""
        indexer = SearchIndexer(self.platform, Telemetry(INDEXER_METRICS), member="indexer-1")
        while indexer.step():
            pass
        indexer.leave()

    def close(self, day: str = DAY) -> None:
        """Move the clock past the day's end and grace, and close it."""
        self.clock.ms = max(self.clock.ms, layout.day_end_ms(day) + GRACE_MS)
        close_day(self.platform, day, GRACE_MS)

    def seal(self, tenant_id: str, day: str = DAY) -> SealResult:
        """Seal a closed day."""
        return seal_day(self.platform, tenant_id, day)

    def verify(self, tenant_id: str, day: str = DAY) -> Report:
        """Verify a sealed day."""
        return verify_day(self.platform, tenant_id, day)

    @property
    def objects_folder(self) -> Path:
        """Where the objects lie, as an outsider would be handed them."""
        return self.folder / "objects"


@contextmanager
def open_world(folder: Path, *, partitions: int = 2) -> Iterator[World]:
    """A new world, its manifest key made."""
    settings = Settings.from_environment(
        {"AUDIT_HOME": str(folder), "AUDIT_PARTITIONS": str(partitions)}
    )
    clock = ManualClock()
    platform = open_platform(settings, clock=clock)
    try:
        platform.keys.new("manifest", clock.now_ms())
        yield World(folder, platform, clock, settings)
    finally:
        platform.close()


def sealed_day(world: World, tenant_id: str = "north", *, devices: int = 3, each: int = 10) -> Edge:
    """One tenant's day with an epoch and some events, archived, closed and sealed."""
    edge = world.edge(tenant_id)
    start = edge.start(world.clock.now_ms())
    world.ingest(tenant_id, [start, *edge.heartbeats(devices, each, world.clock.now_ms())])
    world.archive()
    world.close()
    world.seal(tenant_id)
    return edge
