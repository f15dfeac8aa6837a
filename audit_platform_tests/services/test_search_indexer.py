"""search-indexer: what it indexes and what not, over faults of HOT and the log, and any bytes."""

from __future__ import annotations

import itertools
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from audit_platform.errors import HotUnavailable
from audit_platform.operations.log_events import Reason, log_events
from audit_platform.ports import HotIndex, LogRecord, NewRecord
from audit_platform.record.event import complete_event, format_time_ms, stored_line
from audit_platform.record.layout import EVENTS_TOPIC, INDEXER_GROUP, ZERO_HASH
from audit_platform.services.search_indexer import METRICS, SearchIndexer
from audit_platform.telemetry import Telemetry
from audit_platform.wiring import open_platform
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.world import DAY, World, open_world

USUAL = {"v": "1", "tenant": "north"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A new installation of one partition."""
    with open_world(tmp_path, partitions=1) as opened:
        yield opened


def line(number: int, *, tenant: str = "north", at_ms: int = START_MS) -> bytes:
    """A stored event with its line end."""
    said = {
        "deviceId": "pump-1",
        "eventType": "heartbeat",
        "eventVersion": 1,
        "eventTime": format_time_ms(START_MS + number),
        "sequenceNumber": number,
        "payload": {"batteryPercent": number % 101},
    }
    done = complete_event(
        said, tenant_id=tenant, hospital_id="h-1", chain_id="0123456789abcdef", prev_hash=ZERO_HASH
    )
    return stored_line(done.canonical, format_time_ms(at_ms).encode()) + b"\n"


def append(world: World, value: bytes, **headers: str) -> None:
    """A log record with any headers, by hand."""
    usual = USUAL | {"count": str(value.count(b"\n"))}
    world.platform.log.append(EVENTS_TOPIC, [NewRecord(0, value, usual | headers)])


def indexer(world: World, telemetry: Telemetry | None = None) -> SearchIndexer:
    return SearchIndexer(world.platform, telemetry or Telemetry(METRICS), member="indexer-1")


@contextmanager
def open_again(world: World) -> Iterator[World]:
    """The same world, opened anew."""
    platform = open_platform(world.settings, clock=world.clock)
    try:
        yield replace(world, platform=platform)
    finally:
        platform.close()


def run(indexer: SearchIndexer) -> None:
    """Index all that is in the log."""
    while indexer.step():
        pass


def documents(world: World) -> dict[tuple[str, str], int]:
    return {(i.tenant_id, i.day): i.documents for i in world.platform.hot.indexes()}


def figure(telemetry: Telemetry, start: str) -> float:
    """A metric as it is shown; 0 while it is not."""
    lines = telemetry.text().decode().splitlines()
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith(start))


def committed(world: World) -> int | None:
    member = world.platform.log.join(INDEXER_GROUP, EVENTS_TOPIC, "asker")
    try:
        return member.committed(0)
    finally:
        member.leave()


def test_events_are_indexed_by_tenant_and_day_and_the_offset_is_committed(world: World) -> None:
    append(world, line(0) + line(1, at_ms=START_MS + 86_400_000))
    append(world, line(0, tenant="south"), tenant="south")
    telemetry = Telemetry(METRICS)
    run(indexer(world, telemetry))
    assert documents(world) == {("north", DAY): 1, ("north", "2026-03-02"): 1, ("south", DAY): 1}
    assert committed(world) == 2
    assert figure(telemetry, 'audit_indexer_events_total{outcome="new"}') == 3


def test_an_event_that_comes_again_is_known(world: World) -> None:
    append(world, line(0) + line(1))
    append(world, line(1, at_ms=START_MS + 5) + line(2))
    telemetry = Telemetry(METRICS)
    run(indexer(world, telemetry))
    assert documents(world) == {("north", DAY): 3}
    assert figure(telemetry, 'audit_indexer_events_total{outcome="known"}') == 1


def test_the_next_indexer_goes_on_where_the_group_is(world: World) -> None:
    append(world, line(0))
    first = indexer(world)
    run(first)
    first.leave()
    append(world, line(1))
    telemetry = Telemetry(METRICS)
    run(indexer(world, telemetry))
    assert documents(world) == {("north", DAY): 2}
    assert figure(telemetry, "audit_indexer_events_total") == 1


@pytest.mark.parametrize(
    ("value", "headers", "reason"),
    [
        (b"not an event\n", {}, "line"),
        (line(9).replace(b'"checksum":"', b'"checksum":"0', 1), {}, "line"),
        (line(9).replace(b'"batteryPercent":9', b'"batteryPercent":8'), {}, "line"),
        (line(9).replace(b"heartbeat", b"he\xff\xfebeat"), {}, "line"),
        (line(9, tenant="south"), {}, "tenant"),
        (line(9), {"tenant": "NORTH"}, "record"),
        (line(9), {"v": "2"}, "record"),
        (line(9), {"count": "2"}, "record"),
        (line(9)[:-1], {"count": "1"}, "record"),
        (b"\x00\xff" * 50, {"count": "x"}, "record"),
    ],
)
def test_what_is_no_event_is_counted_with_its_place_and_passed_over(
    value: bytes,
    headers: dict[str, str],
    reason: str,
    world: World,
    caplog: pytest.LogCaptureFixture,
) -> None:
    append(world, line(0))
    append(world, value, **headers)
    append(world, line(1))
    telemetry = Telemetry(METRICS)
    with caplog.at_level(logging.ERROR):
        run(indexer(world, telemetry))
    assert documents(world) == {("north", DAY): 2}
    name = "consumer_envelope_defense_failures_total"
    assert figure(telemetry, f'{name}{{reason="{reason}"}}') == 1
    assert figure(telemetry, name) == 1
    (said,) = [r for r in caplog.records if "no event" in r.message]
    whole = reason == "record"
    place = (said.__dict__["topic"], said.__dict__["partition"], said.__dict__["offset"])
    assert place == (EVENTS_TOPIC, 0, 1)
    assert said.__dict__["line"] == (-1 if whole else 0)
    assert committed(world) == 3


def test_a_bad_line_among_good_ones_takes_none_of_them_along(world: World) -> None:
    append(world, line(0) + b"?\n" + line(1) + line(2, tenant="south") + line(3))
    telemetry = Telemetry(METRICS)
    run(indexer(world, telemetry))
    assert documents(world) == {("north", DAY): 3}
    assert figure(telemetry, "consumer_envelope_defense_failures_total") == 2


def test_a_hot_that_fails_is_waited_for_and_nothing_is_passed_over(world: World) -> None:
    append(world, line(0))
    blocked = world.settings.hot_folder
    blocked.write_text("a file in its place")
    seconds = 0.0
    waiting = SearchIndexer(
        world.platform, Telemetry(METRICS), member="indexer-1", monotonic=lambda: seconds
    )
    assert not waiting.step()
    assert list(waiting.waiting) == [f"{EVENTS_TOPIC}/0"]
    assert committed(world) is None
    blocked.unlink()
    assert not waiting.step()  # not yet: it backs off
    seconds = 60.0
    assert waiting.step()
    assert waiting.waiting == {}
    assert documents(world) == {("north", DAY): 1}
    assert committed(world) == 1


def test_a_damaged_index_holds_only_its_own_rows_back(world: World) -> None:
    append(world, line(0))
    first = indexer(world)
    run(first)
    world.platform.close()
    (damaged,) = world.settings.hot_folder.glob("*.g1.db")
    damaged.write_bytes(bytes(8192))
    with open_again(world) as again:
        append(again, line(1) + line(2))
        append(again, line(0, tenant="south"), tenant="south")
        telemetry = Telemetry(METRICS)
        waiting = indexer(again, telemetry)
        waiting.step()
        assert "hot.north" in str(waiting.waiting)
        assert documents(again)["south", DAY] == 1
        # A rebuild moves the write alias: the next attempt passes.
        generation = again.platform.hot.new_index("north", DAY)
        again.platform.hot.move_write("north", DAY, generation)
        waiting = indexer(again, telemetry)
        run(waiting)
        assert HotIndex("north", DAY, generation, 2, is_read=False, is_write=True) in (
            again.platform.hot.indexes()
        )


def test_records_that_retention_took_are_told_and_it_goes_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    append(world, line(0))
    telemetry = Telemetry(METRICS)
    behind = indexer(world, telemetry)
    behind.step()
    partition = behind._partitions[0]
    partition.next_offset = -5  # as if the log's first offset had moved on by five
    with caplog.at_level(logging.ERROR):
        run(behind)
    assert behind.skipped == {0: 5}
    assert figure(telemetry, "audit_indexer_skipped_records_total") == 5
    assert "rebuild-hot" in caplog.text
    assert documents(world) == {("north", DAY): 1}


def test_a_log_that_was_made_anew_is_read_from_its_start(world: World) -> None:
    for number in range(3):
        append(world, line(number))
    behind = indexer(world)
    run(behind)
    behind._partitions[0].next_offset = 99
    append(world, line(3))
    run(behind)
    assert documents(world) == {("north", DAY): 4}


def test_lag_is_told_in_records_events_and_seconds(world: World) -> None:
    append(world, line(0) + line(1))
    seconds = 0.0
    telemetry = Telemetry(METRICS)
    late = SearchIndexer(world.platform, telemetry, member="indexer-1", monotonic=lambda: seconds)
    run(late)
    labels = f'{{group="search-indexer",partition="0",topic="{EVENTS_TOPIC}"}}'
    assert figure(telemetry, f"kafka_consumergroup_lag{labels}") == 0
    world.settings.hot_folder.rename(world.folder / "away")
    world.settings.hot_folder.write_text("a file in its place")
    append(world, line(2) + line(3))
    world.clock.ms += 7000
    seconds = 5.0
    late.step()
    assert figure(telemetry, f"kafka_consumergroup_lag{labels}") == 1
    assert figure(telemetry, f"kafka_consumergroup_lag_events{labels}") == 2
    assert figure(telemetry, f"kafka_consumergroup_lag_seconds{labels}") == 7


def test_two_indexers_share_partitions_and_index_each_event_once(tmp_path: Path) -> None:
    with open_world(tmp_path, partitions=2) as world:
        edge = world.edge("north")
        start = edge.start(START_MS)
        world.ingest("north", [start, *edge.heartbeats(20, 3, START_MS)])
        told = [Telemetry(METRICS) for _ in range(2)]
        ticks = itertools.count()  # a second a step, or more
        first, second = (
            SearchIndexer(
                world.platform, telemetry, member=f"indexer-{n}", monotonic=lambda: next(ticks)
            )
            for n, telemetry in enumerate(told)
        )
        first.step()
        assert lags(told[0]) == ["0", "1"]
        for _ in range(5):
            second.step()
            first.step()
        assert [len(one._partitions) for one in (first, second)] == [1, 1]
        # Nobody tells a lag of what another has: it would stand still.
        assert sorted(lags(told[0]) + lags(told[1])) == ["0", "1"]
        assert documents(world) == {("north", DAY): 61}


def lags(telemetry: Telemetry) -> list[str]:
    """Partitions that a lag is told of."""
    text = telemetry.text().decode()
    found = re.findall(r'^kafka_consumergroup_lag{.*partition="(\d)"', text, re.MULTILINE)
    return sorted(found)


def test_a_frozen_indexer_that_thaws_changes_nothing(world: World) -> None:
    append(world, line(0))
    frozen = indexer(world)
    frozen._renew()
    other = SearchIndexer(world.platform, Telemetry(METRICS), member="indexer-1")
    append(world, line(1))
    run(other)  # the same name: the lease passes to the newer instance
    assert committed(world) == 2
    assert frozen._member is not None
    done = frozen._partitions[0].step(frozen._member, 1 << 20)
    assert (done.new, done.known) == (0, 2)
    assert committed(world) == 2
    assert documents(world) == {("north", DAY): 2}


# -------------------------------------------------------------------------------------------- fuzz

header_text = st.sampled_from(["1", "2", "north", "x" * 64, "", "-1", "0", "é", "3"])
headers = st.fixed_dictionaries(
    {},
    optional={
        "v": header_text,
        "tenant": st.just("north") | header_text,
        "count": header_text,
        "more": st.text(max_size=5),
    },
)
good = st.integers(0, 50).map(line)


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A good line with some bytes of it changed."""
    data = bytearray(draw(good))
    for _ in range(draw(st.integers(1, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


values = st.binary(max_size=200) | st.lists(
    good | spoilt() | st.binary(max_size=20), max_size=4
).map(b"".join)


@given(records=st.lists(st.tuples(values, headers), max_size=4))
@example(records=[(line(1), USUAL | {"count": "1"})])
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_foreign_bytes_in_the_log_raise_nothing_and_each_line_is_told_once(
    records: list[tuple[bytes, dict[str, str]]],
) -> None:
    made = [
        LogRecord(EVENTS_TOPIC, 0, n, START_MS, value, given)
        for n, (value, given) in enumerate(records)
    ]
    found = log_events(made)
    rows = sum(batch.num_rows for batches in found.rows.values() for batch in batches)
    whole = {o.offset for o in found.others if o.reason is Reason.RECORD}
    lines = sum(r.value.count(b"\n") for r in made if r.offset not in whole)
    assert rows + sum(o.reason is not Reason.RECORD for o in found.others) == lines
    assert all(tenant == "north" for tenant, _ in found.rows)


@given(value=values, given_headers=headers)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_foreign_bytes_do_not_stop_the_indexer(
    value: bytes, given_headers: dict[str, str], world: World
) -> None:
    end = world.platform.log.bounds(EVENTS_TOPIC, 0)[1]
    world.platform.log.append(EVENTS_TOPIC, [NewRecord(0, value, given_headers)])
    running = indexer(world)
    run(running)
    running.leave()
    assert committed(world) == end + 1


def test_a_deleted_hot_folder_is_begun_anew(world: World) -> None:
    append(world, line(0))
    running = indexer(world)
    run(running)
    shutil.rmtree(world.settings.hot_folder)
    append(world, line(1))
    run(running)
    assert documents(world) == {("north", DAY): 1}
    with pytest.raises(HotUnavailable):
        world.platform.hot.move_read("north", DAY, 2)
