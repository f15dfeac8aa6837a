"""Whatever fails, in whatever order: each device's first copies arrive in order, nothing is lost.

The receiver is a model of ingest, log and archive that can refuse, lose answers after it stored a
body, lose its log's tail, and forget. Lanes, books and spool are the real ones.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from audit_platform.ports import Entry
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform.services import edge_uplink, edge_uplink_lanes, edge_uplink_load
from audit_platform.services.edge_entry import LiveEntry
from audit_platform.services.edge_uplink_http import Failure, Fault, LogPlace, Receipt, UplinkSender
from audit_platform_tests.services.uplink_world import Edge

DEVICES = ["a", "b", "c", "d"]


class Receiver(UplinkSender):
    """Ingest with one partition: a log of bodies, archived up to some offset."""

    def __init__(self) -> None:
        self.log: list[bytes] = []  # each record's value
        self.ever: list[bytes] = []  # every line that was ever stored, in order
        self.archived = 0
        self.plan: list[str] = []
        self.unacknowledged: dict[bytes, bytes] = {}  # device -> its first line on its way
        self.acknowledged: set[bytes] = set()  # in this life of the edge
        self.sent_without_need = 0

    def send(self, body: bytes, events: int) -> Receipt | Failure:
        """A body, by the plan: taken, or not, or taken and the answer lost."""
        step = self.plan.pop(0) if self.plan else "take"
        lines = body[:-1].split(b"\n")
        assert len(lines) == events
        firsts = {line.split(b",")[0]: line for line in reversed(lines)}
        for device, line in firsts.items():
            assert self.unacknowledged.setdefault(device, line) == line, "two batches at once"
        self.sent_without_need += len(self.acknowledged.intersection(lines))
        if step == "refuse":
            return Failure(Fault.LATER, "503", by_ingest=True)
        if step == "too large" and events > 1:
            return Failure(Fault.TOO_LARGE, "413", by_ingest=True)
        self.log.append(body)
        self.ever += lines
        if step == "lose":
            return Failure(Fault.LATER, "the answer was lost")
        for device in firsts:
            del self.unacknowledged[device]
        self.acknowledged.update(lines)
        digest = hashlib.sha256(body).hexdigest()
        place = LogPlace(EVENTS_TOPIC, 0, len(self.log) - 1, digest[:16])
        return Receipt(digest, events, {}, (place,))

    def ask(self, records: Sequence[LogPlace]) -> list[str] | Failure:
        """States as ingest gives them."""
        if self.plan and self.plan[0] == "refuse":
            self.plan.pop(0)
            return Failure(Fault.LATER, "503")
        return [self._state(r) for r in records]

    def _state(self, record: LogPlace) -> str:
        if record.offset >= len(self.log):
            return "differs"
        held = hashlib.sha256(self.log[record.offset]).hexdigest()[:16]
        if record.offset < self.archived:
            return "archived" if held == record.digest else "differs"
        return "pending" if held == record.digest else "differs"

    def clock_offset_ms(self) -> int | None:
        """None."""
        return None


class Machine(RuleBasedStateMachine):
    """Appends, offers, steps, failures, losses, restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.receiver = Receiver()
        self.edge = Edge(self.folder, self.receiver)
        self.held_back: list[LiveEntry] = []
        self.spooled: dict[str, list[bytes]] = {d: [] for d in DEVICES}

    @initialize(backlog=st.lists(st.sampled_from(DEVICES), max_size=12))
    def begin_with_a_backlog(self, backlog: list[str]) -> None:
        for device in backlog:
            self.append(device, 1, "never")
        self.edge.restart()

    @rule(
        device=st.sampled_from(DEVICES),
        count=st.integers(1, 4),
        offer=st.sampled_from(["now", "now", "later", "never"]),
    )
    def append(self, device: str, count: int, offer: str) -> None:
        first = len(self.spooled[device])
        lines = [
            f'{{"deviceId":"{device}","sequenceNumber":{n}}}'.encode()
            for n in range(first, first + count)
        ]
        self.spooled[device] += lines
        position = self.edge.append_lines(lines, device, offer=False)
        entry = LiveEntry(position, device, count, lines)
        if offer == "now":
            self.edge.uplink.offer([entry])
        elif offer == "later":
            self.held_back.append(entry)

    @precondition(lambda self: self.held_back)
    @rule()
    def offer_late_and_in_any_order(self) -> None:
        self.edge.uplink.offer(self.held_back[::-1])
        self.held_back.clear()

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.edge.uplink.step()

    @rule(plan=st.lists(st.sampled_from(["take", "refuse", "lose", "too large"]), max_size=4))
    def plan_failures(self, plan: list[str]) -> None:
        self.receiver.plan = plan

    @rule(device=st.sampled_from(DEVICES), what=st.sampled_from(["refuse", "lose"]))
    def fail_while_a_device_goes_on(self, device: str, what: str) -> None:
        self.receiver.plan = [what]
        self.step(2)
        self.append(device, 1, "now")
        self.wait(40.0)
        self.step(2)

    @rule(seconds=st.sampled_from([0.3, 3.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.edge.seconds.now += seconds

    @rule(share=st.floats(0, 1))
    def archive(self, share: float) -> None:
        todo = len(self.receiver.log) - self.receiver.archived
        self.receiver.archived += round(todo * share)

    @rule(share=st.floats(0, 1))
    def lose_the_tail_of_the_log(self, share: float) -> None:
        keep = self.receiver.archived
        keep += round((len(self.receiver.log) - keep) * share)
        if keep < len(self.receiver.log):
            del self.receiver.log[keep:]

    @rule()
    def restart(self) -> None:
        self.held_back.clear()
        self.receiver.unacknowledged.clear()
        self.receiver.acknowledged.clear()
        self.edge.restart()

    @invariant()
    def first_copies_are_in_order(self) -> None:
        for device, lines in self.spooled.items():
            mine = [x for x in self.receiver.ever if f'"deviceId":"{device}"'.encode() in x]
            assert list(dict.fromkeys(mine)) == lines[: len(set(mine))]

    @invariant()
    def nothing_is_released_that_is_not_archived(self) -> None:
        first, end = self.edge.spool.bounds()
        kept = {e.position for e in self._all(first, end)}
        for a, b in self.edge.spool.released():
            kept -= set(range(a, b))
        held = {line for e in self._all(first, end) if e.position in kept
                for line in e.data.split(b"\n")}  # fmt: skip
        archived = b"".join(self.receiver.log[: self.receiver.archived]).split(b"\n")
        safe = held | set(archived)
        assert all(line in safe for lines in self.spooled.values() for line in lines)

    def _all(self, first: int, end: int) -> list[Entry]:
        found: list[Entry] = []
        while first < end and (more := self.edge.spool.read(first, 1 << 20)):
            found += more
            first = more[-1].position + 1
        return found

    def teardown(self) -> None:
        """When everything is well again for a while, all is archived, known and released."""
        try:
            self.receiver.plan = []
            for _ in range(60):
                self.edge.run()
                self.receiver.archived = len(self.receiver.log)
                self.edge.seconds.now += 40.0
            self.edge.run()
            self.first_copies_are_in_order()
            status = self.edge.uplink.status()
            assert self.edge.unreleased() == 0
            assert (status.backlog_entries, status.backlog_events) == (0, 0)
            assert (status.unarchived_records, status.replay_progress) == (0, 1.0)
            archived = set(b"".join(self.receiver.log).split(b"\n"))
            assert all(line in archived for lines in self.spooled.values() for line in lines)
            assert self.edge.uplink._lanes._skip.count() <= 1
        finally:
            self.edge.close()
            shutil.rmtree(self.folder)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds so small that every way out is taken."""
    monkeypatch.setattr(edge_uplink_load, "BODY_EVENTS", 3)
    monkeypatch.setattr(edge_uplink_lanes, "READ_BYTES", 200)
    monkeypatch.setattr(edge_uplink_lanes, "SCAN_BYTES", 900)
    monkeypatch.setattr(edge_uplink_lanes, "LIVE_BYTES", 1500)
    monkeypatch.setattr(edge_uplink_lanes, "MAX_DEVICES", 3)
    monkeypatch.setattr(edge_uplink_lanes, "MAX_SKIPS", 4)
    monkeypatch.setattr(edge_uplink, "MAX_UNARCHIVED", 6)
    monkeypatch.setattr(edge_uplink, "LATER_POSITIONS", 2)


class CalmMachine(Machine):
    """The log loses nothing and nothing is forgotten: then nothing is sent without need."""

    @rule()
    def lose_the_tail_of_the_log(self) -> None:
        pass

    @invariant()
    def nothing_acknowledged_is_sent_again(self) -> None:
        assert self.receiver.sent_without_need == 0


def _run(machine: type[Machine], examples: int) -> None:
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None)
    )


def test_each_devices_order_holds_and_nothing_is_lost_whatever_fails() -> None:
    _run(Machine, 40)


def test_nothing_is_sent_twice_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_uplink, "MAX_UNARCHIVED", 1_000_000)
    _run(CalmMachine, 25)
