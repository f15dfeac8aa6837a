"""Whose turn it is: hints, late tenants, early data."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from audit_platform.operations.closing import closed_days
from audit_platform.operations.turns import NOTHING, Sealed, next_day, sealed_until
from audit_platform.ports import Tenant
from audit_platform.record import layout
from audit_platform_tests.world import DAY, World, open_world, sealed_day

NEXT = layout.next_day(DAY)
BEFORE = layout.next_day(DAY, -1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as opened:
        yield opened


def tenant(world: World, tenant_id: str = "north") -> Tenant:
    return next(t for t in world.platform.metadata.tenants() if t.tenant_id == tenant_id)


def test_the_newest_manifest_is_found_with_and_without_a_hint(world: World) -> None:
    assert sealed_until(world.platform.objects, "north") == NOTHING
    sealed_day(world)
    first = sealed_until(world.platform.objects, "north")
    assert (first.number, first.last_day) == (1, DAY)
    world.close(NEXT)
    result = world.seal("north", NEXT)
    second = sealed_until(world.platform.objects, "north", first)
    assert second == Sealed(2, result.manifest_sha256, NEXT)
    assert sealed_until(world.platform.objects, "north") == second


def test_a_hint_that_names_another_manifest_is_not_used(world: World) -> None:
    sealed_day(world)
    true = sealed_until(world.platform.objects, "north")
    for wrong in (replace(true, sha256="0" * 64, last_day="2030-01-01"), replace(true, number=9)):
        assert sealed_until(world.platform.objects, "north", wrong) == true


def test_a_hint_spares_reading_the_manifests_before_it(world: World) -> None:
    sealed_day(world)
    hint = sealed_until(world.platform.objects, "north")
    (world.objects_folder / layout.manifest_key("north", 1)).write_bytes(b"not a manifest")
    assert sealed_until(world.platform.objects, "north", hint) == hint


def test_after_a_sealed_day_comes_the_next(world: World) -> None:
    sealed_day(world)
    sealed = sealed_until(world.platform.objects, "north")
    assert next_day(world.platform, tenant(world), sealed, DAY) == NEXT


def test_a_tenant_begins_with_the_first_closed_day_on_which_it_was_there(world: World) -> None:
    world.edge("north")
    world.close()
    assert next_day(world.platform, tenant(world), NOTHING, closed_days(world.platform)[0]) == DAY
    world.edge("late")  # the clock is on the next day
    assert next_day(world.platform, tenant(world, "late"), NOTHING, DAY) == NEXT


def test_a_tenant_begins_with_its_first_data_where_that_is_earlier(world: World) -> None:
    edge = world.edge("north")
    behind = layout.day_start_ms(BEFORE)  # a gateway whose clock was behind
    world.ingest("north", [edge.start(world.clock.now_ms())], at_ms=behind)
    world.archive()
    assert next_day(world.platform, tenant(world), NOTHING, DAY) == BEFORE
