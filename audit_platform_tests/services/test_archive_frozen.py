"""Two archive-writers as OS processes: one freezes in the middle of a commit and is thawed later.

The writer stops itself (SIGSTOP) at a chosen call of its object store, so each moment of a commit
is met exactly. Its lease passes, a second process archives on, then the first goes on where it
stood: it may still write, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.groups import LEASE_SECONDS
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.adapters.faulty import Fault, Faults, faulty
from audit_platform.errors import StoreUnavailable
from audit_platform.operations.reconcile import reconcile
from audit_platform.ports import ObjectVersion
from audit_platform.services.archive_writer import METRICS, ArchiveWriter
from audit_platform.settings import Settings
from audit_platform.telemetry import Telemetry
from audit_platform.wiring import open_platform
from audit_platform_tests.actor import SharedSeconds, actor, freeze_myself
from audit_platform_tests.clocks import ManualClock
from audit_platform_tests.world import World, open_world

TENANT = "north"
RANGES = "landing/v1/ranges/"


class Writer:
    """One archive-writer over an installation's folder; it freezes at one call of its store."""

    def __init__(self, settings: Settings, seconds: SharedSeconds, freeze_at: int = 0) -> None:
        clock = ManualClock()
        self._platform = open_platform(settings, clock=clock)
        self._log = EmbeddedLog(
            settings.log_folder, RealFiles(), clock, settings.partitions, monotonic=seconds
        )
        self._faults = Faults({freeze_at: Fault.DELAY}, wait=freeze_myself)
        self._writer = ArchiveWriter(
            replace(
                self._platform,
                log=self._log,
                objects=faulty(self._platform.objects, StoreUnavailable, self._faults),
            ),
            Telemetry(METRICS),
            member="second" if freeze_at == 0 else "frozen",
            range_seconds=0.0,
            range_bytes=1 << 26,
            monotonic=seconds,
        )

    def run(self) -> list[str]:
        """Archive all there is; the calls of the store so far."""
        while self._writer.step():
            pass
        assert (self._writer.waiting_for, self._writer.stopped) == ("", {})
        return self._faults.calls

    def close(self) -> None:
        """End it without leaving the group, as a killed one does."""
        self._log.close()
        self._platform.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path / "home", partitions=1) as opened:
        yield opened


@pytest.fixture
def seconds(tmp_path: Path) -> SharedSeconds:
    made = SharedSeconds(tmp_path / "seconds")
    made.advance(0)
    return made


def ranges(world: World) -> list[ObjectVersion]:
    return list(world.platform.objects.versions(RANGES))


#: The n-th put of the first run: the generation, a landing object, the range record (the claim);
#: then what reads the claim back.
MOMENTS = [("put", 1), ("put", 2), ("put", 3), ("get", -1)]


@pytest.mark.parametrize(("name", "nth"), MOMENTS)
def test_a_writer_process_frozen_in_a_commit_and_thawed_changes_nothing(
    world: World, seconds: SharedSeconds, tmp_path: Path, name: str, nth: int
) -> None:
    with open_world(tmp_path / "rehearsal", partitions=1) as rehearsal:
        edge = rehearsal.edge(TENANT)
        rehearsal.ingest(TENANT, [edge.start(rehearsal.clock.now_ms())])
        alone = Writer(rehearsal.settings, seconds)
        calls = alone.run()
        alone.close()
    places = [number for number, called in enumerate(calls, 1) if called == name]
    moment = places[nth - 1 if nth > 0 else nth]

    edge = world.edge(TENANT)
    world.ingest(TENANT, [edge.start(world.clock.now_ms())])
    with actor(partial(Writer, world.settings, seconds, moment)) as frozen:
        frozen.tell(Writer.run)
        frozen.wait_frozen()
        world.ingest(TENANT, edge.heartbeats(3, 4, world.clock.now_ms()))
        seconds.advance(LEASE_SECONDS)
        second = Writer(world.settings, seconds)
        second.run()
        before = ranges(world)
        assert before
        frozen.thaw()
        frozen.answer()
        assert ranges(world) == before
        # Both go on: what comes now is archived once, whoever has the partition.
        world.ingest(TENANT, edge.heartbeats(3, 2, world.clock.now_ms()))
        second.run()
        frozen.ask(Writer.run)
        second.close()
    world.close()
    assert world.seal(TENANT).rows == 19
    assert world.verify(TENANT).exit_code == 0
    counted = reconcile(world.platform)
    assert (counted.ok, counted.unaccounted, counted.lost, counted.doubled) == (True, 0, 0, 0)
