"""search-indexer: carries the events of the log into HOT, so that they are found in milliseconds.

One thread does one step after the other: renew leases, then read, index and commit each partition
in turn. When HOT or the log does not answer, a partition waits with what it has read and tries
again later; the others go on. What is no event is counted and passed over: the archive keeps it.
Belongs here: the loop, back-off, metrics, the program. Does not: one partition
(`search_indexer_partition.py`). Source: design section 2, 8 (HOT).
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
from dataclasses import dataclass
from typing import Final

from audit_platform.errors import (
    AuditPlatformError,
    HotUnavailable,
    LogUnavailable,
    RecordMalformed,
    StoreUnavailable,
)
from audit_platform.metrics.clients import LOG_ERRORS
from audit_platform.metrics.consumers import (
    INDEXER_DEFENSE,
    INDEXER_EVENTS,
    INDEXER_SKIPPED,
)
from audit_platform.operations.generations import newest_generation
from audit_platform.ports import GroupMember, Platform
from audit_platform.processes import freeze_startup_objects, tune_process
from audit_platform.record.layout import EVENTS_TOPIC, INDEXER_GROUP
from audit_platform.record.ranges import Generation
from audit_platform.services.archive_http import serve
from audit_platform.services.lag_gauges import LAG_METRICS, forget_lag, tell_lag
from audit_platform.services.search_indexer_partition import Partition, Step, open_partition
from audit_platform.settings import Settings
from audit_platform.telemetry import Telemetry, log_as_json
from audit_platform.wiring import open_platform

METRICS: Final = (
    INDEXER_DEFENSE,
    INDEXER_EVENTS,
    INDEXER_SKIPPED,
    *LAG_METRICS,
)

#: Bytes taken of one partition in one step: each step costs an fsync for every tenant and day in
#: it, and holds about eight times as much in memory.
READ_BYTES: Final = 4 * 1024 * 1024

#: Back-off of what does not answer: quick enough for a blip, kind to a sick disk.
FIRST_BACKOFF_SECONDS: Final = 0.1
MAX_BACKOFF_SECONDS: Final = 10.0

#: The newest log generation is looked for this often: one small request.
GENERATION_SECONDS: Final = 15.0

#: The lag is asked of the log this often; scrapes come every 15 s or so.
LAG_INTERVAL_SECONDS: Final = 1.0

#: The loop is called stuck when no step has ended for so long.
STUCK_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Wait:
    """A partition that tries again later, and why."""

    until: float
    seconds: float
    why: str


class SearchIndexer:
    """The loop's state. `step` does one round and never waits; `monotonic` tells real seconds."""

    def __init__(
        self,
        platform: Platform,
        telemetry: Telemetry,
        *,
        member: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._platform = platform
        self._telemetry = telemetry
        self._monotonic = monotonic
        self._name = member
        self._member: GroupMember | None = None
        self._partitions: dict[int, Partition] = {}
        self._waits: dict[int, _Wait] = {}
        self._lag_at = 0.0
        self._generation: Generation | None = None
        self._generation_at = -GENERATION_SECONDS
        #: Why the log is not read at the moment; "" while it answers.
        self.waiting_for = ""
        #: Log records that were deleted before they were indexed, by partition, since the start.
        self.skipped: dict[int, int] = {}

    @property
    def waiting(self) -> dict[str, str]:
        """Partitions that stand still, with the reason."""
        return {f"{EVENTS_TOPIC}/{n}": wait.why for n, wait in sorted(self._waits.items())}

    def step(self) -> bool:
        """One round over all partitions that are ours; whether it indexed anything."""
        now = self._monotonic()
        did = False
        try:
            self._renew()
            self._step_back(now)
            self.waiting_for = ""
        except LogUnavailable as e:
            self.waiting_for = str(e)
            return False
        for number in sorted(self._partitions):
            wait = self._waits.get(number)
            if wait is None or now >= wait.until:
                did |= self._index(number, now)
        with suppress(LogUnavailable):
            self._tell_lag(now)
        return did

    def leave(self) -> None:
        """Give the partitions up: all that was indexed is committed."""
        if self._member is not None:
            self._member.leave()

    def _renew(self) -> None:
        """Renew the lease, drop what is not ours any more, open what is new."""
        if self._member is None:
            self._member = self._platform.log.join(INDEXER_GROUP, EVENTS_TOPIC, self._name)
        ours = self._member.assignment()
        for number in self._partitions.keys() - ours:
            del self._partitions[number]
            self._waits.pop(number, None)
            forget_lag(self._telemetry)
            self._lag_at = 0.0
        for number in ours - self._partitions.keys():
            committed = self._member.committed(number)
            self._partitions[number] = open_partition(self._platform, number, committed)

    def _step_back(self, now: float) -> None:
        """Read again from where a new log generation starts: other records may stand there now.

        HOT takes each event once. Who was not running when the generation was opened does not know
        that it must; the runbook has the days rebuilt.
        """
        if now - self._generation_at < GENERATION_SECONDS:
            return
        self._generation_at = now
        known = self._generation
        with suppress(StoreUnavailable, RecordMalformed):  # the log alone is needed to go on
            self._generation = newest_generation(self._platform.objects, known)
        found = self._generation.topic(EVENTS_TOPIC) if self._generation else None
        if known is None or known is self._generation or found is None:
            return
        for number, partition in self._partitions.items():
            start = dict(enumerate(found.start_offsets)).get(number, 0)
            if start < partition.next_offset:
                partition.next_offset, partition.pending = start, []

    def _index(self, number: int, now: float) -> bool:
        assert self._member is not None, "partitions come by the member"
        try:
            done = self._partitions[number].step(self._member, READ_BYTES)
        except (HotUnavailable, LogUnavailable) as e:
            self._back_off(number, now, e)
            return False
        self._waits.pop(number, None)
        self._count(number, done)
        return done.records > 0

    def _back_off(self, number: int, now: float, why: AuditPlatformError) -> None:
        before = self._waits.get(number)
        seconds = min(2 * before.seconds, MAX_BACKOFF_SECONDS) if before else FIRST_BACKOFF_SECONDS
        self._waits[number] = _Wait(now + seconds, seconds, str(why))
        _log.warning("partition %d: trying again in %.1f s: %s", number, seconds, why)

    def _count(self, number: int, done: Step) -> None:
        self._telemetry.count(INDEXER_EVENTS, done.new, outcome="new")
        self._telemetry.count(INDEXER_EVENTS, done.known, outcome="known")
        for reason, count in done.others.items():
            self._telemetry.count(INDEXER_DEFENSE, count, reason=reason)
        if done.skipped:
            self.skipped = self.skipped | {number: self.skipped.get(number, 0) + done.skipped}
            self._telemetry.count(INDEXER_SKIPPED, done.skipped, partition=str(number))

    def _tell_lag(self, now: float) -> None:
        if now < self._lag_at:
            return
        self._lag_at = now + LAG_INTERVAL_SECONDS
        now_ms = self._platform.clock.now_ms()
        for number, partition in self._partitions.items():
            place = (EVENTS_TOPIC, number)
            tell_lag(self._telemetry, INDEXER_GROUP, place, partition.lag(now_ms))


# ---------------------------------------------------------------------------------------- program


class _Pulse:
    """When the last step ended, and what `/healthz` says about it."""

    def __init__(self, indexer: SearchIndexer) -> None:
        self._indexer = indexer
        self.beat()

    def beat(self) -> None:
        self._last = time.monotonic()

    def health(self) -> tuple[bool, Mapping[str, object]]:
        turns = time.monotonic() - self._last < STUCK_SECONDS
        return turns, {
            "waitingFor": self._indexer.waiting_for,
            "waiting": self._indexer.waiting,
            "skipped": {str(n): count for n, count in self._indexer.skipped.items()},
        }


def run(settings: Settings) -> None:
    """Run the search-indexer until SIGTERM or SIGINT.

    Starts the program again once to set the allocator's variables (`tune_process`). Raises
    `SettingInvalid` when the port cannot be had.
    """
    tune_process()
    log_as_json("search-indexer")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    platform = open_platform(settings)
    try:
        telemetry = Telemetry(METRICS)
        telemetry.follow(LOG_ERRORS, platform.log_errors)
        indexer = SearchIndexer(
            platform,
            telemetry,
            member=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
        )
        pulse = _Pulse(indexer)
        port = settings.indexer_port
        with serve(
            settings.ingest_host, port, telemetry, pulse.health, setting="AUDIT_INDEXER_PORT"
        ):
            freeze_startup_objects()
            _log.info("started")
            while not stop.is_set():
                if not indexer.step():
                    stop.wait(settings.poll_seconds)
                pulse.beat()
            indexer.leave()
            _log.info("stopped")
    finally:
        platform.close()
