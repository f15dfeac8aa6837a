"""`snapshot_hot`, `restore_hot`, the drill, the life cycle: jobs that show what they did."""

from collections.abc import Mapping

import dagster as dg
import pytest

from audit_platform.defs import attempts, hot_snapshots
from audit_platform.defs.hot import HOLDS_THE_DAY, HOT_INDEX
from audit_platform.defs.hot_life import NOT_STUCK
from audit_platform.defs.hot_snapshots import IS_FRESH, snapshot_stale
from audit_platform.operations.hot_check import INDEX_DAYS, check_hot
from audit_platform.operations.hot_snapshots import STALE_MS, newest
from audit_platform.record.layout import MS_PER_DAY
from audit_platform_tests.defs.conftest import Orchestra, evaluations, materializations, words_of
from audit_platform_tests.defs.test_hot import drop, indexed, run_keys
from audit_platform_tests.world import DAY


def launch(
    orchestra: Orchestra, job: str, config: Mapping[str, object] | None = None
) -> dg.ExecuteInProcessResult:
    return orchestra.definitions.resolve_job_def(job).execute_in_process(
        instance=orchestra.instance, run_config=dict(config or {}), raise_on_error=False
    )


def look(orchestra: Orchestra) -> dg.SensorResult:
    """One tick of the sensor, its cursor kept."""
    with dg.build_sensor_context(
        orchestra.instance,
        cursor=orchestra.cursor,
        resources={"platform": orchestra.world.platform},
    ) as context:
        result = snapshot_stale(context)
    assert isinstance(result, dg.SensorResult)
    orchestra.cursor = result.cursor
    return result


def told(result: dg.SensorResult) -> list[bool]:
    """What a tick said of the check, if anything."""
    found = []
    for event in result.asset_events:
        assert isinstance(event, dg.AssetCheckEvaluation)
        found.append(event.passed)
    return found


def test_snapshots_that_stop_coming_turn_the_check_red_once_and_one_is_asked_for(
    orchestra: Orchestra,
) -> None:
    world = orchestra.world
    assert "nothing to snapshot" in words_of(look(orchestra))
    indexed(world, DAY)
    asked = look(orchestra)
    assert (run_keys(asked), told(asked)) == (["hot_snapshot:none:1"], [False])
    assert told(look(orchestra)) == []
    run = launch(orchestra, "snapshot_hot")
    assert run.success
    assert evaluations(run)[IS_FRESH, "None"].passed
    assert materializations(run)["hot_snapshot", "None"]["indexes"].value == 1
    fresh = look(orchestra)
    assert (run_keys(fresh), told(fresh)) == ([], [True])
    world.clock.ms += STALE_MS
    stale = look(orchestra)
    found = newest(world.platform)
    assert found is not None
    assert (run_keys(stale), told(stale)) == ([f"hot_snapshot:{found.name}:1"], [False])


def test_a_lost_index_is_restored_by_two_fields_and_proved(orchestra: Orchestra) -> None:
    world = orchestra.world
    indexed(world, DAY)
    name = materializations(launch(orchestra, "snapshot_hot"))["hot_snapshot", "None"]["name"].value
    drop(world)
    config = {"ops": {"restore": {"config": {"tenant": "north", "hours": 24}}}}
    run = launch(orchestra, "restore_hot", config)
    assert run.success
    shown = materializations(run)[HOT_INDEX, f"{DAY}|north"]
    assert (shown["snapshot"].value, shown["documents"].value) == (name, 16)
    assert shown["objective_seconds"].value == 4 * 3600
    assert evaluations(run)[HOLDS_THE_DAY, f"{DAY}|north"].passed
    assert check_hot(world.platform, "north", DAY).passed
    other = launch(orchestra, "restore_hot", {"ops": {"restore": {"config": {"tenant": "x"}}}})
    assert not other.success


def test_the_drill_shows_minutes_beside_the_objective_and_fails_where_a_day_is_not_whole(
    orchestra: Orchestra, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = orchestra.world
    monkeypatch.setattr(attempts, "RETRY_SECONDS", 0.0)
    indexed(world, DAY)
    assert launch(orchestra, "snapshot_hot").success
    before = world.platform.hot.indexes()
    run = launch(orchestra, "restore_drill")
    assert run.success
    (shown,) = (
        e.asset_observation_data.asset_observation
        for e in run.all_events
        if e.event_type_value == "ASSET_OBSERVATION"
    )
    minutes = float(str(shown.metadata["restore_minutes"].value))
    assert shown.metadata["noticing_minutes"].value == 1.0
    assert 1.0 <= minutes < 240
    assert shown.metadata["objective_minutes"].value == 240
    assert shown.metadata["rows_read"].value == 16
    monkeypatch.setattr(hot_snapshots, "OBJECTIVE_SECONDS", 1)
    assert not launch(orchestra, "restore_drill").success
    monkeypatch.undo()
    (part,) = (world.objects_folder / "cold").rglob("part-*.parquet")
    part.write_bytes(b"PAR1" + bytes(part.stat().st_size - 4))
    assert not launch(orchestra, "restore_drill").success
    assert world.platform.hot.indexes() == before


def test_the_life_cycle_shows_a_stuck_index_and_moves_on_when_its_cause_is_mended(
    orchestra: Orchestra,
) -> None:
    world = orchestra.world
    indexed(world, DAY)
    (found,) = (i for i in world.platform.hot.indexes("north") if i.day == DAY)
    hashes = world.platform.hot.hashes("north", DAY, found.generation)
    world.clock.ms += (INDEX_DAYS + 1) * MS_PER_DAY
    world.platform.hot.remove("north", DAY, found.generation, [hashes[0].tobytes()])
    run = launch(orchestra, "hot_life")
    assert not run.success
    red = evaluations(run)[NOT_STUCK, "None"]
    assert (red.passed, red.metadata["stuck"].value) == (False, 1)
    assert "delete: 1 events are lacking" in (red.description or "")
    config = {"ops": {"rebuild": {"config": {"tenant": "north", "days": [DAY]}}}}
    assert launch(orchestra, "rebuild_hot", config).success
    run = launch(orchestra, "hot_life")
    assert run.success
    assert evaluations(run)[NOT_STUCK, "None"].metadata["indexes_deleted"].value == 1
    assert [i for i in world.platform.hot.indexes("north") if i.day == DAY] == []
