"""The completeness line speaks of the asked tenant alone, and of nobody's volumes."""

from __future__ import annotations

from pathlib import Path

from audit_platform.operations.query.model import Tier
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.search import search
from audit_platform.ports import EventQuery
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.world import open_world


def test_events_of_other_tenants_that_wait_in_the_log_are_not_counted(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        now = world.clock.now_ms()
        for tenant, events in (("north", 3), ("south", 40)):
            edge = world.edge(tenant)
            world.ingest(tenant, [edge.start(now), *edge.heartbeats(1, events, now)])
        query = EventQuery("north", START_MS - 86_400_000, START_MS + 86_400_000)
        line = search(Reader(world.platform), query, tier=Tier.COLD).completeness
        assert line.waiting_events == 4
        assert "4 events not archived yet" in line.sentence
        told = line.to_json()
        assert sum(p["waitingEvents"] for p in told["partitions"]) == 4
        assert not any("ffset" in name for p in told["partitions"] for name in p)
