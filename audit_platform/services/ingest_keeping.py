"""From a body in memory to a receipt: check it, make everything of it durable, say so.

Belongs here: the order of the steps, their time, the receipt's bytes. Does not: HTTP
(`ingest_gateway.py`), the check itself (`ingest_body.py`). Runs in worker threads.
Source: design section 4 (acknowledgement) and 7 (dead letters before the answer).

Dead letters are appended before events. A process that dies between the two has told nobody
anything, and the sender sends all again; but should that sender never come back, the log holds at
worst a refused link without its successor, never a successor whose predecessor we had and lost.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from audit_platform.errors import AuditPlatformError
from audit_platform.metrics.ingest import (
    INGEST_ACCEPTED,
    INGEST_APPEND_SECONDS,
    INGEST_BODY_BYTES,
    INGEST_CHECK_SECONDS,
    INGEST_FULL_CHECKS,
    INGEST_REFUSED,
    INGEST_SKEW_SECONDS,
)
from audit_platform.ports import NewRecord, Platform
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC, short_digest
from audit_platform.record.schemas import registry
from audit_platform.services.ingest_body import MAX_BODY, BodyChecker, CheckedBody, decompressed
from audit_platform.services.ingest_devices import Roster
from audit_platform.services.ingest_placement import (
    RETRY_AFTER_SECONDS,
    Placement,
    Topics,
    log_unavailable,
)
from audit_platform.services.ingest_problems import Problem
from audit_platform.telemetry import Telemetry

#: What a client should wait before it sends again while the archive is too far behind: that takes
#: a person, not a moment.
LATE_RETRY_AFTER_SECONDS: Final = 60

#: Bytes of checked bodies that are left for the next thread to append: as much as one body may
#: have, so that waiting together holds no more memory than one more body.
MAX_LEFT_BYTES: Final = MAX_BODY

#: What a receipt says of one log record.
_Said = dict[str, Any]


@dataclass(slots=True)
class _Job:
    """A checked body on its way into the log; `records` is set, or fails, when it is decided."""

    checked: CheckedBody
    wire_bytes: int
    plain_bytes: int
    topics: Topics | None = None
    records: Future[list[_Said]] = field(default_factory=Future)


class Keeper:
    """Keeps bodies. Called from several threads.

    One at a time checks: the check holds the GIL for nearly all of its time, so two at once would
    only slow each other down and hold the memory of two. Who has checked a body while others wait
    to check theirs leaves it to them, and the last one appends all: an append costs a frame, an
    fsync and a thread's awakening for each partition, however much it carries. A body that comes
    alone is appended at once.
    """

    def __init__(
        self,
        platform: Platform,
        gateway: str,
        telemetry: Telemetry,
        late: Callable[[], Collection[tuple[str, int]]] = frozenset,
        placement: Placement | None = None,
    ) -> None:
        self._late = late
        self._placement = placement or Placement(platform.log)
        self._log = platform.log
        self._clock = platform.clock
        self._gateway = gateway
        self._telemetry = telemetry
        self._checking = threading.Lock()
        self._checker: BodyChecker | None = None
        self._checked_for: Topics | None = None
        self._counting = threading.Lock()
        self._waiting = 0  # threads that will check a body after the one that does
        self._left: list[_Job] = []  # checked, and left to one of them
        self._left_bytes = 0

    def keep(
        self, data: bytes, tenant_id: str, *, compressed: bool, roster: Roster | None = None
    ) -> bytes:
        """The receipt (JSON) of a body of a tenant, all of which is durable on return.

        With a `roster`, events of other devices are refused.

        Raises `Problem`: then nothing is acknowledged, though some of it may be in the log.
        """
        with self._counting:
            self._waiting += 1
        with self._checking:
            with self._counting:
                self._waiting -= 1
            job = self._check(data, tenant_id, roster, compressed=compressed)
            # Also when this check failed: others may have left their bodies to this thread.
            together = self._take_left()
        if together:
            self._append_all(together)
        records = job.records.result()
        self._measure(job)
        return _receipt(job.checked, records)

    def _check(
        self, data: bytes, tenant_id: str, roster: Roster | None, *, compressed: bool
    ) -> _Job:
        """The job of a body that is good; one that failed already of a body that is not."""
        started = time.perf_counter()
        try:
            body = decompressed(data) if compressed else data
            checked = self._body_checker().check(body, tenant_id, self._clock.now_ms(), roster)
            self._refuse_late(checked)
        except BaseException as e:  # noqa: BLE001 - it is raised again where the job is waited for
            failed = _Job(CheckedBody("", tenant_id), 0, 0)
            failed.records.set_exception(e)
            return failed
        self._telemetry.observe_one(INGEST_CHECK_SECONDS, time.perf_counter() - started)
        job = _Job(checked, len(data), len(body), self._checked_for)
        self._left.append(job)
        self._left_bytes += len(body)
        return job

    def _refuse_late(self, checked: CheckedBody) -> None:
        late = self._late()
        if not late:
            return
        for topic, records in ((EVENTS_TOPIC, checked.events), (DLQ_TOPIC, checked.dead_letters)):
            for record in records:
                if (topic, record.partition) in late:
                    raise Problem(
                        "archive_late",
                        f"{topic}/{record.partition} holds records that are not archived and will"
                        " soon be deleted; nothing is acknowledged",
                        remedy="keep the events; an operator must bring the archive-writer back",
                        retry_after_seconds=LATE_RETRY_AFTER_SECONDS,
                    )

    def _take_left(self) -> list[_Job]:
        """What this thread must append: all that is left, unless another one comes right after."""
        with self._counting:
            if self._waiting and self._left_bytes < MAX_LEFT_BYTES:
                return []
        together, self._left, self._left_bytes = self._left, [], 0
        return together

    def _append_all(self, jobs: Sequence[_Job]) -> None:
        """Append the records of all bodies; each job is decided on return."""
        started = time.perf_counter()
        try:
            self._refuse_changed(jobs)
            refused = self._append(DLQ_TOPIC, [job.checked.dead_letters for job in jobs])
            accepted = self._append(EVENTS_TOPIC, [job.checked.events for job in jobs])
        except BaseException as e:  # noqa: BLE001 - whatever it is, each of the threads must hear of it
            for job in jobs:
                job.records.set_exception(e)
            return
        self._telemetry.observe_one(INGEST_APPEND_SECONDS, time.perf_counter() - started)
        for job, events, dead_letters in zip(jobs, accepted, refused, strict=True):
            job.records.set_result(events + dead_letters)

    def _refuse_changed(self, jobs: Sequence[_Job]) -> None:
        """Refuse all when one was checked for other topics than there are now."""
        topics = self._placement.topics()
        if any(job.topics != topics for job in jobs):
            raise Problem(
                "log_generation",
                "nothing is acknowledged: the topics changed while the body was checked",
                remedy="send the same body again",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )

    def _body_checker(self) -> BodyChecker:
        # Made on the first body, not at the start: a gateway whose log is away must come up, say
        # so, and go on by itself when the log is back.
        topics = self._placement.topics()
        if self._checker is None or topics != self._checked_for:
            partitions = (topic.partitions for topic in topics)
            self._checker = BodyChecker(registry(), self._gateway, *partitions)
            self._checked_for = topics
        return self._checker

    def _append(self, topic: str, of_bodies: Sequence[list[NewRecord]]) -> list[list[_Said]]:
        """Append the records of several bodies by one call; what each body's receipt says."""
        together = [record for records in of_bodies for record in records]
        if not together:
            return [[] for _ in of_bodies]
        try:
            offsets = iter(self._log.append(topic, together))
        except AuditPlatformError as e:
            raise log_unavailable(e) from e
        return [
            [
                {
                    "topic": topic,
                    "partition": record.partition,
                    "offset": next(offsets),
                    "digest": short_digest(record.value),
                    "count": int(record.headers["count"]),
                }
                for record in records
            ]
            for records in of_bodies
        ]

    def _measure(self, job: _Job) -> None:
        telemetry, checked = self._telemetry, job.checked
        telemetry.count(INGEST_ACCEPTED, len(checked.skews_ms))
        telemetry.observe(INGEST_SKEW_SECONDS, checked.skews_ms / 1000)
        for slug, count in Counter(line.refusal.slug for line in checked.refused).items():
            telemetry.count(INGEST_REFUSED, count, slug=slug)
        telemetry.count(INGEST_FULL_CHECKS, checked.fully_checked)
        telemetry.count(INGEST_BODY_BYTES, job.wire_bytes, form="wire")
        telemetry.count(INGEST_BODY_BYTES, job.plain_bytes, form="plain")


def _receipt(checked: CheckedBody, records: list[_Said]) -> bytes:
    return orjson.dumps(
        {
            "batchId": checked.batch_id,
            "accepted": len(checked.skews_ms),
            "refused": [
                {
                    "line": line.line,
                    "slug": line.refusal.slug,
                    "field": line.refusal.field,
                    "reason": line.refusal.reason,
                    "remedy": line.refusal.remedy,
                    "entryId": line.entry_id,
                    "eventHash": line.event_hash,
                }
                for line in checked.refused
            ],
            "records": records,
        }
    )
