"""Late, double, skewed: restored edges, copies across midnight, clocks that are far off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pytest

from audit_platform.operations.completeness import completeness
from audit_platform.operations.late import close_again
from audit_platform.operations.manifests import read_history
from audit_platform.operations.seal import SealResult
from audit_platform.ports import Platform
from audit_platform.record import layout
from audit_platform.record.columns import hashes_of
from audit_platform.record.event import event_hash
from audit_platform.record.parquet import read_columns
from audit_platform_tests.world import DAY, Edge, World, open_world

TENANT = "north"
DAYS = [layout.next_day(DAY, n) for n in range(4)]
CENTURY_MS = 36_525 * layout.MS_PER_DAY


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as opened:
        yield opened


def sealed_rows(platform: Platform, day: str) -> tuple[list[str], list[bytes]]:
    """The eventIds and the eventHashes of all sealed rows of a day."""
    ids: list[str] = []
    hashes: list[bytes] = []
    for part in read_history(platform, TENANT).counting[day].parts:
        with platform.objects.open(part.object.key, part.object.version_id) as file:
            table = read_columns(file, ["event_id", "event_hash"]).combine_chunks()
        ids += table["event_id"].to_pylist()
        hashes += [bytes(h) for h in hashes_of(table["event_hash"].chunk(0))]
    return ids, hashes


def finish(world: World, day: str) -> SealResult:
    world.archive()
    world.close(day)
    return world.seal(TENANT, day)


def no_fault(world: World, day: str) -> None:
    """The day verifies, and everything that landed for it is sealed."""
    assert world.verify(TENANT, day).findings == []
    found = completeness(world.platform, TENANT, day)
    assert found is not None
    assert (found.proved, found.waiting) == (True, 0)


def beats(edge: Edge, numbers: range, ms: int) -> list[bytes]:
    """What a device says at each number, the same whichever edge completes it."""
    edge.numbers["pump-000"] = numbers.start
    return [
        edge.event("pump-000", "heartbeat", {"batteryPercent": n % 101}, ms + n) for n in numbers
    ]


def test_an_edge_restored_from_a_copy_three_days_old_sends_all_again_and_nothing_is_lost(
    world: World,
) -> None:
    edge = world.edge(TENANT)
    begin = world.clock.now_ms()
    sent = [edge.start(begin), *beats(edge, range(10), begin)]
    heads, numbers = dict(edge.heads), edge.numbers.copy()
    world.ingest(TENANT, sent)
    finish(world, DAYS[0])
    for n, day in enumerate(DAYS[1:3], 1):
        lines = beats(edge, range(10 * n, 10 * n + 10), begin)
        world.ingest(TENANT, lines)
        sent += lines
        finish(world, day)
    # The copy knows the first day only: it begins a new epoch and sends the other days again.
    edge.heads, edge.numbers = heads, numbers
    again = [edge.start(world.clock.now_ms()), *beats(edge, range(10, 33), begin)]
    world.ingest(TENANT, again)
    result = finish(world, DAYS[3])
    assert result.rows == len(again)
    assert result.verdicts == {"resent": 20}
    rows = [sealed_rows(world.platform, day) for day in DAYS]
    hashes = [h for _, of_day in rows for h in of_day]
    assert sorted(hashes) == sorted(map(event_hash, [*sent, *again]))
    ids = [i for of_day, _ in rows for i in of_day]
    assert len(ids) - len(set(ids)) == 20
    report = world.verify(TENANT, DAYS[3])
    assert report.findings == []
    told = {(e.verdict, e.device_id) for e in report.entries if e.note and e.verdict}
    assert told == {("chain_reset", "pump-000"), ("chain_reset", "edge-0")}
    for day in DAYS:
        no_fault(world, day)


def test_only_the_same_words_are_resent_other_words_have_another_id(world: World) -> None:
    edge = world.edge(TENANT)
    begin = world.clock.now_ms()
    world.ingest(TENANT, [edge.start(begin), *beats(edge, range(3), begin)])
    finish(world, DAYS[0])
    started = edge.start(world.clock.now_ms())
    same = beats(edge, range(2), begin)
    other = edge.event("pump-000", "heartbeat", {"batteryPercent": 99}, begin + 2)
    world.ingest(TENANT, [started, *same, other])
    assert finish(world, DAYS[1]).verdicts == {"resent": 2}


def test_an_edge_that_sends_again_within_the_day_is_resent_and_no_fork(world: World) -> None:
    edge = world.edge(TENANT)
    begin = world.clock.now_ms()
    sent = [edge.start(begin), *beats(edge, range(5), begin)]
    edge.heads.pop("pump-000")
    again = [edge.start(begin), *beats(edge, range(5), begin)]
    world.ingest(TENANT, [*sent, *again])
    result = finish(world, DAY)
    assert (result.rows, result.verdicts) == (12, {"resent": 5})
    no_fault(world, DAY)


def test_copies_across_midnight_stand_in_one_day_even_when_one_of_them_is_late(
    world: World,
) -> None:
    edge = world.edge(TENANT)
    sent = [edge.start(world.clock.now_ms()), *edge.heartbeats(2, 3, world.clock.now_ms())]
    world.ingest(TENANT, sent[:-2])
    finish(world, DAYS[0])
    world.ingest(TENANT, sent)  # sent again as a whole, a little after midnight
    world.ingest(TENANT, sent[-3:], at_ms=layout.day_end_ms(DAY) - 1)  # by a gateway that lags
    finish(world, DAYS[1])
    close_again(world.platform, DAY)
    assert world.seal(TENANT, DAYS[0]).revision == 2
    hashes = [h for day in DAYS[:2] for h in sealed_rows(world.platform, day)[1]]
    assert sorted(hashes) == sorted(map(event_hash, sent))
    for day in DAYS[:2]:
        no_fault(world, day)


@pytest.mark.parametrize("off", [-CENTURY_MS, CENTURY_MS])
def test_a_device_whose_clock_is_a_century_off_is_sealed_by_the_time_it_came(
    world: World, off: int
) -> None:
    edge = world.edge(TENANT)
    now = world.clock.now_ms()
    lines = [edge.start(now), *edge.heartbeats(2, 5, now + off)]
    world.ingest(TENANT, lines)
    assert finish(world, DAY).rows == 11
    no_fault(world, DAY)
    part = read_history(world.platform, TENANT).counting[DAY].parts[0]
    with world.platform.objects.open(part.object.key, part.object.version_id) as file:
        table = read_columns(file, ["event_time", "ingestion_time"])
    skew = pc.subtract(table["event_time"].cast("int64"), table["ingestion_time"].cast("int64"))
    assert sum(abs(ms) > CENTURY_MS // 2 for ms in skew.to_pylist()) == 10
