"""Late rows: found by range records, fixed by further closings that are claimed once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from audit_platform.operations import late
from audit_platform.operations.claims import claim
from audit_platform.operations.closing import closed_days, closing_of
from audit_platform.operations.late_turns import Known, add_due, look_for_late_days
from audit_platform.operations.turns import sealed_until
from audit_platform.record import layout
from audit_platform.record.ranges import ClosedPartition, Closing, LateRange
from audit_platform_tests.world import DAY, GRACE_MS, Edge, World, open_world, sealed_day

NEXT = layout.next_day(DAY)
EVENTS = layout.EVENTS_TOPIC
LATE_MS = layout.day_end_ms(DAY) - 1


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as opened:
        yield opened


def send(world: World, edge: Edge, day: str = DAY, *, archive: bool = True) -> tuple[int, int]:
    """One event with a day's last ingestionTime; (partition, offset) of its log record."""
    partition = layout.partition_of(edge.tenant_id, "pump-000", 2)
    offset = world.platform.log.bounds(EVENTS, partition)[1]
    lines = edge.heartbeats(1, 1, world.clock.now_ms())
    world.ingest(edge.tenant_id, lines, at_ms=layout.day_end_ms(day) - 1)
    if archive:
        world.archive()
    return partition, offset


def test_a_further_closing_names_the_late_ranges_and_how_far_was_looked(world: World) -> None:
    edge = sealed_day(world)
    partition, offset = send(world, edge)
    send(world, edge, NEXT)
    closing = late.close_again(world.platform, DAY)
    assert closing is not None
    assert closing.late == (LateRange("north", EVENTS, 1, partition, offset),)
    assert closing.revision == 2
    assert late.ends_of(closing)[EVENTS, 1, partition] == offset + 2
    first = closing_of(world.platform, DAY)
    assert first is not None
    before = late.ends_of(first)
    assert all(before[place] <= end for place, end in late.ends_of(closing).items())
    key = layout.late_closing_key(DAY, 2)
    stored = world.platform.objects.oldest(key)
    assert stored is not None
    assert stored.retain_until_ms >= world.clock.now_ms() + 2 * 365 * layout.MS_PER_DAY
    assert Closing.from_bytes(key, world.platform.objects.get(key, stored.version_id)) == closing


def test_a_further_closing_is_none_of_the_closed_days(world: World) -> None:
    edge = sealed_day(world)
    send(world, edge)
    late.close_again(world.platform, DAY)
    assert closed_days(world.platform) == [DAY]
    assert late.listed_closings(world.platform) == [(DAY, 2)]


def test_without_late_rows_and_without_a_closing_nothing_is_claimed(world: World) -> None:
    edge = sealed_day(world)
    send(world, edge, NEXT)
    assert late.close_again(world.platform, DAY) is None
    assert late.close_again(world.platform, NEXT) is None
    assert late.listed_closings(world.platform) == []


def test_what_is_in_the_log_and_not_archived_is_not_late_yet(world: World) -> None:
    edge = sealed_day(world)
    send(world, edge, archive=False)
    assert late.close_again(world.platform, DAY) is None
    world.archive()
    assert late.close_again(world.platform, DAY) is not None


def test_of_two_that_close_again_at_once_the_winners_closing_counts(world: World) -> None:
    edge = sealed_day(world)
    send(world, edge)
    first = closing_of(world.platform, DAY)
    assert first is not None
    other = replace(first, revision=2, closed_ms=1)
    key = layout.late_closing_key(DAY, 2)
    claim(world.platform.objects, key, other.to_bytes(), world.clock.now_ms())
    # The winner had looked less far: what it did not see is named by the next one.
    closing = late.close_again(world.platform, DAY)
    assert closing is not None
    assert (closing.revision, len(closing.late)) == (3, 1)
    assert late.newest_closing(world.platform, DAY) == closing


def test_each_further_closing_goes_on_where_the_one_before_ended(world: World) -> None:
    edge = sealed_day(world)
    offsets = []
    for _ in range(3):
        offsets.append(send(world, edge)[1])
        late.close_again(world.platform, DAY)
    named = [[x.first_offset for x in c.late] for c in late.further_closings(world.platform, DAY)]
    assert named == [[offset] for offset in offsets]


def test_a_day_with_very_much_behind_it_is_looked_through_in_pieces(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = sealed_day(world)
    for _ in range(3):
        send(world, edge, NEXT)
    send(world, edge)
    monkeypatch.setattr(late, "look", _look_two_at_once)
    closings = [late.close_again(world.platform, DAY) for _ in range(3)]
    assert [c and len(c.late) for c in closings] == [0, 1, None]


_look = late.look


def _look_two_at_once(platform: object, start: late.Ends, *, day: str) -> late.Look:
    return _look(platform, start, day=day, most=2)  # type: ignore[arg-type] # passed on as it came


def test_a_hole_in_the_ranges_ends_the_look_before_it(world: World) -> None:
    edge = sealed_day(world)
    partition, first = send(world, edge)
    send(world, edge)
    prefix = layout.range_records_prefix(layout.LANDING, 1, partition)
    (world.objects_folder / f"{prefix}o{first:020d}.json").unlink()
    meta = world.objects_folder.rglob(f"*o{first:020d}.json*")
    for path in [p for p in meta if p.is_file()]:
        path.unlink()
    start = late.newest_closing(world.platform, DAY)
    assert start is not None
    found = late.look(world.platform, late.ends_of(start))
    assert [(h.first_offset, h.end_offset) for h in found.holes] == [(first, first + 1)]
    assert found.reached[EVENTS, 1, partition] <= first
    assert found.late == {}


def test_rows_for_a_day_that_was_never_closed_are_told(world: World) -> None:
    edge = sealed_day(world)
    send(world, edge, "2025-01-01")
    found = late.look(world.platform, {})
    assert found.unclosed == {("2025-01-01", "north")}
    assert found.late == {}


def test_older_generations_lie_within_the_ends_and_younger_ones_beyond() -> None:
    ends = {(EVENTS, 2, 0): 7}
    assert late.end_at(ends, (EVENTS, 2, 0)) == 7
    assert late.end_at(ends, (EVENTS, 1, 5)) > 2**53
    assert late.end_at(ends, (EVENTS, 3, 0)) == 0
    assert late.end_at(ends, (layout.DLQ_TOPIC, 1, 0)) == 0


def test_the_rest_doubles_and_ends_at_a_day() -> None:
    def rest(revision: int) -> int:
        closing = Closing(DAY, 0, (ClosedPartition(EVENTS, 1, 0, 0),), revision)
        low, high = 0, 2 * layout.MS_PER_DAY
        while low < high:
            middle = (low + high) // 2
            if late.is_rested(closing, middle, GRACE_MS):
                high = middle
            else:
                low = middle + 1
        return low

    assert [rest(n) for n in (1, 2, 3)] == [GRACE_MS, 2 * GRACE_MS, 4 * GRACE_MS]
    assert rest(50) == layout.MS_PER_DAY


def test_what_was_looked_at_is_not_read_again(world: World) -> None:
    edge = sealed_day(world)
    send(world, edge, NEXT)
    first = look_for_late_days(world.platform, Known(), GRACE_MS)
    again = late.look(world.platform, _places(first.known))
    assert again.records == 0
    assert again.reached == _places(first.known)


def test_a_hint_of_another_store_hides_nothing(world: World, tmp_path: Path) -> None:
    edge = sealed_day(world)
    for _ in range(4):
        send(world, edge, NEXT)
    foreign = look_for_late_days(world.platform, Known(), GRACE_MS).known
    with open_world(tmp_path / "other") as other:
        edge = sealed_day(other)
        send(other, edge)
        for _ in range(3):
            send(other, edge, NEXT)
        found = look_for_late_days(other.platform, foreign, GRACE_MS)
        assert found.known.late == [DAY]
        assert found.known.store != foreign.store


def _places(known: Known) -> dict[late.Place, int]:
    split = {tuple(text.split("/")): offset for text, offset in known.reached.items()}
    return {(t, int(g), int(p)): offset for (t, g, p), offset in split.items()}


def test_a_tenant_is_due_until_its_manifest_reaches_as_far_as_the_closing(world: World) -> None:
    edge = sealed_day(world)
    send(world, edge)
    late.close_again(world.platform, DAY)

    def due(known: Known) -> list[tuple[str, str]]:
        turns = look_for_late_days(world.platform, known, GRACE_MS)
        sealed = {"north": sealed_until(world.platform.objects, "north")}
        add_due(turns, world.platform, sealed)
        known.settled = turns.known.settled
        return [(d.day, d.tenant_id) for d in turns.due]

    known = Known()
    assert due(known) == due(Known()) == [(DAY, "north")]
    world.seal("north")
    assert due(known) == []
    assert known.settled == [f"{DAY}-r2"]
