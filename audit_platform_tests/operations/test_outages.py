"""A store that does not answer is no finding, and a clock that is wrong makes no bad manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from audit_platform.adapters.faulty import Fault, Faults, faulty
from audit_platform.errors import SealRefused, StoreUnavailable
from audit_platform.operations.seal import seal_day
from audit_platform.operations.verify import verify_day
from audit_platform.record import layout
from audit_platform_tests.world import DAY, World, open_world, sealed_day

TENANT = "north"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path / "home", partitions=1) as opened:
        yield opened


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
def test_a_store_that_fails_any_call_of_a_verification_is_unavailable_and_no_finding(
    world: World, fault: Fault
) -> None:
    sealed_day(world, TENANT)
    seen = Faults()
    whole = replace(world.platform, objects=faulty(world.platform.objects, StoreUnavailable, seen))
    assert verify_day(whole, TENANT, DAY).exit_code == 0
    assert len(seen.calls) > 3
    for number in range(1, len(seen.calls) + 1):
        faults = Faults({number: fault})
        objects = faulty(world.platform.objects, StoreUnavailable, faults)
        with pytest.raises(StoreUnavailable):
            verify_day(replace(world.platform, objects=objects), TENANT, DAY)
        assert faults.happened


def test_a_day_is_not_sealed_while_the_clock_says_that_it_is_not_over(world: World) -> None:
    edge = world.edge(TENANT)
    start = edge.start(world.clock.now_ms())
    world.ingest(TENANT, [start, *edge.heartbeats(2, 3, world.clock.now_ms())])
    world.archive()
    world.close()
    right = world.clock.now_ms()
    world.clock.ms = layout.day_end_ms(DAY) - 1
    with pytest.raises(SealRefused, match="clock") as caught:
        seal_day(world.platform, TENANT, DAY)
    assert "put the clock" in caught.value.remedy
    world.clock.ms = right
    assert seal_day(world.platform, TENANT, DAY).rows == 7
    assert verify_day(world.platform, TENANT, DAY).exit_code == 0
