"""The life of an index: merged, deleted when proved; what fails is shown and tried again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.operations.hot_check import HOT_DAYS, INDEX_DAYS
from audit_platform.operations.hot_life import Life, LifeStep, State, bring_on, lives
from audit_platform.ports import IndexName
from audit_platform.record.layout import MS_PER_DAY
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.hot_rows import Event, batch
from audit_platform_tests.world import DAY, World, open_world

INDEX = IndexName("north", DAY, 1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A tenant's day: archived, indexed, not sealed."""
    with open_world(tmp_path) as opened:
        edge = opened.edge("north")
        opened.ingest("north", [edge.start(START_MS), *edge.heartbeats(2, 5, START_MS)])
        opened.index()
        opened.archive()
        yield opened


def night(world: World, days: int) -> Life:
    """So many days after the day, the index is brought on."""
    world.clock.ms = max(world.clock.ms, START_MS + days * MS_PER_DAY)
    (life,) = lives(world.platform)
    return bring_on(world.platform, life)


def test_an_index_is_merged_after_thirty_days_and_deleted_after_ninety(world: World) -> None:
    world.close()
    world.seal("north")
    assert night(world, HOT_DAYS) == Life(INDEX, State.HOT, LifeStep.NONE)
    assert night(world, HOT_DAYS + 1) == Life(INDEX, State.WARM, LifeStep.NONE)
    assert len(world.platform.hot.hashes(*INDEX)) == 11
    assert night(world, INDEX_DAYS) == Life(INDEX, State.WARM, LifeStep.NONE)
    assert night(world, INDEX_DAYS + 1) == Life(INDEX, State.DELETED, LifeStep.NONE)
    assert world.platform.hot.indexes() == []


def test_a_day_that_is_not_sealed_keeps_its_index_and_says_why_until_it_is(world: World) -> None:
    stuck = night(world, INDEX_DAYS + 1)
    assert stuck == Life(INDEX, State.HOT, LifeStep.DELETE, "delete: the day is not sealed")
    assert lives(world.platform) == [stuck]  # the index itself says so
    world.close()
    world.seal("north")
    assert night(world, INDEX_DAYS + 1).state is State.DELETED


def test_an_event_that_only_the_index_has_keeps_it(world: World) -> None:
    world.close()
    world.seal("north")
    foreign = Event(event_time=START_MS, ingestion_time=START_MS)
    world.platform.hot.create("north", DAY, batch([foreign]))
    stuck = night(world, INDEX_DAYS + 1)
    assert stuck.error == "delete: 0 events are lacking, 1 are foreign"
    assert len(world.platform.hot.hashes(*INDEX)) == 12


def test_a_damaged_index_is_stuck_and_goes_on_when_it_is_mended(world: World) -> None:
    (file,) = world.settings.hot_folder.glob("*.db")
    whole = file.read_bytes()
    world.platform.close()
    file.write_bytes(bytes(len(whole)))
    stuck = night(world, HOT_DAYS + 1)
    assert (stuck.state, stuck.due) == (State.HOT, LifeStep.MERGE)
    assert "merge: hot.north" in stuck.error
    world.platform.close()
    file.write_bytes(whole)
    assert night(world, HOT_DAYS + 1) == Life(INDEX, State.WARM, LifeStep.NONE)


def test_every_generation_of_a_day_goes_with_it(world: World) -> None:
    world.close()
    world.seal("north")
    world.platform.hot.new_index("north", DAY)
    assert night(world, INDEX_DAYS + 1).state is State.DELETED
    assert world.platform.hot.indexes() == []
