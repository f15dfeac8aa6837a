"""What indexing costs: CPU per event in refs, client side and engine, and bytes of HOT.

Fills an embedded log, then a search-indexer of a process of its own carries all of it into HOT. The
client side is what an indexer does whatever engine is behind it: reading the log, proving and
decoding lines, turning columns into the values of statements and the words of blocks. The engine is
SQLite: rows, trees, words, write-ahead log, checkpoints. Then some searches, and a rebuild from
landing. Run: `python -m benchmarks.index [events]`. Target: client side 4.5 refs an event.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from audit_platform.adapters.embedded import hot_index
from audit_platform.operations.log_events import log_events
from audit_platform.operations.rebuild_hot import rebuild_hot
from audit_platform.ports import EventClock, EventQuery, Platform
from audit_platform.processes import MALLOC_VARIABLES
from audit_platform.record.layout import EVENTS_TOPIC, MS_PER_DAY, day_start_ms
from audit_platform.services.archive_writer import METRICS as ARCHIVE_METRICS
from audit_platform.services.archive_writer import ArchiveWriter
from audit_platform.services.search_indexer import METRICS, READ_BYTES, SearchIndexer
from audit_platform.telemetry import Telemetry
from audit_platform.wiring import open_platform
from benchmarks.archive import fill, settings_of
from benchmarks.refs import measure_ref
from benchmarks.rows import DAY

EVENTS = 200_000
SEARCHES = 30


def client_side(platform: Platform) -> tuple[float, float]:
    """CPU seconds for all events of (log and decoding, values and words), without any engine."""
    decoding = preparing = 0.0
    for partition in range(platform.log.describe(EVENTS_TOPIC).partitions):
        offset, end = platform.log.bounds(EVENTS_TOPIC, partition)
        while offset < end:
            started = time.process_time()
            records = platform.log.read(EVENTS_TOPIC, partition, offset, READ_BYTES)
            found = log_events(records)
            decoding += time.process_time() - started
            offset = records[-1].offset + 1
            started = time.process_time()
            for batches in found.rows.values():
                rows = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
                hot_index.prepare(rows)
            preparing += time.process_time() - started
    return decoding, preparing


def searches(platform: Platform, tenant_id: str) -> dict[str, float]:
    """Median milliseconds of some searches of a day."""
    start = day_start_ms(DAY)
    window = EventQuery(tenant_id, start, start + MS_PER_DAY)
    some = platform.hot.search(window, is_cancelled=lambda: False)
    device = some["device_id"][50].as_py()
    asked = {
        "a device": EventQuery(tenant_id, start, start + MS_PER_DAY, device_id=device),
        "any, ingestion clock": window,
        "any, event clock": EventQuery(
            tenant_id, start, start + MS_PER_DAY, clock=EventClock.EVENT
        ),
        "a common word": EventQuery(tenant_id, start, start + MS_PER_DAY, text="rate"),
        "a rare word": EventQuery(tenant_id, start, start + MS_PER_DAY, text="chain_start"),
        "an event id": EventQuery(
            tenant_id, start, start + MS_PER_DAY, text=some["event_id"][70].as_py()
        ),
        "no such word": EventQuery(tenant_id, start, start + MS_PER_DAY, text="nosuchword"),
    }
    return {name: _median_ms(platform, query) for name, query in asked.items()}


def _median_ms(platform: Platform, query: EventQuery) -> float:
    took: list[float] = []
    for _ in range(SEARCHES):
        started = time.perf_counter()
        platform.hot.search(query, is_cancelled=lambda: False)
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took)


def index(home: str) -> dict[str, object]:
    """Index what is in the log, and measure it. Runs in its own process."""
    settings = settings_of(home)
    platform = open_platform(settings)
    # What Python loads at the first use is loaded before the clock starts.
    hot_index.prepare(
        next(iter(log_events(platform.log.read(EVENTS_TOPIC, 0, 0, 1)).rows.values()))[0]
    )
    # And the memory that a step needs is there: a service asks for it once.
    client_side(platform)
    before = measure_ref()
    client = client_side(platform)
    indexer = SearchIndexer(platform, Telemetry(METRICS), member="bench")
    started, wall = time.process_time(), time.monotonic()
    while indexer.step():
        pass
    cpu, wall = time.process_time() - started, time.monotonic() - wall
    indexer.leave()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    indexes = platform.hot.indexes()
    tenant_id = max(indexes, key=lambda i: i.documents).tenant_id
    found = searches(platform, tenant_id)
    ref = (before + measure_ref()) / 2
    platform.close()
    return {
        "cpu": cpu,
        "wall": wall,
        "client": client,
        "ref": ref,
        "peak": peak,
        "events": sum(i.documents for i in indexes),
        "bytes": sum(p.stat().st_size for p in settings.hot_folder.iterdir()),
        "searches": found,
    }


def rebuild(home: str) -> dict[str, object]:
    """Archive, delete HOT, rebuild it from landing."""
    settings = settings_of(home)
    platform = open_platform(settings)
    writer = ArchiveWriter(
        platform,
        Telemetry(ARCHIVE_METRICS),
        member="bench",
        range_seconds=settings.range_seconds,
        range_bytes=settings.range_bytes,
    )
    while writer.step():
        pass
    writer.leave()
    indexes = platform.hot.indexes()
    shutil.rmtree(settings.hot_folder)
    ref = measure_ref()
    started = time.process_time()
    results = [rebuild_hot(platform, i.tenant_id, i.day) for i in indexes]
    cpu = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    ref = (ref + measure_ref()) / 2
    platform.close()
    return {"cpu": cpu, "ref": ref, "peak": peak, "events": sum(r.documents for r in results)}


def _child(what: str, home: str) -> dict[str, float]:
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "benchmarks.index", what, home],
        env=MALLOC_VARIABLES | dict(os.environ),
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    got: dict[str, float] = json.loads(done.stdout)
    return got


def main(arguments: Sequence[str]) -> None:
    """Fill, index in a child, rebuild in another, print."""
    if arguments[:1] in (["--index"], ["--rebuild"]):
        print(json.dumps((index if arguments[0] == "--index" else rebuild)(arguments[1])))
        return
    count = int(arguments[0]) if arguments else EVENTS
    with tempfile.TemporaryDirectory() as home:
        size = fill(home, count)
        got = _child("--index", home)
        again = _child("--rebuild", home)
    if (got["events"], again["events"]) != (count, count):
        raise SystemExit(f"{got['events']} and {again['events']} of {count} events were indexed")
    client: Sequence[float] = got["client"]  # type: ignore[assignment] # two figures of JSON
    found: dict[str, float] = got["searches"]  # type: ignore[assignment] # JSON too
    one = got["ref"] * count
    print(f"index, {count:,} events, {size / count:.0f} B each:")
    print(f"  client side  {sum(client) / one:6.2f} refs (<= 4.5): log and decoding", end="")
    print(f" {client[0] / one:.2f}, values and words {client[1] / one:.2f}")
    print(f"  engine       {(got['cpu'] - sum(client)) / one:6.2f} refs (SQLite)")
    print(f"  all          {got['cpu'] / one:6.2f} refs, {got['wall'] / count * 1e6:.1f} us wall")
    print(f"  one ref      {got['ref'] * 1e6:6.2f} us")
    print(f"  peak memory  {got['peak'] / 1e6:6.0f} MB (<= 350)")
    print(f"  HOT          {got['bytes'] / count:6.1f} B/event")
    print(f"  rebuild      {again['cpu'] / count / again['ref']:6.2f} refs from landing,", end="")
    print(f" {again['peak'] / 1e6:.0f} MB")
    for name, ms in found.items():
        print(f"  search       {ms:6.1f} ms  {name}, 100 rows at most")


if __name__ == "__main__":
    main(sys.argv[1:])
