"""`verify_yesterday`: for whom it asks, and where it runs by itself."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from audit_platform.defs.partitions import SETTINGS, TENANT
from audit_platform.defs.schedules import BY_ITSELF, verify_yesterday
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


def requests(orchestra: Orchestra) -> list[dg.RunRequest | dg.SkipReason]:
    """What one tick at half past two asks for; each request is resolved for its job."""
    job = orchestra.definitions.resolve_job_def("verify_day")
    with dg.build_schedule_context(
        orchestra.instance,
        scheduled_execution_time=datetime(2026, 3, 2, 2, 30, tzinfo=UTC),
        resources={"platform": orchestra.world.platform},
    ) as context:
        asked = verify_yesterday(context)
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


def test_without_tenants_it_says_so(orchestra: Orchestra) -> None:
    (skipped,) = requests(orchestra)
    assert isinstance(skipped, dg.SkipReason)
    assert str(skipped.skip_message).startswith("no tenant was there on ")


def test_it_runs_by_itself_only_in_the_profiles_that_are_named() -> None:
    running = verify_yesterday.default_status is dg.DefaultScheduleStatus.RUNNING
    assert running == (SETTINGS.profile in BY_ITSELF)
