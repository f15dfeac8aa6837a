"""The power goes at any moment between the first body and the signed manifest: nothing is lost.

Log, objects and keys run on a file layer that keeps only what was fsynced, names included; then the
sender sends again what was not acknowledged, the path goes on, and the set of acknowledged events
is held against the sealed rows. Each part's own promises are cut at every operation in
`adapters/test_power_cut_*.py`; here it is the whole way. Metadata: `adapters/test_metadata.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from audit_platform.adapters.embedded.files import FsyncSite
from audit_platform.adapters.embedded.hot import EmbeddedHot
from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.adapters.embedded.metadata import open_sqlite
from audit_platform.adapters.embedded.objects import EmbeddedObjects
from audit_platform.adapters.sql.store import SqlMetadata
from audit_platform.errors import AuditPlatformError
from audit_platform.operations.closing import close_day
from audit_platform.operations.manifests import read_history
from audit_platform.operations.reconcile import reconcile
from audit_platform.operations.seal import seal_day
from audit_platform.operations.verify import verify_day
from audit_platform.ports import NewRecord, Platform
from audit_platform.record import layout, signing
from audit_platform.record.columns import hashes_of
from audit_platform.record.event import event_hash, format_time_ms, stored_line
from audit_platform.services.archive_writer import METRICS, ArchiveWriter
from audit_platform.telemetry import Telemetry
from audit_platform_tests.clocks import START_MS, ManualClock
from audit_platform_tests.powercut import PowerCut, PowerCutFiles
from audit_platform_tests.world import DAY, GRACE_MS, Edge

TENANT = "north"
STEPS = 40  # moments of the cut over the whole way, besides its end


@dataclass
class Way:
    """One sender, one installation on one disk, over its lives."""

    metadata: SqlMetadata
    bodies: list[list[bytes]]
    acknowledged: set[int] = field(default_factory=set)
    manifest: str = ""

    @contextlib.contextmanager
    def opened(self, files: PowerCutFiles, clock: ManualClock) -> Iterator[Platform]:
        log = EmbeddedLog(Path("/log"), files, clock, 1)
        try:
            yield Platform(
                clock,
                log,
                EmbeddedObjects(Path("/objects"), files, clock),
                EmbeddedHot(Path("/hot"), files),
                self.metadata,
                FileKeys(Path("/keys"), files),
                lambda: None,
            )
        finally:
            log.close()

    def live(self, files: PowerCutFiles) -> None:
        """Send what is not acknowledged, archive, close, seal."""
        clock = ManualClock()
        with self.opened(files, clock) as platform:
            if not any(k.active for k in platform.keys.public_keys()):
                platform.keys.new("manifest", clock.now_ms())
            for number, lines in enumerate(self.bodies):
                if number not in self.acknowledged:
                    platform.log.append(layout.EVENTS_TOPIC, [self._record(lines)])
                    self.acknowledged.add(number)
                if number % 2:
                    self._archive(platform)
            self._archive(platform)
            clock.ms = layout.day_end_ms(DAY) + GRACE_MS
            close_day(platform, DAY, GRACE_MS)
            self.manifest = seal_day(platform, TENANT, DAY).manifest_sha256

    @staticmethod
    def _record(lines: list[bytes]) -> NewRecord:
        time = format_time_ms(START_MS).encode()
        value = b"".join(stored_line(line, time) + b"\n" for line in lines)
        return NewRecord(0, value, {"v": "1", "tenant": TENANT, "count": str(len(lines))})

    @staticmethod
    def _archive(platform: Platform) -> None:
        writer = ArchiveWriter(
            platform,
            Telemetry(METRICS),
            member="writer",
            range_seconds=0.0,
            range_bytes=1 << 26,
        )
        while writer.step():
            pass
        writer.leave()

    def broken(self, files: PowerCutFiles) -> list[str]:
        """After the power came back: go on to the end, then compare sets."""
        told, acknowledged = self.manifest, set(self.acknowledged)
        self.live(files)
        clock = ManualClock(layout.day_end_ms(DAY) + GRACE_MS)
        with self.opened(files, clock) as platform:
            sealed = self._sealed(platform)
            report = verify_day(platform, TENANT, DAY)
            found = [str(f) for f in report.findings]
            if not reconcile(platform).ok:
                found.append("reconcile finds a difference")
        wanted = {event_hash(line) for n in acknowledged for line in self.bodies[n]}
        if lost := wanted - set(sealed):
            found.append(f"{len(lost)} acknowledged events are lost")
        if len(sealed) != len(set(sealed)):
            found.append("an event is sealed twice")
        if told and told != self.manifest:
            found.append("the manifest that was told is another one now")
        return found

    @staticmethod
    def _sealed(platform: Platform) -> list[bytes]:
        out: list[bytes] = []
        for part in read_history(platform, TENANT).counting[DAY].parts:
            with platform.objects.open(part.object.key, part.object.version_id) as file:
                table = pq.read_table(file, columns=["event_hash"])
            out += [bytes(h) for h in hashes_of(table["event_hash"].chunk(0))]
        return out


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[SqlMetadata]:
    opened = open_sqlite(tmp_path / "metadata.db")
    yield opened
    opened.close()


def new_way(metadata: SqlMetadata) -> Way:
    edge = Edge(TENANT)
    metadata.add_tenant(TENANT, 0)
    metadata.add_edge_key(TENANT, signing.public_bytes(edge.key), 0)
    lines = [edge.start(START_MS), *edge.heartbeats(2, 9, START_MS)]
    return Way(metadata, [lines[i : i + 5] for i in range(0, len(lines), 5)])


def broken_promises(metadata: SqlMetadata, *omit: FsyncSite) -> Iterator[str]:
    files = PowerCutFiles()
    new_way(metadata).live(files)
    count = files.operations
    moments = sorted({*range(1, count, max(1, count // STEPS)), count + 1})
    assert len(moments) > STEPS // 2
    for stop_at in reversed(moments):
        files = PowerCutFiles(omit=omit)
        files.stop_at = stop_at
        way = new_way(metadata)
        died = False
        try:
            way.live(files)
        except (PowerCut, AuditPlatformError):
            died = True
        assert died or stop_at > count, "the power was cut and the way went on"
        files.cut()
        try:
            found = way.broken(files)
        except AuditPlatformError as e:
            found = [f"the way cannot go on: {e}"]
        yield from (f"cut at operation {stop_at} of {count}: {what}" for what in found)


def test_nothing_acknowledged_is_lost_wherever_the_power_is_cut(metadata: SqlMetadata) -> None:
    assert list(broken_promises(metadata)) == []


@pytest.mark.parametrize(
    "site",
    [
        FsyncSite.SEGMENT_FRAMES,
        FsyncSite.SEGMENT_NAME,
        FsyncSite.OBJECT_BODY,
        FsyncSite.OBJECT_RECORD,
        FsyncSite.OBJECT_CLAIM,
        FsyncSite.KEY_RECORD,
        FsyncSite.KEY_NAME,
    ],
)
def test_with_an_fsync_taken_out_the_same_comparison_fails(
    site: FsyncSite, metadata: SqlMetadata
) -> None:
    first = next(broken_promises(metadata, site), None)
    assert first is not None, f"{site} is not needed, or this test is blind"
