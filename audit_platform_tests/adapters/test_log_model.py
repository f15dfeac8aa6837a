"""The embedded log against a model: any order of appends, reads, faults, crashes and power cuts.

The model: what was acknowledged or read stays, at its offset, for ever; reads are in order; the
end never goes back behind it. What was neither acknowledged nor read may be there or not.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.errors import LogUnavailable, OffsetOutOfRange
from audit_platform.ports import NewRecord
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform_tests.clocks import ManualClock
from audit_platform_tests.powercut import PowerCut, PowerCutFiles

ROOT: Final = Path("/srv/audit/log")
PARTITIONS: Final = 2

processes: Final = st.integers(0, 1)
partitions: Final = st.integers(0, PARTITIONS - 1)
values: Final = st.lists(st.binary(max_size=80), min_size=1, max_size=4)


class LogMachine(RuleBasedStateMachine):
    """Two processes over one disk."""

    def __init__(self) -> None:
        super().__init__()
        self.files = PowerCutFiles()
        self.logs: list[EmbeddedLog] = []
        self.told: list[dict[int, bytes]] = [{} for _ in range(PARTITIONS)]
        self.tried: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        self.dropped = [0] * PARTITIONS

    @initialize()
    def start(self) -> None:
        """Start both processes."""
        self.logs = [
            EmbeddedLog(ROOT, self.files, ManualClock(), PARTITIONS, segment_bytes=300, boot="boot")
            for _ in range(2)
        ]

    def teardown(self) -> None:
        """End the threads."""
        for log in self.logs:
            log.close()

    @rule(process=processes, partition=partitions, values=values)
    def append(self, process: int, partition: int, values: list[bytes]) -> None:
        """Append, and remember what was promised."""
        self.tried[partition] += values
        try:
            offsets = self.logs[process].append(
                EVENTS_TOPIC, [NewRecord(partition, value) for value in values]
            )
        except LogUnavailable:
            return
        assert offsets == list(range(offsets[0], offsets[0] + len(values)))
        for offset, value in zip(offsets, values, strict=True):
            assert offset not in self.told[partition]
            self.told[partition][offset] = value

    @rule(
        process=processes,
        partition=partitions,
        offset=st.integers(-1, 60),
        max_bytes=st.integers(1, 400),
    )
    def read(self, process: int, partition: int, offset: int, max_bytes: int) -> None:
        """Read from anywhere, compare, and remember what was read."""
        log = self.logs[process]
        start, end = log.bounds(EVENTS_TOPIC, partition)
        if not start <= offset <= end:
            with pytest.raises(OffsetOutOfRange) as caught:
                log.read(EVENTS_TOPIC, partition, offset, max_bytes)
            assert (caught.value.start, caught.value.end) == (start, end)
            return
        records = log.read(EVENTS_TOPIC, partition, offset, max_bytes)
        offsets = [r.offset for r in records]
        assert offsets == sorted(set(offsets))
        if records:
            assert offsets[0] >= offset
            assert offsets[-1] < end
            assert not {o for o in self.told[partition] if offset <= o < offsets[-1]} - set(offsets)
        else:
            assert not {o for o in self.told[partition] if o >= offset}
        for record in records:
            assert self.told[partition].setdefault(record.offset, record.value) == record.value
            assert record.value in self.tried[partition]

    @rule(steps=st.integers(1, 12))
    def let_a_call_fail(self, steps: int) -> None:
        """Some call to come fails."""
        self.files.fail_at = self.files.operations + steps

    @rule(process=processes, partition=partitions, offset=st.integers(0, 60))
    @precondition(lambda self: self.files.fail_at is None)
    def drop(self, process: int, partition: int, offset: int) -> None:
        """Retention."""
        log = self.logs[process]
        log.drop_before(EVENTS_TOPIC, partition, offset)
        start, _ = log.bounds(EVENTS_TOPIC, partition)
        told = self.told[partition]
        assert all(o < offset for o in told if o < start)
        self.told[partition] = {o: v for o, v in told.items() if o >= start}

    @rule(process=processes, partition=partitions, values=values, steps=st.integers(1, 6))
    def die_while_appending(
        self, process: int, partition: int, values: list[bytes], steps: int
    ) -> None:
        """Both processes end somewhere in an append or behind it, and start again."""
        self.files.stop_at = self.files.operations + steps
        with contextlib.suppress(PowerCut):
            self.append(process, partition, values)
        self.files.end_process()
        self.teardown()
        self.start()

    @rule(seed=st.none() | st.integers(0, 1000))
    def cut_the_power(self, seed: int | None) -> None:
        """The power goes and comes back."""
        self.files.cut(seed)
        self.teardown()
        self.start()

    @invariant()
    def what_was_told_is_there(self) -> None:
        """Every promise, as a process sees it that has been there all along."""
        for partition in range(PARTITIONS):
            for log in self.logs:
                told = self.told[partition]
                start, _ = log.bounds(EVENTS_TOPIC, partition)
                records = log.read(EVENTS_TOPIC, partition, start, 1 << 20)
                found = {r.offset: r.value for r in records}
                assert found.items() >= told.items()
                self.told[partition] = found


LogMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, suppress_health_check=list(HealthCheck)
)
TestLogModel = LogMachine.TestCase
