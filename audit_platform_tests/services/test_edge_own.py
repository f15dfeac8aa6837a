"""What an edge puts on record of itself: losses, segments set aside, its clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from audit_platform.errors import SpoolFull
from audit_platform.ports import Dropped, NewEntry, SetAside
from audit_platform.record.schemas import registry
from audit_platform.record.signing import problem_of_signed_event
from audit_platform.record.times import format_time_ms
from audit_platform.services.edge_placing import Outcome
from audit_platform_tests.services.edge_world import (
    EDGE,
    EdgeWorld,
    line,
    watched,
)

ACCEPTED, TAKEN, CONFLICT, REFUSED = Outcome


@pytest.fixture
def world(tmp_path: Path) -> Iterator[EdgeWorld]:
    opened = EdgeWorld(tmp_path)
    yield opened
    opened.stop()


# ---------------------------------------------------------------------------------------- losses


def test_what_a_full_spool_drops_is_declared_by_a_signed_loss_and_only_then_deleted(
    tmp_path: Path,
) -> None:
    world, spool = watched(tmp_path)
    world.take(line(0), line(1), line(0, "pump-2"), line(5))
    spool.dropped = [Dropped(1, tuple(world.entries()[1:]))]
    world.take(line(6))
    loss = world.events(EDGE.device_id)[-1]
    chain = world.intake.epoch
    assert loss["eventType"] == "loss"
    runs = sorted(loss["payload"]["runs"], key=lambda r: (r["deviceId"], r["first"]))
    assert runs == [
        {"deviceId": "pump-1", "chainId": chain, "first": 0, "last": 1, "count": 2},
        {"deviceId": "pump-1", "chainId": chain, "first": 5, "last": 5, "count": 1},
        {"deviceId": "pump-2", "chainId": chain, "first": 0, "last": 0, "count": 1},
    ]
    assert problem_of_signed_event(loss, world.edge_keys()) == ""
    assert [part.first for part in spool.declared_parts] == [1]
    assert b"audit_edge_lost_events_total 4.0" in world.telemetry.text()
    world.stop()


def test_a_loss_that_cannot_be_stored_yet_is_declared_later(tmp_path: Path) -> None:
    world, spool = watched(tmp_path)
    world.take(line(0))
    spool.dropped = [Dropped(1, tuple(world.entries()[1:]))]
    inner, calls = spool.inner.append, iter([False, True])

    def append(entries: Sequence[NewEntry]) -> tuple[list[int], list[Dropped]]:
        if next(calls, False):
            raise SpoolFull("full")
        more, spool.dropped = spool.dropped, []
        positions, _ = inner(entries)
        return positions, more

    spool.append = append  # type: ignore[method-assign] # the second append finds no room
    assert world.outcomes(line(1)) == [ACCEPTED]
    assert spool.declared_parts == []
    world.intake.look_after(None)
    assert world.events(EDGE.device_id)[-1]["eventType"] == "loss"
    assert len(spool.declared_parts) == 1
    world.stop()


def test_a_long_loss_is_cut_into_events_of_a_thousand_runs(tmp_path: Path) -> None:
    world, spool = watched(tmp_path)
    world.take(*(line(n * 2) for n in range(1500)))
    spool.dropped = [Dropped(1, tuple(world.entries()[1:]))]
    world.take(line(9000))
    losses = [e for e in world.events(EDGE.device_id) if e["eventType"] == "loss"]
    assert [len(e["payload"]["runs"]) for e in losses] == [1000, 500]
    assert all(problem_of_signed_event(e, world.edge_keys()) == "" for e in losses)
    world.stop()


def test_dropped_dead_letters_are_counted_though_no_loss_can_name_them(tmp_path: Path) -> None:
    world, spool = watched(tmp_path)
    world.take(line(0), line(0, payload={"uptimeSeconds": 7}))
    spool.dropped = [Dropped(2, tuple(world.entries()[2:]))]
    world.take(line(1))
    assert b"audit_edge_lost_events_total 1.0" in world.telemetry.text()
    assert [e["eventType"] for e in world.events(EDGE.device_id)] == ["chain_start"]
    assert len(spool.declared_parts) == 1
    world.stop()


def test_a_segment_that_was_set_aside_is_on_record_once(tmp_path: Path) -> None:
    world, spool = watched(tmp_path)
    spool.reports = (SetAside("00000000000000000000.seg", 0, 17, "a frame has a wrong checksum"),)
    world.intake.look_after(None)
    world.intake.look_after(None)
    said = [e for e in world.events() if e["eventType"] == "edge_segment_set_aside"]
    assert [e["payload"] for e in said] == [
        {
            "file": "00000000000000000000.seg",
            "firstPosition": 0,
            "nextPosition": 17,
            "reason": "a frame has a wrong checksum",
        }
    ]
    registry().validate("edge_segment_set_aside", 1, said[0]["schemaRef"], said[0]["payload"])
    world.stop()


# ----------------------------------------------------------------------------------------- clock


def is_off(world: EdgeWorld) -> bool:
    return world.intake.clock_is_off


def test_an_edge_whose_clock_is_off_says_so_and_stops_stamping(world: EdgeWorld) -> None:
    world.take(line(0))
    behind = 3 * 3_600_000
    world.intake.look_after(behind)
    assert is_off(world)
    said = world.events(EDGE.device_id)[-1]
    assert said["eventType"] == "edge_clock"
    assert said["payload"] == {"state": "off", "offset": {"value": behind, "unit": "ms"}}
    registry().validate("edge_clock", 1, said["schemaRef"], said["payload"])
    # Its own events have the platform's time, devices must give theirs.
    assert said["eventTime"] == format_time_ms(world.clock.ms + behind)
    [timeless] = world.take(line(1, eventTime=None))
    assert (timeless.outcome, timeless.slug, timeless.field) == (
        REFUSED,
        "edge_clock_off",
        "eventTime",
    )
    assert world.outcomes(line(1)) == [ACCEPTED]
    world.clock.advance(behind)
    world.intake.look_after(0)
    assert not is_off(world)
    good = world.events(EDGE.device_id)[-1]
    assert good["payload"]["state"] == "good"
    assert good["eventTime"] == format_time_ms(world.clock.ms)
    assert world.outcomes(line(2, eventTime=None)) == [ACCEPTED]
    assert world.events("pump-1")[-1]["eventTime"] == format_time_ms(world.clock.ms)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_clock_at_the_border_does_not_change_its_mind_all_the_time(
    world: EdgeWorld, sign: int
) -> None:
    states = []
    for offset in (299_999, 300_000, 300_001, 299_000, 240_001, 240_000, 299_000):
        world.intake.look_after(sign * offset)
        states.append(world.intake.clock_is_off)
    assert states == [False, False, True, True, True, False, False]
    said = [e for e in world.events() if e["eventType"] == "edge_clock"]
    assert [e["payload"]["state"] for e in said] == ["off", "good"]


def test_a_clock_of_which_nothing_is_known_is_not_off(world: EdgeWorld) -> None:
    world.intake.look_after(None)
    assert not world.intake.clock_is_off
    assert world.outcomes(line(0, eventTime=None)) == [ACCEPTED]
