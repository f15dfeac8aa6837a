"""The intake: epochs, chains, retries, conflicts; what is on record of the edge itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_platform.errors import KeyUnknown, SpoolFull, SpoolUnavailable
from audit_platform.ports import Dropped, NewEntry
from audit_platform.record.event import check_event, link_of
from audit_platform.record.layout import ZERO_HASH
from audit_platform.record.schemas import registry
from audit_platform.record.signing import problem_of_signed_event
from audit_platform.services import edge_intake, edge_memory, edge_placing
from audit_platform.services.edge_entry import lines_of
from audit_platform.services.edge_placing import Outcome
from audit_platform_tests.services.edge_world import (
    EDGE,
    TENANT,
    EdgeWorld,
    event_hash,
    line,
    sequences,
    watched,
)

ACCEPTED, TAKEN, CONFLICT, REFUSED = Outcome


@pytest.fixture
def world(tmp_path: Path) -> Iterator[EdgeWorld]:
    opened = EdgeWorld(tmp_path)
    yield opened
    opened.stop()


# ---------------------------------------------------------------------------------------- epochs


def test_the_first_entry_of_an_epoch_is_a_chain_start_signed_by_the_edge(world: EdgeWorld) -> None:
    assert world.outcomes(line(0)) == [ACCEPTED]
    start, event = world.events()
    assert (start["eventType"], start["deviceId"]) == ("chain_start", EDGE.device_id)
    assert (start["prevHash"], start["payload"]["reason"]) == (ZERO_HASH, "start")
    assert problem_of_signed_event(start, world.edge_keys()) == ""
    assert event["chainId"] == start["chainId"] == world.intake.epoch
    assert event["prevHash"] == event_hash(start)


def test_each_start_is_an_epoch_and_chains_go_on_from_the_heads(world: EdgeWorld) -> None:
    world.take(line(0), line(1))
    world.restart()
    world.take(line(2), line(0, "pump-2"))
    first, second = [e for e in world.events() if e["eventType"] == "chain_start"]
    assert first["chainId"] != second["chainId"]
    assert second["payload"]["reason"] == "restart"
    assert (second["sequenceNumber"], second["prevHash"]) == (1, ZERO_HASH)
    zero, one, two = world.events("pump-1")
    assert [zero["chainId"], one["chainId"], two["chainId"]] == [
        first["chainId"],
        first["chainId"],
        second["chainId"],
    ]
    assert two["prevHash"] == event_hash(one)
    [other] = world.events("pump-2")
    assert other["prevHash"] == event_hash(second)


def test_without_a_key_nothing_is_taken_and_the_remedy_is_named(tmp_path: Path) -> None:
    world = EdgeWorld(tmp_path)
    [key] = world.keys.public_keys()
    world.keys.revoke(key.key_id, 0)
    with pytest.raises(KeyUnknown, match="edge init"):
        world.take(line(0))
    world.keys.new("edge", 0)
    assert world.outcomes(line(0)) == [ACCEPTED]
    assert sequences(world.events("pump-1")) == [0]
    world.stop()


def test_all_that_is_spooled_is_complete_and_canonical(world: EdgeWorld) -> None:
    world.take(*(line(n, f"pump-{n % 3}") for n in range(30)))
    for made in world.lines():
        checked = check_event(made, TENANT)
        registry().validate(
            checked.event_type, checked.event_version, checked.schema_ref, checked.payload
        )
    assert len(world.lines()) == 31


def test_a_device_that_counts_anew_for_a_whole_window_has_moved_also_within_one_body(
    world: EdgeWorld,
) -> None:
    world.take(line(10_000))
    world.take(*(line(n) for n in range(edge_memory.WINDOW)))
    world.take(line(20_000))
    first, *anew, last = world.events("pump-1")
    assert {event["chainId"] for event in anew} == {last["chainId"]} != {first["chainId"]}
    assert last["prevHash"] == event_hash(anew[-1])


def test_fresh_entries_are_handed_over_with_the_lines_that_the_spool_has(world: EdgeWorld) -> None:
    world.take(line(0), line(0, "pump-2"), line(1))
    kept = world.entries()
    assert [fresh.position for fresh in world.live] == [entry.position for entry in kept]
    assert [fresh.lines for fresh in world.live] == [lines_of(entry) for entry in kept]
    assert [fresh.count for fresh in world.live] == [entry.count for entry in kept] == [1, 2, 1]
    assert [fresh.device_id for fresh in world.live] == ["edge-1", "pump-1", "pump-2"]


def test_an_entry_has_the_class_of_its_most_critical_event_and_is_bounded(
    world: EdgeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_placing, "MAX_ENTRY_EVENTS", 2)
    world.take(line(0), line(1, criticality="critical"), line(2), line(3), line(4))
    shape = [(e.device_id, e.event_class, e.count) for e in world.entries()[1:]]
    assert shape == [("pump-1", "critical", 2), ("pump-1", "low", 2), ("pump-1", "low", 1)]
    monkeypatch.setattr(edge_placing, "MAX_ENTRY_BYTES", 100)
    world.take(line(5), line(6))
    assert [e.count for e in world.entries()[-2:]] == [1, 1]
    assert sequences(world.events("pump-1")) == list(range(7))


# --------------------------------------------------------------------------- retries, conflicts


def test_the_same_event_again_is_already_taken_and_not_kept_twice(world: EdgeWorld) -> None:
    assert world.outcomes(line(0), line(0), line(1)) == [ACCEPTED, TAKEN, ACCEPTED]
    assert world.outcomes(line(0), line(1), line(2)) == [TAKEN, TAKEN, ACCEPTED]
    assert sequences(world.events("pump-1")) == [0, 1, 2]


def test_what_was_taken_is_remembered_over_a_restart(world: EdgeWorld) -> None:
    world.take(*(line(n) for n in range(50)))
    world.take(line(50, eventTime=None))
    world.restart()
    world.clock.advance(1000)
    again = [*(line(n) for n in range(50)), line(50, eventTime=None)]
    assert set(world.outcomes(*again)) == {TAKEN}
    assert world.outcomes(line(7, payload={"uptimeSeconds": 1})) == [CONFLICT]


def test_the_same_event_spelt_in_another_way_is_the_same(world: EdgeWorld) -> None:
    world.take(line(0, payload={"uptimeSeconds": 1}))
    spelt = line(0, payload={"uptimeSeconds": 1}).replace(
        b'"uptimeSeconds":1', b'"uptimeSeconds": 1.0'
    )
    assert world.outcomes(spelt) == [TAKEN]


@pytest.mark.parametrize(
    "other",
    [
        {"payload": {"uptimeSeconds": 9}},
        {"eventType": "coffee_made"},
        {"eventVersion": 2},
        {"eventTime": "2026-03-01T00:00:00.001Z"},
        {"criticality": "high"},
        {"schemaRef": "other/1"},
    ],
)
def test_another_event_for_a_taken_sequence_is_a_dead_letter_and_joins_no_chain(
    world: EdgeWorld, other: dict[str, Any]
) -> None:
    world.take(line(0), line(1))
    [answer] = world.take(line(0, **other))
    assert (answer.outcome, answer.slug, answer.field) == (
        CONFLICT,
        "sequence_conflict",
        "sequenceNumber",
    )
    dead = world.lines()[-1]
    with pytest.raises(Exception, match="taken another event") as refused:
        check_event(dead, TENANT)
    assert getattr(refused.value, "slug", "") == "sequence_conflict"
    assert link_of(dead, TENANT) is None
    kept = orjson.loads(dead)
    assert kept["edgeConflict"] == {"edgeDeviceId": EDGE.device_id}
    given_part = orjson.loads(line(0, **other))
    assert {name: kept[name] for name in given_part} == given_part
    assert world.outcomes(line(2)) == [ACCEPTED]
    assert sequences([e for e in world.events("pump-1") if "chainId" in e]) == [0, 1, 2]


def test_a_conflict_that_is_sent_again_and_again_is_kept_once(world: EdgeWorld) -> None:
    world.take(line(0))
    other = line(0, payload={"uptimeSeconds": 9})
    assert world.outcomes(other, other) == [CONFLICT, CONFLICT]
    assert world.outcomes(other) == [CONFLICT]
    assert len(world.lines()) == 3


def test_refused_lines_do_not_hold_up_the_others(world: EdgeWorld) -> None:
    answers = world.take(line(0), b"?", line(1))
    assert [a.outcome for a in answers] == [ACCEPTED, REFUSED, ACCEPTED]
    assert answers[1].reason
    assert answers[1].remedy
    assert sequences(world.events("pump-1")) == [0, 1]


def test_a_schema_violation_is_accepted_with_a_flag_and_stays_a_link(world: EdgeWorld) -> None:
    good, bad, next_one = world.take(line(0), line(1, payload={"uptimeSeconds": -1}), line(2))
    assert (bad.outcome, bad.slug, bad.field) == (
        ACCEPTED,
        "schema_violation",
        "payload.uptimeSeconds",
    )
    assert not good.slug
    assert not next_one.slug
    _, sent, after = world.events("pump-1")
    assert link_of(world.lines()[2], TENANT) is not None
    assert after["prevHash"] == event_hash(sent)


def test_more_devices_than_the_edge_can_remember_are_refused_and_known_ones_are_not(
    world: EdgeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_placing, "MAX_DEVICES", 3)
    outcomes = world.outcomes(line(0, "a"), line(0, "b"), line(0, "c"), line(1, "a"))
    assert outcomes == [ACCEPTED, ACCEPTED, REFUSED, ACCEPTED]


def test_devices_and_when_they_were_heard_are_known_also_after_a_restart(world: EdgeWorld) -> None:
    first = world.clock.ms
    world.take(line(0, "a"), line(0, "b"))
    world.clock.advance(5000)
    world.take(line(1, "a"))
    wanted = {"a": first + 5000, "b": first}
    assert world.intake.devices() == wanted
    world.restart()
    world.intake.open_epoch()
    assert world.intake.devices() == wanted


# ------------------------------------------------------------------------------ a failing spool


def test_a_full_spool_promises_nothing_and_the_chain_goes_on_later(tmp_path: Path) -> None:
    world, spool = watched(tmp_path)
    world.take(line(0))
    spool.fails = SpoolFull("full")
    with pytest.raises(SpoolFull):
        world.take(line(1), line(0, "pump-2"))
    epoch = world.intake.epoch
    spool.fails = None
    assert world.outcomes(line(1), line(0, "pump-2")) == [ACCEPTED, ACCEPTED]
    assert world.intake.epoch == epoch
    zero, one = world.events("pump-1")
    assert one["prevHash"] == event_hash(zero)
    world.stop()


def test_after_a_disk_error_a_new_epoch_begins_so_that_nothing_can_be_a_fork(
    tmp_path: Path,
) -> None:
    world, spool = watched(tmp_path)
    world.take(line(0))
    spool.fails = SpoolUnavailable("EIO")
    with pytest.raises(SpoolUnavailable):
        world.take(line(1))
    assert world.intake.epoch == ""
    spool.fails = None
    assert world.outcomes(line(1)) == [ACCEPTED]
    starts = [e for e in world.events() if e["eventType"] == "chain_start"]
    assert [s["payload"]["reason"] for s in starts] == ["start", "spool_failed"]
    zero, one = world.events("pump-1")
    assert (one["chainId"], one["prevHash"]) == (starts[1]["chainId"], event_hash(zero))
    world.stop()


def test_an_epoch_that_could_not_be_stored_is_opened_by_the_next_event(tmp_path: Path) -> None:
    world, spool = watched(tmp_path)
    spool.fails = SpoolFull("full")
    with pytest.raises(SpoolFull):
        world.intake.open_epoch()
    assert world.intake.epoch == ""
    spool.fails = None
    world.take(line(0))
    assert [e["eventType"] for e in world.events()] == ["chain_start", "heartbeat"]
    assert world.events()[0]["payload"]["reason"] == "start"
    world.stop()


def test_what_was_placed_behind_a_failed_append_fails_with_it(tmp_path: Path) -> None:
    world, spool = watched(tmp_path)
    world.take(line(0))
    outcomes: dict[int, object] = {}
    failing, arrived = threading.Event(), threading.Event()

    class Slow(Exception):
        pass

    def append(entries: Sequence[NewEntry]) -> tuple[list[int], list[Dropped]]:
        failing.set()
        arrived.wait(30)
        raise SpoolUnavailable("EIO")

    spool.append = append  # type: ignore[method-assign] # one append that fails while others wait

    def send(sequence: int) -> None:
        try:
            outcomes[sequence] = world.outcomes(line(sequence))
        except SpoolUnavailable as e:
            outcomes[sequence] = str(e)

    first = threading.Thread(target=send, args=(1,))
    first.start()
    failing.wait(30)
    second = threading.Thread(target=send, args=(2,))
    second.start()
    while not world.intake._pending:
        pass
    arrived.set()
    first.join(30)
    second.join(30)
    assert outcomes == {1: "EIO", 2: "EIO"}
    del spool.append
    assert world.outcomes(line(1), line(2)) == [ACCEPTED, ACCEPTED]
    assert sequences(world.events("pump-1")) == [0, 1, 2]
    world.stop()


def test_many_threads_share_appends_and_each_device_keeps_its_order(tmp_path: Path) -> None:
    world, spool = watched(tmp_path)
    answers: list[Outcome] = []

    def send(device: str) -> None:
        for n in range(20):
            answers.extend(world.outcomes(line(n, device)))

    threads = [threading.Thread(target=send, args=(f"pump-{d}",)) for d in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [ACCEPTED] * 160
    assert sum(spool.appends) == 161
    for device in range(8):
        events = world.events(f"pump-{device}")
        assert sequences(events) == list(range(20))
        hashes = [event_hash(e) for e in events]
        assert [e["prevHash"] for e in events][1:] == hashes[:-1]
    world.stop()


# ----------------------------------------------------------------------------------- at a start


def test_a_large_spool_is_remembered_from_its_end(
    world: EdgeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(300):
        world.take(line(n))
    monkeypatch.setattr(edge_memory, "REMEMBERED_BYTES", 10_000)
    world.restart()
    assert world.outcomes(line(299), line(300)) == [TAKEN, ACCEPTED]
    # Too long ago to be remembered: it is taken again, beside the chain, where it forks nothing.
    assert world.outcomes(line(0)) == [ACCEPTED]
    first, again = [e for e in world.events("pump-1") if e["sequenceNumber"] == 0]
    assert first["eventId"] == again["eventId"]
    assert first["chainId"] != again["chainId"]


def test_an_entry_that_is_not_ours_does_not_keep_the_edge_from_starting(world: EdgeWorld) -> None:
    world.take(line(0))
    world.spool.append([NewEntry("pump-1", "low", 1, b"of somebody else")])
    world.restart()
    assert world.outcomes(line(0), line(1)) == [TAKEN, ACCEPTED]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab")), min_size=1, max_size=6),
            st.sampled_from(["restart", "restore", "snapshot", "fail"]),
        ),
        max_size=14,
    )
)
def test_whatever_happens_nothing_accepted_is_lost_and_nothing_forks(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    import shutil  # noqa: PLC0415 - only here

    folder = tmp_path_factory.mktemp("edge")
    world, snapshot = EdgeWorld(folder / "now"), folder / "snapshot"
    seen: dict[bytes, None] = {}
    accepted = set()
    for step in steps:
        if step == "restart":
            world.restart()
        elif step == "snapshot":
            shutil.rmtree(snapshot, ignore_errors=True)
            shutil.copytree(folder / "now", snapshot)
        elif step == "restore" and snapshot.exists():
            world.stop()
            shutil.rmtree(folder / "now")
            shutil.copytree(snapshot, folder / "now")
            world.start()
        elif step == "fail":
            world.spool._segment = None  # the next entries go to a new segment
        elif isinstance(step, list):
            answers = world.take(*(line(n, device) for n, device in step))
            assert all(a.outcome in {ACCEPTED, TAKEN} for a in answers)
            accepted.update(step)
            seen.update(dict.fromkeys(world.lines()))
    world.stop()
    events = [orjson.loads(made) for made in seen]
    places = [(e["deviceId"], e["chainId"], e["sequenceNumber"]) for e in events]
    assert len(places) == len(set(places)), "a fork"
    hashes = {event_hash(e) for e in events}
    assert all(e["prevHash"] in hashes for e in events if e["eventType"] != "chain_start")
    held = {(e["sequenceNumber"], e["deviceId"]) for e in events}
    assert held >= accepted


def test_the_program_names_what_it_measures() -> None:
    assert {m.name for m in edge_intake.METRICS} == {
        "audit_edge_events_total",
        "audit_edge_lost_events_total",
    }
