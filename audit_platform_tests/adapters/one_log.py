"""A log with one partition on a file layer in memory, and hands to reach into its files.

Shared by the tests of the embedded log. Not here: tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.ports import NewRecord
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform_tests.clocks import ManualClock
from audit_platform_tests.powercut import PowerCutFiles

ROOT: Final = Path("/srv/audit/log")
PARTITION: Final = ROOT / EVENTS_TOPIC / "p0"


def open_log(files: PowerCutFiles, segment_bytes: int = 1 << 20) -> EmbeddedLog:
    """One process's log."""
    return EmbeddedLog(ROOT, files, ManualClock(), 1, segment_bytes=segment_bytes, boot="boot")


@contextlib.contextmanager
def opened(files: PowerCutFiles, segment_bytes: int = 1 << 20) -> Iterator[EmbeddedLog]:
    """The same, closed at the end."""
    log = open_log(files, segment_bytes)
    try:
        yield log
    finally:
        log.close()


def append(log: EmbeddedLog, *values: bytes) -> list[int]:
    """Append to partition 0."""
    return log.append(EVENTS_TOPIC, [NewRecord(0, value) for value in values])


def read(log: EmbeddedLog, offset: int = 0) -> dict[int, bytes]:
    """Offset -> value of partition 0."""
    found = log.read(EVENTS_TOPIC, 0, offset, 1 << 20)
    return {r.offset: r.value for r in found}


def segments_of(files: PowerCutFiles) -> list[Path]:
    """Segment files of partition 0, in order."""
    return [Path(p) for p in files.paths() if p.startswith(str(PARTITION)) and p.endswith(".seg")]


def size_of(files: PowerCutFiles, path: Path) -> int:
    """Length of a file."""
    found = files.stat(path)
    assert found is not None
    return found.size


def cut_to(files: PowerCutFiles, path: Path, size: int) -> None:
    """Shorten a file behind everybody's back."""
    handle = files.open(path)
    files.truncate(handle, size)
    files.close(handle)


def forget_mark(files: PowerCutFiles) -> None:
    """As after a power cut: the mark was never fsynced."""
    cut_to(files, PARTITION / "mark", 0)
