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
from collections.abc import Sequence
from typing import Any, Final

import orjson

from audit_platform.errors import AuditPlatformError
from audit_platform.ports import NewRecord, Platform
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC, short_digest
from audit_platform.record.schemas import registry
from audit_platform.services.ingest_body import BodyChecker, CheckedBody, decompressed
from audit_platform.services.ingest_problems import Problem
from audit_platform.telemetry import (
    INGEST_ACCEPTED,
    INGEST_APPEND_SECONDS,
    INGEST_BODY_BYTES,
    INGEST_CHECK_SECONDS,
    INGEST_REFUSED,
    INGEST_SKEW_SECONDS,
    Telemetry,
)

#: What a client should wait before it sends again while the log takes nothing.
RETRY_AFTER_SECONDS: Final = 1


class Keeper:
    """Keeps bodies. Called from several threads; checking is done by one at a time.

    The check holds the GIL for nearly all of its time, so two at once would only slow each other
    down and hold the memory of two bodies.
    """

    def __init__(self, platform: Platform, gateway: str, telemetry: Telemetry) -> None:
        self._log = platform.log
        self._clock = platform.clock
        self._gateway = gateway
        self._telemetry = telemetry
        self._checking = threading.Lock()
        self._checker: BodyChecker | None = None

    def keep(self, data: bytes, tenant_id: str, *, compressed: bool) -> bytes:
        """The receipt (JSON) of a body of a tenant, all of which is durable on return.

        Raises `Problem`: then nothing is acknowledged, though some of it may be in the log.
        """
        with self._checking:
            started = time.perf_counter()
            body = decompressed(data) if compressed else data
            checked = self._body_checker().check(body, tenant_id, self._clock.now_ms())
            plain_bytes = len(body)
            del body
            self._telemetry.observe(INGEST_CHECK_SECONDS, [time.perf_counter() - started])
        started = time.perf_counter()
        refused = self._append(DLQ_TOPIC, checked.dead_letters)
        accepted = self._append(EVENTS_TOPIC, checked.events)
        self._telemetry.observe(INGEST_APPEND_SECONDS, [time.perf_counter() - started])
        self._measure(checked, len(data), plain_bytes)
        return _receipt(checked, accepted + refused)

    def _body_checker(self) -> BodyChecker:
        # Made on the first body, not at the start: a gateway whose log is away must come up, say
        # so, and go on by itself when the log is back.
        if self._checker is None:
            try:
                topics = [self._log.describe(topic) for topic in (EVENTS_TOPIC, DLQ_TOPIC)]
            except AuditPlatformError as e:
                raise _log_unavailable(e) from e
            partitions = (topic.partitions for topic in topics)
            self._checker = BodyChecker(registry(), self._gateway, *partitions)
        return self._checker

    def _append(self, topic: str, records: Sequence[NewRecord]) -> list[dict[str, Any]]:
        if not records:
            return []
        try:
            offsets = self._log.append(topic, records)
        except AuditPlatformError as e:
            raise _log_unavailable(e) from e
        return [
            {
                "topic": topic,
                "partition": record.partition,
                "offset": offset,
                "digest": short_digest(record.value),
                "count": int(record.headers["count"]),
            }
            for record, offset in zip(records, offsets, strict=True)
        ]

    def _measure(self, checked: CheckedBody, wire_bytes: int, plain_bytes: int) -> None:
        telemetry = self._telemetry
        telemetry.count(INGEST_ACCEPTED, len(checked.skews_ms))
        telemetry.observe(INGEST_SKEW_SECONDS, checked.skews_ms / 1000)
        for slug, count in Counter(line.refusal.slug for line in checked.refused).items():
            telemetry.count(INGEST_REFUSED, count, slug=slug)
        telemetry.count(INGEST_BODY_BYTES, wire_bytes, form="wire")
        telemetry.count(INGEST_BODY_BYTES, plain_bytes, form="plain")


def _log_unavailable(error: AuditPlatformError) -> Problem:
    return Problem(
        "log_unavailable",
        f"nothing is acknowledged: {error.reason}",
        remedy="send the same body again later",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _receipt(checked: CheckedBody, records: list[dict[str, Any]]) -> bytes:
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
