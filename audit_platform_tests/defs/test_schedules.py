"""Schedules of yesterday: for whom they ask, and where they run by themselves."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from audit_platform.defs.partitions import SETTINGS, TENANT
from audit_platform.defs.schedules import BY_ITSELF, verify_hot_yesterday, verify_yesterday
from audit_platform.record import layout
from audit_platform_tests.defs.conftest import Orchestra
from audit_platform_tests.world import DAY, open_world, sealed_day

NEXT = layout.next_day(DAY)


@pytest.fixture
def orchestra(tmp_path: Path) -> Iterator[Orchestra]:
    """With storage on disk: Dagster gives a schedule no other."""
    storage = tmp_path / "dagster"
    storage.mkdir()
    with open_world(tmp_path) as world, dg.DagsterInstance.local_temp(str(storage)) as instance:
        yield Orchestra(world, instance)


def requests(
    orchestra: Orchestra, schedule: dg.ScheduleDefinition = verify_yesterday
) -> list[dg.RunRequest | dg.SkipReason]:
    """What one tick at half past two asks for; each request is resolved for its job."""
    job = orchestra.definitions.resolve_job_def(schedule.job_name)
    with dg.build_schedule_context(
        orchestra.instance,
        scheduled_execution_time=datetime(2026, 3, 2, 2, 30, tzinfo=UTC),
        resources={"platform": orchestra.world.platform},
    ) as context:
        asked = schedule(context)
    assert isinstance(asked, Iterator)
    out: list[dg.RunRequest | dg.SkipReason] = []
    for item in asked:
        if isinstance(item, dg.RunRequest):
            item.with_resolved_tags_and_config(job, [], orchestra.instance)
        assert isinstance(item, dg.RunRequest | dg.SkipReason)
        out.append(item)
    return out


def test_it_asks_for_yesterday_of_every_tenant_that_was_there(orchestra: Orchestra) -> None:
    world = orchestra.world
    sealed_day(world, "north")  # the clock is on the next day now
    world.edge("south")  # came today: it has no yesterday
    world.clock.ms = layout.day_start_ms(NEXT) + 9_000_000
    (request,) = requests(orchestra)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == f"{DAY}|north"
    assert request.run_key == f"{DAY}|north:2026-03-02T02:30:00+00:00"
    assert request.tags["audit/cause"] == "verify_yesterday"
    # Tenants are partitions from here on, also where the sensor is switched off.
    assert set(orchestra.instance.get_dynamic_partitions(TENANT)) == {"north", "south"}
    result = orchestra.run("verify_day", "north", DAY)
    assert result.success


def test_a_day_that_was_never_sealed_is_asked_for_too_and_fails(orchestra: Orchestra) -> None:
    world = orchestra.world
    world.edge("north")
    world.clock.ms = layout.day_start_ms(NEXT) + 9_000_000
    (request,) = requests(orchestra)
    assert isinstance(request, dg.RunRequest)
    assert not orchestra.run("verify_day", "north", DAY).success


def test_yesterdays_indexes_that_are_read_are_held_against_the_record(
    orchestra: Orchestra,
) -> None:
    world = orchestra.world
    sealed_day(world, "north")
    world.index()
    world.edge("south")
    world.clock.ms = layout.day_start_ms(NEXT) + 9_000_000
    (request,) = requests(orchestra, verify_hot_yesterday)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == f"{DAY}|north"
    assert request.tags["audit/cause"] == "verify_hot_yesterday"
    assert orchestra.run("verify_hot", "north", DAY).success


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (verify_yesterday, "no tenant was there on "),
        (verify_hot_yesterday, f"no index of {layout.next_day(DAY, -1)} is read"),
    ],
)
def test_with_nothing_to_verify_they_say_so(
    orchestra: Orchestra, schedule: dg.ScheduleDefinition, words: str
) -> None:
    (skipped,) = requests(orchestra, schedule)
    assert isinstance(skipped, dg.SkipReason)
    assert str(skipped.skip_message).startswith(words)


@pytest.mark.parametrize("schedule", [verify_yesterday, verify_hot_yesterday])
def test_they_run_by_themselves_only_in_the_profiles_that_are_named(
    schedule: dg.ScheduleDefinition,
) -> None:
    running = schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert running == (SETTINGS.profile in BY_ITSELF)
