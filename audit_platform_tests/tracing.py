"""Runs a program under strace and says what a power cut after any system call would leave.

Belongs here: starting strace, and the questions that tests ask of a trace (`replay`,
`assert_answer_after_fsync`). Does not: reading strace's text (`straceparse.py`), the model of a
disk that keeps only what was fsynced (`cutdisk.py`), what must hold (each test).

strace is asked for because nothing of ours lies between the test and the kernel: what it saw was
really called, in this order. A trace that this code does not understand fails, it is never guessed:
after the run the followed files are compared with the real ones.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from audit_platform.adapters.clock import SystemClock
from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.ports import Log
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC
from audit_platform_tests.cutdisk import CutDisk, Fsync, Operation, Said
from audit_platform_tests.straceparse import TRACED_CALLS, Follower

#: strace's limit for strings: longer than any frame of the log (1 MiB and its header).
STRING_LIMIT = 4 << 20

#: SQLite maps this file, so its bytes do not come by system calls; it is rebuilt when missing.
_MAPPED = "-shm"

Omit = Callable[[Fsync], bool]
Held = Callable[[CutDisk], Sequence[bytes]]


def _strace() -> str:
    program = shutil.which("strace")
    if program is None:
        # Never a skip: durability would then be unproved without anybody noticing.
        pytest.fail("strace is missing: install it (Debian, Ubuntu: apt-get install strace)")
    return program


@dataclass(slots=True)
class Trace:
    """What a program did below `root`, call by call, and what it said to others."""

    root: Path
    operations: list[Operation]

    def disk(self) -> CutDisk:
        """A model that has seen nothing yet; feed it operations in order."""
        return CutDisk()

    def replay(self, upto: int, into: Path, omit: Omit | None = None) -> None:
        """Write to `into` what a power cut after operation number `upto` leaves below `root`.

        Only fsynced bytes and fsynced names survive. `omit` takes fsyncs out, as if the program
        had not called them.
        """
        disk = self.disk()
        for operation in self.operations[: upto + 1]:
            disk.apply(operation, omit)
        disk.write_to(into)

    def cuts(self, omit: Omit | None = None) -> Iterator[tuple[int, CutDisk]]:
        """(operation number, disk after a cut there) for every operation. Do not keep the disk."""
        disk = self.disk()
        for number, operation in enumerate(self.operations):
            disk.apply(operation, omit)
            yield number, disk

    def fsyncs(self) -> list[Fsync]:
        """Every fsync that returned."""
        return [o for o in self.operations if isinstance(o, Fsync)]

    def said(self, fd: int) -> Iterator[tuple[int, bytes]]:
        """(operation number, bytes) of every write to a descriptor that is not a file of ours."""
        for number, operation in enumerate(self.operations):
            if isinstance(operation, Said) and operation.fd == fd:
                yield number, operation.data


@dataclass(slots=True)
class Running:
    """A program under strace. `trace` is there once the `with` block has ended."""

    process: subprocess.Popen[bytes]
    log: Path
    root: Path
    good_exit_codes: set[int] = field(default_factory=lambda: {0})
    _trace: list[Trace] = field(default_factory=list)

    def terminate(self) -> None:
        """Send SIGTERM to the program itself (strace does not pass it on)."""
        with self.log.open(encoding="ascii") as lines:
            first = lines.readline()
        self.good_exit_codes |= {-signal.SIGTERM, 128 + signal.SIGTERM}
        os.kill(int(first.split(maxsplit=1)[0]), signal.SIGTERM)

    @property
    def trace(self) -> Trace:
        """The whole trace."""
        return self._trace[0]


@contextmanager
def running(
    command: Sequence[str], root: Path, *, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Run a program, a server for example, under strace, and follow its files below `root`.

    `log` (strace's own) must lie outside of `root`. The program must have ended, or been told to
    (`terminate`), when the block ends; a failed program fails the test. Its stdout is a pipe.
    """
    follower = Follower(root)
    argv = [_strace(), "-f", "-yy", "-qq", "--seccomp-bpf", "-s", str(STRING_LIMIT), "-xx"]
    argv += ["-e", "signal=none", "-e", f"trace={','.join(TRACED_CALLS)}", "-o", str(log), *command]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=env, cwd=Path.cwd()) as process:
        run = Running(process, log, root)
        try:
            yield run
        except BaseException:
            process.kill()  # strace; what it traced is then let go, so that too
            run.terminate()
            raise
        output, _ = process.communicate(timeout=240)
    assert process.returncode in run.good_exit_codes, f"exit {process.returncode}: {output!r}"
    with log.open(encoding="ascii") as lines:
        run._trace.append(Trace(root, follower.follow(lines)))
    follower.compare(root, mapped=_MAPPED)


def record(
    command: Sequence[str], root: Path, *, log: Path, env: Mapping[str, str] | None = None
) -> Trace:
    """Run a program to its end under strace; see `running`."""
    with running(command, root, log=log, env=env) as run:
        pass
    return run.trace


# ---------------------------------------------------------------------------------- HTTP answers


@dataclass(slots=True)
class _Answer:
    """One HTTP response: the operation that began to send it, and all its bytes."""

    begun: int
    data: bytes


def _answers(trace: Trace) -> list[_Answer]:
    """HTTP/1.1 responses of all connections, in the order in which they were begun."""
    streams: dict[str, list[tuple[int, bytes]]] = {}
    for number, operation in enumerate(trace.operations):
        if isinstance(operation, Said) and operation.where.startswith(("TCP", "UNIX")):
            streams.setdefault(operation.where, []).append((number, operation.data))
    answers = []
    for parts in streams.values():
        stream = b"".join(data for _, data in parts)
        starts = [found.start() for found in re.finditer(b"HTTP/1\\.1 ", stream)]
        for start, end in pairwise([*starts, len(stream)]):
            sent = 0
            for number, data in parts:
                sent += len(data)
                if sent > start:
                    answers.append(_Answer(number, stream[start:end]))
                    break
    return sorted(answers, key=lambda answer: answer.begun)


def raw_files(disk: CutDisk) -> list[bytes]:
    """What the disk holds, when the program keeps bytes as they came: its files."""
    return list(disk.files().values())


def log_values(log_folder: str, scratch: Path) -> Held:
    """What the disk holds, when the program keeps bytes in the embedded log: its records' values.

    `log_folder`: the log's folder below the traced root. The log's own code reads what a power cut
    would have left, in a new folder below `scratch`.
    """

    def read(disk: CutDisk) -> list[bytes]:
        folder = scratch / uuid.uuid4().hex
        disk.write_to(folder)
        log = EmbeddedLog(folder / log_folder, RealFiles(), SystemClock(), partitions=1)
        try:
            return [value for topic in (EVENTS_TOPIC, DLQ_TOPIC) for value in _values(log, topic)]
        finally:
            log.close()

    return read


def _values(log: Log, topic: str) -> Iterator[bytes]:
    for partition in range(log.describe(topic).partitions):
        offset, _ = log.bounds(topic, partition)
        while records := log.read(topic, partition, offset, 1 << 20):
            yield from (record.value for record in records)
            offset = records[-1].offset + 1


def assert_answer_after_fsync(
    trace: Trace,
    acknowledged: Mapping[bytes, Sequence[bytes]],
    held: Held = raw_files,
    omit: Omit | None = None,
) -> int:
    """Each 202 was sent after everything that it acknowledges had been fsynced, names included.

    `acknowledged`: bytes that only one answer's body holds (its batch id) -> byte strings that must
    be on disk by then (event ids, or stored lines without their ingestionTime). Every 202 of the
    trace must be in it, and every entry must have its 202. `held` reads what a power cut right
    before the answer leaves. Returns how many 202s were checked.
    """
    answers = [a for a in _answers(trace) if a.data.startswith(b"HTTP/1.1 202 ")]
    due: dict[int, list[bytes]] = {}
    for answer in answers:
        names = [name for name in acknowledged if name in answer.data]
        assert len(names) == 1, f"a 202 that answers {len(names)} known batches: {answer.data!r}"
        due.setdefault(answer.begun, []).append(names[0])
    answered = sorted(name for names in due.values() for name in names)
    assert answered == sorted(acknowledged), "a batch without its 202, or with two"
    assert answers, "no 202 in the trace: nothing was proved"
    for number, disk in trace.cuts(omit):
        values = held(disk) if number in due else []
        for name in due.get(number, []):
            assert acknowledged[name], f"nothing to look for of {name!r}"
            for needle in acknowledged[name]:
                assert any(needle in value for value in values), (
                    f"202 of {name!r} was sent (operation {number}) before {needle!r} was durable"
                )
    return len(answers)
