"""What the clock looks at: nothing lost, the archive in time, every day sealed."""

import dagster as dg
import pytest

from audit_platform.defs.archive_watch import archive_watch
from audit_platform.operations.coverage import versions_of_day
from audit_platform.record import layout
from audit_platform_tests.defs.conftest import Orchestra, evaluations
from audit_platform_tests.world import DAY, Edge, World


def run(orchestra: Orchestra, job: str) -> tuple[bool, dict[str, dg.AssetCheckEvaluation]]:
    done = orchestra.definitions.resolve_job_def(job).execute_in_process(
        instance=orchestra.instance, raise_on_error=False
    )
    return done.success, {name: e for (name, _), e in evaluations(done).items()}


def tick(orchestra: Orchestra) -> dict[str, dg.AssetCheckEvaluation]:
    with dg.build_sensor_context(
        orchestra.instance, resources={"platform": orchestra.world.platform}
    ) as context:
        result = archive_watch(context)
    assert isinstance(result, dg.SensorResult)
    assert not result.run_requests
    found = {}
    for event in result.asset_events:
        assert isinstance(event, dg.AssetCheckEvaluation)
        found[event.check_name] = event
    return found


def landed(world: World) -> Edge:
    """A day of one tenant, archived."""
    edge = world.edge("north")
    now = world.clock.now_ms()
    world.ingest("north", [edge.start(now), *edge.heartbeats(2, 2, now)])
    world.archive()
    return edge


def lose_an_object(world: World) -> str:
    """As if the store had lost it."""
    objects = world.platform.objects
    (version, *_) = versions_of_day(objects, layout.LANDING, "north", DAY)
    world.clock.advance(36 * layout.MS_PER_DAY)
    objects.delete(version.key, version.version_id)
    return version.key


def test_every_five_minutes_a_tick_counts_and_tells_a_late_archive(orchestra: Orchestra) -> None:
    world = orchestra.world
    edge = landed(world)
    assert all(e.passed for e in tick(orchestra).values())
    world.ingest("north", edge.heartbeats(1, 1, world.clock.now_ms()))
    world.clock.advance(601_000)
    late = tick(orchestra)
    assert late["ranges_follow_on_each_other"].passed
    assert not late["archive_keeps_up"].passed
    assert late["archive_keeps_up"].severity is dg.AssetCheckSeverity.ERROR
    assert "the oldest for 601 s" in (late["archive_keeps_up"].description or "")
    world.archive()
    assert all(e.passed for e in tick(orchestra).values())


def test_a_lost_object_is_red_at_the_next_tick_and_in_the_nightly_comparison(
    orchestra: Orchestra,
) -> None:
    landed(orchestra.world)
    success, before = run(orchestra, "reconcile")
    assert success
    assert before["nothing_acknowledged_is_lost"].metadata["rows_read"].value == 5
    key = lose_an_object(orchestra.world)
    red = tick(orchestra)["ranges_follow_on_each_other"]
    assert (red.passed, red.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert key in (red.description or "")
    success, after = run(orchestra, "reconcile")
    assert not success
    assert not after["nothing_acknowledged_is_lost"].passed
    assert int(str(after["nothing_acknowledged_is_lost"].metadata["lost"].value)) > 0


@pytest.mark.parametrize("job", ["reconcile", "inventory"])
def test_a_check_that_read_nothing_is_red(orchestra: Orchestra, job: str) -> None:
    success, found = run(orchestra, job)
    assert not success
    (only,) = found.values()
    assert not only.passed
    assert "zero" in (only.description or "")


def test_a_tick_without_any_range_is_not_green(orchestra: Orchestra) -> None:
    found = tick(orchestra)["ranges_follow_on_each_other"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_the_inventory_names_each_closed_day_that_is_not_sealed(orchestra: Orchestra) -> None:
    world = orchestra.world
    landed(world)
    world.edge("south")
    world.close(DAY)
    world.seal("north")
    success, found = run(orchestra, "inventory")
    assert not success
    table = found["every_closed_day_is_sealed_and_sound"].metadata["first_failed"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [(r.data["tenant"], r.data["day"]) for r in table.records] == [("south", DAY)]
    world.seal("south")
    assert run(orchestra, "inventory")[0]
