"""A flipped bit becomes an incident, the incident a repair, without a hand; or a named decision."""

import dagster as dg
import pytest

from audit_platform.defs import attempts
from audit_platform.defs.integrity import integrity_repair
from audit_platform.operations.incidents import incidents
from audit_platform.operations.manifests import read_history
from audit_platform.record import layout
from audit_platform.record.incident import Ended, Incident
from audit_platform_tests import attackers
from audit_platform_tests.defs.conftest import Orchestra, materializations, words_of
from audit_platform_tests.world import DAY, World

REASON = "landing had expired; neither store holds another copy of the part"


@pytest.fixture
def world(orchestra: Orchestra) -> World:
    """One sealed day."""
    world = orchestra.world
    edge = world.edge("north")
    now = world.clock.now_ms()
    world.ingest("north", [edge.start(now), *edge.heartbeats(3, 5, now)])
    world.archive()
    world.close(DAY)
    world.seal("north", DAY)
    return world


def damage(world: World) -> None:
    """One bit of the sealed part."""
    (part,) = read_history(world.platform, "north").counting[DAY].parts
    attackers.flip(world.objects_folder / part.object.key, 100)


def lose_landing(world: World) -> None:
    """Nothing proves the day's leaves any more."""
    landed = world.objects_folder / f"landing/v1/tenant=north/day={DAY}"
    for file in landed.iterdir():
        file.unlink()


def look(orchestra: Orchestra) -> dg.SensorResult:
    with dg.build_sensor_context(
        orchestra.instance, resources={"platform": orchestra.world.platform}
    ) as context:
        result = integrity_repair(context)
    assert isinstance(result, dg.SensorResult)
    return result


def run(
    orchestra: Orchestra, job: str, op: str, config: dict[str, object], tags: dict[str, str]
) -> dg.ExecuteInProcessResult:
    return orchestra.definitions.resolve_job_def(job).execute_in_process(
        instance=orchestra.instance,
        run_config={"ops": {op: {"config": config}}},
        tags=tags,
        raise_on_error=False,
    )


def answer(orchestra: Orchestra, result: dg.SensorResult) -> list[dg.ExecuteInProcessResult]:
    """Run what a tick asked for."""
    return [
        run(
            orchestra,
            "rearchive_day",
            "rearchive",
            r.run_config["ops"]["rearchive"]["config"],
            dict(r.tags),
        )
        for r in result.run_requests or []
    ]


def told(world: World) -> list[Incident]:
    """What stands on `audit.integrity.v1`."""
    records = world.platform.log.read(layout.INTEGRITY_TOPIC, 0, 0, 1 << 20)
    return [Incident.from_bytes("log", r.value) for r in records]


def test_a_green_day_opens_no_incident(orchestra: Orchestra, world: World) -> None:
    assert orchestra.run("verify_day").success
    assert list(incidents(world.platform, "north")) == []
    assert words_of(look(orchestra)) == "no incident is open"


def test_a_flipped_bit_is_flagged_repaired_and_superseded_without_a_hand(
    orchestra: Orchestra, world: World
) -> None:
    damage(world)
    assert not orchestra.run("verify_day").success
    (found,) = incidents(world.platform, "north")
    assert found.is_open
    assert [i.incident_id for i in told(world)] == [found.incident.incident_id]
    assert found.incident.findings[0].key.startswith("cold/v1/tenant=north")
    asked = look(orchestra)
    (request,) = asked.run_requests or []
    assert request.run_key == f"{DAY}|north:{found.incident.incident_id}:1"
    (repaired,) = answer(orchestra, asked)
    assert repaired.success
    shown = materializations(repaired)["cold_manifest", f"{DAY}|north"]
    assert (shown["number"].value, shown["revision"].value) == (2, 2)
    (ended,) = incidents(world.platform, "north")
    assert ended.resolution is not None
    assert (ended.resolution.ended, ended.resolution.manifest) == (Ended.REARCHIVED, 2)
    assert words_of(look(orchestra)) == "no incident is open"
    assert orchestra.run("verify_day").success


def test_the_same_damage_found_again_is_the_same_incident(
    orchestra: Orchestra, world: World
) -> None:
    damage(world)
    for _ in range(2):
        assert not orchestra.run("verify_day").success
    assert len(list(incidents(world.platform, "north"))) == 1
    assert len({i.incident_id for i in told(world)}) == 1


def test_a_day_that_was_never_sealed_is_red_and_no_incident(
    orchestra: Orchestra, world: World
) -> None:
    assert not orchestra.run("verify_day", day=layout.next_day(DAY)).success
    assert list(incidents(world.platform, "north")) == []


def test_what_nothing_proves_is_tried_five_times_and_then_accepted_by_a_named_person(
    orchestra: Orchestra, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "RETRY_SECONDS", 0.0)
    damage(world)
    lose_landing(world)
    orchestra.run("verify_day")
    for _ in range(attempts.MAX_ATTEMPTS):
        (failed,) = answer(orchestra, look(orchestra))
        assert not failed.success
    assert f"gave up after {attempts.MAX_ATTEMPTS} runs" in words_of(look(orchestra))
    assert len(read_history(world.platform, "north").manifests) == 1
    (found,) = incidents(world.platform, "north")
    config: dict[str, object] = {
        "tenant": "north",
        "day": DAY,
        "incident": found.incident.incident_id,
        "person": "auditor-7",
        "reason": "too short",
    }
    assert not run(orchestra, "accept_gap", "accept", config, {}).success
    assert run(orchestra, "accept_gap", "accept", config | {"reason": REASON}, {}).success
    (ended,) = incidents(world.platform, "north")
    assert ended.resolution is not None
    assert (ended.resolution.actor, ended.resolution.ended) == ("auditor-7", Ended.ACCEPTED)
    assert not run(orchestra, "accept_gap", "accept", config | {"reason": REASON}, {}).success
    assert words_of(look(orchestra)) == "no incident is open"


def test_a_strangers_incident_puts_no_day_into_quarantine(world: World) -> None:
    forged = Incident("north", DAY, 1, 0, (), 0, "0" * 16, "00" * 64)
    key = layout.incident_key("north", DAY, forged.incident_id)
    until = world.clock.now_ms() + 1000
    world.platform.objects.put(key, forged.to_bytes(), retain_until_ms=until, if_absent=True)
    assert list(incidents(world.platform, "north")) == []
