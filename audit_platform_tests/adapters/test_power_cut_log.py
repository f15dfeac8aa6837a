"""Log and groups over power cuts: what was acknowledged or read is there, whenever the power goes.

Also that each fsync is needed: with any one left out, the same check finds something lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from audit_platform.adapters.embedded.files import FsyncSite
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.ports import NewRecord
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC
from audit_platform_tests.adapters.lives import broken_promises
from audit_platform_tests.clocks import ManualClock
from audit_platform_tests.powercut import PowerCutFiles

ROOT: Final = Path("/srv/audit/log")
SITES: Final = [s for s in FsyncSite if s.startswith(("log_", "topic_", "segment_", "group_"))]


@contextlib.contextmanager
def opened(files: PowerCutFiles) -> Iterator[EmbeddedLog]:
    """One process's log, with segments so small that the script rolls."""
    log = EmbeddedLog(ROOT, files, ManualClock(), 2, segment_bytes=400, boot="boot")
    try:
        yield log
    finally:
        log.close()


class LogScript:
    """Appends, reads, rolls, commits group offsets; two processes take turns."""

    #: Whether the cut may leave zeros for bytes that did not arrive, which look like damage.
    zeros_may_show = False

    def __init__(self) -> None:
        self.topics: dict[str, str] = {}
        self.records: dict[tuple[str, int, int], bytes] = {}
        self.committed: dict[int, int] = {}
        self.tried: dict[int, int] = {}

    def run(self, files: PowerCutFiles) -> None:
        """See `Script.run`."""
        with opened(files) as log, opened(files) as other:
            self._topics(log)
            self._append(log, EVENTS_TOPIC, 0, b"a" * 50, b"b")
            self._read(other)
            self._append(other, EVENTS_TOPIC, 0, b"c" * 300)
            self._append(log, EVENTS_TOPIC, 1, b"d")
            member = log.join("archive", EVENTS_TOPIC, "one")
            member.assignment()
            self._commit(log, 0, 1)
            for i in range(4):  # rolls
                self._append(log, EVENTS_TOPIC, 0, bytes(range(i, i + 200)))
            self._append(other, EVENTS_TOPIC, 0, b"e" * 200)
            self._append(log, DLQ_TOPIC, 1, b"f")
            self._commit(log, 0, 3)
            self._read(log)

    def look(self, files: PowerCutFiles) -> None:
        """See `Script.look`."""
        with opened(files) as log:
            self._topics(log)
            self._read(log)
            self._append(log, EVENTS_TOPIC, 0, b"after the crash")
            self._append(log, EVENTS_TOPIC, 1, b"after the crash too")
            self._read(log)

    def broken(self, files: PowerCutFiles) -> list[str]:
        """See `Script.broken`."""
        found = []
        with opened(files) as log:
            for topic, topic_id in self.topics.items():
                if log.describe(topic).topic_id != topic_id:
                    found.append(f"{topic} has another id")
            there = {
                (topic, p, r.offset): r.value
                for topic in (EVENTS_TOPIC, DLQ_TOPIC)
                for p in range(2)
                for r in log.read(topic, p, log.bounds(topic, p)[0], 1 << 20)
            }
            found += [
                f"record {at}: {value[:9]!r} is {there.get(at, b'gone')[:9]!r}"
                for at, value in self.records.items()
                if there.get(at) != value
            ]
            if log.damage() and not self.zeros_may_show:
                found.append(f"called corrupt: {log.damage()}")
            member = log.join("archive", EVENTS_TOPIC, "two")
            for partition, offset in self.committed.items():
                stored = member.committed(partition)
                if stored not in (offset, self.tried[partition]):
                    found.append(f"committed {offset} of {partition} is {stored}")
            # And the log goes on: the next record does not take a place that was told.
            (offset,) = log.append(EVENTS_TOPIC, [NewRecord(0, b"next")])
            if (EVENTS_TOPIC, 0, offset) in self.records:
                found.append(f"offset {offset} was given twice")
        return found

    def _topics(self, log: EmbeddedLog) -> None:
        for topic in (EVENTS_TOPIC, DLQ_TOPIC):
            self.topics[topic] = log.describe(topic).topic_id

    def _append(self, log: EmbeddedLog, topic: str, partition: int, *values: bytes) -> None:
        offsets = log.append(topic, [NewRecord(partition, value) for value in values])
        self.records |= {
            (topic, partition, o): value for o, value in zip(offsets, values, strict=True)
        }

    def _read(self, log: EmbeddedLog) -> None:
        for partition in range(2):
            start, _ = log.bounds(EVENTS_TOPIC, partition)
            for r in log.read(EVENTS_TOPIC, partition, start, 1 << 20):
                self.records[EVENTS_TOPIC, partition, r.offset] = r.value

    def _commit(self, log: EmbeddedLog, partition: int, offset: int) -> None:
        member = log.join("archive", EVENTS_TOPIC, "one")
        member.assignment()
        self.tried[partition] = offset
        member.commit(partition, offset)
        self.committed[partition] = offset


class TornLogScript(LogScript):
    """The same on a disk that keeps a part of what was not fsynced."""

    zeros_may_show = True


def test_nothing_told_is_lost_whenever_the_power_goes() -> None:
    assert list(broken_promises(LogScript)) == []


def test_nothing_told_is_lost_when_a_part_of_the_rest_survives() -> None:
    assert list(broken_promises(TornLogScript, seeds=range(4))) == []


@pytest.mark.parametrize("site", SITES)
def test_each_fsync_left_out_loses_something(site: FsyncSite) -> None:
    assert next(broken_promises(LogScript, omit={site}), None) is not None


def test_the_script_comes_to_every_fsync_of_log_and_groups() -> None:
    files = PowerCutFiles()
    script = LogScript()
    script.run(files)
    files.end_process()
    (tail,) = [p for p in files.paths() if p.endswith(f"{EVENTS_TOPIC}/p1/mark")]
    files.unlink(Path(tail))  # as after a power cut: the next process must look for itself
    script.look(files)
    assert files.synced == set(SITES)
