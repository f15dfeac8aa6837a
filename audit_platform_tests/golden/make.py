"""Makes a golden record: `python -m audit_platform_tests.golden.make FOLDER` (a new folder).

`v1`: two tenants; a day with a refused link, a copy, an undecodable line and a gap; an empty day; a
day after a restart of the edge. `v1r`: one tenant; a day with two revisions and a device that skips
every second sequence; the day after it. The folder's name says which. Belongs here: making it, once
per format version.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from audit_platform.operations.late import close_again
from audit_platform.ports import NewRecord
from audit_platform.record import layout
from audit_platform.record.spans import MAX_LISTED_GAPS
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


def fill_revised(world: World) -> None:
    """Two days of one tenant; the first is sealed three times."""
    edge = world.edge("north")
    now = world.clock.now_ms()
    start = edge.start(now)
    skips = edge.heartbeats(1, 2 * MAX_LISTED_GAPS + 5, now)[::2]
    begun = edge.event("pump-007", "heartbeat", {"batteryPercent": 1}, now)
    held_back = edge.event("pump-007", "heartbeat", {"batteryPercent": 2}, now)
    after = edge.event("pump-007", "heartbeat", {"batteryPercent": 3}, now)
    world.ingest("north", [start, *skips, begun, after])
    world.refuse("north", [edge.event("pump-007", "heartbeat", {"no": "such field"}, now)])
    world.archive()
    world.close(DAY)
    world.seal("north", DAY)
    late_ms = layout.day_end_ms(DAY) - 1
    for lines in ([held_back, after], edge.heartbeats(9, 1, now)):
        world.ingest("north", lines, at_ms=late_ms)
        world.archive()
        close_again(world.platform, DAY)
        world.seal("north", DAY)
    world.ingest("north", [after, *edge.heartbeats(3, 2, world.clock.now_ms())])
    world.archive()
    world.close(layout.next_day(DAY))
    world.seal("north", layout.next_day(DAY))


def main(folder: Path) -> None:
    """Make the record and what an auditor is given beside it."""
    with tempfile.TemporaryDirectory() as home, open_world(Path(home)) as world:
        days = {"v1": (fill, 2), "v1r": (fill_revised, 1)}
        fill_it, last = days[folder.name]
        fill_it(world)
        ignore = shutil.ignore_patterns(".*")
        shutil.copytree(world.objects_folder, folder / "objects", ignore=ignore)
        [key] = [k for k in world.platform.keys.public_keys() if k.purpose == "manifest"]
        (folder / "manifest-key.hex").write_text(key.public_key.hex() + "\n")
        heads = {}
        for tenant in (t.tenant_id for t in world.platform.metadata.tenants()):
            report = world.verify(tenant, layout.next_day(DAY, last))
            number, sha256 = report.heads[tenant]
            heads[tenant] = f"{tenant}:{number}:{sha256}"
        (folder / "heads.json").write_text(json.dumps(heads, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
