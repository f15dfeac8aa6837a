"""Reconciliation counts by position: a loss and a double show as two figures, not as none."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.operations.coverage import address_of
from audit_platform.operations.reconcile import Figures, _count, _Rows, reconcile
from audit_platform.record.deadletter import Body, Refusal, entries_for, record_values
from audit_platform.record.landing import WHOLE_RECORD
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC
from audit_platform.record.ranges import RangeObject, RangeRecord
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.services.archive_world import World, stored


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fresh world."""
    made = World(tmp_path)
    yield made
    made.close()


def dead_letters(world: World, count: int, *, size: int = 10) -> None:
    """Refused lines into the dead-letter topic."""
    body = Body("north", START_MS, "gateway-1", "ab" * 32)
    refusal = Refusal("bad_json", "$", "not JSON", "send JSON")
    entries = [
        e for n in range(count) for e in entries_for(body, n + 1, b"x" * size, refusal, None)
    ]
    for value, number in record_values(entries):
        world.send_value(value, count=number, topic=DLQ_TOPIC)


def busy(world: World) -> None:
    """Two archived ranges in one partition, one in the other, dead letters, raw rows."""
    world.send(stored(10).lines)
    world.send([*stored(2, "south").lines, b"bad line"], "south")
    world.archive()
    world.send(stored(5, first=10).lines)
    world.send_value(b"junk", count=4, headers={"count": "4"})
    world.send(stored(3, device="pump-2").lines, partition=1)
    dead_letters(world, 3)
    dead_letters(world, 1, size=1_500_000)
    world.archive()


def figures(found: Figures) -> tuple[int, int, int, int]:
    return (found.events, found.archived, found.undecodable, found.pending)


def test_every_event_is_archived_raw_or_waiting(world: World) -> None:
    busy(world)
    world.send(stored(7, first=15).lines)
    found = reconcile(world.platform)
    assert found.ok
    assert [figures(p) for p in found.partitions] == [
        (29, 18, 4, 7),
        (3, 3, 0, 0),
        (4, 4, 0, 0),
        (0, 0, 0, 0),
    ]
    assert (found.events, found.archived, found.undecodable, found.pending) == (36, 25, 4, 7)
    assert (found.ranges, found.objects, found.rows) == (4, 6, 28)
    assert (found.unaccounted, found.lost, found.doubled, found.findings) == (0, 0, 0, [])


def test_nothing_at_all_is_reconciled(world: World) -> None:
    found = reconcile(world.platform)
    assert found.ok
    assert (found.events, found.ranges) == (0, 0)


def test_what_the_log_has_let_go_of_is_counted_by_the_range_records(world: World) -> None:
    busy(world)
    world.log.drop_before(EVENTS_TOPIC, 0, 2)
    found = reconcile(world.platform)
    assert found.ok
    assert figures(found.partitions[0]) == (22, 18, 4, 0)


# --------------------------------------------------------------------------------- planted faults


def plant(world: World, change: Callable[[pa.Table], pa.Table], topic: str = EVENTS_TOPIC) -> None:
    """Store a changed copy of a partition's first object, and make its range record name it."""
    record = world.ranges(topic)[0]
    named = record.objects[0]
    table = change(pq.read_table(io.BytesIO(world.objects.get(named.key, named.version_id))))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    name(world, record, put(world, named, sink.getvalue()))


def put(world: World, named: RangeObject, data: bytes) -> RangeObject:
    """Another body under an object's key."""
    newer = world.objects.put(named.key, data, retain_until_ms=0, if_absent=False)
    return replace(named, version_id=newer.version_id)


def name(world: World, record: RangeRecord, named: RangeObject) -> None:
    """Rewrite a range record by hand, as somebody with the folder's rights could."""
    forged = replace(record, objects=(named, *record.objects[1:]))
    (world.folder / "objects" / address_of(record).record_key).write_bytes(forged.to_bytes())


def rows(*chosen: int) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.take(pa.array(chosen, pa.int64()))


def test_a_planted_loss_and_a_planted_double_show_as_one_and_one(world: World) -> None:
    busy(world)
    plant(world, rows(0, 1, 2, 3, 4, 4, 6, 7, 8, 9))
    found = reconcile(world.platform)
    assert (found.lost, found.doubled, found.unaccounted) == (1, 1, 1)
    assert not found.ok
    assert found.findings == []  # the number of rows is as recorded: only the places tell


def test_a_lost_row_alone_is_lost_and_unaccounted(world: World) -> None:
    busy(world)
    plant(world, rows(0, 1, 2, 3, 4, 5, 6, 7, 8))
    found = reconcile(world.platform)
    assert (found.lost, found.doubled, found.unaccounted) == (1, 0, 1)
    assert "9 rows, its range record says 10" in found.findings[0]


def test_a_row_that_was_moved_to_a_place_that_is_not_there_is_one_and_one(world: World) -> None:
    busy(world)

    def move(table: pa.Table) -> pa.Table:
        index = table["log_index"].to_pylist()
        index[3] = 10  # its log record has the lines 0 to 9
        return table.set_column(1, table.schema.field(1), pa.array(index, pa.int32()))

    plant(world, move)
    found = reconcile(world.platform)
    assert (found.lost, found.doubled) == (1, 1)


@pytest.mark.parametrize("offset", [-1, 77, 3])
def test_a_row_of_another_range_is_a_double(world: World, offset: int) -> None:
    busy(world)

    def move(table: pa.Table) -> pa.Table:
        offsets = [*table["log_offset"].to_pylist()[:-1], offset]
        return table.set_column(0, table.schema.field(0), pa.array(offsets))

    plant(world, move)
    found = reconcile(world.platform)
    assert (found.lost, found.doubled) == (1, 1)


def test_an_object_that_is_gone_loses_all_its_events(world: World) -> None:
    busy(world)
    record = world.ranges()[0]
    named = record.objects[0]
    (world.folder / "objects" / named.key).unlink()
    found = reconcile(world.platform)
    assert (found.lost, found.unaccounted) == (10, 10)
    assert found.findings == [f"{named.key}: not in the store"]


@pytest.mark.parametrize("body", [b"", b"PAR1 no parquet PAR1", b"x" * 5000])
def test_an_object_that_cannot_be_read_loses_all_its_events(world: World, body: bytes) -> None:
    busy(world)
    record = world.ranges()[0]
    name(world, record, put(world, record.objects[0], body))
    found = reconcile(world.platform)
    assert (found.lost, found.unaccounted) == (10, 10)
    assert "not readable" in found.findings[0]


def test_an_object_without_the_columns_cannot_be_read(world: World) -> None:
    busy(world)
    plant(world, lambda table: table.drop(["log_index"]))
    found = reconcile(world.platform)
    assert found.lost == 10
    assert "not readable" in found.findings[0]


def test_a_lost_raw_record_loses_the_events_that_its_header_counts(world: World) -> None:
    world.send_value(b"junk", headers={"count": "4"})
    world.archive()
    plant(world, rows())
    found = reconcile(world.platform)
    assert (found.lost, found.undecodable, found.unaccounted) == (4, 0, 4)


def test_a_doubled_raw_record_doubles_its_events(world: World) -> None:
    world.send_value(b"junk", headers={"count": "4"})
    world.archive()
    plant(world, rows(0, 0))
    found = reconcile(world.platform)
    assert (found.lost, found.undecodable, found.doubled) == (0, 4, 4)


def test_a_lost_and_a_doubled_dead_letter_show_as_one_and_one(world: World) -> None:
    busy(world)
    plant(world, rows(0, 0, 2, 3, 4, 5), DLQ_TOPIC)
    found = reconcile(world.platform)
    assert (found.lost, found.doubled, found.unaccounted) == (1, 1, 1)


def test_a_lost_chunk_of_a_dead_letter_is_found_by_the_number_of_rows(world: World) -> None:
    busy(world)
    plant(world, rows(0, 1, 2, 3, 4), DLQ_TOPIC)
    found = reconcile(world.platform)
    assert (found.lost, found.doubled) == (0, 0)
    assert "5 rows, its range record says 6" in found.findings[0]
    assert not found.ok


def test_a_missing_range_record_leaves_its_events_unaccounted(world: World) -> None:
    for n in range(3):
        world.send(stored(2, first=2 * n).lines)
        world.archive()
    key = address_of(world.ranges()[1]).record_key
    (world.folder / "objects" / ".meta" / f"{key}@1.json").unlink()
    found = reconcile(world.platform)
    assert (found.events, found.archived, found.lost, found.unaccounted) == (6, 4, 0, 2)
    assert "a range starts at 2, not at 1" in found.findings[0]


def test_a_log_record_that_is_not_the_archived_one_is_told(world: World) -> None:
    world.send(stored(2).lines)
    world.archive()
    (record,) = world.ranges()
    (digest,) = record.records
    forged = replace(record, records=(replace(digest, digest="0" * 16),))
    (world.folder / "objects" / address_of(record).record_key).write_bytes(forged.to_bytes())
    found = reconcile(world.platform)
    assert "the log record at 0 is not the one" in found.findings[0]
    assert not found.ok


def test_a_log_record_that_its_range_does_not_list_is_lost_unless_its_rows_are_there(
    world: World,
) -> None:
    world.send(stored(2).lines)
    world.archive()
    (record,) = world.ranges()
    forged = replace(record, records=(), objects=())
    (world.folder / "objects" / address_of(record).record_key).write_bytes(forged.to_bytes())
    found = reconcile(world.platform)
    assert (found.lost, found.unaccounted) == (2, 2)
    assert any("not one row was read" in text for text in found.findings)


def test_ranges_without_one_row_that_was_read_are_a_failure(world: World) -> None:
    world.send_value(b"", count=0)
    world.archive()
    found = reconcile(world.platform)
    assert (found.ranges, found.rows, found.lost, found.unaccounted) == (1, 0, 0, 0)
    assert not found.ok


# ------------------------------------------------------------------------------------------ model


@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    found=st.lists(st.tuples(st.integers(-1, 5), st.integers(-3, 5)), max_size=20),
)
def test_positions_are_compared_as_sets(counts: list[int], found: list[tuple[int, int]]) -> None:
    got = Figures(EVENTS_TOPIC, 0)
    offsets = np.array([o for o, _ in found], np.int64)
    index = np.array([i for _, i in found], np.int64)
    places = np.arange(len(counts), dtype=np.int64)
    _count(places, np.array(counts, np.int64), _Rows(offsets, index, is_indexed=True), got)

    seen = Counter(found)
    raw = {o for o, i in found if i == WHOLE_RECORD and 0 <= o < len(counts)}
    wanted = {(o, i) for o, n in enumerate(counts) if o not in raw for i in range(n)}
    archived = wanted & seen.keys()
    doubled = 0
    for (offset, i), times in seen.items():
        if i == WHOLE_RECORD and offset in raw:
            doubled += (times - 1) * counts[offset]
        else:
            doubled += times - ((offset, i) in archived)
    assert got.archived == len(archived)
    assert got.lost == len(wanted - archived)
    assert got.undecodable == sum(counts[o] for o in raw)
    assert got.doubled == doubled
