"""An approved proposal is replayed: its lines, once, at its speed, and not on old grounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from audit_platform.adapters.faulty import Fault, Faults, faulty
from audit_platform.errors import (
    DecisionRefused,
    LogUnavailable,
    Recoverable,
    StoreUnavailable,
)
from audit_platform.operations.dlq.records import State, case_of, decisions_of
from audit_platform.operations.dlq.replay import replay
from audit_platform.operations.query.reader import Reader
from audit_platform.ports import UnknownDevices
from audit_platform.record import layout
from audit_platform.record.decision import CHUNK_LINES
from audit_platform.record.schemas import registry
from audit_platform_tests.operations.dlq.desk import TENANT, Dlq
from audit_platform_tests.world import DAY, open_world


@pytest.fixture
def dlq(tmp_path: Path) -> Iterator[Dlq]:
    with open_world(tmp_path) as world:
        yield Dlq.open(world)


def test_what_was_approved_is_in_the_log_with_its_very_bytes_once_and_is_sealed(dlq: Dlq) -> None:
    lines = dlq.refused(205)
    case = dlq.propose(dlq.wanted())
    assert case.dry_run is not None
    assert Counter(line.outcome for line in case.dry_run.lines) == {"accepted": 205}
    assert case.state is State.PROPOSED
    proposal = dlq.approve(case).proposal.proposal_id
    waits: list[float] = []
    told = dlq.replay(proposal, events_per_second=50, wait=waits.append)
    assert (told.chunks, told.done, told.appended, told.stopped) == (3, 3, 205, "")
    assert waits == [2.0, 2.0, 0.1]
    assert sorted(dlq.in_log()) == sorted([dlq.start, *lines])
    assert case_of(dlq.reader, TENANT, proposal).state is State.REPLAYED
    # Again: nothing is left to do.
    again = dlq.replay(proposal)
    assert (again.skipped, again.done, again.is_complete) == (3, 0, True)
    dlq.world.archive()
    dlq.world.close()
    sealed = dlq.world.seal(TENANT)
    assert (sealed.rows, sealed.quarantined_links) == (206, 0)
    assert dlq.world.verify(TENANT).findings == []


def test_a_replay_on_a_later_day_leaves_both_days_whole(dlq: Dlq) -> None:
    lines = dlq.refused(3)
    dlq.world.close()
    assert dlq.world.seal(TENANT).quarantined_links == len(lines)
    later = layout.next_day(DAY)
    dlq.replay(dlq.approved())
    now = dlq.world.clock.now_ms()
    dlq.world.ingest(TENANT, [dlq.edge.event("pump-000", "heartbeat", {"uptimeSeconds": 9}, now)])
    dlq.world.archive()
    dlq.world.close(later)
    assert dlq.world.seal(TENANT, later).rows == len(lines) + 1
    for day in (DAY, later):
        assert dlq.world.verify(TENANT, day).findings == []


def test_cancelled_it_stops_between_chunks_and_the_next_run_goes_on(dlq: Dlq) -> None:
    lines = dlq.refused(150)
    proposal = dlq.approved()
    asked: list[int] = []

    def after_the_first() -> bool:
        asked.append(1)
        return len(dlq.in_log()) > 1

    first = dlq.replay(proposal, is_cancelled=after_the_first)
    assert (first.done, first.stopped) == (1, "cancelled")
    assert case_of(dlq.reader, TENANT, proposal).state is State.REPLAYING
    second = dlq.replay(proposal)
    assert (second.skipped, second.done) == (1, 1)
    assert second.counts == {"accepted": 150}
    assert Counter(dlq.in_log()) >= Counter(lines)
    assert len(dlq.in_log()) == len(lines) + 1


#: One of so many reading calls of a run is failed; every writing one is, in every way.
EVERY = 25
WRITING = {"append", "put"}


def test_whichever_call_fails_the_next_run_ends_with_the_same_set_and_repeats_one_chunk(
    dlq: Dlq,
) -> None:
    good = {"log": Faults(), "objects": Faults()}
    proposal, lines = fresh(dlq)
    assert ran(dlq, proposal, good)
    assert set(dlq.in_log()) >= lines
    tried = 0
    for port, faults in good.items():
        for number, name in enumerate(faults.calls, 1):
            kinds = [Fault.BEFORE, Fault.AFTER, *([Fault.PARTIAL] if name == "append" else [])]
            for kind in kinds if name in WRITING else kinds[: number % EVERY == 0]:
                tried += 1
                before = len(dlq.in_log())
                proposal, lines = fresh(dlq)
                plan = Faults({number: kind})
                runs = 1
                while not ran(dlq, proposal, {port: plan}):
                    runs += 1
                assert (len(plan.happened), runs) == (1, 2), (port, name, kind)
                appended = dlq.in_log()
                assert set(appended) >= lines
                assert len(appended) - before <= len(lines) + CHUNK_LINES
                assert case_of(dlq.reader, TENANT, proposal).state is State.REPLAYED
    assert tried >= 10


def fresh(dlq: Dlq) -> tuple[str, set[bytes]]:
    """A new proposal of two chunks, approved, and its lines."""
    known = set(dlq.entries())
    lines = set(dlq.refused(CHUNK_LINES + 1))
    return dlq.approved(dlq.wanted([e for e in dlq.entries() if e not in known])), lines


def ran(dlq: Dlq, proposal: str, faults: dict[str, Faults]) -> bool:
    """One run over ports that fail as planned; whether it came to its end."""
    platform = dlq.world.platform
    if "log" in faults:
        platform = replace(platform, log=faulty(platform.log, LogUnavailable, faults["log"]))
    if "objects" in faults:
        objects = faulty(platform.objects, StoreUnavailable, faults["objects"])
        platform = replace(platform, objects=objects)
    try:
        told = replay(Reader(platform), TENANT, proposal, registry(), wait=lambda _: None)
    except Recoverable:
        return False
    return told.is_complete


def test_devices_that_may_not_send_any_more_stop_it_by_five_in_a_row(dlq: Dlq) -> None:
    dlq.refused(30)
    proposal = dlq.approved()
    metadata = dlq.world.platform.metadata
    metadata.set_unknown_devices(TENANT, UnknownDevices.DEAD_LETTER)
    told = dlq.replay(proposal)
    assert "5 lines in a row are refused now: device pump-000 is not enrolled" in told.stopped
    assert (told.done, len(dlq.in_log())) == (0, 1)
    # When that is mended it goes on, on the same approval.
    metadata.enrol_devices(TENANT, ["pump-000", "pump-001"], dlq.world.clock.now_ms())
    assert dlq.replay(proposal).appended == 30


def test_more_than_a_tenth_refused_stops_it_and_less_does_not(dlq: Dlq) -> None:
    metadata = dlq.world.platform.metadata
    dlq.refused(40, devices=8)
    proposal = dlq.approved()
    metadata.set_unknown_devices(TENANT, UnknownDevices.DEAD_LETTER)
    names = [f"pump-{n:03}" for n in range(8)]
    metadata.enrol_devices(TENANT, names[1:], dlq.world.clock.now_ms())
    told = dlq.replay(proposal)
    assert told.stopped.startswith("5 of 40 lines of a chunk are refused now: device pump-000")
    assert len(dlq.in_log()) == 1
    few = dlq.refused(44, devices=11)
    now = dlq.world.clock.now_ms()
    metadata.enrol_devices(TENANT, [f"pump-{n:03}" for n in range(11)], now)
    fresh = [e for e in dlq.entries() if not decisions_of(dlq.reader, TENANT).get(e)]
    second = dlq.approved(dlq.wanted(fresh))
    metadata.retire_device(TENANT, "pump-010", now)
    told = dlq.replay(second)
    assert (told.stopped, told.appended) == ("", len(few) - 4)
    assert told.counts == {"accepted": 40, "refused": 4}


def test_a_line_whose_bytes_are_lost_is_refused_and_stops_it(dlq: Dlq) -> None:
    dlq.refused(2)
    proposal = dlq.approved()
    (damaged,) = (dlq.world.objects_folder / f"quarantine/v1/tenant={TENANT}").rglob("*.parquet")
    damaged.write_bytes(b"PAR1 and nothing else PAR1")
    told = dlq.replay(proposal)
    assert "its bytes cannot be read" in told.stopped
    assert len(dlq.in_log()) == 1


def test_what_nobody_approved_or_what_changed_since_is_not_replayed(dlq: Dlq) -> None:
    dlq.refused(2)
    wanted = dlq.wanted()
    case = dlq.propose(wanted)
    with pytest.raises(DecisionRefused, match="is proposed"):
        dlq.replay(case.proposal.proposal_id)
    dlq.approve(case)
    dlq.world.platform.metadata.set_unknown_devices(TENANT, UnknownDevices.DEAD_LETTER)
    changed = dlq.propose(wanted)
    assert changed.dry_run is not None
    assert (changed.dry_run.number, changed.state) == (2, State.VOID)
    with pytest.raises(DecisionRefused, match="is void"):
        dlq.replay(case.proposal.proposal_id)
    with pytest.raises(DecisionRefused, match="stands already, and is void"):
        dlq.approve(changed)
    dlq.world.platform.metadata.set_suspended(TENANT, suspended=True)
    with pytest.raises(DecisionRefused, match="suspended"):
        dlq.propose(wanted)
    assert len(dlq.in_log()) == 1
