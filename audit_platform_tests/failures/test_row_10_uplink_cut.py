"""Row 10: the network between edge and platform is cut: the edge spools, and replays in order."""

from __future__ import annotations

from pathlib import Path

from audit_platform_tests.failures.site import SITE, Site, open_site
from audit_platform_tests.services.edge_world import TENANT

CONNECTED = f'edge_connected{{site="{SITE}"}}'
HOUR_MS = 3_600_000


def assert_all_arrived_in_order(site: Site) -> None:
    """Of each device every event is in the log, first copies in the order of their numbers."""
    first_copies: dict[str, list[int]] = {}
    for event in site.arrived():
        numbers = first_copies.setdefault(event["deviceId"], [])
        if event["sequenceNumber"] not in numbers:
            numbers.append(event["sequenceNumber"])
    assert {d: list(range(n)) for d, n in site.numbers.items()} == {
        d: numbers for d, numbers in first_copies.items() if d in site.numbers
    }


def assert_sealed_as_acknowledged(site: Site) -> None:
    """After the day is sealed, the set of the receipts is the set of what is sealed."""
    site.world.close()
    site.world.seal(TENANT)
    assert site.world.verify(TENANT).findings == []
    found = site.check()
    assert found["clean"]
    assert found["acknowledged"] == found["rows"] >= sum(site.numbers.values())


def test_row_10_a_cut_uplink_is_shown_spooled_over_and_replayed_in_order(tmp_path: Path) -> None:
    with open_site(tmp_path) as site:
        for device in ("pump-1", "pump-2"):
            site.say(device, 3)
        site.send()
        assert site.metrics()[CONNECTED] == 1
        before = len(site.arrived())

        site.cut()
        for _ in range(5):
            site.world.clock.advance(HOUR_MS)
            for device in ("pump-1", "pump-2", "pump-3"):
                site.say(device, 4)
            site.send(1)
        # Signal.
        shown = site.metrics()
        assert shown[CONNECTED] == 0
        assert shown["audit_edge_backlog_events"] == 60
        assert shown["audit_edge_spool_hours"] >= 5
        assert "no answer" in site.uplink.status().trouble
        assert len(site.arrived()) == before

        # Recovery: in order, and nobody has to do anything.
        site.connect()
        site.say("pump-4", 2)
        site.send()
        shown = site.metrics()
        assert shown[CONNECTED] == 1
        assert shown["audit_edge_backlog_events"] == 0
        assert shown["audit_edge_replay_progress_ratio"] == 1
        assert_all_arrived_in_order(site)
        assert site.kept() > 0
        site.archive()
        assert site.kept() == 0
        assert_sealed_as_acknowledged(site)


def test_row_10_an_edge_that_is_restarted_while_the_uplink_is_cut_loses_nothing(
    tmp_path: Path,
) -> None:
    with open_site(tmp_path) as site:
        site.say("pump-1", 3)
        site.send()
        site.cut()
        site.say("pump-1", 3)
        site.send(1)
        site.stop()
        site.start()
        site.say("pump-1", 3)
        site.say("pump-2", 3)
        site.send(1)
        assert site.metrics()[CONNECTED] == 0
        site.connect()
        site.send()
        assert_all_arrived_in_order(site)
        site.archive()
        assert site.kept() == 0
        assert_sealed_as_acknowledged(site)
