"""What the uplink costs: CPU time of a replay, on the edge's side, in refs an event.

A spool is filled by the real intake (encrypted, bodies of 500 events as devices give them), then
an uplink of this process replays all of it into an ingest-gateway of its own process, with real
fsync. CPU time is this process's: reading and decrypting the spool, completing the events again,
compressing, sending, reading receipts. Twice: entries of two events (as the rows come), and entries
of a device's batch. Told besides: the replay's rate against the rate at which this machine's intake
accepted the same events alone, and the live rate of which the replay is three times (the target).
Run: `python -m benchmarks.uplink [--events 200000]`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audit_platform.adapters.clock import parse_clock
from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.adapters.spool.spool import FileSpool
from audit_platform.ports import Full, SpoolLimits
from audit_platform.processes import freeze_startup_objects, tune_process
from audit_platform.services import edge_intake
from audit_platform.services.edge_intake import Intake
from audit_platform.services.edge_placing import EdgeIdentity
from audit_platform.services.edge_uplink import METRICS, Uplink
from audit_platform.services.edge_uplink_files import SetAside
from audit_platform.services.edge_uplink_http import Receipt, UplinkSender
from audit_platform.telemetry import Telemetry
from benchmarks.edge import bodies_of, by_device, device_lines
from benchmarks.ingest import PORT, service
from benchmarks.refs import meanwhile, measure_ref

TENANT = "north"
IDENTITY = EdgeIdentity(TENANT, "h-1", "edge-1", "north")
LIMITS = SpoolLimits(8 << 30, 72.0, {"normal": Full.DROP})


@dataclass(frozen=True, slots=True)
class Replayed:
    """One replay. `seconds` are real, `cpu` this process's."""

    events: int
    entries: int
    spool_bytes: int
    seconds: float
    cpu: float


def fill(folder: Path, bodies: list[bytes]) -> tuple[FileSpool, float]:
    """Spool bodies as devices give them: the spool, and the seconds it took."""
    clock, keys = parse_clock("system"), FileKeys(folder / "keys")
    keys.new("edge", clock.now_ms())
    spool = FileSpool.open(folder / "spool", RealFiles(), clock, LIMITS, keys)
    intake = Intake(spool, keys, clock, IDENTITY, Telemetry(edge_intake.METRICS))
    intake.open_epoch()
    started = time.monotonic()
    for body in bodies:
        intake.take(body.split(b"\n"))
    return spool, time.monotonic() - started


def replay(folder: Path, spool: FileSpool, secret: str) -> Replayed:
    """Send all that a spool holds."""
    sender = UplinkSender(f"http://127.0.0.1:{PORT}", lambda: secret, parse_clock("system"))
    taken = 0

    def count(lines: Sequence[bytes], _: Receipt) -> None:
        nonlocal taken
        taken += len(lines)

    telemetry, aside = Telemetry(METRICS), SetAside(folder / "set-aside")
    uplink = Uplink(spool, sender, telemetry, aside, on_receipt=count)
    status = spool.status()
    started, cpu = time.monotonic(), time.process_time()
    while uplink.status().backlog_entries:
        if not uplink.step() and uplink.status().trouble:
            raise SystemExit(uplink.status().trouble)
    found = Replayed(
        taken,
        status.entries,
        status.bytes,
        time.monotonic() - started,
        time.process_time() - cpu,
    )
    sender.close()
    return found


def main() -> None:
    """Measure and print."""
    tune_process()
    parser = argparse.ArgumentParser(description="Measure the uplink's replay.")
    parser.add_argument("--events", type=int, default=200_000)
    asked = parser.parse_args()
    lines = device_lines(asked.events)
    freeze_startup_objects()
    for name, given in (("as they come", lines), ("by device", by_device(lines))):
        with tempfile.TemporaryDirectory() as where, service([TENANT]) as (_, secrets):
            folder = Path(where)
            spool, accepting = fill(folder, bodies_of(given))
            before = measure_ref()
            with meanwhile() as during:
                found = replay(folder, spool, secrets[TENANT])
            quiet = (before + measure_ref()) / 2
            spool.close()
        each = found.cpu / found.events
        print(
            f"{name}: {found.events:,} events in {found.entries:,} entries,"
            f" {found.spool_bytes / found.events:.0f} bytes an event in the spool"
        )
        print(f"  CPU, edge's side {each * 1e6:>8.2f} us/event, {each / quiet:.2f} refs/event,")
        print(f"                   {each / during.ref:>8.2f} of the refs meanwhile")
        rate = found.events / found.seconds
        print(f"  replay           {rate:>8,.0f} events/s, gateway on the same machine")
        print(f"  three times      {rate / 3:>8,.0f} events/s of live ones")
        print(
            f"  accepted         {found.events / accepting:>8,.0f} events/s;"
            f" replay is {rate * accepting / found.events:.2f} times that"
        )


if __name__ == "__main__":
    main()
