"""Any order of sending, archiving, losing the log, opening generations, closing and sealing.

The sender keeps what was acknowledged until it is archived, as an edge does. Whatever happens in
between: in the end every event that was acknowledged is sealed, and none twice.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from audit_platform.operations.closing import closed_days
from audit_platform.operations.coverage import coverage
from audit_platform.operations.generations import generations
from audit_platform.operations.late_turns import Known, look_for_late_days
from audit_platform.operations.log_check import check
from audit_platform.operations.open_generation import Purpose, open_generation
from audit_platform.operations.reconcile import reconcile
from audit_platform.record.layout import MS_PER_DAY, day_of, next_day
from audit_platform_tests.operations.lost_log import Sender, archive, lose_tail, make_topic_anew
from audit_platform_tests.world import DAY, GRACE_MS, open_world

TENANT = "north"


class Machine(RuleBasedStateMachine):
    """One installation, one sender."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="audit-generations-"))
        self.stack = ExitStack()
        self.world = self.stack.enter_context(open_world(self.folder / "home"))
        self.first_log = self.world.platform.log
        self.sender = Sender(self.world)
        self.is_lost = False

    @initialize()
    def announce(self) -> None:
        """The edge announces itself, and the archive-writer opens the first generation."""
        self.edge = self.world.edge(TENANT)
        self.sender.send([self.edge.start(self.world.clock.now_ms())])
        assert archive(self.world) == {}

    @rule(devices=st.integers(1, 4))
    def send(self, devices: int) -> None:
        """Devices say something."""
        self.sender.send(self.edge.heartbeats(devices, 1, self.world.clock.now_ms()))

    @rule()
    def archive(self) -> None:
        """The archive-writer does what it can; it stands still only where the log is another."""
        stopped = archive(self.world)
        assert not stopped or self.is_lost

    @rule()
    def ask(self) -> None:
        """The edge asks, lets go of what is archived, and sends again what the log lost."""
        self.sender.ask()

    @rule(partition=st.integers(0, 1), keep=st.integers(0, 6), others=st.booleans())
    def lose(self, partition: int, keep: int, *, others: bool) -> None:
        """An unclean election; others may be quicker than we to fill the log again."""
        lost = lose_tail(self.world, partition, keep)
        self.is_lost |= lost > 0
        if others:
            self.send(4)
            self.send(4)

    @rule()
    def make_anew(self) -> None:
        """Somebody deletes the topic, and it is made again."""
        make_topic_anew(self.world, 2)
        self.is_lost = True

    @rule()
    @precondition(lambda self: self.is_lost)
    def open(self) -> None:
        """An operator opens the next generation, if anything is wrong with the log."""
        if check(self.world.platform):
            open_generation(self.world.platform)
        assert check(self.world.platform) == []

    @rule()
    def open_on_purpose(self) -> None:
        """An operator opens the next generation though nothing need be wrong."""
        open_generation(self.world.platform, Purpose.STORE)

    @rule()
    def next_day(self) -> None:
        """Midnight passes and the day is closed, if the log is the one that is meant."""
        today = max([*closed_days(self.world.platform), next_day(DAY, -1)])
        if check(self.world.platform):
            self.world.clock.advance(MS_PER_DAY // 8)
        else:
            self.world.close(next_day(today))

    @rule()
    def seal(self) -> None:
        """Seal whatever may be sealed."""
        for day in closed_days(self.world.platform):
            if coverage(self.world.platform, day).complete:
                self.world.seal(TENANT, day)
            else:
                break

    @invariant()
    def generations_have_no_holes(self) -> None:
        """Each names where the one before was closed."""
        opened = list(generations(self.world.platform))
        for g in opened[1:]:
            assert {p.generation for p in g.closed} == {g.number - 1}

    def teardown(self) -> None:
        """Bring everything to its end, then judge."""
        try:
            self._finish()
            self._judge()
        finally:
            if self.world.platform.log is not self.first_log:
                self.world.platform.log.close()  # type: ignore[attr-defined] # the embedded log has it
            self.stack.close()
            shutil.rmtree(self.folder)

    def _finish(self) -> None:
        for _ in range(10):
            if check(self.world.platform):
                open_generation(self.world.platform)
            assert archive(self.world) == {}
            if not self.sender.held:
                break
            self.sender.ask()
        assert not self.sender.held
        archive(self.world)

    def _judge(self) -> None:
        world = self.world
        last = max([day_of(world.clock.now_ms()), *closed_days(world.platform)])
        day = next_day(max([*closed_days(world.platform), next_day(DAY, -1)]))
        while day <= last:
            world.close(day)
            day = next_day(day)
        for closed in closed_days(world.platform):
            assert coverage(world.platform, closed).complete
            world.seal(TENANT, closed)
        known = Known()
        for _ in range(12):
            world.clock.advance(MS_PER_DAY)
            turns = look_for_late_days(world.platform, known, GRACE_MS)
            known = turns.known
            assert (turns.unclosed, turns.holes) == (set(), [])
            if not known.late:
                break
        assert not known.late
        for closed in closed_days(world.platform):
            world.seal(TENANT, closed)
            assert world.verify(TENANT, closed).findings == []
        found = self.sender.receipts.check(world.objects_folder, self.folder)
        assert found["clean"], found
        counted = reconcile(world.platform)
        assert counted.findings == []
        assert (counted.unaccounted, counted.lost, counted.doubled, counted.pending) == (0,) * 4


Machine.TestCase.settings = settings(
    max_examples=6,
    stateful_step_count=18,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestGenerations = Machine.TestCase
