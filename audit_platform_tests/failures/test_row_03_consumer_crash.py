"""Row 3: an instance of a consumer group crashes; lag rises, another takes over, nothing is lost.

The instances are in one process; death by SIGKILL at each step is in `test_killpoints.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.groups import LEASE_SECONDS
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.operations.reconcile import reconcile
from audit_platform.record import layout
from audit_platform.services.archive_writer import METRICS, ArchiveWriter
from audit_platform.telemetry import Telemetry
from audit_platform_tests.failures.receipts import Receipts
from audit_platform_tests.world import World, open_world

TENANT = "north"
RANGE_SECONDS = 60.0


class Group:
    """Two instances of archive-writer on real seconds that a test sets."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seconds = 1000.0
        self.log = EmbeddedLog(
            world.folder / "log",
            RealFiles(),
            world.clock,
            2,
            monotonic=lambda: self.seconds,
            boot="this",
        )
        world.platform = replace(world.platform, log=self.log)
        self.telemetry = {name: Telemetry(METRICS) for name in ("first", "second")}
        self.writers = {name: self._writer(name) for name in self.telemetry}

    def _writer(self, name: str) -> ArchiveWriter:
        return ArchiveWriter(
            self.world.platform,
            self.telemetry[name],
            member=name,
            range_seconds=RANGE_SECONDS,
            range_bytes=1 << 26,
            monotonic=lambda: self.seconds,
        )

    def turn(self, *names: str, seconds: float = LEASE_SECONDS / 4) -> None:
        """A few seconds pass, in which these instances are at work."""
        self.seconds += seconds
        for name in names:
            self.writers[name].step()

    def lag(self, name: str) -> int:
        """Log records of events that an instance tells to be behind, over its partitions."""
        text = self.telemetry[name].text().decode()
        prefix = 'kafka_consumergroup_lag{group="archive-writer"'
        lines = [x for x in text.splitlines() if x.startswith(prefix) and layout.EVENTS_TOPIC in x]
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    with open_world(tmp_path / "home") as world:
        made = Group(world)
        yield made
        made.log.close()


def test_row_03_the_other_instance_takes_over_and_every_receipt_is_sealed(
    group: Group, tmp_path: Path
) -> None:
    world, receipts = group.world, Receipts()
    edge = world.edge(TENANT)

    def send(each: int) -> None:
        lines = edge.heartbeats(8, each, world.clock.now_ms())
        world.ingest(TENANT, lines)
        receipts.took(lines)

    start = [edge.start(world.clock.now_ms())]
    world.ingest(TENANT, start)
    receipts.took(start)
    for _ in range(4):
        group.turn("first", "second")
    send(3)
    group.turn("first", "second")  # both have read and committed nothing yet
    # The first one is gone: no step, no goodbye. Its partition is nobody's until its lease is over.
    send(2)
    group.turn("second")
    behind = group.lag("second")
    assert world.platform.log.bounds(layout.EVENTS_TOPIC, 0)[1] > 0
    # Signal: the one that takes over tells the lag of what the dead one left, then burns it down.
    for _ in range(6):
        group.turn("second")
    assert group.lag("second") > behind > 0
    send(1)
    for _ in range(int(RANGE_SECONDS / LEASE_SECONDS * 4) + 4):
        group.turn("second")
    assert group.lag("second") == 0
    world.close()
    world.seal(TENANT)
    found = receipts.check(world.objects_folder, tmp_path)
    assert found["clean"]
    assert (found["acknowledged"], found["rows"]) == (49, 49)
    assert reconcile(world.platform).ok


def test_row_03_an_instance_that_comes_back_gets_its_share_again(group: Group) -> None:
    for _ in range(4):
        group.turn("first", "second")
    for _ in range(6):
        group.turn("second")
    assert {p for _, p in group.writers["second"]._partitions} == {0, 1}
    for _ in range(4):
        group.turn("first", "second")
    shares = [{p for _, p in group.writers[n]._partitions} for n in ("first", "second")]
    assert sorted(map(sorted, shares)) == [[0], [1]]
