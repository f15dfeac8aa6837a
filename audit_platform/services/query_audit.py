"""Every read is on record before it is answered: no audit, no answer.

Reads and refusals become events of the tenant `platform`; what waits at the same moment shares one
append. Belongs here: what such an event says, the waiting, how many refusals of one caller get an
event. Does not: the chain that they stand in (`operations/own_events.py`), who may read.
Source: issue "One machine, whole" (access); design section 8 (reserved tenant).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from audit_platform.errors import AuditPlatformError
from audit_platform.metrics.query import (
    READS_NOT_RECORDED,
    READS_RECORD_SECONDS,
    READS_RECORDED,
    REFUSALS_SUPPRESSED,
)
from audit_platform.operations.own_events import OwnEvent, OwnSource
from audit_platform.ports import Caller, Platform
from audit_platform.record.canonical import canonical_bytes
from audit_platform.record.layout import TENANT_PATTERN
from audit_platform.services.query_problems import QueryProblem
from audit_platform.telemetry import Telemetry

_logger: Final = logging.getLogger(__name__)

RECORD_READ: Final = "record_read"
ACCESS_REFUSED: Final = "access_refused"
OPERATOR_ACTION: Final = "operator_action"

#: Of the first two: version 1 knew API keys only, and no break-glass.
VERSION: Final = 2

#: Real time that an answer waits for its record. An append takes milliseconds; a log that takes
#: longer than this is away for the reader, who asks again.
WAIT_SECONDS: Final = 5.0

#: Records that may wait for one append: more than all slots of queries, and less than what one log
#: record may hold (500 events).
MAX_WAITING: Final = 256

#: Refusals of one caller that get an event of their own in a minute: enough to see what is tried.
#: A program that goes on and on must not fill the log; the others are counted in the next event.
MAX_REFUSALS: Final = 10
REFUSAL_SECONDS: Final = 60.0

#: Callers whose refusals are counted; the longest silent one is forgotten first.
MAX_CALLERS: Final = 1000

#: Parts of a question that are not part of what is asked: another page is the same search.
_PAGING: Final = frozenset({"limit", "cursor"})


class Outcome(StrEnum):
    """What became of a read. Only `answered` has shown anything."""

    ANSWERED = "answered"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: who, whose record, which route, with what. `query` is as its schema has it."""

    request_id: str
    caller: Caller
    tenant_id: str
    route: str
    query: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Hex SHA-256 of what was asked: equal for all pages of one search."""
        asked = {name: value for name, value in self.query.items() if name not in _PAGING}
        said = {"query": asked, "route": self.route, "tenant": self.tenant_id}
        return hashlib.sha256(canonical_bytes(said)).hexdigest()


@dataclass(frozen=True, slots=True)
class Refused:
    """One refusal. `caller` is None when no good credential was shown; `tenant_id` is as asked."""

    request_id: str
    caller: Caller | None
    tenant_id: str
    route: str
    status: int
    slug: str


def _who(caller: Caller) -> dict[str, str]:
    """Who it was, as both schemas have it."""
    who = {"keyId": caller.key_id, "keyTenant": caller.tenant_id, "role": str(caller.role)}
    return who | {"subject": caller.subject} if caller.subject else who


def _read_payload(asked: Asked, outcome: Outcome, tier: str, rows: int | None) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "requestId": asked.request_id,
        **_who(asked.caller),
        "tenant": asked.tenant_id,
        "route": asked.route,
        "query": dict(asked.query),
        "queryDigest": asked.digest,
        "outcome": str(outcome),
    }
    if tier:
        payload["tier"] = tier
    if rows is not None:
        payload["rows"] = rows
    return payload


def _refusal_payload(refused: Refused, suppressed: int) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "requestId": refused.request_id,
        "route": refused.route,
        "status": refused.status,
        "slug": refused.slug,
        "suppressed": suppressed,
    }
    if refused.caller is not None:
        payload |= _who(refused.caller)
    if TENANT_PATTERN.fullmatch(refused.tenant_id):
        payload["tenant"] = refused.tenant_id
    return payload


@dataclass(slots=True)
class _Refusals:
    """What one caller was refused in the current minute."""

    since: float
    recorded: int = 0
    suppressed: int = 0


class Auditor:
    """Puts reads on record. Used from one event loop only; appends run in a thread of their own."""

    def __init__(
        self,
        platform: Platform,
        telemetry: Telemetry,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = OwnSource(platform, "query-api")
        self._telemetry = telemetry
        self._monotonic = monotonic
        self._thread = ThreadPoolExecutor(1, "audit")
        self._waiting: list[tuple[OwnEvent, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._refusals: OrderedDict[str, _Refusals] = OrderedDict()

    def close(self) -> None:
        """Wait for the append in hand, then stop the thread. Idempotent."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def read(
        self, asked: Asked, outcome: Outcome, *, tier: str = "", rows: int | None = None
    ) -> None:
        """Put one read on record; it is durable on return.

        Raises `QueryProblem` `audit_unavailable`: the read must not be answered.
        """
        started = self._monotonic()
        await self._say(OwnEvent(RECORD_READ, _read_payload(asked, outcome, tier, rows), VERSION))
        self._telemetry.observe_one(READS_RECORD_SECONDS, self._monotonic() - started)

    async def action(self, payload: Mapping[str, Any]) -> None:
        """Put what an operator decided on record; durable on return.

        Raises `QueryProblem` `audit_unavailable`: the decision stands, its answer must not leave.
        """
        await self._say(OwnEvent(OPERATOR_ACTION, payload))

    async def refusal(self, refused: Refused) -> None:
        """Put a refusal on record, unless this caller has too many in this minute.

        Never raises: a refusal shows nothing, so it is answered also while the log is away.
        """
        suppressed = self._admit(refused.caller.key_id if refused.caller else "")
        if suppressed is None:
            self._telemetry.count(REFUSALS_SUPPRESSED)
            return
        try:
            await self._say(
                OwnEvent(ACCESS_REFUSED, _refusal_payload(refused, suppressed), VERSION)
            )
        except QueryProblem as e:
            _logger.warning("a refusal is not on record: %s", e.detail)

    def _admit(self, caller: str) -> int | None:
        """Refusals suppressed before this one, or None when this one is to be suppressed too."""
        now = self._monotonic()
        found = self._refusals.pop(caller, None)
        if found is None:
            found = _Refusals(now)
        elif now - found.since >= REFUSAL_SECONDS:
            found.since, found.recorded = now, 0
        self._refusals[caller] = found
        if len(self._refusals) > MAX_CALLERS:
            self._refusals.popitem(last=False)
        if found.recorded >= MAX_REFUSALS:
            found.suppressed += 1
            return None
        found.recorded += 1
        before, found.suppressed = found.suppressed, 0
        return before

    async def _say(self, event: OwnEvent) -> None:
        """Make one event durable, together with what else waits. Raises `QueryProblem`."""
        if len(self._waiting) >= MAX_WAITING:
            self._telemetry.count(READS_NOT_RECORDED, event_type=event.event_type)
            raise _unavailable(f"{MAX_WAITING} reads wait for their record")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, done))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await done
        except (TimeoutError, AuditPlatformError) as e:
            self._telemetry.count(READS_NOT_RECORDED, event_type=event.event_type)
            raise _unavailable(str(e) or f"the log took longer than {WAIT_SECONDS:g} s") from e
        self._telemetry.count(READS_RECORDED, event_type=event.event_type)

    async def _flush(self) -> None:
        """Append what waits until nothing does; who comes meanwhile is in the next append."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            together, self._waiting = self._waiting, []
            events = [event for event, _ in together]
            error: BaseException | None = None
            try:
                await loop.run_in_executor(self._thread, self.source.append, events)
            except AuditPlatformError as e:
                error = e
            except Exception as e:
                _logger.exception("reads could not be put on record")
                error = AuditPlatformError(f"the record failed: {type(e).__name__}")
            for _, done in together:
                if done.done():  # who waited has given up
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)


def _unavailable(detail: str) -> QueryProblem:
    return QueryProblem(
        "audit_unavailable", detail, remedy="ask again later", retry_after_seconds=1
    )
