"""What sealing and verifying cost: CPU time per event in refs, peak memory, COLD bytes per event.

Fills and archives an embedded log as `archive.py` does, closes the day, then seals and verifies
each tenant's day in a process of its own. Run: `python -m benchmarks.seal [events]`.
Targets: seal 7.5 refs and 1 GB, verify 4.5 refs, COLD 65 bytes an event.
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
from typing import Any

from audit_platform.operations.closing import close_day
from audit_platform.operations.coverage import tenants_of_day
from audit_platform.operations.seal import seal_day
from audit_platform.operations.verify import verify_day
from audit_platform.ports import Platform
from audit_platform.processes import MALLOC_VARIABLES
from audit_platform.record.layout import day_end_ms
from audit_platform.settings import Settings
from audit_platform.wiring import open_platform
from benchmarks.archive import fill
from benchmarks.refs import measure_ref
from benchmarks.rows import DAY, cached

EVENTS = 1_000_000


def after_the_day(home: str) -> Settings:
    """The same folder, when the day and its grace are over."""
    wall = day_end_ms(DAY) + 600_000
    clock = f"scaled:{wall}:{int(time.time() * 1000)}:1"
    return Settings.from_environment({"AUDIT_HOME": home, "AUDIT_CLOCK": clock})


def seal(platform: Platform) -> dict[str, Any]:
    """Seal every tenant's day."""
    tenants = tenants_of_day(platform, DAY)
    started = time.process_time()
    done = [seal_day(platform, tenant, DAY) for tenant in tenants]
    return {
        "cpu": time.process_time() - started,
        "rows": sum(d.rows for d in done),
        "bytes": sum(d.bytes for d in done),
        "parts": sum(d.parts for d in done),
        "tenants": len(tenants),
    }


def verify(platform: Platform) -> dict[str, Any]:
    """Verify every tenant's day."""
    tenants = tenants_of_day(platform, DAY)
    started = time.process_time()
    reports = [verify_day(platform, tenant, DAY) for tenant in tenants]
    cpu = time.process_time() - started
    if any(r.exit_code for r in reports):
        raise SystemExit(f"findings: {[r.findings[:3] for r in reports]}")
    return {"cpu": cpu, "rows": sum(r.rows for r in reports)}


STEPS = {"seal": seal, "verify": verify}


def child(name: str, home: str) -> None:
    """One step in its own process, measured."""
    platform = open_platform(after_the_day(home))
    before = measure_ref()
    out = STEPS[name](platform)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    platform.close()
    print(json.dumps(out | {"ref": (before + measure_ref()) / 2, "peak": peak}))


def register_edges(platform: Platform, count: int, tenant_id: str | None = None) -> None:
    """Make the edges of the rows known, as their operators would have."""
    for body in cached(count, tenant_id=tenant_id).bodies():
        for line in body.ndjson.splitlines():
            if b'"eventType":"chain_start"' in line:
                public = bytes.fromhex(json.loads(line)["payload"]["publicKey"])
                platform.metadata.add_tenant(body.tenant_id, 0)
                platform.metadata.add_edge_key(body.tenant_id, public, 0)


def run(module: str, *arguments: str) -> dict[str, Any]:
    """A measured child of this or another benchmark."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", module, "--child", *arguments],
        env=MALLOC_VARIABLES | dict(os.environ),
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    out: dict[str, Any] = json.loads(done.stdout)
    return out


def main() -> None:
    """Fill, archive, close; seal and verify in children; print."""
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory() as home:
        fill(home, count)
        run("benchmarks.archive", home)
        platform = open_platform(after_the_day(home))
        close_day(platform, DAY, 600_000)
        platform.keys.new("manifest", platform.clock.now_ms())
        register_edges(platform, count)
        platform.close()
        for name, refs, memory in (("seal", 7.5, 1000), ("verify", 4.5, 1000)):
            got = run("benchmarks.seal", name, home)
            if got["rows"] != count:
                raise SystemExit(f"{name}: {got['rows']} rows of {count} events")
            each = got["cpu"] / count
            in_refs = each / got["ref"]
            print(f"{name}, {count:,} events:")
            print(f"  CPU          {each * 1e6:6.2f} us/event = {in_refs:5.2f} refs (<= {refs})")
            print(f"  one ref      {got['ref'] * 1e6:6.2f} us")
            print(f"  peak memory  {got['peak'] / 1e6:6.0f} MB (<= {memory})")
            if name == "seal":
                size, parts = got["bytes"] / count, got["parts"]
                print(f"  COLD         {size:6.1f} B/event (<= 65) in {parts} parts")


if __name__ == "__main__":
    main()
