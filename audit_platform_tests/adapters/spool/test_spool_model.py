"""The spool against a plain model: any order of appends, reads, releases, faults, crashes, damage.

The model: what was acknowledged or read stays at its position until it is released, dropped (and
then named) or damaged (and then reported); positions are never given twice; what was neither
acknowledged nor read may be there or not.
"""

from __future__ import annotations

import contextlib
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from audit_platform.adapters.spool.spool import FileSpool
from audit_platform.ports import NewEntry, SpoolLimits
from audit_platform_tests.adapters.spool.bench import POLICY, SPOOL, Model, open_spool, read_all
from audit_platform_tests.clocks import ManualClock
from audit_platform_tests.powercut import PowerCut, PowerCutFiles

#: So small that it is full after some twenty appends.
LIMITS: Final = SpoolLimits(8000, 10.0, POLICY, segment_bytes=500)

entries: Final = st.lists(
    st.builds(
        NewEntry,
        st.sampled_from(["pump-1", "bed:2"]),
        # Rarely one that may not be dropped: it keeps its whole segment.
        st.sampled_from(["low"] * 7 + ["critical"]),
        st.integers(0, 9),
        st.binary(max_size=200),
    ),
    min_size=1,
    max_size=4,
)
positions: Final = st.integers(0, 60)


class SpoolMachine(RuleBasedStateMachine):
    """One spool over its lives."""

    def __init__(self) -> None:
        super().__init__()
        self.files = PowerCutFiles()
        self.clock = ManualClock()
        self.model = Model()
        self.is_damaged = False
        self.spool: FileSpool | None = None

    @initialize()
    def start(self) -> None:
        """Open it."""
        self.spool = open_spool(self.files, LIMITS, clock=self.clock)

    def opened(self) -> FileSpool:
        """The spool as it is now."""
        assert self.spool is not None
        return self.spool

    @rule(new=entries, declare=st.booleans())
    def append(self, new: list[NewEntry], *, declare: bool) -> None:
        """Append, and remember what was promised."""
        was_to_fail = self.files.fail_at is not None
        if self.model.append(self.opened(), *new, declare=declare):
            assert self.opened().status().bytes <= LIMITS.max_bytes
        elif not was_to_fail:  # then it is full of what may not be dropped
            classes = {e.event_class for e in read_all(self.opened())}
            assert self.is_damaged or "critical" in classes

    @rule(first=positions, count=st.integers(1, 20))
    def release(self, first: int, count: int) -> None:
        """Release a run."""
        self.model.release(self.opened(), first, first + count)

    @rule()
    def release_all_up_to_the_middle(self) -> None:
        """As an uplink that keeps up does."""
        first, after = self.opened().bounds()
        self.model.release(self.opened(), 0, (first + after) // 2)

    @rule(max_bytes=st.integers(1, 500))
    def read(self, max_bytes: int) -> None:
        """Read everything in small steps."""
        self.model.read(self.opened(), max_bytes)

    @rule(steps=st.integers(1, 12))
    def let_a_call_fail(self, steps: int) -> None:
        """Some call to come fails."""
        self.files.fail_at = self.files.operations + steps

    @rule(hours=st.integers(1, 12))
    def wait(self, hours: int) -> None:
        """Time passes."""
        self.clock.advance(hours * 3_600_000)

    @rule(new=entries, steps=st.integers(1, 8))
    def die_while_appending(self, new: list[NewEntry], steps: int) -> None:
        """The process ends somewhere in an append or behind it, and starts again."""
        self.files.stop_at = self.files.operations + steps
        with contextlib.suppress(PowerCut):
            self.model.append(self.opened(), *new)
        self.files.end_process()
        self.start()

    @rule()
    def restart(self) -> None:
        """An orderly end."""
        self.files.fail_at = None
        self.opened().close()
        self.start()

    @rule(seed=st.none() | st.integers(0, 1000))
    def cut_the_power(self, seed: int | None) -> None:
        """The power goes and comes back."""
        self.files.cut(seed)
        self.start()

    @rule(which=st.integers(0, 99), place=st.integers(0, 9999), bit=st.integers(0, 7))
    @precondition(lambda self: self.files.fail_at is None)
    def rot(self, which: int, place: int, bit: int) -> None:
        """A byte of a segment changes while nobody looks: what is lost is reported."""
        names = sorted(n for n in self.files.listdir(SPOOL) if n.endswith(".seg"))
        if not names:
            return
        self.opened().close()
        path = SPOOL / names[which % len(names)]
        stat = self.files.stat(path)
        assert stat is not None
        self.files.flip(path, place % stat.size, 1 << bit)
        self.start()
        there = {one.position for one in read_all(self.opened())}
        lost = [position for position in self.model.told if position not in there]
        reports = self.opened().status().set_aside
        for position in lost:
            assert any(r.file == path.name and r.first <= position < r.next for r in reports)
            del self.model.told[position]
            self.model.let_go.add(position)
        self.is_damaged = True

    @invariant()
    def what_was_told_is_there(self) -> None:
        """Every promise."""
        if self.spool is not None:
            assert self.model.missing(self.spool) == []


SpoolMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, suppress_health_check=list(HealthCheck), deadline=None
)
TestSpoolModel = SpoolMachine.TestCase
