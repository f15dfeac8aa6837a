"""The next log generation: opened at the first record that differs, and nothing is lost by it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.errors import GenerationRefused
from audit_platform.killpoints import Killpoint
from audit_platform.operations import log_check, open_generation
from audit_platform.operations.closing import closing_of
from audit_platform.operations.coverage import address_of, coverage, range_records
from audit_platform.operations.generations import current_generation, generations
from audit_platform.operations.late_turns import Known, look_for_late_days
from audit_platform.operations.log_check import check
from audit_platform.operations.manifests import read_history
from audit_platform.operations.open_generation import Purpose
from audit_platform.operations.query.cold import search_cold
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import scope_of_days
from audit_platform.operations.rebuild_hot import rebuild_hot
from audit_platform.operations.reconcile import reconcile
from audit_platform.ports import EventQuery
from audit_platform.record.layout import (
    DLQ_TOPIC,
    EVENTS_TOPIC,
    day_end_ms,
    day_start_ms,
    next_day,
)
from audit_platform.record.ranges import ClosedPartition, Generation
from audit_platform_tests.failures.receipts import Receipts
from audit_platform_tests.operations.lost_log import (
    Sender,
    add_partitions,
    archive,
    lose_tail,
    make_topic_anew,
    put,
)
from audit_platform_tests.services.archive_world import Crash
from audit_platform_tests.world import DAY, GRACE_MS, Edge, World, open_world

TENANT = "north"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path / "home") as opened:
        first = opened.platform.log
        yield opened
        if opened.platform.log is not first:
            opened.platform.log.close()  # type: ignore[attr-defined] # the embedded log has it


@pytest.fixture
def sender(world: World) -> Sender:
    return Sender(world)


@pytest.fixture
def edge(world: World, sender: Sender) -> Edge:
    """An edge that has announced itself."""
    made = world.edge(TENANT)
    sender.send([made.start(world.clock.now_ms())])
    return made


def say(sender: Sender, edge: Edge, times: int, devices: int = 6) -> None:
    """Some log records in each partition."""
    for _ in range(times):
        sender.send(edge.heartbeats(devices, 1, sender.world.clock.now_ms()))


def records(world: World, partition: int) -> int:
    return world.platform.log.bounds(EVENTS_TOPIC, partition)[1]


def starts(generation: Generation) -> list[tuple[int, ...]]:
    return [topic.start_offsets for topic in generation.topics]


def troubles(world: World) -> list[tuple[str, int | None, str]]:
    return [(b.topic, b.partition, b.trouble.value) for b in check(world.platform)]


def assert_sealed(world: World, sender: Sender, tmp_path: Path, day: str = DAY) -> None:
    """Close and seal a day, and compare it with the sender's receipts; everything is sound."""
    world.close(day)
    world.seal(TENANT, day)
    assert world.verify(TENANT, day).findings == []
    assert_the_set_is_whole(world, sender.receipts, tmp_path)


def assert_the_set_is_whole(world: World, receipts: Receipts, tmp_path: Path) -> None:
    found = receipts.check(world.objects_folder, tmp_path)
    assert found["clean"], found
    counted = reconcile(world.platform)
    assert counted.findings == []
    assert (counted.unaccounted, counted.lost, counted.doubled, counted.pending) == (0, 0, 0, 0)
    assert counted.archived > 0


# -------------------------------------------------------------------------------- what is found


def test_before_the_first_generation_there_is_nothing_to_check_and_nothing_to_open(
    world: World,
) -> None:
    assert check(world.platform) == []
    with pytest.raises(GenerationRefused, match="no log generation"):
        open_generation.open_generation(world.platform)


def test_a_sound_log_is_left_alone(world: World, sender: Sender, edge: Edge) -> None:
    say(sender, edge, 3)
    assert archive(world) == {}
    say(sender, edge, 1)
    assert check(world.platform) == []
    with pytest.raises(GenerationRefused, match="is the one"):
        open_generation.open_generation(world.platform)
    assert len(list(generations(world.platform))) == 1
    closed = [
        r
        for p in (0, 1)
        for r in range_records(world.platform.objects, EVENTS_TOPIC, 1, p)
        if r.closed
    ]
    assert closed == []


@pytest.mark.parametrize("kept", [0, 1, 4, 5])
def test_a_log_filled_again_past_the_archived_end_is_met_at_the_first_record_that_differs(
    world: World, sender: Sender, edge: Edge, kept: int
) -> None:
    for _ in range(3):
        say(sender, edge, 2)
        assert archive(world) == {}
    covered = records(world, 0)
    lose_tail(world, 0, kept)
    for n in range(covered + 3 - kept):
        put(world, 0, b"other %d\n" % n)
    stopped = archive(world)
    assert list(stopped) == [f"{EVENTS_TOPIC}/0"]
    assert "another record" in stopped[f"{EVENTS_TOPIC}/0"]
    assert troubles(world) == [(EVENTS_TOPIC, 0, "digest")]
    done = open_generation.open_generation(world.platform)
    assert (done.generation.number, done.generation.reason, done.ours) == (2, "digest", True)
    assert starts(done.generation) == [(kept, records(world, 1)), (0, 0)]
    assert check(world.platform) == []
    assert archive(world) == {}


def test_a_log_that_ends_before_what_was_archived_goes_on_at_its_end(
    world: World, sender: Sender, edge: Edge
) -> None:
    say(sender, edge, 4)
    archive(world)
    lose_tail(world, 0, 2)
    assert troubles(world) == [(EVENTS_TOPIC, 0, "tail")]
    done = open_generation.open_generation(world.platform)
    assert (starts(done.generation)[0][0], done.generation.reason) == (2, "tail")
    say(sender, edge, 1)
    assert archive(world) == {}


def test_a_loss_below_the_start_of_the_open_generation_is_met_where_it_is(
    world: World, sender: Sender, edge: Edge, tmp_path: Path
) -> None:
    say(sender, edge, 4)
    archive(world)
    second = open_generation.open_generation(world.platform, Purpose.STORE).generation
    say(sender, edge, 1)
    archive(world)
    assert starts(second)[0][0] > 2
    lose_tail(world, 0, 2)
    say(sender, edge, 6)
    assert troubles(world) == [(EVENTS_TOPIC, 0, "digest")]
    assert starts(open_generation.open_generation(world.platform).generation)[0][0] == 2
    assert archive(world) == {}
    assert_sealed(world, sender, tmp_path)


def test_a_topic_made_anew_begins_at_its_first_record_and_the_other_topic_goes_on(
    world: World, sender: Sender, edge: Edge
) -> None:
    say(sender, edge, 4)
    world.refuse(TENANT, [b"junk"])
    archive(world)
    dead_letters = world.platform.log.bounds(DLQ_TOPIC, 0)[1]
    make_topic_anew(world, 3)
    say(sender, edge, 2)
    assert troubles(world) == [(EVENTS_TOPIC, None, "topic")]
    assert len(archive(world)) == 5
    done = open_generation.open_generation(world.platform)
    assert starts(done.generation) == [(0, 0, 0), (dead_letters, 0)]
    assert archive(world) == {}
    assert check(world.platform) == []


def test_more_partitions_stop_everything_until_the_generation_is_opened(
    world: World, sender: Sender, edge: Edge, tmp_path: Path
) -> None:
    say(sender, edge, 2)
    archive(world)
    say(sender, edge, 1)  # in the log, not archived
    ends = [p.end_offset for p in coverage_ends(world)]
    add_partitions(world, 5)
    assert troubles(world) == [(EVENTS_TOPIC, None, "partitions")]
    assert len(archive(world)) == 7
    done = open_generation.open_generation(world.platform, Purpose.PARTITIONS)
    assert starts(done.generation)[0] == (*ends, 0, 0, 0)
    say(sender, edge, 3)
    assert archive(world) == {}
    sent = len(sender.held)
    assert sender.ask() == {"archived": sent}
    assert_sealed(world, sender, tmp_path)


def coverage_ends(world: World) -> list[ClosedPartition]:
    """Where the ranges of the events' partitions end."""
    generation = current_generation(world.platform)
    assert generation is not None
    return [
        ClosedPartition(EVENTS_TOPIC, generation.number, p, last.end_offset)
        for p in (0, 1)
        if (last := log_check.last_range(world.platform, generation, EVENTS_TOPIC, p)) is not None
    ]


def test_records_that_retention_took_before_they_were_archived_are_left_behind(
    world: World, sender: Sender, edge: Edge
) -> None:
    world.platform.log.close()  # type: ignore[attr-defined] # the embedded log has it
    small = EmbeddedLog(world.settings.log_folder, RealFiles(), world.clock, 2, segment_bytes=1)
    world.platform = replace(world.platform, log=small)
    say(sender, edge, 1)
    archive(world)
    covered = records(world, 0)
    say(sender, edge, 4)
    small.drop_before(EVENTS_TOPIC, 0, covered + 2)
    assert troubles(world) == [(EVENTS_TOPIC, 0, "retention")]
    done = open_generation.open_generation(world.platform)
    assert starts(done.generation)[0][0] == covered + 2
    assert archive(world) == {}
    # What retention took is with the edge, which is told so.
    assert sender.ask()["differs"] == 2


# ------------------------------------------------------------------------- opened on purpose, twice


def test_a_planned_opening_goes_on_where_the_ranges_end(
    world: World, sender: Sender, edge: Edge, tmp_path: Path
) -> None:
    say(sender, edge, 2)
    archive(world)
    say(sender, edge, 1)
    ends = tuple(p.end_offset for p in coverage_ends(world))
    done = open_generation.open_generation(world.platform, Purpose.STORE)
    assert (starts(done.generation)[0], done.generation.reason) == (ends, "store")
    assert [p.end_offset for p in done.generation.closed][:2] == list(ends)
    assert archive(world) == {}
    assert_sealed(world, sender, tmp_path)


def test_two_that_open_at_once_open_one_generation(
    world: World, sender: Sender, edge: Edge
) -> None:
    say(sender, edge, 4)
    archive(world)
    make_topic_anew(world, 2)
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(open_generation.open_generation, world.platform, Purpose.STORE)
            for _ in "ab"
        ]
        numbers = sorted(b.result().generation.number for b in both)
    # One after the other it may be two on purpose; never one number with two meanings.
    assert numbers in ([2, 2], [2, 3])
    assert [g.number for g in generations(world.platform)] == list(range(1, numbers[-1] + 1))
    assert archive(world) == {}


STEPS = [
    (Killpoint.PARTITION_CLOSED, 1),
    (Killpoint.PARTITION_CLOSED, 3),
    (Killpoint.GENERATION_CLOSED, 1),
    (Killpoint.GENERATION_OPENED, 1),
]


@pytest.mark.parametrize(("point", "nth"), STEPS)
def test_an_opening_that_dies_at_any_step_is_finished_by_the_next(
    world: World,
    sender: Sender,
    edge: Edge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    point: Killpoint,
    nth: int,
) -> None:
    say(sender, edge, 4)
    archive(world)
    lose_tail(world, 0, 2)
    say(sender, edge, 5)
    seen = 0

    def die(reached: Killpoint) -> None:
        nonlocal seen
        seen += reached is point
        if seen == nth and reached is point:
            raise Crash

    monkeypatch.setattr(open_generation, "reach", die)
    with pytest.raises(Crash):
        open_generation.open_generation(world.platform)
    monkeypatch.undo()
    if point is Killpoint.GENERATION_OPENED:
        with pytest.raises(GenerationRefused):
            open_generation.open_generation(world.platform)
    else:
        assert "digest" in [what for _, _, what in troubles(world)]
        assert open_generation.open_generation(world.platform).generation.reason == "digest"
    generation = current_generation(world.platform)
    assert generation is not None
    assert (generation.number, starts(generation)[0][0]) == (2, 2)
    assert archive(world) == {}
    while sender.held:
        sender.ask()
        archive(world)
    assert_sealed(world, sender, tmp_path)


def test_a_writer_that_is_quicker_than_the_closing_moves_it_and_loses_nothing(
    world: World, sender: Sender, edge: Edge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    say(sender, edge, 2)
    archive(world)
    say(sender, edge, 2)
    find = log_check.last_range
    raced: list[str] = []

    def race(*args: object) -> object:
        found = find(*args)  # type: ignore[arg-type] # passed on as they came
        if not raced:
            raced.append("now")
            archive(world)
        return found

    monkeypatch.setattr(open_generation, "last_range", race)
    done = open_generation.open_generation(world.platform, Purpose.STORE)
    assert starts(done.generation)[0] == (records(world, 0), records(world, 1))
    assert archive(world) == {}
    assert_sealed(world, sender, tmp_path)


# ----------------------------------------------------------------------------- days across it


def test_what_the_log_lost_is_sent_again_and_days_go_on_over_both_generations(
    world: World, sender: Sender, edge: Edge, tmp_path: Path
) -> None:
    say(sender, edge, 3)
    archive(world)
    say(sender, edge, 2)  # acknowledged, not archived, and lost
    lost = lose_tail(world, 0, 2)
    assert lost > 3
    say(sender, edge, 4)
    assert len(archive(world)) == 1
    # What the archive has is let go; what only the edge has waits for the next generation.
    first = sender.ask()
    assert first["pending"] > 0
    open_generation.open_generation(world.platform)
    while sender.held:
        archive(world)
        sender.ask()
    archive(world)
    assert_sealed(world, sender, tmp_path)
    for n in range(1, 4):
        say(sender, edge, 1)
        archive(world)
        assert_sealed(world, sender, tmp_path, next_day(DAY, n))
    third = closing_of(world.platform, next_day(DAY, 3))
    assert third is not None
    assert {p.generation for p in third.partitions} == {2}
    assert coverage(world.platform, next_day(DAY, 3)).complete


def test_a_day_closed_over_the_broken_log_is_sealed_and_its_rest_is_a_revision(
    world: World, sender: Sender, edge: Edge, tmp_path: Path
) -> None:
    say(sender, edge, 3)
    archive(world)
    lose_tail(world, 0, 1)
    say(sender, edge, 6)
    world.close()  # its ends lie behind the end of the ranges, in records of the next generation
    assert not coverage(world.platform, DAY).complete
    open_generation.open_generation(world.platform)
    while sender.held:
        archive(world)
        sender.ask()
    archive(world)
    covered = coverage(world.platform, DAY)
    assert covered.complete, covered.missing
    world.seal(TENANT)
    world.clock.advance(GRACE_MS)
    look_for_late_days(world.platform, Known(), GRACE_MS)
    assert world.seal(TENANT).revision == 2
    assert world.verify(TENANT).findings == []
    assert_sealed(world, sender, tmp_path, next_day(DAY))


def test_a_day_is_not_covered_while_a_range_of_the_closed_generation_is_missing(
    world: World, sender: Sender, edge: Edge
) -> None:
    for _ in range(3):
        say(sender, edge, 1)
        archive(world)
    second = open_generation.open_generation(world.platform, Purpose.STORE).generation
    say(sender, edge, 1)
    archive(world)
    world.close()
    closing = closing_of(world.platform, DAY)
    assert closing is not None
    assert set(second.closed) < set(closing.partitions)
    assert coverage(world.platform, DAY).complete
    key = address_of(list(range_records(world.platform.objects, EVENTS_TOPIC, 1, 0))[1]).record_key
    for folder in (world.objects_folder, world.objects_folder / ".meta"):
        for path in folder.glob(f"{key}*"):
            path.unlink()
    assert [(m.generation, m.reason) for m in coverage(world.platform, DAY).missing] == [
        (1, "no range record")
    ]


@pytest.mark.parametrize("raw", [False, True])
def test_a_log_record_that_two_generations_archived_counts_once(
    world: World, sender: Sender, edge: Edge, tmp_path: Path, *, raw: bool
) -> None:
    say(sender, edge, 2)
    if raw:
        put(world, 0, b"junk\n", count=4)
    say(sender, edge, 1)
    world.refuse(TENANT, [edge.event("pump-000", "heartbeat", {"batteryPercent": 900}, 1)])
    archive(world)
    before = reconcile(world.platform)
    held = world.platform.log.read(EVENTS_TOPIC, 0, 0, 1 << 30)
    lose_tail(world, 0, 1)
    # Another record where the first difference is; behind it the very same ones.
    put(world, 0, b"another\n")
    for record in held[2:]:
        put(world, 0, record.value, count=int(record.headers["count"]))
    assert list(archive(world)) == [f"{EVENTS_TOPIC}/0"]
    done = open_generation.open_generation(world.platform)
    assert starts(done.generation)[0][0] == 1
    archive(world)
    twice = list(range_records(world.platform.objects, EVENTS_TOPIC, 2, 0))
    assert sum(len(r.records) for r in twice) == len(held) - 1
    counted = reconcile(world.platform)
    assert counted.findings == []
    assert (counted.lost, counted.doubled, counted.unaccounted) == (0, 0, 0)
    assert counted.events == before.events + 1
    world.close()
    result = world.seal(TENANT)
    assert result.duplicates == 0
    (manifest,) = read_history(world.platform, TENANT).manifests
    assert sum(o.rows for o in manifest.undecodable) == 1 + raw
    assert world.verify(TENANT).findings == []
    found = sender.receipts.check(world.objects_folder, tmp_path)
    assert (found["lost"], found["twice"]) == (0, 0)


def test_a_younger_generation_of_the_same_topic_doubles_nothing_behind_the_older_ones_end(
    world: World, sender: Sender, edge: Edge
) -> None:
    say(sender, edge, 2)
    archive(world)
    open_generation.open_generation(world.platform, Purpose.STORE)
    say(sender, edge, 2)
    archive(world)
    counted = reconcile(world.platform)
    assert (counted.ok, counted.pending) == (True, 0)
    assert counted.events == sum(len(lines) for lines in sender.held.values())


# ------------------------------------------------------------------------------------- searches


def found_in_cold(world: World) -> list[str]:
    """Hashes of every event of the day that a search of COLD and landing shows."""
    reader = Reader(world.platform)
    scope = scope_of_days(reader, TENANT, DAY, DAY)
    query = EventQuery(TENANT, day_start_ms(DAY), day_end_ms(DAY), limit=10_000)
    rows, after = search_cold(reader, scope, query, lambda: False)
    assert after is None
    return [h.hex() for h in rows["event_hash"].to_pylist()]


def test_searches_and_a_rebuilt_index_show_each_event_of_both_generations_once(
    world: World, sender: Sender, edge: Edge
) -> None:
    say(sender, edge, 3)
    archive(world)
    held = world.platform.log.read(EVENTS_TOPIC, 0, 0, 1 << 30)
    lose_tail(world, 0, 1)
    put(world, 0, b"another\n")
    for record in held[2:]:
        put(world, 0, record.value, count=int(record.headers["count"]))
    open_generation.open_generation(world.platform)
    archive(world)
    say(sender, edge, 1)  # in the log only
    said = {orjson.loads(line)["eventHash"] for line in sender.receipts.lines}
    result = rebuild_hot(world.platform, TENANT, DAY)
    assert (result.problems, result.refused, result.documents) == ((), 0, len(said))
    archive(world)
    shown = found_in_cold(world)
    assert (len(shown), set(shown)) == (len(said), said)
    world.close()
    world.seal(TENANT)
    shown = found_in_cold(world)
    assert (len(shown), set(shown)) == (len(said), said)
    assert rebuild_hot(world.platform, TENANT, DAY).documents == len(said)
