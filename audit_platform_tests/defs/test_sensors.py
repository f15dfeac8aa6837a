"""`day_closing`, tick by tick: it closes, waits, requests in order, and gives up aloud."""

import time

import dagster as dg
import pytest

from audit_platform.defs import attempts, sensors
from audit_platform.defs.metadata import closing_digest
from audit_platform.defs.partitions import TENANT
from audit_platform.operations import late_turns
from audit_platform.operations.closing import closed_days
from audit_platform.operations.late import close_again, listed_closings, newest_closing
from audit_platform.operations.manifests import read_history
from audit_platform.record import layout
from audit_platform_tests.defs.conftest import (
    Orchestra,
    keys_of,
    materializations,
    seen,
    words_of,
)
from audit_platform_tests.world import DAY, GRACE_MS, Edge, World

NEXT = layout.next_day(DAY)
THIRD = layout.next_day(NEXT)


def begin(world: World, *tenants: str) -> None:
    """A first event of each tenant, archived, on the first day."""
    for tenant in tenants:
        edge = world.edge(tenant)
        world.ingest(tenant, [edge.start(world.clock.now_ms())])
    world.archive()


def end(world: World, day: str) -> None:
    """The clock just past a day's end and grace."""
    world.clock.ms = layout.day_end_ms(day) + GRACE_MS


def days(world: World, tenant: str) -> list[str]:
    """Sealed days in manifest order."""
    return [m.day for m in read_history(world.platform, tenant).manifests]


def test_without_a_tenant_it_says_how_to_add_one_and_writes_nothing(orchestra: Orchestra) -> None:
    assert "audit-platform tenant add" in words_of(orchestra.tick())
    assert list(orchestra.world.platform.objects.versions("landing/v1/")) == []


def test_a_day_is_closed_only_after_its_grace(orchestra: Orchestra) -> None:
    world = orchestra.world
    begin(world, "north")
    assert words_of(orchestra.tick()) == "no day is over yet"
    end(world, DAY)
    world.clock.ms -= 1
    orchestra.tick()
    assert closed_days(world.platform) == []
    world.clock.ms += 1
    assert keys_of(orchestra.tick()) == [f"{DAY}|north"]
    assert closed_days(world.platform) == [DAY]


def test_new_tenants_become_partitions(orchestra: Orchestra) -> None:
    begin(orchestra.world, "north")
    orchestra.tick()
    assert set(orchestra.instance.get_dynamic_partitions(TENANT)) == {"north"}
    begin(orchestra.world, "south")
    end(orchestra.world, DAY)
    result = orchestra.tick()
    assert set(orchestra.instance.get_dynamic_partitions(TENANT)) == {"north", "south"}
    assert keys_of(result) == [f"{DAY}|north", f"{DAY}|south"]


def test_it_waits_for_ranges_and_says_how_far_they_are(orchestra: Orchestra) -> None:
    world = orchestra.world
    edge = world.edge("north")
    world.ingest("north", [edge.start(world.clock.now_ms())])
    end(world, DAY)
    result = orchestra.tick()
    assert result.run_requests == []
    where = layout.partition_of("north", edge.device_id, 2)
    assert words_of(result) == (
        f"{DAY}: waiting for ranges, partition {where} of events is 1 offsets short"
        " (not archived yet)"
    )
    world.archive()
    assert keys_of(orchestra.tick()) == [f"{DAY}|north"]


def test_days_of_a_tenant_are_requested_one_after_the_other(orchestra: Orchestra) -> None:
    world = orchestra.world
    begin(world, "north", "south")
    end(world, THIRD)
    asked = []
    for _ in range(3):
        result = orchestra.tick()
        asked.append(keys_of(result))
        assert all(run.success for run in orchestra.answer(result))
    assert asked == [[f"{d}|north", f"{d}|south"] for d in (DAY, NEXT, THIRD)]
    assert words_of(orchestra.tick()) == "every closed day of every tenant is sealed"
    assert days(world, "north") == days(world, "south") == [DAY, NEXT, THIRD]
    assert seen(orchestra.cursor) == {"north": 3, "south": 3}


def test_requests_name_their_cause_their_closing_and_their_attempt(orchestra: Orchestra) -> None:
    begin(orchestra.world, "north")
    end(orchestra.world, DAY)
    (request,) = orchestra.tick().run_requests or []
    closing = request.tags["audit/closing"]
    assert request.run_key == f"{DAY}|north:{closing}:1"
    assert {k: v for k, v in request.tags.items() if k.startswith("audit/")} == {
        "audit/tenant": "north",
        "audit/day": DAY,
        "audit/closing": closing,
        "audit/attempt": "1",
        "audit/cause": "day_closing",
    }
    assert request.tags["dagster/partition"] == f"{DAY}|north"


def test_a_failed_run_is_tried_again_after_a_rest_but_not_for_ever(
    orchestra: Orchestra, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = orchestra.world
    begin(world, "north")
    (key,) = world.platform.keys.public_keys()
    world.platform.keys.revoke(key.key_id, world.clock.now_ms())  # nobody can sign now
    end(world, DAY)
    (run,) = orchestra.answer(orchestra.tick())
    assert not run.success
    assert "run 1 failed, trying again in" in words_of(orchestra.tick())
    monkeypatch.setattr(attempts, "RETRY_SECONDS", 0.0)
    for attempt in range(2, attempts.MAX_ATTEMPTS + 1):
        result = orchestra.tick()
        (request,) = result.run_requests or []
        assert request.tags["audit/attempt"] == str(attempt)
        assert str(request.run_key).endswith(f":{attempt}")
        orchestra.answer(result)
    for _ in range(3):
        result = orchestra.tick()
        assert result.run_requests == []
        assert f"gave up after {attempts.MAX_ATTEMPTS} runs" in words_of(result)
    # A person mends the cause and runs it by hand: the tenant goes on.
    world.platform.keys.new("manifest", world.clock.now_ms())
    assert orchestra.run("seal_day").success
    end(world, NEXT)
    assert keys_of(orchestra.tick()) == [f"{NEXT}|north"]


def test_one_tenants_trouble_does_not_hold_up_another(orchestra: Orchestra) -> None:
    world = orchestra.world
    begin(world, "north", "south")
    end(world, DAY)
    assert len(orchestra.answer(orchestra.tick())) == 2
    manifest = world.objects_folder / layout.manifest_key("north", 1)
    manifest.write_bytes(b"{}")
    orchestra.cursor = None
    end(world, NEXT)
    result = orchestra.tick()
    assert keys_of(result) == [f"{NEXT}|south"]


def under_way(orchestra: Orchestra, request: dg.RunRequest) -> str:
    """A run that was launched and has begun; its id."""
    job = orchestra.definitions.resolve_job_def("seal_day")
    run = orchestra.instance.create_run_for_job(job, tags=dict(request.tags))
    event = dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_START.value, job_name=job.name)
    orchestra.instance.report_dagster_event(event, run_id=run.run_id)
    return run.run_id


def test_a_run_under_way_is_waited_for(orchestra: Orchestra) -> None:
    begin(orchestra.world, "north")
    end(orchestra.world, DAY)
    (request,) = orchestra.tick().run_requests or []
    run_id = under_way(orchestra, request)
    assert words_of(orchestra.tick()) == f"{DAY}|north: run {run_id} is under way"


def test_a_run_that_lost_its_code_server_is_failed_and_replaced(
    orchestra: Orchestra, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(orchestra.world, "north")
    end(orchestra.world, DAY)
    (request,) = orchestra.tick().run_requests or []
    run_id = under_way(orchestra, request)
    monkeypatch.setattr(attempts, "PROCESS_STARTED", time.time() + 1)
    monkeypatch.setattr(attempts, "RETRY_SECONDS", 0.0)
    (again,) = orchestra.tick().run_requests or []
    assert again.tags["audit/attempt"] == "2"
    run = orchestra.instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status is dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize(
    "cursor",
    [
        "not json",
        "[1]",
        '{"north": {"number": 7}}',
        (
            '{"sealed": {"north": {"number": 7, "sha256": "00", "last_day": "2027-01-01"}},'
            ' "late": {"store": "00", "reached": {"audit.events.v1/1/0": 99}}}'
        ),
    ],
)
def test_a_cursor_of_another_installation_is_only_a_hint(orchestra: Orchestra, cursor: str) -> None:
    begin(orchestra.world, "north")
    end(orchestra.world, NEXT)
    orchestra.answer(orchestra.tick())
    orchestra.cursor = cursor
    assert keys_of(orchestra.tick()) == [f"{NEXT}|north"]


def test_a_tenant_that_came_later_starts_on_its_own_first_day(orchestra: Orchestra) -> None:
    world = orchestra.world
    begin(world, "north")
    end(world, DAY)
    orchestra.answer(orchestra.tick())
    world.edge("late")  # no event yet: its first days are empty
    end(world, NEXT)
    result = orchestra.tick()
    assert keys_of(result) == [f"{NEXT}|late", f"{NEXT}|north"]
    assert all(run.success for run in orchestra.answer(result))
    assert days(world, "late") == [NEXT]


# ------------------------------------------------------------------------------------- late rows


def late(world: World, edge: Edge, day: str = DAY) -> None:
    """One event that a lagging gateway stamps with a day that is over, archived."""
    lines = edge.heartbeats(1, 1, world.clock.now_ms())
    world.ingest(edge.tenant_id, lines, at_ms=layout.day_end_ms(day) - 1)
    world.archive()


def sealed_orchestra(orchestra: Orchestra) -> Edge:
    """The first day of one tenant, sealed by the sensor's own run."""
    world = orchestra.world
    edge = world.edge("north")
    world.ingest("north", [edge.start(world.clock.now_ms())])
    world.archive()
    end(world, DAY)
    assert all(run.success for run in orchestra.answer(orchestra.tick()))
    return edge


def test_a_sealed_day_with_late_rows_is_closed_again_after_a_rest_and_sealed_again(
    orchestra: Orchestra,
) -> None:
    world = orchestra.world
    edge = sealed_orchestra(orchestra)
    late(world, edge)
    assert keys_of(orchestra.tick()) == []
    assert listed_closings(world.platform) == []
    world.clock.advance(GRACE_MS)
    result = orchestra.tick()
    assert keys_of(result) == [f"{DAY}|north"]
    assert listed_closings(world.platform) == [(DAY, 2)]
    (request,) = result.run_requests or []
    closing = newest_closing(world.platform, DAY)
    assert closing is not None
    assert request.run_key == f"{DAY}|north:{closing_digest(closing)}:1"
    (run,) = orchestra.answer(result)
    assert run.success
    shown = materializations(run)
    assert shown["cold_manifest", f"{DAY}|north"]["revision"].value == 2
    assert [(m.day, m.revision) for m in read_history(world.platform, "north").manifests] == [
        (DAY, 1),
        (DAY, 2),
    ]
    for _ in range(2):
        assert words_of(orchestra.tick()) == "every closed day of every tenant is sealed"


def test_rests_between_further_closings_double(orchestra: Orchestra) -> None:
    world = orchestra.world
    edge = sealed_orchestra(orchestra)
    asked = []
    for _ in range(12):
        late(world, edge)
        world.clock.advance(GRACE_MS)
        result = orchestra.tick()
        asked.append(len(result.run_requests or []))
        orchestra.answer(result)
    assert asked == [1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert read_history(world.platform, "north").counting[DAY].rows == 8


def test_a_lost_cursor_finds_late_rows_again_and_asks_for_nothing_twice(
    orchestra: Orchestra,
) -> None:
    world = orchestra.world
    edge = sealed_orchestra(orchestra)
    late(world, edge)
    world.clock.advance(GRACE_MS)
    orchestra.answer(orchestra.tick())
    orchestra.cursor = None
    assert keys_of(orchestra.tick()) == []
    late(world, edge)
    world.clock.advance(4 * GRACE_MS)
    orchestra.cursor = None
    assert keys_of(orchestra.tick()) == [f"{DAY}|north"]


def test_a_tick_reads_few_range_records_and_the_next_goes_on_from_there(
    orchestra: Orchestra, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_turns, "RECORDS_AT_ONCE", 1)
    world = orchestra.world
    edge = sealed_orchestra(orchestra)
    for _ in range(3):  # of the next day: three ranges
        world.ingest("north", edge.heartbeats(1, 1, world.clock.now_ms()))
        world.archive()
    late(world, edge)
    world.clock.advance(GRACE_MS)
    asked = [keys_of(orchestra.tick()) for _ in range(5)]
    assert asked[0] == []
    assert [f"{DAY}|north"] in asked


def test_a_late_revision_waits_while_the_tenants_next_day_is_asked_for(
    orchestra: Orchestra,
) -> None:
    world = orchestra.world
    edge = sealed_orchestra(orchestra)
    late(world, edge)
    end(world, NEXT)
    first = orchestra.tick()
    assert keys_of(first) == [f"{NEXT}|north"]
    orchestra.answer(first)
    second = orchestra.tick()
    assert keys_of(second) == [f"{DAY}|north"]
    assert all(run.success for run in orchestra.answer(second))


def test_days_before_a_tenants_first_are_sealed_without_a_hole(orchestra: Orchestra) -> None:
    world = orchestra.world
    begin(world, "south")
    end(world, NEXT)
    for _ in range(2):
        orchestra.answer(orchestra.tick())
    edge = world.edge("north")
    world.ingest("north", [edge.start(world.clock.now_ms())])
    world.archive()
    end(world, THIRD)
    orchestra.answer(orchestra.tick())
    assert days(world, "north") == [THIRD]
    late(world, edge, DAY)
    world.clock.advance(GRACE_MS)
    for _ in range(3):
        assert all(run.success for run in orchestra.answer(orchestra.tick()))
    assert days(world, "north") == [THIRD, NEXT, DAY]
    assert world.verify("north", DAY).findings == []


def test_a_revision_after_landing_has_expired_is_green(orchestra: Orchestra) -> None:
    world = orchestra.world
    edge = sealed_orchestra(orchestra)
    world.clock.advance(40 * layout.MS_PER_DAY)
    for version in list(world.platform.objects.versions("landing/v1/tenant=north/")):
        world.platform.objects.delete(version.key, version.version_id)
    late(world, edge)
    close_again(world.platform, DAY)
    assert orchestra.run("seal_day").success
    assert read_history(world.platform, "north").counting[DAY].revision == 2


def test_a_lost_cursor_is_read_together_again_over_several_ticks_and_asks_only_for_what_it_knows(
    orchestra: Orchestra, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(orchestra.world, "north", "south")
    for day in (DAY, NEXT):
        end(orchestra.world, day)
        orchestra.answer(orchestra.tick())
    end(orchestra.world, THIRD)
    orchestra.cursor = None
    monkeypatch.setattr(sensors, "MANIFESTS_AT_ONCE", 3)
    first = orchestra.tick()
    assert keys_of(first) == [f"{THIRD}|north"]  # its history is whole, the other's is not
    assert sum(seen(orchestra.cursor).values()) == 3
    second = orchestra.tick()
    assert sorted(keys_of(second)) == [f"{THIRD}|north", f"{THIRD}|south"]
