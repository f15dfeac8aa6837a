"""The three answers: every step speaks for one, and nothing that was not read is green."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.operations.hours import events_per_hour
from audit_platform.operations.judgement import (
    CHAIN_UNBROKEN,
    MANIFEST_SIGNED,
    NOTHING_MISSING,
    STEPS,
    Answer,
    judge_day,
)
from audit_platform.operations.manifests import read_history
from audit_platform.record import layout
from audit_platform.record.report import Step
from audit_platform_tests.attackers import flip
from audit_platform_tests.world import DAY, World, open_world, sealed_day

TENANT = "north"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as opened:
        yield opened


def answers(world: World, day: str = DAY) -> dict[str, Answer]:
    return {a.name: a for a in judge_day(world.platform, TENANT, day).answers}


def test_every_step_that_can_find_something_here_speaks_for_an_answer() -> None:
    assert set().union(*STEPS.values()) == set(Step) - {Step.HEAD}
    assert all(Step.READ in steps for steps in STEPS.values())


def test_a_sound_day_passes_and_tells_what_was_read(world: World) -> None:
    sealed_day(world)
    judged = judge_day(world.platform, TENANT, DAY)
    assert (judged.manifests, judged.objects, judged.rows) == (1, 1, 31)
    size = read_history(world.platform, TENANT).counting[DAY].parts[0].object.size
    assert judged.bytes >= size
    assert [a.passed for a in judged.answers] == [True, True, True]
    assert [a.summary for a in judged.answers] == [
        "31 rows read again and rebuilt",
        "1 manifests and 1 objects are as they were signed",
        "31 events landed, each is sealed",
    ]


def test_an_empty_day_passes_and_says_that_it_is_empty(world: World) -> None:
    world.edge(TENANT)
    world.close()
    world.seal(TENANT)
    for answer in answers(world).values():
        assert answer.passed
        assert answer.summary.startswith("an empty day: ")


def test_a_day_that_was_not_sealed_fails_all_three(world: World) -> None:
    world.edge(TENANT)
    world.close()
    assert [a.passed for a in answers(world).values()] == [False, False, False]


def test_a_broken_manifest_fails_all_three(world: World) -> None:
    sealed_day(world)
    flip(world.objects_folder / layout.manifest_key(TENANT, 1), 100)
    assert [a.passed for a in answers(world).values()] == [False, False, False]


def test_a_missing_part_fails_all_three(world: World) -> None:
    sealed_day(world)
    part = read_history(world.platform, TENANT).counting[DAY].parts[0]
    (world.objects_folder / part.object.key).unlink()
    found = answers(world)
    assert [a.passed for a in found.values()] == [False, False, False]
    assert found[CHAIN_UNBROKEN].problems == ("0 rows were read, the manifest holds 31",)


def test_bytes_outside_the_rows_are_the_manifests_business_alone(world: World) -> None:
    sealed_day(world)
    part = read_history(world.platform, TENANT).counting[DAY].parts[0]
    path = world.objects_folder / part.object.key
    path.write_bytes(path.read_bytes()[:4] + b"\0" + path.read_bytes()[4:])  # offsets do not fit
    found = answers(world)
    assert not found[MANIFEST_SIGNED].passed
    assert any("SHA-256" in e.message for e in found[MANIFEST_SIGNED].found)


def test_landing_that_is_gone_is_a_failure_not_an_empty_day(world: World) -> None:
    sealed_day(world)
    for stored in world.platform.objects.versions(f"landing/v1/tenant={TENANT}/"):
        (world.objects_folder / stored.key).unlink()
    found = answers(world)
    assert found[CHAIN_UNBROKEN].passed
    assert not found[NOTHING_MISSING].passed


def test_hours_are_counted_by_ingestion_time(world: World) -> None:
    edge = world.edge(TENANT)
    world.ingest(TENANT, [edge.start(world.clock.now_ms())])
    late = layout.day_end_ms(DAY) - 1
    world.ingest(TENANT, edge.heartbeats(2, 3, world.clock.now_ms()), at_ms=late)
    world.archive()
    world.close()
    result = world.seal(TENANT)
    counts = events_per_hour(world.platform, result.manifest_key)
    assert (counts[0], counts[23], sum(counts), len(counts)) == (1, 6, 7, 24)
