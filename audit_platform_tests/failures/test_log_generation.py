"""The log loses records that were acknowledged; the edge's copies and the digests save them.

The whole loop over real sockets: an edge with its spool, ingest-gateway, archive, seal. The log is
changed on disk while no process has it open, as an unclean election changes it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_platform.adapters.directory import DirectorySource
from audit_platform.killpoints import Killpoint
from audit_platform.operations.generations import generations
from audit_platform.operations.log_check import check
from audit_platform.operations.open_generation import open_generation
from audit_platform.operations.reconcile import reconcile
from audit_platform.operations.verify import trusted_keys
from audit_platform.ports import NewRecord
from audit_platform.record import fsck
from audit_platform.record.event import stored_line
from audit_platform.record.layout import EVENTS_TOPIC, day_start_ms, next_day
from audit_platform_tests.failures.installation import DAY as INSTALLED_DAY
from audit_platform_tests.failures.installation import Installation, installation
from audit_platform_tests.failures.site import Site, open_site
from audit_platform_tests.operations.lost_log import (
    add_partitions,
    archive_platform,
    lose_tail,
    make_topic_anew,
)
from audit_platform_tests.services.edge_world import TENANT
from audit_platform_tests.world import DAY, Edge

KILLED = -signal.SIGKILL


def lose(change: Callable[[Site], object], site: Site) -> None:
    """Change the log while neither the gateway nor anything else has it open."""
    site.cut()
    change(site)
    site.connect()


def finish(site: Site) -> None:
    """Archive and ask until the edge need not keep anything, then seal and judge."""
    for _ in range(6):
        site.archive()
        if not site.kept():
            break
    assert site.kept() == 0
    for day in (DAY, next_day(DAY)):
        site.world.close(day)
        site.world.seal(TENANT, day)
        assert site.world.verify(TENANT, day).findings == []
    found = site.check()
    assert found["clean"], found
    assert found["acknowledged"] == found["rows"] >= sum(site.numbers.values())
    counted = reconcile(site.world.platform)
    assert counted.findings == []
    assert (counted.unaccounted, counted.lost, counted.doubled) == (0, 0, 0)
    keys = trusted_keys(site.world.platform)
    report = fsck.check(DirectorySource(site.world.objects_folder), keys)
    assert report.findings == []


def test_a_log_refilled_past_the_archived_end_is_found_and_nothing_acknowledged_is_lost(
    tmp_path: Path,
) -> None:
    with open_site(tmp_path) as site:
        devices = [f"pump-{n}" for n in range(6)]
        for _ in range(3):
            for device in devices:
                site.say(device)
            site.send(1)
        site.world.archive()
        for device in devices:
            site.say(device, 2)
        site.send(1)  # acknowledged, not archived
        covered = site.world.platform.log.bounds(EVENTS_TOPIC, 0)[1]
        lose(lambda s: lose_tail(s.world, 0, 1), site)
        for _ in range(covered + 2):
            for device in devices:
                site.say(device)
            site.send(1)
        assert site.world.platform.log.bounds(EVENTS_TOPIC, 0)[1] > covered
        kept = site.kept()
        site.archive()
        # Seen, and nothing is let go of that only the edge has.
        assert [(b.partition, b.trouble.value) for b in check(site.world.platform)] == [
            (0, "digest")
        ]
        assert 0 < site.kept() <= kept
        open_generation(site.world.platform)
        finish(site)


@pytest.mark.parametrize("partitions", [2, 3])
def test_a_topic_made_anew_is_refused_by_ingest_until_its_generation_is_opened(
    tmp_path: Path, partitions: int
) -> None:
    with open_site(tmp_path) as site:
        for n in range(4):
            site.say(f"pump-{n}", 2)
        site.send(1)
        site.world.archive()
        for n in range(4):
            site.say(f"pump-{n}", 2)
        site.send(1)
        lose(lambda s: make_topic_anew(s.world, partitions), site)
        site.say("pump-9", 3)
        site.send(1)
        assert "log generation 1 names" in site.uplink.status().trouble
        assert site.arrived() == []
        open_generation(site.world.platform)
        site.send()
        assert site.arrived() != []
        finish(site)


def test_more_partitions_are_used_only_once_their_generation_is_opened(tmp_path: Path) -> None:
    with open_site(tmp_path) as site:
        for n in range(8):
            site.say(f"pump-{n}", 2)
        site.send(1)
        site.world.archive()
        before = len(site.arrived())
        lose(lambda s: add_partitions(s.world, 4), site)
        site.say("pump-0", 2)
        site.send(1)
        assert len(site.arrived()) == before
        open_generation(site.world.platform)
        for n in range(8):
            site.say(f"pump-{n}", 2)
        site.send()
        log = site.world.platform.log
        assert any(log.bounds(EVENTS_TOPIC, p)[1] for p in (2, 3))
        finish(site)


# ------------------------------------------------------------------------------- kill -9

OPENING = [
    (Killpoint.PARTITION_CLOSED, 2),
    (Killpoint.GENERATION_CLOSED, 1),
    (Killpoint.GENERATION_OPENED, 1),
]


@pytest.mark.parametrize(("point", "nth"), OPENING)
def test_the_opening_dies_and_the_next_one_ends_with_one_generation(
    point: Killpoint, nth: int, tmp_path: Path
) -> None:
    with installation(tmp_path) as made:
        archived(made)
        made.cli(
            "generation", "open", "--reason", "store",
            expect=[KILLED], AUDIT_KILL_AT=f"{point}:{nth}",
        )  # fmt: skip
        if point is not Killpoint.GENERATION_OPENED:
            made.cli("generation", "open")
        with made.platform() as opened:
            assert [g.number for g in generations(opened)] == [1, 2]
            assert check(opened) == []
            archive_platform(opened)
            assert reconcile(opened).ok


def archived(made: Installation) -> None:
    """Some events, archived."""
    edge = Edge(TENANT)
    start = day_start_ms(INSTALLED_DAY)
    lines = [edge.start(start), *edge.heartbeats(2, 4, start)]
    stored = b"".join(
        stored_line(e, f"{INSTALLED_DAY}T12:00:00.000Z".encode()) + b"\n" for e in lines
    )
    headers = {"v": "1", "tenant": TENANT, "count": str(len(lines))}
    with made.platform() as opened:
        opened.log.append(EVENTS_TOPIC, [NewRecord(0, stored, headers)])
        archive_platform(opened)
