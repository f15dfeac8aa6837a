"""Chains over days: whatever day an event stands in, clean is clean and each fault is found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.errors import RecordMalformed
from audit_platform.record.chain import (
    INFORMATIONAL,
    ChainStart,
    DayChains,
    LinkJudgement,
    LossRun,
    Verdict,
    judge_links,
    loss_runs,
)
from audit_platform.record.links import EventLink
from audit_platform_tests.record.chains import ZERO, Row, Seen, row, run_of, seen, walk

DAYS = ("2024-03-01", "2024-03-02", "2024-03-03")
A, B = "a" * 16, "b" * 16


def link_of(r: Row) -> EventLink:
    return EventLink(
        hospital_id="main",
        device_id=r.device,
        chain_id=r.chain,
        sequence_number=r.sequence,
        event_hash=r.hash.hex(),
        prev_hash=r.prev.hex(),
        event_id="",
        event_time="",
        checksum="",
    )


@dataclass
class World:
    """Events by day, and what manifests say beside their rows."""

    rows: dict[int, list[Row]] = field(default_factory=dict)
    refused: dict[int, list[Row]] = field(default_factory=dict)
    losses: dict[int, list[LossRun]] = field(default_factory=dict)
    starts: dict[int, list[ChainStart]] = field(default_factory=dict)

    def add(self, day: int, *rows: Row) -> None:
        self.rows.setdefault(day, []).extend(rows)

    def start(self, day: int, r: Row) -> None:
        self.add(day, r)
        start = ChainStart(r.device, r.chain, r.sequence, r.hash.hex())
        self.starts.setdefault(day, []).append(start)

    def judge(self, **more: Any) -> LinkJudgement:
        days = [
            DayChains(
                day,
                spans=walk(sorted(self.rows.get(i, [])))[1],
                links=[link_of(r) for r in self.refused.get(i, [])],
                losses=self.losses.get(i, []),
                starts=self.starts.get(i, []),
            )
            for i, day in enumerate(DAYS)
        ]
        return judge_links(days, **more)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[World, dict[tuple[str, str], list[Row]], list[Seen]]:
    """A clean world, its chains, and the informational findings that it must give.

    Up to three epochs of two devices; each event stands in any day; some are refused, some are
    lost and declared.
    """
    world = World()
    chains: dict[tuple[str, str], list[Row]] = {}
    informational: list[Seen] = []
    heads: dict[str, bytes] = {}
    sequence = {"edge": 0, "pump-1": 5, "pump-2": 9}
    anywhere = st.integers(0, len(DAYS) - 1)
    for epoch, chain in enumerate(draw(st.sampled_from([[A], [A, B], [A, B, "c" * 16]]))):
        # Epochs begin on days in order, so that "the first chain" is what the days tell.
        start = row("edge", chain, sequence["edge"], ZERO)
        sequence["edge"] += 1
        world.start(epoch, start)
        chains["edge", chain] = [start]
        if epoch:
            informational.append(("chain_reset", "edge", chain, start.sequence))
        for device in ("pump-1", "pump-2"):
            knows = device in heads and draw(st.booleans())
            prev = heads[device] if knows else start.hash
            rows = run_of(device, chain, sequence[device], draw(st.integers(1, 12)), prev)
            chains[device, chain] = rows
            if device in heads:
                informational.append(("chain_reset", device, chain, rows[0].sequence))
            heads[device] = rows[-1].hash
            sequence[device] += len(rows)
            world.add(epoch, rows[0])
            for r in rows[1:]:
                day = draw(st.integers(epoch, len(DAYS) - 1))
                fate = draw(st.sampled_from(["kept"] * 6 + ["refused", "lost"]))
                if fate == "kept" or (fate == "lost" and r is rows[-1]):
                    world.add(day, r)
                    continue
                informational.append(("declared_gap", device, chain, r.sequence))
                if fate == "refused":
                    world.refused.setdefault(day, []).append(r)
                else:
                    loss = LossRun(device, chain, r.sequence, r.sequence, 1)
                    world.losses.setdefault(draw(anywhere), []).append(loss)
    return world, chains, informational


@given(worlds())
def test_a_clean_world_gives_only_what_it_declares(
    drawn: tuple[World, dict[tuple[str, str], list[Row]], list[Seen]],
) -> None:
    world, _, informational = drawn
    judgement = world.judge()
    assert seen(judgement.findings) == sorted(informational, key=repr)
    assert all(f.verdict in INFORMATIONAL and f.day in DAYS for f in judgement.findings)
    assert judgement.over_declared == []


def clean() -> tuple[World, Row, list[Row]]:
    """One device over three days: 0..3, 4..7, 8..11."""
    world = World()
    start = row("edge", A, 0, ZERO)
    world.start(0, start)
    rows = run_of("pump-1", A, 0, 12, start.hash)
    for day in range(3):
        world.add(day, *rows[day * 4 : day * 4 + 4])
    return world, start, rows


def test_three_days_that_link_give_no_finding() -> None:
    world, _, _ = clean()
    assert world.judge() == LinkJudgement([], [])


def test_a_missing_day_is_a_gap_with_its_sequences() -> None:
    world, _, _ = clean()
    del world.rows[1]
    (gap,) = world.judge().findings
    assert (gap.verdict, gap.device_id, gap.chain_id) == (Verdict.GAP, "pump-1", A)
    assert (gap.sequence, gap.day, gap.row) == (4, DAYS[2], None)
    assert gap.detail == "sequences 4 to 7 are missing"


def test_a_gap_is_cut_by_what_is_declared_of_it() -> None:
    world, _, _ = clean()
    del world.rows[1]
    world.losses[2] = [LossRun("pump-1", A, 5, 6, 2)]
    assert seen(world.judge().findings) == [
        ("declared_gap", "pump-1", A, 5),
        ("gap", "pump-1", A, 4),
        ("gap", "pump-1", A, 7),
    ]


def test_a_loss_of_another_chain_or_device_explains_nothing() -> None:
    world, _, _ = clean()
    del world.rows[1]
    world.losses[2] = [LossRun("pump-1", B, 4, 7, 4), LossRun("pump-2", A, 4, 7, 4)]
    assert ("gap", "pump-1", A, 4) in seen(world.judge().findings)


def test_a_loss_over_held_events_is_shown_and_is_no_finding() -> None:
    world, _, _ = clean()
    over = LossRun("pump-1", A, 2, 5, 4)
    world.losses[1] = [over]
    assert world.judge() == LinkJudgement([], [over])


def test_the_lost_end_of_a_chain_is_declared_and_a_new_chain_may_name_it() -> None:
    world, _, rows = clean()
    del world.rows[2]
    world.losses[2] = [LossRun("pump-1", A, 8, 11, 4)]
    world.add(2, *run_of("pump-1", B, 12, 2, rows[-1].hash))
    assert seen(world.judge().findings) == [
        ("chain_reset", "pump-1", B, 12),
        ("declared_gap", "pump-1", A, 8),
    ]


def test_a_day_that_does_not_name_the_head_before_it_is_a_broken_link() -> None:
    world, _, rows = clean()
    world.rows[1] = run_of("pump-1", A, 4, 4, bytes([7]) * 32)
    found = world.judge().findings
    assert seen(found) == [("broken_link", "pump-1", A, 4), ("broken_link", "pump-1", A, 8)]
    assert [f.day for f in found] == [DAYS[1], DAYS[2]]
    assert rows[3].hash != bytes([7]) * 32


def test_two_days_that_hold_one_sequence_are_a_fork() -> None:
    world, _, rows = clean()
    world.add(1, row("pump-1", A, 2, rows[1].hash, "other"))
    assert seen(world.judge().findings) == [("fork", "pump-1", A, 2)]


def test_a_fork_that_goes_on_by_itself_is_one_fork() -> None:
    world, _, rows = clean()
    branch = [row("pump-1", A, 6, rows[5].hash, "other")]
    world.rows[2] = branch + run_of("pump-1", A, 7, 3, branch[0].hash)
    assert seen(world.judge().findings) == [("fork", "pump-1", A, 6)]


def test_the_same_run_in_two_days_is_a_duplicate() -> None:
    world, _, rows = clean()
    world.rows[2] = rows[4:8]
    assert seen(world.judge().findings) == [("duplicate", "pump-1", A, 4)]


# ------------------------------------------------------------------------------ refused events


def test_a_chain_goes_through_a_refused_event_by_its_hash() -> None:
    world, _, rows = clean()
    world.rows[1].remove(rows[5])
    world.refused[1] = [rows[5]]
    assert seen(world.judge().findings) == [("declared_gap", "pump-1", A, 5)]
    # Another event in its place does not carry the chain.
    world.refused[1] = [row("pump-1", A, 5, rows[4].hash, "other")]
    assert ("broken_link", "pump-1", A, 6) in seen(world.judge().findings)
    world.refused[1] = [replace(rows[5], prev=bytes(32))]
    assert ("broken_link", "pump-1", A, 5) in seen(world.judge().findings)


def test_a_refused_event_that_is_accepted_later_counts_as_accepted() -> None:
    world, _, rows = clean()
    world.rows[1].remove(rows[5])
    world.refused[1] = [rows[5]]
    world.add(2, rows[5])
    assert world.judge().findings == []


def test_a_refused_event_at_the_end_or_beginning_of_a_run_is_compared_with_it() -> None:
    world, _, rows = clean()
    world.refused[2] = [rows[11], rows[3]]
    assert world.judge().findings == []
    world.refused[2] = [row("pump-1", A, 11, rows[10].hash, "other")]
    assert seen(world.judge().findings) == [("fork", "pump-1", A, 11)]
    world.refused[2] = [row("pump-1", A, 8, rows[0].hash, "other")]
    assert seen(world.judge().findings) == [("fork", "pump-1", A, 8)]


def test_two_refused_events_of_one_sequence_are_a_fork_and_one_refused_twice_is_not() -> None:
    world, _, rows = clean()
    world.rows[1].remove(rows[5])
    world.refused = {1: [rows[5]], 2: [rows[5]]}
    assert seen(world.judge().findings) == [("declared_gap", "pump-1", A, 5)]
    world.refused[2] = [row("pump-1", A, 5, rows[4].hash, "other")]
    assert ("fork", "pump-1", A, 5) in seen(world.judge().findings)


# ----------------------------------------------------------------------------------- beginnings


def test_a_chain_that_begins_nowhere_is_a_broken_link() -> None:
    world = World()
    world.add(0, *run_of("pump-1", A, 0, 3, b"x" * 32))
    assert seen(world.judge().findings) == [("broken_link", "pump-1", A, 0)]


def test_a_chain_whose_beginning_is_declared_lost_is_not_broken() -> None:
    world, _, _ = clean()
    del world.rows[0]
    world.losses[1] = [LossRun("pump-1", A, 0, 3, 4)]
    assert seen(world.judge().findings) == [("declared_gap", "pump-1", A, 0)]
    world.losses[1] = [LossRun("pump-1", A, 0, 2, 3)]
    assert ("broken_link", "pump-1", A, 4) in seen(world.judge().findings)


def test_only_a_held_chain_start_begins_with_a_zero_hash() -> None:
    world = World()
    world.add(0, *run_of("edge", A, 0, 3))
    assert seen(world.judge().findings) == [("broken_link", "edge", A, 0)]
    first = run_of("edge", A, 0, 1)[0]
    world.starts[0] = [ChainStart("edge", A, 0, first.hash.hex())]
    assert world.judge().findings == []
    world.starts[0] = [ChainStart("edge", A, 1, first.hash.hex())]
    assert seen(world.judge().findings) == [("broken_link", "edge", A, 0)]


def test_a_chain_start_begins_only_chains_of_its_own_id() -> None:
    world = World()
    start = row("edge", A, 0, ZERO)
    world.start(0, start)
    world.add(0, *run_of("pump-1", B, 0, 2, start.hash))
    assert seen(world.judge().findings) == [("broken_link", "pump-1", B, 0)]


def test_a_new_chain_may_name_the_head_of_its_own_device_only() -> None:
    world, _, rows = clean()
    world.add(2, *run_of("pump-1", B, 12, 2, rows[-1].hash))
    assert seen(world.judge().findings) == [("chain_reset", "pump-1", B, 12)]
    world.add(2, *run_of("pump-9", B, 12, 2, rows[-1].hash))
    assert ("broken_link", "pump-9", B, 12) in seen(world.judge().findings)


def test_a_chain_of_a_restored_edge_begins_at_an_event_that_only_rows_show() -> None:
    world, _, rows = clean()
    world.add(2, *run_of("pump-1", B, 6, 2, rows[5].hash))
    assert ("broken_link", "pump-1", B, 6) in seen(world.judge().findings)
    asked = []

    def is_event(device_id: str, event_hash: str) -> bool:
        asked.append((device_id, event_hash))
        return event_hash in {r.hash.hex() for r in rows}

    assert seen(world.judge(is_event=is_event).findings) == [("chain_reset", "pump-1", B, 6)]
    assert asked == [("pump-1", rows[5].hash.hex())]


# --------------------------------------------------------------------------------- trusted heads


def test_a_cut_tail_is_truncated_by_a_trusted_head() -> None:
    world, _, rows = clean()
    head = {("pump-1", A): (11, rows[11].hash.hex())}
    assert world.judge(trusted=head).findings == []
    world.rows[2] = rows[8:10]
    (cut,) = world.judge(trusted=head).findings
    assert (cut.verdict, cut.sequence, cut.day) == (Verdict.TRUNCATED, 9, DAYS[2])
    assert world.judge().findings == []


def test_another_event_at_the_trusted_head_is_a_fork() -> None:
    world, _, _ = clean()
    head = {("pump-1", A): (11, "ab" * 32)}
    assert seen(world.judge(trusted=head).findings) == [("fork", "pump-1", A, 11)]


def test_a_chain_that_is_gone_altogether_is_truncated() -> None:
    world, _, _ = clean()
    found = world.judge(trusted={("pump-7", A): (3, "ab" * 32)}).findings
    assert seen(found) == [("truncated", "pump-7", A, None)]
    assert seen(judge_links([], trusted={("x", A): (3, "ab" * 32)}).findings) == [
        ("truncated", "x", A, None)
    ]


# ---------------------------------------------------------------------------------------- faults


@given(worlds(), st.data())
def test_a_fault_planted_in_a_clean_world_is_found_and_nothing_else(
    drawn: tuple[World, dict[tuple[str, str], list[Row]], list[Seen]], data: st.DataObject
) -> None:
    world, chains, informational = drawn
    held = {(r.device, r.chain, r.sequence) for rows in world.rows.values() for r in rows}
    (device, chain), rows = data.draw(st.sampled_from(sorted(chains.items())))
    inner = [
        r for r in rows[1:-1]
        if {(device, chain, r.sequence + d) for d in (-1, 0, 1)} <= held
    ]  # fmt: skip
    if not inner:
        return
    victim = data.draw(st.sampled_from(inner))
    day = next(d for d, rows_ in world.rows.items() if victim in rows_)
    world.rows[day].remove(victim)
    fault = data.draw(st.sampled_from(["gap", "broken_link"]))
    if fault == "gap":
        planted = ("gap", device, chain, victim.sequence)
    else:
        # The event after it names another event than the one that now stands there.
        world.add(day, row(device, chain, victim.sequence, victim.prev, "changed"))
        planted = ("broken_link", device, chain, victim.sequence + 1)
    within = [f for d in DAYS for f in walk(sorted(world.rows.get(DAYS.index(d), [])))[0]]
    found = seen(world.judge().findings) + [s for s in seen(within) if s[0] != "gap"]
    assert sorted(found, key=repr) == sorted([*informational, planted], key=repr)


# ------------------------------------------------------------------------------------ loss events

RUN: dict[str, Any] = {"deviceId": "pump-1", "chainId": A, "first": 4, "last": 9, "count": 6}


def test_the_runs_of_a_loss_are_read() -> None:
    assert loss_runs({"runs": [RUN, RUN]}) == (LossRun("pump-1", A, 4, 9, 6),) * 2
    assert loss_runs({"runs": []}) == ()


@pytest.mark.parametrize(
    "runs",
    [
        None,
        {},
        [7],
        [RUN | {"first": 10}],
        [RUN | {"first": -1}],
        [RUN | {"last": 2**53}],
        [RUN | {"count": "6"}],
        [RUN | {"first": True}],
        [RUN | {"deviceId": 1}],
        [RUN | {"chainId": None}],
    ],
    ids=repr,
)
def test_malformed_runs_are_refused(runs: object) -> None:
    with pytest.raises(RecordMalformed):
        loss_runs({"runs": runs})
