"""What archiving costs: CPU time per event in refs, peak memory, and landing bytes per event.

Fills an embedded log, then lets an archive-writer of a process of its own (as it runs in service,
allocator tuned) carry all of it into landing. CPU time is that of the whole process: reading the
log, proving and building the columns, Parquet, storing and locking, records, group offsets.
Run: `python -m benchmarks.archive [events]`. Targets: 10 refs an event, 350 MB.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from audit_platform.operations.coverage import range_records
from audit_platform.operations.generations import TOPICS
from audit_platform.operations.reconcile import reconcile
from audit_platform.ports import NewRecord
from audit_platform.processes import MALLOC_VARIABLES
from audit_platform.record.event import format_time_ms, stored_line
from audit_platform.record.layout import (
    EVENTS_TOPIC,
    LANDING,
    RangeAddress,
    day_start_ms,
    partition_of,
)
from audit_platform.services.archive_range import build_range
from audit_platform.services.archive_writer import METRICS, ArchiveWriter
from audit_platform.settings import Settings
from audit_platform.telemetry import Telemetry
from audit_platform.wiring import open_platform
from benchmarks.refs import measure_ref
from benchmarks.rows import DAY, cached

EVENTS = 200_000
START_MS = day_start_ms(DAY)
_DEVICE = b'"deviceId":"'


def settings_of(home: str) -> Settings:
    """The defaults, in a folder of its own."""
    return Settings.from_environment({"AUDIT_HOME": home})


def fill(home: str, count: int, tenant_id: str | None = None) -> int:
    """Put `count` stored events (of one tenant) into the log as ingest does; returns their bytes.

    A body of 500 events becomes one log record for each partition that it touches.
    """
    platform = open_platform(settings_of(home))
    partitions = platform.log.describe(EVENTS_TOPIC).partitions
    size = 0
    for n, body in enumerate(cached(count, tenant_id=tenant_id).bodies()):
        ingested = format_time_ms(START_MS + n * 5).encode()
        lines: list[list[bytes]] = [[] for _ in range(partitions)]
        for canonical in body.ndjson.splitlines():
            at = canonical.index(_DEVICE) + len(_DEVICE)
            device = canonical[at : canonical.index(b'"', at)].decode()
            partition = partition_of(body.tenant_id, device, partitions)
            lines[partition].append(stored_line(canonical, ingested) + b"\n")
        records = [
            NewRecord(partition, b"".join(found), headers_of(body.tenant_id, len(found)))
            for partition, found in enumerate(lines)
            if found
        ]
        size += sum(len(record.value) for record in records)
        platform.log.append(EVENTS_TOPIC, records)
    platform.close()
    return size


def headers_of(tenant_id: str, count: int) -> dict[str, str]:
    """Headers of a log record of events."""
    return {"v": "1", "tenant": tenant_id, "count": str(count)}


def archive(home: str) -> dict[str, float]:
    """Archive what is in the log, and measure it. Runs in its own process."""
    settings = settings_of(home)
    platform = open_platform(settings)
    # What Python loads at the first use is loaded before the clock starts.
    first = platform.log.read(EVENTS_TOPIC, 0, 0, 1)
    build_range(EVENTS_TOPIC, RangeAddress(LANDING, 1, 0, 0), 1, first)
    before = measure_ref()
    writer = ArchiveWriter(
        platform,
        Telemetry(METRICS),
        member="bench",
        range_seconds=settings.range_seconds,
        range_bytes=settings.range_bytes,
    )
    started, wall = time.process_time(), time.monotonic()
    while writer.step():
        pass
    writer.leave()
    cpu, wall = time.process_time() - started, time.monotonic() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    ref = (before + measure_ref()) / 2
    ranges = [
        r
        for topic in TOPICS
        for p in range(settings.partitions)
        for r in range_records(platform.objects, topic, 1, p)
    ]
    found = reconcile(platform)
    if not found.ok:
        raise SystemExit(f"not archived as sent: {found}")
    objects = [o for r in ranges for o in r.objects]
    out = {
        "cpu": cpu,
        "wall": wall,
        "ref": ref,
        "peak": peak,
        "events": found.archived,
        "bytes": sum(o.size for o in objects),
        "ranges": len(ranges),
    }
    platform.close()
    return out


def main() -> None:
    """Fill, archive in a child, print."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(archive(sys.argv[2])))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory() as home:
        size = fill(home, count)
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "benchmarks.archive", "--child", home],
            env=MALLOC_VARIABLES | dict(os.environ),
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=True,
        )
    got = json.loads(done.stdout)
    if got["events"] != count:
        raise SystemExit(f"{got['events']} of {count} events were archived")
    micros = got["cpu"] / count * 1e6
    print(f"archive, {count:,} events, {size / count:.0f} B each:")
    print(f"  CPU          {micros:6.2f} us/event = {micros / got['ref'] / 1e6:5.2f} refs (<= 10)")
    print(f"  one ref      {got['ref'] * 1e6:6.2f} us")
    print(f"  peak memory  {got['peak'] / 1e6:6.0f} MB (<= 350)")
    print(f"  landing      {got['bytes'] / count:6.1f} B/event in {got['ranges']} ranges")
    print(f"  wall         {got['wall'] / count * 1e6:6.2f} us/event")


if __name__ == "__main__":
    main()
