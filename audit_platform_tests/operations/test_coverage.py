"""A closed day is covered by contiguous ranges, and its inputs are exactly their objects."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.errors import RecordMalformed, SealRefused
from audit_platform.operations import coverage as coverage_module
from audit_platform.operations.claims import claim
from audit_platform.operations.closing import close_day
from audit_platform.operations.coverage import (
    Missing,
    address_of,
    coverage,
    day_objects,
    range_records,
    tenants_of_day,
)
from audit_platform.record.layout import (
    DLQ_TOPIC,
    EVENTS_TOPIC,
    MS_PER_DAY,
    day_end_ms,
    day_of,
    next_day,
)
from audit_platform.record.ranges import RangeRecord
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.services.archive_world import Stumbling, World, stored

GRACE = 600_000
TODAY = day_of(START_MS)
TOMORROW = next_day(TODAY)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fresh world."""
    made = World(tmp_path)
    yield made
    made.close()


def close_today(world: World, day: str = TODAY) -> None:
    """Move the clock to the end of the day's grace and close it."""
    world.clock.ms = day_end_ms(day) + GRACE
    close_day(world.platform, day, GRACE)


def remove(world: World, key: str) -> None:
    """Take a key out of the store's folder by hand, as somebody with its rights could."""
    for folder in (world.folder / "objects", world.folder / "objects" / ".meta"):
        found = list((folder / key).parent.glob(f"{(folder / key).name}*"))
        assert found
        for path in found:
            path.unlink()


def test_a_day_is_complete_when_ranges_reach_its_ends(world: World) -> None:
    for n in range(3):
        world.send(stored(1, first=n).lines)
        world.archive()
    world.send(stored(1, device="pump-2").lines, partition=1)
    close_today(world)
    before = coverage(world.platform, TODAY)
    assert not before.complete
    assert before.missing == (Missing(EVENTS_TOPIC, 1, 1, 0, 1, "not archived yet"),)
    with pytest.raises(SealRefused, match="not covered"):
        day_objects(world.platform, "north", TODAY)
    world.archive()
    after = coverage(world.platform, TODAY)
    assert after.complete
    assert [(r.partition, r.first_offset) for r in after.ranges] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert len(day_objects(world.platform, "north", TODAY).landing) == 4


def test_an_empty_day_is_complete_and_has_no_inputs(world: World) -> None:
    close_today(world)
    assert coverage(world.platform, TODAY).complete
    found = day_objects(world.platform, "north", TODAY)
    assert (found.landing, found.quarantine, found.absent) == ((), (), ())
    assert tenants_of_day(world.platform, TODAY) == []


def test_a_day_that_is_not_closed_has_no_coverage(world: World) -> None:
    with pytest.raises(SealRefused, match="not closed"):
        coverage(world.platform, TODAY)


def test_a_missing_range_record_is_a_hole(world: World) -> None:
    for n in range(3):
        world.send(stored(1, first=n).lines)
        world.archive()
    close_today(world)
    remove(world, address_of(world.ranges()[1]).record_key)
    found = coverage(world.platform, TODAY)
    assert found.missing == (Missing(EVENTS_TOPIC, 1, 0, 1, 2, "no range record"),)


def test_a_missing_first_range_record_is_a_hole(world: World) -> None:
    for n in range(2):
        world.send(stored(1, first=n).lines)
        world.archive()
    close_today(world)
    remove(world, address_of(world.ranges()[0]).record_key)
    found = coverage(world.platform, TODAY)
    assert found.missing == (Missing(EVENTS_TOPIC, 1, 0, 0, 1, "no range record"),)


def test_two_range_records_over_the_same_offsets_are_told(world: World) -> None:
    world.send(stored(1).lines)
    world.send(stored(1, first=1).lines)
    world.archive()
    second = RangeRecord(EVENTS_TOPIC, 1, 0, 1, 2, (), (), 0, 0, 0, 0, 0)
    claim(world.objects, address_of(second).record_key, second.to_bytes(), world.clock.ms)
    close_today(world)
    found = coverage(world.platform, TODAY)
    assert found.missing == (Missing(EVENTS_TOPIC, 1, 0, 1, 2, "two range records"),)


def test_a_range_record_under_another_ranges_key_is_malformed(world: World) -> None:
    record = RangeRecord(EVENTS_TOPIC, 1, 0, 0, 1, (), (), 0, 0, 0, 0, 0)
    other = RangeRecord(EVENTS_TOPIC, 1, 1, 0, 1, (), (), 0, 0, 0, 0, 0)
    claim(world.objects, address_of(record).record_key, other.to_bytes(), world.clock.ms)
    with pytest.raises(RecordMalformed, match="another range's record"):
        list(range_records(world.objects, EVENTS_TOPIC, 1, 0))


def test_a_hidden_or_overwritten_range_record_still_counts(world: World) -> None:
    world.send(stored(2).lines)
    world.archive()
    (record,) = world.ranges()
    key = address_of(record).record_key
    world.objects.put(key, b"{}", retain_until_ms=0, if_absent=False)
    world.objects.delete(key)
    assert world.ranges() == [record]


def test_a_generation_that_starts_later_is_covered_from_its_start(world: World) -> None:
    for n in range(3):
        world.send(stored(1, first=n).lines)
    world.log.drop_before(EVENTS_TOPIC, 0, 2)
    world.archive()
    close_today(world)
    assert coverage(world.platform, TODAY).complete
    assert [r.first_offset for r in world.ranges()] == [2]


# ---------------------------------------------------------------------------------- days' inputs


def test_a_range_over_the_days_end_counts_up_to_the_closings_offset(world: World) -> None:
    world.send(stored(2).lines)
    world.send_value(b"not a dead letter", topic=DLQ_TOPIC)
    close_today(world)
    # Late: of today, but after the closing. In one range with what was before it.
    world.send(stored(3, first=2).lines)
    world.archive()
    found = day_objects(world.platform, "north", TODAY)
    (only,) = found.landing
    assert (only.first_offset, only.end_offset, only.object.rows) == (0, 1, 5)
    (dead,) = found.quarantine
    assert (dead.topic, dead.end_offset, dead.object.day) == (DLQ_TOPIC, 1, TODAY)
    assert found.absent == ()


def test_late_data_in_its_own_range_is_no_input_of_the_closed_day(world: World) -> None:
    world.send(stored(2).lines)
    world.archive()
    close_today(world)
    world.send(stored(3, first=2).lines)
    world.archive()
    found = day_objects(world.platform, "north", TODAY)
    assert [o.first_offset for o in found.landing] == [0]
    # Nor of the next day: it carries today's date.
    close_today(world, TOMORROW)
    assert day_objects(world.platform, "north", TOMORROW).landing == ()


def test_rows_in_the_grace_of_the_day_before_are_inputs(world: World) -> None:
    world.send(stored(1).lines)
    world.archive()
    world.clock.ms = START_MS + MS_PER_DAY + 1
    world.send(stored(1, first=1, ingested_ms=world.clock.ms).lines)  # tomorrow's, within grace
    world.archive()
    close_today(world)
    world.send(stored(1, first=2, ingested_ms=world.clock.ms).lines)
    world.archive()
    close_today(world, TOMORROW)
    found = day_objects(world.platform, "north", TOMORROW)
    assert [o.first_offset for o in found.landing] == [1, 2]


def test_rows_of_a_gateway_whose_clock_ran_ahead_are_inputs_of_their_day(world: World) -> None:
    ahead = next_day(TODAY, 4)
    world.send(stored(1, ingested_ms=START_MS + 4 * MS_PER_DAY).lines)
    world.archive()
    for days in range(5):
        close_today(world, next_day(TODAY, days))
        world.send(stored(1, "south", first=days, ingested_ms=world.clock.ms).lines, "south")
        world.archive()
    walked = coverage(world.platform, ahead)
    assert walked.complete
    assert 0 not in [r.first_offset for r in walked.ranges]
    found = day_objects(world.platform, "north", ahead)
    assert [(o.first_offset, o.end_offset) for o in found.landing] == [(0, 1)]


def test_orphans_are_no_inputs(world: World) -> None:
    world.send(stored(2).lines)
    world.archive()
    (named,) = world.ranges()[0].objects
    orphan = named.key.replace("-p0-", "-p1-")
    also_named = named.key[: -len("0123456789abcdef.parquet")] + "0" * 16 + ".parquet"
    for key in (orphan, also_named):
        world.objects.put(key, b"orphan", retain_until_ms=0, if_absent=True)
    newer = world.objects.put(named.key, b"newer", retain_until_ms=0, if_absent=False)
    world.objects.delete(named.key)
    close_today(world)
    found = day_objects(world.platform, "north", TODAY)
    assert [o.object for o in found.landing] == [named]
    assert newer.version_id != named.version_id
    assert found.absent == ()


def test_an_object_that_a_record_names_and_the_store_lacks_is_told(world: World) -> None:
    world.send(stored(2).lines)
    world.send_value(b"not a dead letter", topic=DLQ_TOPIC)
    world.archive()
    close_today(world)
    for topic in (EVENTS_TOPIC, DLQ_TOPIC):
        (named,) = world.ranges(topic)[0].objects
        remove(world, named.key)
    found = day_objects(world.platform, "north", TODAY)
    assert len(found.landing) == len(found.quarantine) == 1
    assert found.absent == found.quarantine + found.landing


def test_each_tenant_gets_its_own_objects(world: World) -> None:
    world.send(stored(2).lines)
    world.send(stored(1, "south").lines, "south")
    world.archive()
    close_today(world)
    assert tenants_of_day(world.platform, TODAY) == ["north", "south"]
    for tenant in ("north", "south"):
        (only,) = day_objects(world.platform, tenant, TODAY).landing
        assert only.object.tenant_id == tenant


# ---------------------------------------------------------------------------------- fast start


def test_the_walk_starts_at_the_closing_two_days_before(world: World) -> None:
    for days in range(4):
        for _ in range(3):
            offset = world.log.bounds(EVENTS_TOPIC, 0)[1]
            world.send(stored(1, first=offset, ingested_ms=world.clock.ms).lines)
            world.archive()
        close_today(world, next_day(TODAY, days))
    objects = Stumbling(world.objects)
    found = coverage(world.platform_with(objects), next_day(TODAY, 3))
    assert found.complete
    assert [r.first_offset for r in found.ranges] == list(range(6, 12))
    assert objects.names.count("get") == 2 + 6  # two closings, the ranges of two days


@given(
    sizes=st.lists(st.integers(1, 40), max_size=12),
    holding=st.integers(0, 300),
    look_back=st.integers(1, 50),
)
def test_the_record_that_holds_an_offset_is_found_however_far_back_it_starts(
    sizes: list[int], holding: int, look_back: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage_module, "LOOK_BACK", look_back)
        world = World(Path(folder))
        first = 0
        made = []
        for size in sizes:
            record = RangeRecord(EVENTS_TOPIC, 1, 0, first, first + size, (), (), 0, 0, 0, 0, 0)
            claim(world.objects, address_of(record).record_key, record.to_bytes(), 0)
            made.append(record)
            first += size
        found = list(range_records(world.objects, EVENTS_TOPIC, 1, 0, holding=holding))
        before = [r for r in made if r.first_offset <= holding]
        assert found == made[max(len(before) - 1, 0) :]
        world.close()
