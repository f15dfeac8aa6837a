"""`rebuild_hot`, `hot_repair`, and the check of an index: HOT is mended without a hand."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from audit_platform.defs import attempts, hot
from audit_platform.defs.hot import HOLDS_THE_DAY, HOT_INDEX, RebuildHot, hot_repair
from audit_platform.operations.generations import ensure_generation
from audit_platform.operations.hot_check import HotFaultKind, check_hot, hot_faults
from audit_platform.operations.hot_watch import kept_reader
from audit_platform.operations.query.reader import Reader
from audit_platform.record import layout
from audit_platform_tests.defs.conftest import Orchestra, evaluations, materializations, words_of
from audit_platform_tests.hot_rows import Event, batch
from audit_platform_tests.world import DAY, World, open_world

NEXT = layout.next_day(DAY)


def indexed(world: World, *days: str) -> None:
    """A day or more of one tenant: archived, indexed, sealed."""
    edge = world.edge("north")
    for day in days:
        now = world.clock.now_ms()
        lines = [*([edge.start(now)] if day == days[0] else []), *edge.heartbeats(3, 5, now)]
        world.ingest("north", lines)
        world.index()
        world.archive()
        world.close(day)
        world.seal("north", day)


def drop(world: World, day: str = DAY) -> None:
    """Somebody deletes the tenant's index of a day."""
    for index in world.platform.hot.indexes("north"):
        if index.day == day:
            world.platform.hot.delete_index("north", day, index.generation)


def look(orchestra: Orchestra) -> dg.SensorResult:
    """One tick of the sensor, its cursor kept."""
    with dg.build_sensor_context(
        orchestra.instance,
        cursor=orchestra.cursor,
        resources={"platform": orchestra.world.platform},
    ) as context:
        result = hot_repair(context)
    assert isinstance(result, dg.SensorResult)
    orchestra.cursor = result.cursor
    return result


def rebuild(
    orchestra: Orchestra, config: Mapping[str, object], tags: Mapping[str, str] | None = None
) -> dg.ExecuteInProcessResult:
    return orchestra.definitions.resolve_job_def("rebuild_hot").execute_in_process(
        instance=orchestra.instance,
        run_config={"ops": {"rebuild": {"config": dict(config)}}},
        tags=dict(tags or {}),
        raise_on_error=False,
    )


def answer(orchestra: Orchestra, result: dg.SensorResult) -> list[dg.ExecuteInProcessResult]:
    """Run what a tick asked for, with its tags, as the daemon would."""
    ran = []
    for request in result.run_requests or []:
        config = request.run_config["ops"]["rebuild"]["config"]
        ran.append(rebuild(orchestra, config, request.tags))
    return ran


def run_keys(result: dg.SensorResult) -> Sequence[str | None]:
    return [r.run_key for r in result.run_requests or []]


def test_a_deleted_index_is_noticed_rebuilt_and_proved_and_so_again_an_hour_later(
    orchestra: Orchestra,
) -> None:
    world = orchestra.world
    indexed(world, DAY)
    assert words_of(look(orchestra)) == "every index holds what the record names"
    for time in (1, 2):
        drop(world)
        asked = look(orchestra)
        assert run_keys(asked) == [f"{DAY}|north:{time}:1"]
        (run,) = answer(orchestra, asked)
        assert run.success
        assert materializations(run)[HOT_INDEX, f"{DAY}|north"]["documents"].value == 16
        assert evaluations(run)[HOLDS_THE_DAY, f"{DAY}|north"].passed
        assert check_hot(world.platform, "north", DAY).passed
        assert run_keys(look(orchestra)) == []


def test_a_short_index_is_rebuilt_when_it_stays_short(orchestra: Orchestra) -> None:
    world = orchestra.world
    indexed(world, DAY)
    (index,) = world.platform.hot.indexes("north")
    hashes = world.platform.hot.hashes("north", DAY, index.generation)
    world.platform.hot.remove("north", DAY, index.generation, [hashes[0].tobytes()])
    assert "15 of 16 rows are indexed; looking again" in words_of(look(orchestra))
    asked = look(orchestra)
    assert run_keys(asked) == [f"{DAY}|north:1:1"]
    (run,) = answer(orchestra, asked)
    assert materializations(run)[HOT_INDEX, f"{DAY}|north"]["old_index_lacked"].value == 1
    assert run_keys(look(orchestra)) == []


def test_copies_that_landed_twice_are_no_reason_to_rebuild_for_ever(orchestra: Orchestra) -> None:
    world = orchestra.world
    edge = world.edge("north")
    lines = [edge.start(world.clock.now_ms())]
    world.ingest("north", lines)
    world.ingest("north", lines)
    world.index()
    world.archive()
    (fault,) = hot_faults(world.platform, Reader(world.platform), "north")
    assert (fault.kind, fault.documents, fault.known) == (HotFaultKind.SHORT, 1, 2)
    look(orchestra)
    (run,) = answer(orchestra, look(orchestra))
    assert run.success
    assert [run_keys(look(orchestra)) for _ in range(3)] == [[], [], []]


def test_a_repair_that_fails_is_tried_again_and_then_left_to_a_person(
    orchestra: Orchestra, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = orchestra.world
    indexed(world, DAY)
    drop(world)
    (part,) = (world.objects_folder / "cold").rglob("part-*.parquet")
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(attempts, "RETRY_SECONDS", 0.0)
    for attempt in range(1, attempts.MAX_ATTEMPTS + 1):
        orchestra.cursor = None
        drop(world)
        asked = look(orchestra)
        assert run_keys(asked) == [f"{DAY}|north:1:{attempt}"]
        (run,) = answer(orchestra, asked)
        assert not run.success
    drop(world)
    assert f"gave up after {attempts.MAX_ATTEMPTS} runs" in words_of(look(orchestra))


def test_a_new_run_of_the_same_incident_skips_the_days_that_are_done(orchestra: Orchestra) -> None:
    world = orchestra.world
    indexed(world, DAY, NEXT)
    tags = {attempts.INCIDENT_TAG: "one", attempts.TENANT_TAG: "north"}
    first = rebuild(orchestra, {"tenant": "north", "days": [DAY]}, tags)
    assert list(materializations(first)) == [(HOT_INDEX, f"{DAY}|north")]
    again = rebuild(orchestra, {"tenant": "north", "days": [NEXT, DAY]}, tags)
    assert list(materializations(again)) == [(HOT_INDEX, f"{NEXT}|north")]
    other = rebuild(orchestra, {"tenant": "north", "days": [DAY]})
    assert list(materializations(other)) == [(HOT_INDEX, f"{DAY}|north")]


def test_two_fields_rebuild_the_last_hours_of_a_tenant(orchestra: Orchestra) -> None:
    world = orchestra.world
    indexed(world, DAY)
    run = rebuild(orchestra, {"tenant": "north", "hours": 24})
    assert run.success
    assert [key for _, key in materializations(run)] == [f"{DAY}|north", f"{NEXT}|north"]
    assert not rebuild(orchestra, {"tenant": "nobody"}).success


def test_the_days_of_a_request_reach_back_by_whole_days() -> None:
    noon = layout.day_start_ms(NEXT) + 12 * 3_600_000
    assert RebuildHot(tenant="north", hours=1).wanted(noon) == [NEXT]
    assert RebuildHot(tenant="north", hours=13).wanted(noon) == [DAY, NEXT]
    assert RebuildHot(tenant="north", days=[NEXT, DAY, DAY]).wanted(noon) == [DAY, NEXT]


def test_entries_that_lack_or_are_foreign_turn_the_check_red(orchestra: Orchestra) -> None:
    world = orchestra.world
    indexed(world, DAY, NEXT)
    hot = world.platform.hot
    (index,) = (i for i in hot.indexes("north") if i.day == NEXT)
    hot.create("north", NEXT, batch([Event(ingestion_time=layout.day_start_ms(NEXT))]))
    found = evaluations(orchestra.run("verify_hot", day=NEXT))[HOLDS_THE_DAY, f"{NEXT}|north"]
    assert (found.passed, found.metadata["foreign"].value) == (False, 1)
    hashes = hot.hashes("north", NEXT, index.generation)
    hot.remove("north", NEXT, index.generation, [h.tobytes() for h in hashes])
    found = evaluations(orchestra.run("verify_hot", day=NEXT))[HOLDS_THE_DAY, f"{NEXT}|north"]
    assert (found.passed, found.metadata["lacking"].value) == (False, 15)


def test_a_copy_that_came_a_day_later_is_not_foreign(orchestra: Orchestra) -> None:
    world = orchestra.world
    edge = world.edge("north")
    lines = [edge.start(world.clock.now_ms()), *edge.heartbeats(1, 1, world.clock.now_ms())]
    for day in (DAY, NEXT):
        world.ingest("north", lines)
        world.index()
        world.archive()
        world.close(day)
        world.seal("north", day)
    checked = check_hot(world.platform, "north", NEXT)
    assert (checked.documents, checked.expected, checked.foreign) == (2, 0, 0)
    assert checked.passed


@pytest.mark.parametrize("cursor", ["not json", "[1]", '{"a": 1}'])
def test_a_foreign_cursor_is_only_a_hint(orchestra: Orchestra, cursor: str) -> None:
    indexed(orchestra.world, DAY)
    orchestra.cursor = cursor
    assert run_keys(look(orchestra)) == []
    assert json.loads(str(orchestra.cursor)) == {"seen": {}, "after": "north"}


def test_a_look_that_takes_too_long_goes_on_with_the_next_tenant(
    orchestra: Orchestra, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tenant in ("east", "north", "west"):
        edge = orchestra.world.edge(tenant)
        orchestra.world.ingest(tenant, [edge.start(orchestra.world.clock.now_ms())])
    orchestra.world.archive()
    monkeypatch.setattr(hot, "LOOK_SECONDS_AT_MOST", -1.0)
    asked = [key for _ in range(4) for key in run_keys(look(orchestra))]
    assert [str(key).split(":")[0] for key in asked] == [
        f"{DAY}|{tenant}" for tenant in ("east", "north", "west", "east")
    ]


def test_what_was_read_of_a_record_is_kept_and_not_mixed_with_another(tmp_path: Path) -> None:
    readers = []
    for name in ("one", "two"):
        with open_world(tmp_path / name) as world:
            assert kept_reader(world.platform) is not kept_reader(world.platform)  # no log yet
            ensure_generation(world.platform)
            reader = kept_reader(world.platform)
            assert reader is kept_reader(replace(world.platform))
            readers.append(reader)
    assert readers[0] is not readers[1]
