"""Places in chains: whatever order a device counts in, no chain forks and no link breaks."""

from __future__ import annotations

import itertools
from array import array
from collections import defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.services import edge_memory
from audit_platform.services.edge_memory import WINDOW, Memory


class Chains:
    """A memory, and all that was placed by it: (chain, sequence, head it names, its own hash)."""

    def __init__(self) -> None:
        chains = (f"late-{n}" for n in itertools.count())
        self.memory = Memory(new_chain=lambda: next(chains))
        self.placed: list[tuple[str, int, str, str]] = []
        self.epochs = itertools.count()
        self.begin()

    def begin(self) -> None:
        n = next(self.epochs)
        self.memory.begin_epoch(f"epoch-{n}", f"start-{n}")

    def take(self, sequence: int) -> str:
        """Place a sequence that is not taken; the chain it joined."""
        self.memory.state("pump")
        digest = len(self.placed) + 1
        run, head = self.memory.place("pump", sequence, digest)
        run.head = f"hash-{digest}"
        self.placed.append((run.chain_id, sequence, head, run.head))
        return run.chain_id

    def take_all(self, sequences: Sequence[int]) -> list[str]:
        return [self.take(sequence) for sequence in sequences]


def test_a_device_goes_on_in_one_chain_and_each_event_names_the_one_before() -> None:
    chains = Chains()
    assert set(chains.take_all([5, 6, 7])) == {"epoch-0"}
    assert [head for _, _, head, _ in chains.placed] == ["start-0", "hash-1", "hash-2"]


def test_a_sequence_that_was_left_out_leaves_a_gap_in_the_same_chain() -> None:
    chains = Chains()
    assert set(chains.take_all([5, 8, 9])) == {"epoch-0"}
    assert chains.memory.taken("pump", 6) == 0
    assert chains.memory.taken("pump", 8) == 2


def test_a_new_epoch_begins_at_the_last_head() -> None:
    chains = Chains()
    chains.take_all([5, 6])
    chains.begin()
    chains.take(7)
    assert chains.placed[-1] == ("epoch-1", 7, "hash-2", "hash-3")


def test_a_counter_that_begins_anew_makes_a_chain_beside_the_first() -> None:
    chains = Chains()
    chains.take_all([500, 501])
    assert chains.take_all([0, 1, 2]) == ["late-0"] * 3
    assert chains.placed[2][2] == "hash-2"
    assert chains.placed[3][2] == "hash-3"


def test_a_late_event_does_not_disturb_the_chain_it_is_late_for() -> None:
    chains = Chains()
    chains.take_all([5, 7])
    assert chains.take(6) == "late-0"
    assert chains.take(8) == "epoch-0"
    assert chains.placed[-1][2] == "hash-2"


def test_a_device_that_goes_on_beside_its_chain_for_a_whole_window_has_moved_there() -> None:
    chains = Chains()
    chains.take(10_000)
    assert set(chains.take_all(range(WINDOW))) == {"late-0"}
    assert chains.take(WINDOW + 50) == "late-0"
    assert chains.take(20_000) == "late-0"


def test_late_events_are_remembered_too() -> None:
    chains = Chains()
    chains.take_all([500, 3])
    assert chains.memory.taken("pump", 3) == 2
    assert chains.memory.taken("pump", 500) == 1


def test_the_last_sequences_of_a_device_are_remembered_and_older_ones_are_not() -> None:
    chains = Chains()
    count = WINDOW * 3
    chains.take_all(range(count))
    assert all(chains.memory.taken("pump", n) for n in range(count - WINDOW, count))
    assert chains.memory.taken("pump", 0) == 0
    run = chains.memory.devices["pump"].main
    assert len(run.digests) <= WINDOW + edge_memory._SLACK


def test_after_a_gap_wider_than_the_window_only_what_is_behind_it_is_remembered() -> None:
    chains = Chains()
    chains.take_all([1, 2**53 - 1])
    assert chains.memory.devices["pump"].main.digests == array("Q", [2])
    assert chains.memory.taken("pump", 2**53 - 1) == 2


def test_many_devices_have_a_smaller_window_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_memory, "MAX_DIGESTS", 1000)
    memory = Memory(chain_id="c", chain_start="s")
    for n in range(500):
        for device in range(100):
            memory.state(f"pump-{device}")
            memory.place(f"pump-{device}", n, 1)
    total = sum(len(d.main.digests) for d in memory.devices.values())
    assert total <= 1000 + 100 * edge_memory._SLACK


def test_a_device_that_is_not_known_has_its_first_sequence_next() -> None:
    assert Memory().next_sequence("edge-1") == 0


@given(
    st.lists(
        st.one_of(
            st.integers(0, 12),
            st.integers(0, 2**53 - 1),
            st.just(-1),  # a restart with everything remembered
        ),
        max_size=60,
    )
)
def test_no_chain_forks_and_every_link_holds(steps: list[int]) -> None:
    chains = Chains()
    taken: set[int] = set()
    for step in steps:
        if step < 0:
            chains.begin()
        elif not chains.memory.taken("pump", step):
            chains.take(step)
            taken.add(step)
    by_chain = defaultdict(list)
    for chain, sequence, head, own in chains.placed:
        by_chain[chain].append((sequence, head, own))
    hashes = {own for _, _, _, own in chains.placed}
    for chain, events in by_chain.items():
        order = [sequence for sequence, _, _ in events]
        assert order == sorted(set(order)), "a sequence twice in one chain, or out of order"
        first = events[0][1]
        assert first in hashes or first == chain.replace("epoch", "start")
        for (_, _, before), (_, head, _) in itertools.pairwise(events):
            assert head == before
    assert {sequence for _, sequence, _, _ in chains.placed} == taken


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(0, 30))
def test_what_was_placed_can_be_taken_back(steps: list[int], at: int) -> None:
    chains, again = Chains(), Chains()
    for step in steps[:at]:
        for made in (chains, again):
            if not made.memory.taken("pump", step):
                made.take(step)
    state = chains.memory.state("pump")
    for step in [*steps[at:], 2**40]:
        if not chains.memory.taken("pump", step):
            chains.memory.place("pump", step, 77)[0].head = "taken back"
    chains.memory.restore("pump", state)
    assert chains.memory.devices == again.memory.devices
