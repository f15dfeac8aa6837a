"""Landing stays locked while it is needed, and goes only when every event of it is sealed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.errors import SealRefused
from audit_platform.operations.coverage import versions_of_day
from audit_platform.operations.incidents import open_incident
from audit_platform.operations.judgement import judge_day
from audit_platform.operations.landing_life import (
    MARGIN_MS,
    expirable_days,
    expire_landing,
    keep_landing,
)
from audit_platform.operations.manifests import read_history
from audit_platform.operations.parts import DATA_LOCK_MS
from audit_platform.ports import ObjectVersion
from audit_platform.record import layout
from audit_platform_tests import attackers
from audit_platform_tests.failures.receipts import Receipts
from audit_platform_tests.world import DAY, World, open_world

NEXT = layout.next_day(DAY)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A day that landed and is closed."""
    with open_world(tmp_path / "home") as opened:
        edge = opened.edge("north")
        now = opened.clock.now_ms()
        opened.ingest("north", [edge.start(now), *edge.heartbeats(3, 4, now)])
        opened.archive()
        opened.close(DAY)
        yield opened


def landed(world: World) -> list[ObjectVersion]:
    return versions_of_day(world.platform.objects, layout.LANDING, "north", DAY)


def pass_days(world: World, days: int) -> None:
    world.clock.advance(days * layout.MS_PER_DAY)


def test_a_sealed_day_lets_its_landing_go_after_35_days_and_stays_green(
    tmp_path: Path,
) -> None:
    receipts = Receipts()
    with open_world(tmp_path / "home") as world:
        edge = world.edge("north")
        now = world.clock.now_ms()
        lines = [edge.start(now), *edge.heartbeats(3, 4, now)]
        receipts.took(lines)
        world.ingest("north", lines)
        world.archive()
        world.close(DAY)
        world.seal("north", DAY)
        _lets_go(world)
        assert receipts.check(world.objects_folder, tmp_path)["clean"]


def _lets_go(world: World) -> None:
    assert expirable_days(world.platform, "north") == []
    pass_days(world, 36)
    assert expirable_days(world.platform, "north") == [DAY]
    objects = len(landed(world))
    done = expire_landing(world.platform, "north", DAY)
    assert (done.events, done.objects, done.kept) == (13, objects, 0)
    assert landed(world) == []
    assert expirable_days(world.platform, "north") == []
    assert all(a.passed for a in judge_day(world.platform, "north", DAY).answers)


def test_a_young_day_keeps_its_landing(world: World) -> None:
    world.seal("north", DAY)
    pass_days(world, 34)
    with pytest.raises(SealRefused, match="not over by 35 days"):
        expire_landing(world.platform, "north", DAY)
    assert landed(world)


def test_an_unsealed_day_keeps_its_landing_locked_for_as_long_as_it_takes(world: World) -> None:
    for _ in range(3):
        pass_days(world, 30)
        (kept,) = keep_landing(world.platform, "north")
        assert (kept.day, kept.reason, kept.lengthened) == (
            DAY,
            "the day is not sealed",
            len(landed(world)),
        )
        least = world.clock.now_ms() + DATA_LOCK_MS
        assert all(v.retain_until_ms >= least for v in landed(world))
        assert [k.lengthened for k in keep_landing(world.platform, "north")] == [0]
    with pytest.raises(SealRefused, match="not sealed"):
        expire_landing(world.platform, "north", DAY)
    assert MARGIN_MS < DATA_LOCK_MS
    world.seal("north", DAY)
    assert keep_landing(world.platform, "north") == []


def test_a_day_with_an_open_incident_keeps_what_it_may_be_repaired_from(world: World) -> None:
    world.seal("north", DAY)
    (part,) = read_history(world.platform, "north").counting[DAY].parts
    attackers.flip(world.objects_folder / part.object.key, 100)
    assert open_incident(world.platform, judge_day(world.platform, "north", DAY)) is not None
    pass_days(world, 36)
    assert [k.reason for k in keep_landing(world.platform, "north")] == [
        "an incident of the day is open"
    ]
    with pytest.raises(SealRefused, match="incident"):
        expire_landing(world.platform, "north", DAY)
    assert landed(world)


def test_an_event_that_waits_for_a_revision_keeps_the_whole_day(world: World) -> None:
    world.seal("north", DAY)
    edge = world.edge("north", seed=1)
    late_ms = layout.day_end_ms(DAY) - 1
    world.ingest("north", [edge.start(late_ms)], at_ms=late_ms)
    world.archive()
    pass_days(world, 40)
    with pytest.raises(SealRefused, match="not every event that landed is sealed"):
        expire_landing(world.platform, "north", DAY)
    assert landed(world)


def test_what_is_held_or_still_locked_stays(world: World) -> None:
    world.seal("north", DAY)
    pass_days(world, 36)
    first, *others = landed(world)
    world.platform.objects.set_legal_hold(first.key, first.version_id, hold=True)
    done = expire_landing(world.platform, "north", DAY)
    assert (done.objects, done.kept) == (len(others), 1)
    assert [v.key for v in landed(world)] == [first.key]
