"""Days are closed once, in order, not before their end and grace, at where the log then ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.errors import SealRefused
from audit_platform.operations.claims import claim
from audit_platform.operations.closing import (
    close_day,
    closed_days,
    closing_of,
    closings,
    due_days,
)
from audit_platform.operations.generations import ensure_generation
from audit_platform.record.layout import (
    DLQ_TOPIC,
    EVENTS_TOPIC,
    MS_PER_DAY,
    closing_key,
    day_of,
    next_day,
)
from audit_platform.record.ranges import ClosedPartition, Closing
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.services.archive_world import World, stored

GRACE = 600_000
TODAY = day_of(START_MS)
EARLY = "2000-01-01"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fresh world."""
    made = World(tmp_path)
    yield made
    made.close()


def test_a_day_is_due_when_its_end_and_the_grace_have_passed(world: World) -> None:
    world.send(stored(1).lines)
    world.clock.ms = START_MS + MS_PER_DAY + GRACE - 1
    assert due_days(world.platform, GRACE, EARLY) == []
    world.clock.advance(1)
    assert due_days(world.platform, GRACE, EARLY) == [TODAY]


def test_days_are_due_from_the_first_record_of_the_log_on_empty_ones_too(world: World) -> None:
    world.send(stored(1).lines, partition=1)
    world.clock.advance(3 * MS_PER_DAY + GRACE)
    world.send(stored(1).lines, partition=0)
    ensure_generation(world.platform)  # opened three days after the first record
    wanted = [TODAY, next_day(TODAY), next_day(TODAY, 2)]
    assert due_days(world.platform, GRACE, EARLY) == wanted


def test_without_any_data_days_are_due_from_the_opening_of_the_generation_on(
    world: World,
) -> None:
    ensure_generation(world.platform)
    world.clock.advance(2 * MS_PER_DAY + GRACE)
    assert due_days(world.platform, GRACE, EARLY) == [TODAY, next_day(TODAY)]


def test_no_day_is_due_before_the_first_day_that_is_asked_for(world: World) -> None:
    world.send(stored(1).lines)
    world.clock.advance(3 * MS_PER_DAY + GRACE)
    assert due_days(world.platform, GRACE, next_day(TODAY, 2)) == [next_day(TODAY, 2)]
    assert due_days(world.platform, GRACE, next_day(TODAY, 3)) == []


def test_a_clock_of_1970_in_an_event_makes_no_old_day_due(world: World) -> None:
    world.send(stored(1, ingested_ms=0).lines)
    world.archive()
    world.clock.advance(MS_PER_DAY + GRACE)
    assert due_days(world.platform, GRACE, EARLY) == [TODAY]


def test_after_a_closing_the_next_day_is_due(world: World) -> None:
    world.clock.advance(MS_PER_DAY + GRACE)
    close_day(world.platform, TODAY, GRACE)
    assert due_days(world.platform, GRACE, EARLY) == []
    world.clock.advance(2 * MS_PER_DAY)
    assert due_days(world.platform, GRACE, EARLY) == [next_day(TODAY), next_day(TODAY, 2)]


def test_days_begin_with_the_generation_when_retention_took_the_first_record(
    world: World,
) -> None:
    ensure_generation(world.platform)
    world.send(stored(1).lines)
    world.send(stored(1, first=1).lines)
    world.log.drop_before(EVENTS_TOPIC, 0, 1)
    world.clock.advance(MS_PER_DAY + GRACE)
    assert due_days(world.platform, GRACE, EARLY) == [TODAY]


def test_a_closing_keeps_the_end_of_every_partition_of_both_topics(world: World) -> None:
    for n in range(3):
        world.send(stored(1, first=n).lines, partition=1)
    world.send_value(b"x", topic=DLQ_TOPIC)
    world.clock.advance(MS_PER_DAY + GRACE)
    closing = close_day(world.platform, TODAY, GRACE)
    assert closing == Closing(
        TODAY,
        world.clock.ms,
        (
            ClosedPartition(EVENTS_TOPIC, 1, 0, 0),
            ClosedPartition(EVENTS_TOPIC, 1, 1, 3),
            ClosedPartition(DLQ_TOPIC, 1, 0, 1),
            ClosedPartition(DLQ_TOPIC, 1, 1, 0),
        ),
    )
    assert closing_of(world.platform, TODAY) == closing
    assert closings(world.platform) == [closing]
    (locked,) = world.objects.versions("landing/v1/closed/")
    assert locked.retain_until_ms >= world.clock.ms + 2 * 365 * MS_PER_DAY


def test_a_day_that_is_not_over_is_not_closed(world: World) -> None:
    world.clock.ms = START_MS + MS_PER_DAY + GRACE - 1
    with pytest.raises(SealRefused, match="not over"):
        close_day(world.platform, TODAY, GRACE)
    assert closed_days(world.platform) == []


def test_closing_again_changes_nothing(world: World) -> None:
    world.clock.advance(MS_PER_DAY + GRACE)
    first = close_day(world.platform, TODAY, GRACE)
    world.send(stored(1).lines)
    world.clock.advance(1000)
    assert close_day(world.platform, TODAY, GRACE) == first


def test_of_two_that_close_a_day_at_once_the_second_adopts_the_firsts(world: World) -> None:
    world.clock.advance(MS_PER_DAY + GRACE)
    first = close_day(world.platform, TODAY, GRACE)
    late = Closing(TODAY, 1, first.partitions[:1])
    won = claim(world.objects, closing_key(TODAY), late.to_bytes(), world.clock.ms)
    assert Closing.from_bytes(won.key, won.data) == first


@pytest.mark.parametrize("days", [-1, 2])
def test_days_are_closed_one_after_the_other(world: World, days: int) -> None:
    world.clock.advance(5 * MS_PER_DAY)
    close_day(world.platform, TODAY, GRACE)
    with pytest.raises(SealRefused, match="not the day after"):
        close_day(world.platform, next_day(TODAY, days), GRACE)
    close_day(world.platform, next_day(TODAY), GRACE)
    assert closed_days(world.platform) == [TODAY, next_day(TODAY)]


def test_a_hidden_closing_record_still_counts(world: World) -> None:
    world.clock.advance(MS_PER_DAY + GRACE)
    closing = close_day(world.platform, TODAY, GRACE)
    world.objects.delete(closing_key(TODAY))
    assert closings(world.platform) == [closing]
