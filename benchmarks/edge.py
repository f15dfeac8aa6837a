"""What the edge costs: CPU time of the edge-gateway's process from a body to the spool, in refs.

The real program in its own process, real fsync, encrypted spool, bodies of 500 events over HTTP, as
devices give them (`rows.py`, without what the edge fills in). Twice: as the rows come (about 250
devices in a body, so an entry holds two events), and sorted by device (a device or its driver sends
a batch). Nobody is behind the uplink. Run: `python -m benchmarks.edge [--events 200000]`.
Target: at most 9 refs an event.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import orjson
import urllib3

from audit_platform.settings import Settings
from audit_platform.wiring import open_edge_keys
from benchmarks import rows
from benchmarks.ingest import cpu, peak_mb
from benchmarks.refs import meanwhile, measure_ref

PORT = 18_504

BODY_EVENTS = 500

#: Bodies sent before the measured ones: names are then known, memory is grown.
WARM_UP = 20

#: Events sorted by device together: so many may wait at a driver.
SORTED_TOGETHER = 50_000

_GIVEN = ("deviceId", "eventType", "eventVersion", "eventTime", "sequenceNumber", "payload")


def device_lines(events: int) -> list[tuple[str, bytes]]:
    """(device, line) as devices give them, of the tenants in turn."""
    found = []
    for body in rows.cached(events).bodies():
        for line in body.ndjson.splitlines():
            event = orjson.loads(line)
            if event["eventType"] != "chain_start":
                given = {name: event[name] for name in _GIVEN}
                given["deviceId"] = f"{body.tenant_id}-{event['deviceId']}"
                found.append((given["deviceId"], orjson.dumps(given)))
    return found


def bodies_of(lines: Sequence[tuple[str, bytes]]) -> list[bytes]:
    """Bodies of 500 events, in the given order."""
    source = iter(lines)
    made = []
    while part := list(islice(source, BODY_EVENTS)):
        made.append(b"\n".join(line for _, line in part))
    return made


def by_device(lines: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The same, sorted by device so many at a time; each device keeps its order."""
    return [
        line
        for at in range(0, len(lines), SORTED_TOGETHER)
        for line in sorted(lines[at : at + SORTED_TOGETHER], key=lambda pair: pair[0])
    ]


@contextmanager
def service() -> Iterator[int]:
    """An edge in a fresh home: its process id."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "AUDIT_HOME": folder,
            "AUDIT_EDGE_PORT": str(PORT),
            "AUDIT_EDGE_TENANT": "benchmark",
            "AUDIT_EDGE_HOSPITAL": "h-1",
            "AUDIT_EDGE_UPLINK": "http://127.0.0.1:1",
        }
        open_edge_keys(Settings.from_environment(environment)).new("edge", 0)
        process = subprocess.Popen(
            [sys.executable, "-m", "audit_platform.cli", "edge-gateway"],
            env=os.environ | environment,
            stderr=subprocess.DEVNULL,
        )
        try:
            retry = urllib3.Retry(total=200, backoff_factor=0.1, backoff_max=0.2)
            urllib3.request("GET", f"http://127.0.0.1:{PORT}/readyz", retries=retry)
            yield process.pid
        finally:
            process.terminate()
            process.wait()


def send(bodies: Sequence[bytes]) -> None:
    """Send all bodies, one after the other; each must be accepted as a whole."""
    pool = urllib3.HTTPConnectionPool("127.0.0.1", PORT, maxsize=1)
    for body in bodies:
        answer = pool.request(
            "POST",
            "/v1/events",
            body=body,
            headers={"content-type": "application/x-ndjson"},
            retries=False,
        )
        if answer.status != 202 or answer.json()["lines"]:
            raise SystemExit(f"{answer.status} {answer.data[:300]!r}")


def measure(name: str, bodies: Sequence[bytes]) -> None:
    """Send to a fresh edge and print what it cost."""
    warm_up, bodies = bodies[:WARM_UP], bodies[WARM_UP:]
    with service() as pid:
        send(warm_up)
        ref_before, before, started = measure_ref(), cpu(pid), time.monotonic()
        with meanwhile() as during:
            send(bodies)
        took, after, ref_after = time.monotonic() - started, cpu(pid), measure_ref()
        peak = peak_mb(pid)
    count = sum(body.count(b"\n") + 1 for body in bodies)
    used = (after.user - before.user + after.system - before.system) / count
    quiet = (ref_before + ref_after) / 2
    print(f"--- {name}: {count:,} events in {len(bodies):,} bodies")
    print(f"ref         {quiet * 1e6:>10.3f} us before and after, {during.ref * 1e6:.3f} meanwhile")
    print(f"CPU         {used * 1e6:>10.2f} us/event")
    print(f"            {used / quiet:>10.2f} refs/event (at most 9)")
    print(f"            {used / during.ref:>10.2f} of the refs meanwhile")
    print(f"peak memory {peak:>10.0f} MB")
    print(f"wall        {count / took:>10,.0f} events/s, sender and edge on one machine")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the edge.")
    parser.add_argument("--events", type=int, default=200_000)
    asked = parser.parse_args()
    lines = device_lines(asked.events)
    measure("as they come", bodies_of(lines))
    measure("sorted by device", bodies_of(by_device(lines)))


if __name__ == "__main__":
    main()
