"""The archive-writer's loop: every event exactly once, whatever fails and whoever else is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.errors import StoreUnavailable
from audit_platform.ports import ObjectVersion
from audit_platform.record.layout import (
    ARCHIVE_GROUP,
    DLQ_TOPIC,
    EVENTS_TOPIC,
    MS_PER_DAY,
    day_of,
    short_digest,
)
from audit_platform.services.archive_writer import READ_BYTES
from audit_platform.telemetry import Telemetry
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.services.archive_world import (
    RANGE_SECONDS,
    Crash,
    Stumbling,
    World,
    stored,
    total,
)

TODAY = day_of(START_MS)
YESTERDAY = day_of(START_MS - 1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fresh world."""
    made = World(tmp_path)
    yield made
    made.close()


def test_each_tenant_and_day_of_a_range_gets_one_object_and_the_range_one_record(
    world: World,
) -> None:
    parts = [
        stored(5),
        stored(3, "south"),
        stored(2, ingested_ms=START_MS - 1, first=5),
        stored(4, first=7),
    ]
    world.send(parts[0].lines)
    world.send(parts[1].lines, "south")
    world.send(parts[2].lines + parts[3].lines)
    world.archive()
    (record,) = world.ranges()
    named = [(o.tenant_id, o.day, o.rows, o.events) for o in record.objects]
    assert named == [("north", YESTERDAY, 2, 2), ("north", TODAY, 9, 9), ("south", TODAY, 3, 3)]
    assert (record.first_offset, record.end_offset, record.events) == (0, 3, 14)
    assert [r.count for r in record.records] == [5, 3, 6]
    assert world.archived() == total(parts)


def test_a_range_record_lists_the_digest_of_every_log_record(world: World) -> None:
    lines = stored(2).lines
    world.send(lines)
    world.send_value(b"junk")
    world.archive()
    (record,) = world.ranges()
    value = b"".join(line + b"\n" for line in lines)
    assert [r.digest for r in record.records] == [short_digest(value), short_digest(b"junk")]


def test_an_idle_partition_writes_nothing(world: World) -> None:
    writer = world.archive()
    world.seconds += 10 * RANGE_SECONDS
    assert not writer.step()
    assert [k for k in world.stored_keys() if "generations" not in k] == []


def test_a_range_closes_when_its_first_record_is_old_enough(world: World) -> None:
    writer, _ = world.writer()
    world.send(stored(1).lines)
    writer.step()
    world.seconds += RANGE_SECONDS - 1
    writer.step()
    assert world.ranges() == []
    world.seconds += 1
    writer.step()
    assert len(world.ranges()) == 1


def test_a_range_closes_when_it_holds_enough_bytes(world: World) -> None:
    writer, _ = world.writer(range_bytes=1000)
    for n in range(4):
        world.send(stored(2, first=2 * n).lines)
        writer.step()
    assert [r.end_offset - r.first_offset for r in world.ranges()] == [1, 1, 1, 1]


def test_all_partitions_together_hold_no_more_than_the_bytes_of_a_range(world: World) -> None:
    part = stored(4)
    size = sum(len(line) + 1 for line in part.lines)
    writer, _ = world.writer(range_bytes=size + 1)
    world.send(part.lines, partition=0)
    writer.step()
    assert world.ranges(partition=0) == []
    world.send(stored(1, first=9).lines, partition=1)
    writer.step()
    assert [r.end_offset for r in world.ranges(partition=0)] == [1]
    assert world.ranges(partition=1) == []


def test_ranges_follow_each_other_without_a_hole(world: World) -> None:
    writer, _ = world.writer()
    parts = [stored(3, first=3 * n) for n in range(5)]
    for part in parts:
        world.send(part.lines)
        world.archive(writer)
    ranges = world.ranges()
    assert [r.first_offset for r in ranges] == [0, 1, 2, 3, 4]
    assert [r.end_offset for r in ranges] == [1, 2, 3, 4, 5]
    assert world.archived() == total(parts)


def test_objects_are_locked_for_35_days_and_the_record_for_two_years(world: World) -> None:
    world.send(stored(1).lines)
    world.archive()
    (record,) = world.ranges()
    (named,) = record.objects
    locked = world.objects.head(named.key, named.version_id)
    assert locked.retain_until_ms == world.clock.ms + 35 * MS_PER_DAY
    (claimed,) = world.objects.versions("landing/v1/ranges/")
    assert claimed.retain_until_ms >= world.clock.ms + 2 * 365 * MS_PER_DAY


def test_the_group_is_told_the_end_of_the_range(world: World) -> None:
    world.send(stored(1).lines)
    world.archive()
    assert world.log.join(ARCHIVE_GROUP, EVENTS_TOPIC, "looker").committed(0) == 1


# --------------------------------------------------------------------------------------- crashes


def _busy(world: World) -> None:
    """Two partitions, two tenants, two days, both topics."""
    world.send(stored(3).lines)
    world.send(stored(2, "south").lines, "south")
    world.send(stored(2, ingested_ms=START_MS - 1, first=3).lines)
    world.send(stored(4, device="pump-2").lines, partition=1)
    world.send_value(b"not a dead letter\n", topic=DLQ_TOPIC)


EXPECTED = total(
    [
        stored(3),
        stored(2, "south"),
        stored(2, ingested_ms=START_MS - 1, first=3),
        stored(4, device="pump-2"),
    ]
)


def _calls_of_a_good_run(tmp_path: Path) -> list[str]:
    world = World(tmp_path / "good")
    _busy(world)
    objects = Stumbling(world.objects)
    writer, _ = world.writer(objects=objects)
    world.archive(writer)
    world.close()
    return objects.names


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_store_call_and_a_restart_archive_every_event_once(
    tmp_path: Path, *, after: bool
) -> None:
    names = _calls_of_a_good_run(tmp_path)
    assert {"put", "head", "oldest", "versions"} <= set(names)
    for call in range(1, len(names) + 1):
        world = World(tmp_path / f"{call}")
        _busy(world)
        dying, _ = world.writer(objects=Stumbling(world.objects, call, after))
        with pytest.raises(Crash):
            world.archive(dying)
        world.seconds += RANGE_SECONDS  # the dead one's lease passes
        world.send(stored(1, first=99).lines)  # the next range is another one than it would be
        world.archive()
        assert world.archived() == EXPECTED + stored(1, first=99).expected, names[call - 1]
        assert [r.end_offset for r in world.ranges(DLQ_TOPIC)] == [1]
        world.close()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_store_that_fails_any_one_call_is_tried_again_and_every_event_is_there_once(
    tmp_path: Path, *, after: bool
) -> None:
    names = _calls_of_a_good_run(tmp_path)
    assert names
    for call in range(1, len(names) + 1):
        world = World(tmp_path / f"{call}")
        _busy(world)
        objects = Stumbling(world.objects, call, after, StoreUnavailable("full"))
        writer, _ = world.writer(objects=objects)
        for _ in range(4):
            world.archive(writer)
        assert objects.calls > call
        assert world.archived() == EXPECTED, names[call - 1]
        world.close()


@pytest.mark.parametrize("hint", [0, 1, 2, 77_777_777])
def test_the_groups_offset_is_only_a_hint(world: World, hint: int) -> None:
    parts = [stored(1, first=n) for n in range(4)]
    first, _ = world.writer("first")
    for part in parts[:3]:
        world.send(part.lines)
        world.archive(first)
    first.leave()
    liar = world.log.join(ARCHIVE_GROUP, EVENTS_TOPIC, "liar")
    liar.assignment()
    liar.commit(0, hint)
    liar.leave()
    world.send(parts[3].lines)
    world.archive(world.writer("second")[0])
    assert [r.first_offset for r in world.ranges()] == [0, 1, 2, 3]
    assert world.archived() == total(parts)


# ----------------------------------------------------------------------------------- two writers


def test_a_writer_frozen_past_its_lease_and_thawed_changes_nothing(world: World) -> None:
    parts = [stored(2), stored(3, first=2), stored(4, first=5)]
    frozen, _ = world.writer("frozen")
    world.send(parts[0].lines)
    frozen.step()  # has read, not committed, when it freezes
    held = frozen._partitions[EVENTS_TOPIC, 0]
    world.seconds += RANGE_SECONDS
    world.send(parts[1].lines)
    second = world.archive(world.writer("second")[0])
    # Thawed in the middle of a commit, before it asks for its lease again.
    built, done = held.commit(frozen._members[EVENTS_TOPIC])
    assert not done.ours
    assert (built.end_offset, done.record.end_offset) == (1, 2)
    assert held.next_offset == 2
    world.send(parts[2].lines)
    world.archive(frozen)  # takes over from the second, whose lease passes now
    world.archive(frozen)
    world.archive(second)
    assert world.archived() == total(parts)
    assert [r.first_offset for r in world.ranges()] == [0, 2]


def test_a_second_writer_takes_half_of_the_partitions(world: World) -> None:
    first, _ = world.writer("first")
    second, _ = world.writer("second")
    parts = [stored(2), stored(3, device="pump-2")]
    for _ in range(3):
        first.step()
        second.step()
    held = [set(writer._partitions) for writer in (first, second)]
    assert [len(places) for places in held] == [2, 2]  # one partition of each topic
    assert held[0] & held[1] == set()
    world.send(parts[0].lines, partition=0)
    world.send(parts[1].lines, partition=1)
    assert first.step()
    assert second.step()
    for _ in range(11):  # in steps, so that both keep their leases
        world.seconds += RANGE_SECONDS / 10
        first.step()
        second.step()
    assert world.archived() == total(parts)


def test_who_leaves_commits_what_it_holds_and_frees_its_partitions(world: World) -> None:
    part = stored(2)
    leaving, _ = world.writer("leaving")
    world.send(part.lines)
    leaving.step()
    leaving.leave()
    assert world.archived() == part.expected
    assert world.log.join(ARCHIVE_GROUP, EVENTS_TOPIC, "next").assignment() == {0, 1}


def test_who_leaves_while_the_store_is_away_loses_nothing(world: World) -> None:
    part = stored(2)
    world.send(part.lines)
    objects = Stumbling(world.objects, error=StoreUnavailable("away"))
    leaving, _ = world.writer("leaving", objects=objects)
    leaving.step()
    objects.fail_at = objects.calls + 1
    leaving.leave()
    world.archive()
    assert world.archived() == part.expected


# ---------------------------------------------------------------------------------- backpressure


class Full(Stumbling):
    """Objects that store nothing while `full`."""

    full = False

    def put(self, key: str, data: bytes, *, retain_until_ms: int, if_absent: bool) -> ObjectVersion:
        """See `ports.Objects`."""
        if self.full:
            raise StoreUnavailable("no space left")
        return super().put(key, data, retain_until_ms=retain_until_ms, if_absent=if_absent)


def test_a_full_store_holds_reading_back_and_recovers_without_loss(world: World) -> None:
    objects = Full(world.objects)
    writer, telemetry = world.writer(objects=objects, range_bytes=1000)
    parts = [stored(2, first=2 * n) for n in range(20)]
    world.send(parts[0].lines)
    world.archive(writer)
    objects.full = True
    for part in parts[1:]:
        world.send(part.lines)
        writer.step()
        world.seconds += 20
    held = writer._partitions[EVENTS_TOPIC, 0]
    assert held.size <= 1000 + READ_BYTES
    assert held.read_offset < 20
    assert "no space left" in writer.waiting_for
    assert _metric(telemetry, "kafka_consumergroup_lag", topic=EVENTS_TOPIC, partition="0") == 19
    objects.full = False
    world.seconds += 20
    world.archive(writer)
    assert writer.waiting_for == ""
    assert world.archived() == total(parts)


def test_the_waits_grow_up_to_a_limit_and_start_again_after_success(world: World) -> None:
    objects = Full(world.objects)
    writer, _ = world.writer(objects=objects)
    world.send(stored(1).lines)
    world.archive(writer)
    objects.full = True
    world.send(stored(1, first=1).lines)
    world.archive(writer)
    waits = []
    for _ in range(12):
        world.seconds = writer._retry_at
        writer.step()
        waits.append(writer._retry_at - world.seconds)
    assert waits == sorted(waits)
    assert waits[-1] == 10.0
    objects.full = False
    world.seconds = writer._retry_at
    assert writer.step()
    assert writer._backoff == 0.0


# -------------------------------------------------------------------------------------- lag


def _metric(telemetry: Telemetry, name: str, **labels: str) -> float:
    wanted = [f'{k}="{v}"' for k, v in labels.items()]
    for line in telemetry.text().decode().splitlines():
        if line.startswith((f"{name}{{", f"{name} ")) and all(w in line for w in wanted):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no {name} {labels}")


def test_the_lag_is_told_in_records_events_and_seconds(world: World) -> None:
    writer, telemetry = world.writer()
    where = {"group": ARCHIVE_GROUP, "topic": EVENTS_TOPIC, "partition": "0"}
    world.send(stored(5).lines)
    world.send(stored(3, first=5).lines)
    world.clock.advance(7000)
    writer.step()
    assert _metric(telemetry, "kafka_consumergroup_lag", **where) == 2
    assert _metric(telemetry, "kafka_consumergroup_lag_events", **where) == 8
    assert _metric(telemetry, "kafka_consumergroup_lag_seconds", **where) == 7
    world.archive(writer)
    world.seconds += RANGE_SECONDS
    writer.step()
    for name in ("", "_events", "_seconds"):
        assert _metric(telemetry, f"kafka_consumergroup_lag{name}", **where) == 0


def test_the_lag_of_a_partition_that_another_writer_has_is_told_no_more(world: World) -> None:
    first, told = world.writer("first")
    first.step()
    both = _partitions_told(told)
    assert len(both) > 1
    second, of_second = world.writer("second")
    for _ in range(5):
        second.step()
        world.seconds += RANGE_SECONDS
        first.step()
    assert sorted(_partitions_told(told) + _partitions_told(of_second)) == both


def _partitions_told(telemetry: Telemetry) -> list[str]:
    lines = telemetry.text().decode().splitlines()
    return sorted(line for line in lines if line.startswith("kafka_consumergroup_lag{"))
