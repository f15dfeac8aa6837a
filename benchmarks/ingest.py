"""What ingest costs: CPU time of the ingest-gateway's process per event, in refs, and its memory.

The real program in its own process, real fsync, bodies of 500 events as zstd over HTTP, from the
excerpt's real rows (`rows.py`). Run: `python -m benchmarks.ingest [--events 1000000]`.
Target: at most 10 refs an event and 350 MB.
"""

from __future__ import annotations

import argparse
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3

from audit_platform.ports import Role
from audit_platform.settings import Settings
from audit_platform.wiring import open_metadata
from benchmarks import rows
from benchmarks.refs import meanwhile, measure_ref

PORT = 18_501

#: Bodies sent before the measured ones: names and schemas are then known, memory is grown.
WARM_UP = 40

#: (tenant id, zstd body, events).
Body = tuple[str, bytes, int]


@dataclass(frozen=True, slots=True)
class Used:
    """CPU seconds of a process, all threads."""

    user: float
    system: float


@contextmanager
def service(tenants: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """A gateway in a fresh home: its process id, and the secret of each tenant's edge."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"AUDIT_HOME": folder, "AUDIT_INGEST_PORT": str(PORT)}
        metadata = open_metadata(Settings.from_environment(environment))
        secrets = {}
        for tenant in tenants:
            metadata.add_tenant(tenant, 0)
            _, secrets[tenant] = metadata.add_api_key(tenant, Role.EDGE, 0)
        metadata.close()
        process = subprocess.Popen(
            [sys.executable, "-m", "audit_platform.cli", "ingest-gateway"],
            env=os.environ | environment,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_until_ready()
            yield process.pid, secrets
        finally:
            process.terminate()
            process.wait()


def _wait_until_ready() -> None:
    retry = urllib3.Retry(total=200, backoff_factor=0.1, backoff_max=0.2, status_forcelist=[503])
    urllib3.request("GET", f"http://127.0.0.1:{PORT}/readyz", retries=retry)


def cpu(pid: int) -> Used:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return Used(int(fields[11]) / tick, int(fields[12]) / tick)


def peak_mb(pid: int) -> float:
    """Peak resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    [line] = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def send(bodies: Sequence[Body], secrets: dict[str, str], connections: int) -> None:
    """Send all bodies over some connections; each must be accepted as a whole."""
    waiting: queue.SimpleQueue[Body] = queue.SimpleQueue()
    for body in bodies:
        waiting.put(body)
    failures: list[str] = []

    def sender() -> None:
        pool = urllib3.HTTPConnectionPool("127.0.0.1", PORT, maxsize=1)
        headers = {"content-type": "application/x-ndjson", "content-encoding": "zstd"}
        while not failures:
            try:
                tenant, data, events = waiting.get_nowait()
            except queue.Empty:
                return
            own = headers | {"authorization": f"Bearer {secrets[tenant]}"}
            answer = pool.request("POST", "/v1/events", body=data, headers=own, retries=False)
            if answer.status != 202 or answer.json()["accepted"] != events:
                failures.append(f"{answer.status} {answer.data[:300]!r}")

    threads = [threading.Thread(target=sender) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(failures[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure ingest.")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=8)
    asked = parser.parse_args()
    bodies = list(rows.cached(asked.events).compressed())
    warm_up, bodies = bodies[:WARM_UP], bodies[WARM_UP:]
    with service(sorted({tenant for tenant, _, _ in bodies})) as (pid, secrets):
        send(warm_up, secrets, asked.connections)
        ref_before, before, started = measure_ref(), cpu(pid), time.monotonic()
        with meanwhile() as during:
            send(bodies, secrets, asked.connections)
        took, after, ref_after = time.monotonic() - started, cpu(pid), measure_ref()
        peak = peak_mb(pid)
    count = sum(events for _, _, events in bodies)
    user, system = (after.user - before.user) / count, (after.system - before.system) / count
    wire = sum(len(data) for _, data, _ in bodies) / count
    print(
        f"events          {count:>12,} in {len(bodies):,} bodies, {asked.connections} connections"
    )
    print(f"on the wire     {wire:>12.1f} bytes/event")
    quiet = (ref_before + ref_after) / 2
    print(
        f"ref             {quiet * 1e6:>12.3f} us before and after ({ref_before * 1e6:.3f},"
        f" {ref_after * 1e6:.3f}), {during.ref * 1e6:.3f} us meanwhile"
    )
    print(f"CPU, user       {user * 1e6:>12.2f} us/event")
    print(f"CPU, system     {system * 1e6:>12.2f} us/event")
    print(f"CPU             {(user + system) / quiet:>12.2f} refs/event (at most 10)")
    print(f"                {(user + system) / during.ref:>12.2f} of the refs meanwhile")
    print(f"peak memory     {peak:>12.0f} MB (at most 350)")
    print(f"wall            {count / took:>12,.0f} events/s, sender and server on one machine")


if __name__ == "__main__":
    main()
