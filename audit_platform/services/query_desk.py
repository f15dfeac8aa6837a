"""The way of every read: admitted, run within its tenant's bounds, put on record, answered.

Belongs here: that order, and what is measured of it. Does not: routes and parameters
(`query_routes_*.py`), who may read (`query_access.py`), bounds (`query_limits.py`), the record of
reads (`query_audit.py`). Source: issue "One machine, whole" (access); failure 32.

The record is made when the query has run and before the first byte of its answer leaves, so it can
say where the answer came from and how many rows it has. A process that dies in between has shown
nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import Depends, Request, Response
from fastapi.responses import StreamingResponse

from audit_platform.errors import Recoverable
from audit_platform.killpoints import Killpoint, reach
from audit_platform.metrics.clients import LOG_ERRORS
from audit_platform.metrics.query import (
    BREAK_GLASS_USED,
    QUERY_CANCELLED,
    QUERY_REFUSED,
    QUERY_RESPONSES,
    QUERY_RUNNING,
    QUERY_SECONDS,
    QUERY_STALE_KEYS,
    READS_NOT_RECORDED,
    READS_RECORD_SECONDS,
    READS_RECORDED,
    REFUSALS_SUPPRESSED,
)
from audit_platform.operations.query.model import IsCancelled
from audit_platform.operations.query.reader import Reader
from audit_platform.ports import Caller, Platform
from audit_platform.services.query_access import RULES, Keyring, judge
from audit_platform.services.query_audit import Asked, Auditor, Outcome, Refused
from audit_platform.services.query_limits import SLOW_SECONDS, ClientGone, Queries
from audit_platform.services.query_problems import QueryProblem
from audit_platform.telemetry import Telemetry

_logger: Final = logging.getLogger(__name__)

METRICS: Final = (
    QUERY_RESPONSES,
    QUERY_SECONDS,
    QUERY_RUNNING,
    QUERY_CANCELLED,
    QUERY_REFUSED,
    QUERY_STALE_KEYS,
    BREAK_GLASS_USED,
    READS_RECORDED,
    READS_NOT_RECORDED,
    READS_RECORD_SECONDS,
    REFUSALS_SUPPRESSED,
)

#: The tier of an answer that no event was read for.
NO_TIER: Final = "none"


@dataclass(frozen=True, slots=True)
class Told:
    """What a query found: the answer's bytes, its rows, where they came from.

    With a `problem` the answer is that instead: the question was asked and answered by "no". An
    `action` (payload of `operator_action`) is put on record besides.
    """

    body: bytes
    rows: int
    tier: str = NO_TIER
    media_type: str = "application/json"
    headers: Mapping[str, str] | None = None
    problem: QueryProblem | None = None
    action: Mapping[str, Any] | None = None


class Desk:
    """Everything that routes need. `close` stops its threads; the platform stays the caller's."""

    def __init__(
        self,
        platform: Platform,
        *,
        seconds: float,
        cool_down_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.platform = platform
        self.reader = Reader(platform)
        self.telemetry = Telemetry(METRICS)
        self.telemetry.follow(LOG_ERRORS, platform.log_errors)
        self.keyring = Keyring(
            platform.metadata,
            platform.clock,
            self.telemetry,
            tokens=platform.tokens,
            monotonic=monotonic,
        )
        self.auditor = Auditor(platform, self.telemetry, monotonic=monotonic)
        self.queries = Queries(self.telemetry, seconds, cool_down_seconds, monotonic)

    def close(self) -> None:
        """Wait for queries and records in hand, then stop all threads. Idempotent."""
        self.queries.close()
        self.auditor.close()
        self.keyring.close()

    # ---------------------------------------------------------------------------------- admitting

    async def admit(self, request: Request) -> None:
        """Let a request in by the table, who asks at `request.state.caller`; or record and raise.

        Raises `QueryProblem` 401, 403, 404, 503.
        """
        path: str = request.scope["route"].path_format
        if RULES[path] is None:
            return
        tenant: str | None = request.path_params.get("tenant")
        caller: Caller | None = None
        try:
            caller = await self.keyring.caller_of(request.headers.get("authorization", ""))
            judge(path, tenant, caller)
        except QueryProblem as e:
            await self._record_refusal(request, caller, e)
            raise
        request.state.caller = caller

    async def _record_refusal(
        self, request: Request, caller: Caller | None, problem: QueryProblem
    ) -> None:
        tenant = str(request.path_params.get("tenant", ""))
        await self.auditor.refusal(
            Refused(
                request.state.request_id,
                caller,
                tenant,
                route_of(request),
                problem.status,
                problem.slug,
            )
        )

    # ---------------------------------------------------------------------------------- answering

    def asked(self, request: Request, query: Mapping[str, Any]) -> Asked:
        """The question of an admitted request, as it goes on record."""
        return Asked(
            request.state.request_id,
            request.state.caller,
            request.path_params["tenant"],
            route_of(request),
            query,
        )

    async def answer(
        self, request: Request, asked: Asked, work: Callable[[IsCancelled], Told]
    ) -> Response:
        """Run a query, put the read on record, and then hand out what it found.

        Raises `QueryProblem`, `ClientGone`.
        """
        started = time.perf_counter()
        try:
            told = await self.queries.run(asked.tenant_id, work, gone_of(request))
        except BaseException as e:
            await self._record_failure(request, asked, e)
            if isinstance(e, Recoverable):
                raise _store_unavailable(e) from e
            raise
        self._measure(asked, told.tier, time.perf_counter() - started)
        await self.auditor.read(asked, Outcome.ANSWERED, tier=told.tier, rows=told.rows)
        if told.action is not None:
            await self.auditor.action(told.action)
        reach(Killpoint.READ_RECORDED)
        if told.problem is not None:
            raise told.problem
        headers = dict(told.headers or {})
        return Response(told.body, media_type=told.media_type, headers=headers)

    async def stream(
        self,
        request: Request,
        asked: Asked,
        make: Callable[[IsCancelled], Iterator[bytes]],
        media_type: str,
    ) -> Response:
        """As `answer`, piece by piece; the record is made before the first one leaves."""
        started = time.perf_counter()
        pieces = self.queries.stream(asked.tenant_id, make, gone_of(request))
        try:
            first = await anext(pieces, b"")
        except BaseException as e:
            await self._record_failure(request, asked, e)
            if isinstance(e, Recoverable):
                raise _store_unavailable(e) from e
            raise
        try:
            await self.auditor.read(asked, Outcome.ANSWERED)
        except BaseException:
            await pieces.aclose()
            raise
        reach(Killpoint.READ_RECORDED)

        async def told() -> AsyncIterator[bytes]:
            try:
                yield first
                async for piece in pieces:
                    yield piece
            finally:
                await pieces.aclose()
                self._measure(asked, NO_TIER, time.perf_counter() - started)

        return StreamingResponse(told(), media_type=media_type)

    async def _record_failure(self, request: Request, asked: Asked, error: BaseException) -> None:
        """A read that shows nothing is on record too, where that can be had."""
        if isinstance(error, QueryProblem) and error.slug != "query_cancelled":
            await self._record_refusal(request, asked.caller, error)
            return
        is_cancelled = isinstance(error, QueryProblem | ClientGone)
        outcome = Outcome.CANCELLED if is_cancelled else Outcome.FAILED
        try:
            await self.auditor.read(asked, outcome)
        except QueryProblem as e:
            _logger.warning("a read that was not answered is not on record: %s", e.detail)

    def _measure(self, asked: Asked, tier: str, seconds: float) -> None:
        self.telemetry.observe_one(QUERY_SECONDS, seconds, route=asked.route, tier=tier)
        if seconds >= SLOW_SECONDS:
            _logger.warning(
                "a slow query",
                extra={
                    "tenant": asked.tenant_id,
                    "route": asked.route,
                    "key_id": asked.caller.key_id,
                    "query_digest": asked.digest,
                    "request_id": asked.request_id,
                    "tier": tier,
                    "seconds": round(seconds, 3),
                },
            )


def route_of(request: Request) -> str:
    """The route of a request, as records and metrics name it."""
    return f"{request.method} {request.scope['route'].path_format}"


def gone_of(request: Request) -> Callable[[], Any]:
    """What returns when the client has left; a request's body, if any, is thrown away."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return gone


def _store_unavailable(error: Recoverable) -> QueryProblem:
    """A port's trouble as the reader's."""
    return QueryProblem(
        "store_unavailable",
        error.reason,
        remedy=error.remedy or "ask again later",
        retry_after_seconds=error.retry_after_seconds,
    )


def desk_of(request: Request) -> Desk:
    """The desk of the app that got the request."""
    desk: Desk = request.app.state.desk
    return desk


TheDesk = Annotated[Desk, Depends(desk_of)]


def paged(request: Request, query: dict[str, Any], cursor: str | None) -> dict[str, Any]:
    """The members that every page has."""
    following = {**query, "cursor": cursor}
    return {
        "requestId": request.state.request_id,
        "query": query,
        "nextCursor": cursor,
        "next": f"{request.url.path}?{urlencode(following)}" if cursor else None,
    }
