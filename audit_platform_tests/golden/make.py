"""Makes a golden record: `python -m audit_platform_tests.golden.make FOLDER` (a new folder).

Two tenants; a day with a refused link, a copy, an undecodable line and a gap; an empty day; a day
after a restart of the edge. Belongs here: making it, once per format version.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from audit_platform.ports import NewRecord
from audit_platform.record import layout
from audit_platform_tests.world import DAY, World, open_world


def fill(world: World) -> None:
    """Three days of two tenants."""
    edges = [world.edge("north"), world.edge("south")]
    for edge in edges:
        now = world.clock.now_ms()
        lines = [edge.start(now), *edge.heartbeats(3, 8, now)]
        world.ingest(edge.tenant_id, lines)
        refused = edge.event("pump-001", "heartbeat", {"no": "such field"}, now)
        world.refuse(edge.tenant_id, [refused, b"not an event"])
        world.ingest(edge.tenant_id, [*edge.heartbeats(3, 2, now), *lines[4:6]])
        edge.event("pump-002", "heartbeat", {"batteryPercent": 1}, now)  # never sent: a gap
        world.ingest(edge.tenant_id, edge.heartbeats(3, 1, now))
        headers = {"v": "1", "tenant": edge.tenant_id, "count": "1"}
        world.platform.log.append(layout.EVENTS_TOPIC, [NewRecord(0, b"no event\n", headers)])
    days = [DAY, layout.next_day(DAY), layout.next_day(DAY, 2)]
    for number, day in enumerate(days):
        if number == 2:
            for edge in edges:
                now = world.clock.now_ms()
                world.ingest(edge.tenant_id, [edge.start(now), *edge.heartbeats(2, 3, now)])
        world.archive()
        world.close(day)
        for edge in edges:
            world.seal(edge.tenant_id, day)


def main(folder: Path) -> None:
    """Make the record and what an auditor is given beside it."""
    with tempfile.TemporaryDirectory() as home, open_world(Path(home)) as world:
        fill(world)
        ignore = shutil.ignore_patterns(".*")
        shutil.copytree(world.objects_folder, folder / "objects", ignore=ignore)
        [key] = [k for k in world.platform.keys.public_keys() if k.purpose == "manifest"]
        (folder / "manifest-key.hex").write_text(key.public_key.hex() + "\n")
        heads = {}
        for tenant in ("north", "south"):
            report = world.verify(tenant, layout.next_day(DAY, 2))
            number, sha256 = report.heads[tenant]
            heads[tenant] = f"{tenant}:{number}:{sha256}"
        (folder / "heads.json").write_text(json.dumps(heads, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
