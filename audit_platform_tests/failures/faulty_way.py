"""The way of a day through wrapped ports: sender, gateway, writer, indexer, closing, seal, search.

Every step is retried as its service, its sensor or its sender would retry it. What was
acknowledged is written down by the sender alone; the judges at the end read the bytes through
ports without faults. Belongs here: that way and its judgement. Does not: which call fails.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa

from audit_platform.adapters.directory import DirectorySource
from audit_platform.adapters.faulty import Faults, FaultyClock, faulty
from audit_platform.demo import independent_checker
from audit_platform.errors import (
    AuditPlatformError,
    HotUnavailable,
    KeysUnavailable,
    LogUnavailable,
    MetadataUnavailable,
    StoreUnavailable,
)
from audit_platform.operations.closing import close_day
from audit_platform.operations.reconcile import reconcile
from audit_platform.operations.seal import SealResult, seal_day
from audit_platform.operations.verify import trusted_keys, verify_day
from audit_platform.ports import EventQuery, Platform, Role
from audit_platform.record import fsck, layout, signing
from audit_platform.record.event import event_hash
from audit_platform.services.archive_writer import METRICS, ArchiveWriter
from audit_platform.services.ingest_gateway import IngestGateway
from audit_platform.services.search_indexer import METRICS as INDEXER
from audit_platform.services.search_indexer import SearchIndexer
from audit_platform.settings import Settings
from audit_platform.telemetry import Telemetry
from audit_platform.wiring import open_platform
from audit_platform_tests.clocks import START_MS, ManualClock
from audit_platform_tests.world import DAY, GRACE_MS, Edge

TENANT: Final = "north"
PORTS: Final = ("clock", "log", "objects", "hot", "metadata", "keys")

#: All day long it is noon: a reading that is an hour wrong stays within the day.
NOON_MS: Final = layout.MS_PER_DAY // 2

#: Rounds after which a step that still fails has not recovered: one fault needs one retry.
ROUNDS: Final = 12

#: More than any back-off of the writer.
BACKOFF_SECONDS: Final = 20.0


def settings_of(home: Path) -> Settings:
    """The settings of an installation in a folder."""
    return Settings.from_environment({"AUDIT_HOME": str(home), "AUDIT_PARTITIONS": "1"})


@dataclass(frozen=True, slots=True)
class Template:
    """An installation before its first event, to be copied: its home, its edge's secret."""

    home: Path
    secret: str

    @classmethod
    def new(cls, home: Path) -> Template:
        """One tenant, one edge, one manifest key."""
        platform = open_platform(settings_of(home), clock=ManualClock())
        try:
            platform.keys.new("manifest", START_MS)
            platform.metadata.add_tenant(TENANT, START_MS)
            public = signing.public_bytes(Edge(TENANT).key)
            platform.metadata.add_edge_key(TENANT, public, START_MS)
            _, secret = platform.metadata.add_api_key(TENANT, Role.EDGE, START_MS)
        finally:
            platform.close()
        return cls(home, secret)


def bodies() -> list[list[bytes]]:
    """What the sender sends, body by body: 40 events of an epoch, two of them to be refused."""
    edge = Edge(TENANT)
    lines = [edge.start(START_MS)]
    for n in range(39):
        # A payload that the schema of the type refuses: a dead letter that stays a link.
        payload = {"uptimeSeconds": "many" if n in {7, 20} else n}
        lines.append(edge.event(f"pump-{n % 3}", "heartbeat", payload, START_MS + n))
    return [lines[i : i + 14] for i in range(0, len(lines), 14)]


@dataclass
class Way:
    """One installation and one sender. `faults` has one plan for each port."""

    folder: Path
    secret: str
    faults: Mapping[str, Faults]
    clock: ManualClock = field(default_factory=lambda: ManualClock(START_MS + NOON_MS))

    def walk(self) -> SealResult:
        """From the first body to a sealed day, through the wrapped ports."""
        with self._platform() as (real, wrapped):
            self._send(wrapped)
            self._archive(wrapped)
            self._index(wrapped)
            self.clock.ms = layout.day_end_ms(DAY) + 2 * GRACE_MS
            self._again(lambda: close_day(wrapped, DAY, GRACE_MS))
            self._archive(wrapped)
            sealed: SealResult = self._again(lambda: seal_day(wrapped, TENANT, DAY))
            report = self._again(lambda: verify_day(wrapped, TENANT, DAY))
            assert report.exit_code == 0, report.entries
            found: pa.Table = self._again(lambda: wrapped.hot.search(_ALL, is_cancelled=_never))
            assert found.num_rows == sealed.rows
            self._judge(real)
        return sealed

    # ------------------------------------------------------------------------------------ ports

    @contextmanager
    def _platform(self) -> Iterator[tuple[Platform, Platform]]:
        """The installation, bare and with its faults."""
        real = open_platform(settings_of(self.folder / "home"), clock=self.clock)
        try:
            yield real, self._wrapped(real)
        finally:
            real.close()

    def _wrapped(self, real: Platform) -> Platform:
        """The platform with its faults."""
        return replace(
            real,
            clock=FaultyClock(real.clock, self.faults["clock"]),
            log=faulty(real.log, LogUnavailable, self.faults["log"]),
            objects=faulty(real.objects, StoreUnavailable, self.faults["objects"]),
            hot=faulty(real.hot, HotUnavailable, self.faults["hot"]),
            metadata=faulty(real.metadata, MetadataUnavailable, self.faults["metadata"]),
            keys=faulty(real.keys, KeysUnavailable, self.faults["keys"]),
        )

    # ------------------------------------------------------------------------------------ steps

    def _send(self, platform: Platform) -> None:
        """Send each body until it is acknowledged; then, and only then, write its receipt."""
        app = IngestGateway(platform, "gateway-1", monotonic=lambda: 1000.0)
        try:
            for lines in bodies():
                for _ in range(ROUNDS):
                    status, answer = asyncio.run(self._post(app, lines))
                    if status == 202:
                        self._note(lines, answer)
                        break
                    assert status == 503, answer
                else:
                    raise AssertionError("a body was never acknowledged")
        finally:
            app.close()

    async def _post(self, app: IngestGateway, lines: list[bytes]) -> tuple[int, dict[str, Any]]:
        body = b"".join(line + b"\n" for line in lines)
        said: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            said.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/events",
            "headers": [
                (b"authorization", f"Bearer {self.secret}".encode()),
                (b"content-type", b"application/x-ndjson"),
                (b"content-length", b"%d" % len(body)),
            ],
        }
        await app(scope, receive, send)
        answer = b"".join(m.get("body", b"") for m in said)
        return said[0]["status"], orjson.loads(answer)

    def _note(self, lines: list[bytes], receipt: dict[str, Any]) -> None:
        refused = {r["line"] for r in receipt["refused"]}
        with (self.folder / "receipts.ndjson").open("a") as file:
            for number, line in enumerate(lines, 1):
                said = {
                    "tenantId": TENANT,
                    "eventId": json.loads(line)["eventId"],
                    "eventHash": event_hash(line).hex(),
                    "outcome": "refused" if number in refused else "accepted",
                }
                file.write(json.dumps(said) + "\n")

    def _archive(self, platform: Platform) -> None:
        """Let an archive-writer run until it has nothing to do and waits for nobody."""
        seconds = [0.0]
        writer = ArchiveWriter(
            platform,
            Telemetry(METRICS),
            member="writer-1",
            range_seconds=0.0,
            range_bytes=1 << 26,
            monotonic=lambda: seconds[0],
        )
        for _ in range(ROUNDS * 4):
            seconds[0] += BACKOFF_SECONDS
            if not writer.step() and not writer.waiting_for:
                break
        assert (writer.waiting_for, writer.stopped) == ("", {})
        try:
            writer.leave()
        except LogUnavailable:
            return  # the lease ends by itself

    def _index(self, platform: Platform) -> None:
        """Let a search-indexer run until it has nothing to do and waits for nobody."""
        seconds = [0.0]
        indexer = SearchIndexer(
            platform, Telemetry(INDEXER), member="indexer-1", monotonic=lambda: seconds[0]
        )
        for _ in range(ROUNDS * 4):
            seconds[0] += BACKOFF_SECONDS
            if not indexer.step() and not indexer.waiting_for and not indexer.waiting:
                break
        assert (indexer.waiting_for, indexer.waiting, indexer.skipped) == ("", {}, {})

    def _again(self, step: Callable[[], Any]) -> Any:
        """A step, done again as its sensor would do it."""
        for _ in range(ROUNDS):
            try:
                return step()
            except AuditPlatformError as e:
                last = e
        raise last

    # ------------------------------------------------------------------------------- judgement

    def _judge(self, real: Platform) -> None:
        """Judges over the bytes: fsck, reconciliation, the sender's sets against COLD and HOT."""
        objects = self.folder / "home" / "objects"
        report = fsck.check(DirectorySource(objects), trusted_keys(real))
        assert report.exit_code == 0, report.entries
        counted = reconcile(real)
        assert counted.ok
        assert (counted.unaccounted, counted.lost, counted.pending) == (0, 0, 0)
        found = independent_checker.check(objects, [self.folder / "receipts.ndjson"], [])
        assert found["clean"], found
        assert (found["acknowledged"], found["refused"], found["rows"]) == (40, 2, 38)
        receipts = (self.folder / "receipts.ndjson").read_text().splitlines()
        accepted = [r["eventHash"] for r in map(json.loads, receipts) if r["outcome"] == "accepted"]
        indexed = real.hot.hashes(TENANT, DAY, 1)
        assert sorted(accepted) == [bytes(row).hex() for row in indexed]


#: All that a tenant has.
_ALL: Final = EventQuery(TENANT, 0, 2 * START_MS)


def _never() -> bool:
    return False


def walk(template: Template, folder: Path, **faults: Faults) -> tuple[Way, SealResult]:
    """The way over a copy of the template; ports that are not named have no fault."""
    shutil.copytree(template.home, folder / "home")
    way = Way(folder, template.secret, {port: Faults() for port in PORTS} | faults)
    return way, way.walk()
