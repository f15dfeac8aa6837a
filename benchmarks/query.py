"""How long asking takes: a device's day out of COLD, one inclusion proof, a page of a wide search.

All rows are of one day of one tenant. Fills, archives, closes and seals as `seal.py` does, then
asks in a process of its own, each time about another device or event, drawn by a seeded die. Wall
times in ms, and CPU time (p95), which says more where the machine is shared. Run:
`python -m benchmarks.query [events] [folder]`; with a folder, what is sealed there is kept and used
again.
Targets at 10 M rows: a device's day p95 150 ms, a proof p95 300 ms, 350 MB.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from audit_platform.operations.closing import close_day
from audit_platform.operations.query.event import event_by_id
from audit_platform.operations.query.model import Tier, TimelineQuery
from audit_platform.operations.query.reader import Day, Reader
from audit_platform.operations.query.search import search
from audit_platform.operations.query.timeline import timeline
from audit_platform.ports import EventQuery
from audit_platform.record.layout import day_end_ms, day_start_ms
from audit_platform.wiring import open_platform
from benchmarks.archive import fill
from benchmarks.refs import measure_ref
from benchmarks.rows import DAY, tenant_of_most_devices
from benchmarks.seal import after_the_day, register_edges, run

EVENTS = 1_000_000
ASKED = 200
PAGES = 5


def build(home: str, count: int) -> None:
    """One sealed day of one tenant of so many events, unless it is there."""
    if (Path(home) / "sealed").exists():
        return
    tenant_id = tenant_of_most_devices()
    fill(home, count, tenant_id)
    run("benchmarks.archive", home)
    platform = open_platform(after_the_day(home))
    close_day(platform, DAY, 600_000)
    platform.keys.new("manifest", platform.clock.now_ms())
    register_edges(platform, count, tenant_id)
    platform.close()
    run("benchmarks.seal", "seal", home)
    (Path(home) / "sealed").touch()


def ask(home: str) -> dict[str, Any]:
    """All questions, of the tenant with the most rows."""
    platform = open_platform(after_the_day(home))
    reader = Reader(platform)
    tenants = [t.tenant_id for t in platform.metadata.tenants()]
    tenant = max(tenants, key=lambda t: reader.days(t)[0][DAY].facts.rows)
    die = random.Random(1)
    day = reader.days(tenant)[0][DAY]
    manifest = reader.manifest(day.facts.key, day.facts.version_id)
    devices = sorted({c.device_id for c in manifest.chains})
    ids = _ids(reader, day, die)
    reader = Reader(platform)  # remembers nothing yet
    first, last = day_start_ms(DAY), day_end_ms(DAY)

    def device_day(_n: int) -> int:
        query = TimelineQuery(tenant, die.choice(devices), first, last, limit=10_000)
        return timeline(reader, query, tier=Tier.COLD).events

    def proof(n: int) -> int:
        (copy,) = event_by_id(reader, tenant, ids[n]).copies
        if copy.proof is None or not copy.proven:
            raise SystemExit(f"no proof of {ids[n]}")
        return 1

    def page(n: int) -> int:
        hour = first + n * 3_600_000
        query = EventQuery(tenant, hour, hour + 3_600_000, limit=100)
        return int(search(reader, query, tier=Tier.COLD).rows.num_rows)

    ref = measure_ref()
    found = {
        "device's day": _timed(device_day, ASKED),
        "inclusion proof": _timed(proof, ASKED),
        "page of 100, an hour": _timed(page, PAGES),
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows = day.facts.rows
    platform.close()
    return {"found": found, "peak": peak, "rows": rows, "devices": len(devices), "ref": ref}


def _ids(reader: Reader, day: Day, die: random.Random) -> list[str]:
    """Event ids from all over the day's parts."""
    found: list[str] = []
    for part in day.facts.parts:
        with reader.platform.objects.open(part.object.key, part.object.version_id) as file:
            parquet = pq.ParquetFile(file, pre_buffer=False)
            for group in range(parquet.num_row_groups):
                column = parquet.read_row_group(group, ["event_id"], use_threads=False)["event_id"]
                found += [column[die.randrange(len(column))].as_py() for _ in range(ASKED)]
    return die.sample(found, ASKED)


def _timed(question: Callable[[int], int], times: int) -> dict[str, float]:
    """Milliseconds: the first, the median, the 95th of a hundred; of CPU time too; rows in all."""
    took: list[float] = []
    busy: list[float] = []
    rows = 0
    for n in range(times):
        started, worked = time.perf_counter(), time.process_time()
        rows += question(n)
        busy.append((time.process_time() - worked) * 1000)
        took.append((time.perf_counter() - started) * 1000)
    return {
        "first": took[0],
        "p50": _of(took, 0.5),
        "p95": _of(took, 0.95),
        "cpu": _of(busy, 0.95),
        "rows": rows,
    }


def _of(took: Sequence[float], share: float) -> float:
    return sorted(took)[min(len(took) - 1, int(len(took) * share))]


def main() -> None:
    """Build, ask in a child, print."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(ask(sys.argv[2])))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory() as folder:
        home = sys.argv[2] if len(sys.argv) > 2 else folder
        build(home, count)
        got = run("benchmarks.query", home)
    print(f"queries, a tenant's day of {got['rows']:,} rows and {got['devices']:,} devices:")
    for name, t in got["found"].items():
        wall = f"first {t['first']:6.1f}  p50 {t['p50']:6.1f}  p95 {t['p95']:6.1f} ms"
        print(f"  {name:<22}{wall}, CPU {t['cpu']:6.1f}  ({t['rows']:,} rows)")
    print(f"  peak memory  {got['peak'] / 1e6:6.0f} MB (<= 350)")
    print(f"  one ref      {got['ref'] * 1e6:6.2f} us")


if __name__ == "__main__":
    main()
