"""archive-writer: carries both topics of the log into landing and quarantine, range by range.

One thread does one step after the other: renew leases, read, commit what is due. When the store
or the log does not answer, it keeps what it holds, reads nothing more and tries again later; the
log keeps the rest (backpressure). When the log is not the one that was recorded, that partition
stands still with an alert, and is tried anew from time to time.
Belongs here: the loop, back-off, limits of memory, metrics, the program. Does not: one partition
(`archive_partition.py`), one commit (`archive_commit.py`). Source: design section 5 (landing).
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from audit_platform.errors import (
    AuditPlatformError,
    GenerationMismatch,
    LogTrouble,
    LogUnavailable,
    OffsetOutOfRange,
    RecordMalformed,
    StoreUnavailable,
)
from audit_platform.metrics.clients import LOG_ERRORS
from audit_platform.metrics.consumers import (
    ARCHIVE_OBJECT_BYTES,
    ARCHIVE_RANGES,
    ARCHIVE_ROWS,
    ARCHIVE_STOPPED,
    ARCHIVE_UNDECODABLE,
    ARCHIVE_WAITING,
    GENERATION_BROKEN,
)
from audit_platform.operations.generations import TOPICS, ensure_generation
from audit_platform.ports import GroupMember, Platform
from audit_platform.processes import freeze_startup_objects, tune_process
from audit_platform.record.layout import ARCHIVE_GROUP
from audit_platform.record.ranges import Generation
from audit_platform.services.archive_http import serve
from audit_platform.services.archive_partition import Partition, open_partition
from audit_platform.services.lag_gauges import LAG_METRICS, forget_lag, tell_lag
from audit_platform.settings import Settings
from audit_platform.telemetry import Telemetry, log_as_json
from audit_platform.wiring import open_platform

METRICS: Final = (
    ARCHIVE_OBJECT_BYTES,
    ARCHIVE_RANGES,
    ARCHIVE_ROWS,
    ARCHIVE_STOPPED,
    ARCHIVE_UNDECODABLE,
    ARCHIVE_WAITING,
    GENERATION_BROKEN,
    *LAG_METRICS,
)

#: Bytes asked of one partition in one step: a few full log records, so that all get their turn.
READ_BYTES: Final = 4 * 1024 * 1024

#: Back-off of a store or log that does not answer: quick enough for a blip, kind to a sick store.
FIRST_BACKOFF_SECONDS: Final = 0.1
MAX_BACKOFF_SECONDS: Final = 10.0

#: A stopped partition is opened anew this often: an operator's new generation is found by itself.
STOPPED_SECONDS: Final = 30.0

#: The same where the generation was closed under a partition: the next one is being opened.
CLOSED_SECONDS: Final = 1.0

#: The lag is asked of the log this often; scrapes come every 15 s or so.
LAG_INTERVAL_SECONDS: Final = 1.0

#: The loop is called stuck when no step has ended for so long: the largest range takes seconds.
STUCK_SECONDS: Final = 60.0

_Place = tuple[str, int]
_log = logging.getLogger(__name__)


class ArchiveWriter:
    """The loop's state. `step` does one round and never waits; `monotonic` tells real seconds.

    All partitions together hold about `range_bytes` of log values: the bound of the process.
    """

    def __init__(
        self,
        platform: Platform,
        telemetry: Telemetry,
        *,
        member: str,
        range_seconds: float,
        range_bytes: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._platform = platform
        self._telemetry = telemetry
        self._range_seconds = range_seconds
        self._range_bytes = range_bytes
        self._monotonic = monotonic
        self._member = member
        self._members: dict[str, GroupMember] = {}
        self._partitions: dict[_Place, Partition] = {}
        self._stopped: dict[_Place, float] = {}
        self._troubles: dict[_Place, LogTrouble] = {}
        self._generation: Generation | None = None
        self._backoff = 0.0
        self._retry_at = 0.0
        self._lag_at = 0.0
        #: Why nothing is read at the moment, by the last error; "" while all is well.
        self.waiting_for = ""
        #: Partitions that stand still, with the reason.
        self.stopped: dict[str, str] = {}

    def step(self) -> bool:
        """One round over all partitions that are ours; whether it read or committed anything."""
        now = self._monotonic()
        did = False
        try:
            self._renew(now)
            if now >= self._retry_at:
                did = self._round(now)
                self._backoff, self.waiting_for = 0.0, ""
                self._tell_waiting(None)
        except (StoreUnavailable, LogUnavailable) as e:
            self._back_off(now, e)
        with suppress(LogUnavailable):
            self._tell_lag(now)  # also while waiting: that is when somebody looks at it
        return did

    def leave(self) -> None:
        """Commit what is buffered if the store answers, and give the partitions up."""
        try:
            for place, partition in list(self._partitions.items()):
                if partition.pending:
                    self._guarded(place, self._monotonic(), self._commit)
        except (StoreUnavailable, LogUnavailable) as e:
            _log.warning("left without committing all: %s; the log keeps it", e)
        for member in self._members.values():
            member.leave()

    # ------------------------------------------------------------------------------ assignment

    def _renew(self, now: float) -> None:
        """Renew the leases, drop what is not ours any more, open what is new."""
        ours: set[_Place] = set()
        for topic in TOPICS:
            if topic not in self._members:
                self._members[topic] = self._platform.log.join(ARCHIVE_GROUP, topic, self._member)
            ours |= {(topic, number) for number in self._members[topic].assignment()}
        for place in [p for p in self._partitions if p not in ours]:
            # Buffered records are the next owner's to read; a range that was claimed stands.
            del self._partitions[place]
            forget_lag(self._telemetry)
            self._lag_at = now
        for place in [p for p in self._stopped if p not in ours]:
            self._start_again(place)
        if now < self._retry_at:
            return
        for place in sorted(ours - self._partitions.keys()):
            if now >= self._stopped.get(place, now):
                self._open(place, now)

    def _open(self, place: _Place, now: float) -> None:
        topic, number = place
        try:
            if self._generation is None:
                self._generation = ensure_generation(self._platform)
            hint = self._members[topic].committed(number)
            self._partitions[place] = open_partition(
                self._platform, self._generation, topic, number, hint
            )
        except (GenerationMismatch, RecordMalformed) as e:
            self._stop(place, now, e)
        else:
            self._start_again(place)

    def _stop(self, place: _Place, now: float, why: AuditPlatformError) -> None:
        self._generation = None  # read anew with the next attempt
        self._partitions.pop(place, None)
        trouble = _trouble_of(why)
        self._troubles[place] = trouble
        wait = CLOSED_SECONDS if trouble is LogTrouble.CLOSED else STOPPED_SECONDS
        self._stopped[place] = now + wait
        self.stopped = {**self.stopped, f"{place[0]}/{place[1]}": str(why)}
        self._tell_stopped()
        _log.error("partition stopped: %s", why, extra={"topic": place[0], "partition": place[1]})

    def _start_again(self, place: _Place) -> None:
        if self._stopped.pop(place, None) is not None:
            del self._troubles[place]
            name = f"{place[0]}/{place[1]}"
            self.stopped = {k: v for k, v in self.stopped.items() if k != name}
            self._tell_stopped()

    # ---------------------------------------------------------------------------- read, commit

    def _round(self, now: float) -> bool:
        did = False
        for place in sorted(self._partitions):
            if place not in self._partitions:
                continue  # stopped a moment ago, while room was made
            did |= self._guarded(place, now, self._read)
            partition = self._partitions.get(place)
            if partition and partition.is_due(now, self._range_seconds, self._range_bytes):
                did |= self._guarded(place, now, self._commit)
            if sum(p.size for p in self._partitions.values()) >= self._range_bytes:
                largest = max(self._partitions, key=lambda p: self._partitions[p].size)
                did |= self._guarded(largest, now, self._commit)
        return did

    def _guarded(self, place: _Place, now: float, act: Callable[[_Place, float], bool]) -> bool:
        try:
            return act(place, now)
        except (GenerationMismatch, OffsetOutOfRange, RecordMalformed) as e:
            self._stop(place, now, e)
            return False

    def _read(self, place: _Place, now: float) -> bool:
        return self._partitions[place].read(READ_BYTES, now)

    def _commit(self, place: _Place, _now: float) -> bool:
        topic = place[0]
        built, done = self._partitions[place].commit(self._members[topic])
        outcome = "claimed" if done.ours else "adopted"
        self._telemetry.count(ARCHIVE_RANGES, topic=topic, outcome=outcome)
        if done.ours:
            rows = sum(o.rows for o in built.objects)
            size = sum(len(o.data) for o in built.objects)
            self._telemetry.count(ARCHIVE_ROWS, rows, topic=topic)
            self._telemetry.count(ARCHIVE_OBJECT_BYTES, size, topic=topic)
            self._telemetry.count(ARCHIVE_UNDECODABLE, built.raw_rows, topic=topic)
        return True

    def _back_off(self, now: float, why: AuditPlatformError) -> None:
        self._backoff = min(max(FIRST_BACKOFF_SECONDS, 2 * self._backoff), MAX_BACKOFF_SECONDS)
        self._retry_at = now + self._backoff
        self.waiting_for = str(why)
        self._tell_waiting(why)
        _log.warning("trying again in %.1f s: %s", self._backoff, why)

    # --------------------------------------------------------------------------------- metrics

    def _tell_lag(self, now: float) -> None:
        if now < self._lag_at:
            return
        self._lag_at = now + LAG_INTERVAL_SECONDS
        now_ms = self._platform.clock.now_ms()
        for place, partition in self._partitions.items():
            tell_lag(self._telemetry, ARCHIVE_GROUP, place, partition.lag(now_ms))

    def _tell_waiting(self, why: AuditPlatformError | None) -> None:
        for reason, kind in (("store", StoreUnavailable), ("log", LogUnavailable)):
            self._telemetry.set(ARCHIVE_WAITING, isinstance(why, kind), reason=reason)

    def _tell_stopped(self) -> None:
        for topic in TOPICS:
            count = sum(place[0] == topic for place in self._stopped)
            self._telemetry.set(ARCHIVE_STOPPED, count, topic=topic)
        self._telemetry.clear(GENERATION_BROKEN)
        for (topic, number), trouble in self._troubles.items():
            labels = {"topic": topic, "partition": str(number), "reason": trouble.value}
            self._telemetry.set(GENERATION_BROKEN, 1, **labels)


def _trouble_of(why: AuditPlatformError) -> LogTrouble:
    """In what the log is another one, by the error that stopped a partition."""
    if isinstance(why, GenerationMismatch):
        return why.trouble
    if isinstance(why, OffsetOutOfRange):
        return LogTrouble.RETENTION if why.offset < why.start else LogTrouble.TAIL
    return LogTrouble.RECORD


# ---------------------------------------------------------------------------------------- program


class _Pulse:
    """When the last step ended, and what `/healthz` says about it."""

    def __init__(self, writer: ArchiveWriter) -> None:
        self._writer = writer
        self.beat()

    def beat(self) -> None:
        self._last = time.monotonic()

    def health(self) -> tuple[bool, Mapping[str, object]]:
        turns = time.monotonic() - self._last < STUCK_SECONDS
        return turns, {"waitingFor": self._writer.waiting_for, "stopped": self._writer.stopped}


def run(settings: Settings) -> None:
    """Run the archive-writer until SIGTERM or SIGINT; then commit what is buffered and leave.

    Starts the program again once to set the allocator's variables (`tune_process`). Raises
    `SettingInvalid` when the port cannot be had.
    """
    tune_process()
    log_as_json("archive-writer")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    platform = open_platform(settings)
    try:
        telemetry = Telemetry(METRICS)
        telemetry.follow(LOG_ERRORS, platform.log_errors)
        writer = ArchiveWriter(
            platform,
            telemetry,
            member=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
            range_seconds=settings.range_seconds,
            range_bytes=settings.range_bytes,
        )
        pulse = _Pulse(writer)
        with serve(settings.ingest_host, settings.archive_port, telemetry, pulse.health):
            freeze_startup_objects()
            _log.info("started")
            while not stop.is_set():
                if not writer.step():
                    stop.wait(settings.poll_seconds)
                pulse.beat()
            writer.leave()
            _log.info("stopped")
    finally:
        platform.close()
