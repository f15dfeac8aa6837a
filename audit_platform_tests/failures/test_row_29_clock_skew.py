"""Failure 29, a device's clock far off: found by the platform's own clock, and flagged.

The events go in by a real ingest-gateway and come out by query-api.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audit_platform.ports import Role
from audit_platform.record.event import format_time_ms
from audit_platform.services.query_models import SearchAnswer, TimelineAnswer
from audit_platform.settings import Settings
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.services import ingest_world
from audit_platform_tests.services.ingest_world import TENANT, body_of
from audit_platform_tests.services.query_world import QueryWorld, asking, parsed
from audit_platform_tests.world import DAY, World

CENTURY_MS = 36_525 * 86_400_000
#: Clocks of the devices, off by this: a century behind and ahead, just within, just beyond 5 min.
OFF_MS = {
    "behind": -CENTURY_MS,
    "ahead": CENTURY_MS,
    "within": 299_000,
    "beyond": -301_000,
    "right": 0,
}
SKEWED = {"behind", "ahead", "beyond"}
TODAY = {"from_": format_time_ms(START_MS), "to": format_time_ms(START_MS + 86_400_000)}
EVENTS = f"/v1/tenants/{TENANT}/events"


@contextmanager
def both(folder: Path) -> Iterator[tuple[ingest_world.World, QueryWorld]]:
    """A gateway and a query-api over one installation."""
    with ingest_world.open_world(folder, partitions=2) as gate:
        settings = Settings.from_environment({"AUDIT_HOME": str(folder)})
        gate.platform.keys.new("manifest", gate.clock.now_ms())
        world = World(folder, gate.platform, gate.clock, settings)
        with asking(world) as queries:
            yield gate, queries


def skew_buckets(gate: ingest_world.World) -> dict[str, float]:
    """Cumulative counts of the skew histogram by upper bound."""
    text = gate.request("GET", "/metrics").body.decode()
    found = re.findall(r'audit_ingest_skew_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
    assert found
    return {bound: float(count) for bound, count in found}


@pytest.mark.parametrize("standing", ["not yet sealed", "sealed"])
def test_row_29_a_skewed_device_is_found_by_ingestion_time_and_flagged(
    tmp_path: Path, standing: str
) -> None:
    with both(tmp_path / "home") as (gate, queries):
        gate.clock.advance(3_600_000)
        edge = queries.world.edge(TENANT)
        now = gate.clock.now_ms()
        lines = [edge.start(now)]
        for device, off in OFF_MS.items():
            lines += [
                edge.event(device, "heartbeat", {"uptimeSeconds": n}, now + off) for n in range(3)
            ]
        receipt = gate.post(body_of(*lines)).json
        assert (receipt["accepted"], receipt["refused"]) == (len(lines), [])
        sent = {hashlib.sha256(line).hexdigest() for line in lines}
        # Signal: the histogram of the gateway has them beyond its last bounds on both sides.
        buckets = skew_buckets(gate)
        assert buckets["-86400.0"] == 3
        assert buckets["+Inf"] - buckets["86400.0"] == 3
        queries.world.archive()
        if standing == "sealed":
            queries.world.close(DAY)
            queries.world.seal(TENANT, DAY)
        secret = queries.key(TENANT, Role.INVESTIGATOR)
        # By the platform's clock nothing is missing, and what is off is flagged.
        found = parsed(SearchAnswer, queries.ask(EVENTS, secret, **TODAY)).rows
        assert {row.event_hash for row in found} == sent
        assert {row.device_id for row in found if row.skewed} == SKEWED
        # By the device's clock each is where the device says, flagged all the same.
        for device, off in OFF_MS.items():
            there = {
                "from_": format_time_ms(now + off),
                "to": format_time_ms(now + off + 1),
                "clock": "event",
                "device": device,
            }
            rows = parsed(SearchAnswer, queries.ask(EVENTS, secret, **there)).rows
            assert len(rows) == 3
            assert {row.skewed for row in rows} == {device in SKEWED}
            path = f"/v1/tenants/{TENANT}/devices/{device}/timeline"
            line = parsed(TimelineAnswer, queries.ask(path, secret, **TODAY))
            assert [row.skewed for row in line.rows] == [device in SKEWED] * 3
            assert line.counts.get("skewed", 0) == (3 if device in SKEWED else 0)
            assert [row.skew_seconds for row in line.rows] == [off / 1000] * 3
            assert {row.standing for row in line.rows} == {standing}
