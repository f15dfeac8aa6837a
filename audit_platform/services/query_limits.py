"""What one tenant may use of query-api, and how a query that uses more is stopped.

Belongs here: every limit with its reason, slots of queries by tenant, cancelling, the cool-down.
Does not: what a query does (`operations/query/`), HTTP, the audit of reads (`query_audit.py`).
Source: failure 32 (runaway query): the query is cancelled, the tenant's next is refused, others do
not notice.

A query runs in a worker thread of its own: the pool has a thread for every slot there is, so no
query ever waits behind another tenant's. A slot is free again when its thread has really ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from audit_platform.errors import QueryCancelled
from audit_platform.metrics.query import QUERY_CANCELLED, QUERY_REFUSED, QUERY_RUNNING
from audit_platform.operations.query.model import IsCancelled
from audit_platform.services.query_problems import QueryProblem
from audit_platform.telemetry import Telemetry

_T = TypeVar("_T")
_logger: Final = logging.getLogger(__name__)

# ------------------------------------------------------------------------------ of one question

#: The longest window of a search, a timeline or an export. A month of one tenant is what a review
#: looks at; a longer one is asked month by month, each with its own completeness line.
MAX_WINDOW_MS: Final = 31 * 86_400_000

#: The window when none is given: the last day.
DEFAULT_WINDOW_MS: Final = 86_400_000

#: Rows in one answer. A page of 1,000 events of 700 B is 700 kB of JSON, made in about 10 ms.
MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 100

#: Bytes of payloads in one answer; the rest is on the next page. Payloads may have 1 MiB each, and
#: a thousand such would break the memory bound of the service (350 MB).
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024

#: Characters of the text that is searched for: some words, not a document.
MAX_TEXT: Final = 200

#: Bytes of path and query string. The longest good request has about 1.5 kB.
MAX_URL_BYTES: Final = 4096

# ---------------------------------------------------------------------------------- of a tenant

#: Queries of one tenant at once. Two people with two open pages each; with more, each is slower.
MAX_QUERIES_PER_TENANT: Final = 4

#: Queries of all tenants at once, and threads: sixteen tenants at their limit.
MAX_QUERIES: Final = 64

#: Real time that one export may take: two hours of a slow reader at the size of a month.
EXPORT_SECONDS: Final = 7200.0

#: A query that does not stop when told is left alone after this; its slot stays taken.
PATIENCE_SECONDS: Final = 1.0

#: What a client should wait when all slots are taken: queries end in about this time.
RETRY_AFTER_SECONDS: Final = 1

#: A query this slow is worth a line in the log.
SLOW_SECONDS: Final = 1.0


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


@dataclass(slots=True)
class _Budget:
    """One query's right to go on. Asked by its thread, ended by the event loop."""

    ends: float
    monotonic: Callable[[], float]
    stopped: bool = False

    def is_cancelled(self) -> bool:
        return self.stopped or self.monotonic() >= self.ends


@dataclass(slots=True)
class Queries:
    """Runs queries in threads. Used from one event loop only.

    `seconds` is the real time that one query may take, `cool_down_seconds` how long a tenant's
    next ones are refused after one had to be cancelled.
    """

    telemetry: Telemetry
    seconds: float
    cool_down_seconds: float
    monotonic: Callable[[], float] = time.monotonic
    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(MAX_QUERIES, "query")
    )
    _running: Counter[str] = field(default_factory=Counter)
    _barred_until: dict[str, float] = field(default_factory=dict)

    def close(self) -> None:
        """Wait for queries in hand, then stop all threads. Idempotent."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def run(
        self, tenant_id: str, work: Callable[[IsCancelled], _T], gone: Callable[[], Awaitable[None]]
    ) -> _T:
        """The result of `work`, which must ask its argument often whether to stop.

        `gone` returns when the client has left. Raises `QueryProblem` (429, 499, 503),
        `ClientGone`, and what `work` raises.
        """
        self._enter(tenant_id)
        try:
            budget = _Budget(self.monotonic() + self.seconds, self.monotonic)
            running = self._start(lambda: work(budget.is_cancelled))
        except BaseException:
            self._leave(tenant_id)
            raise
        running.add_done_callback(lambda _: self._leave(tenant_id))
        return await self._wait(tenant_id, running, budget, gone)

    async def stream(
        self,
        tenant_id: str,
        make: Callable[[IsCancelled], Iterator[bytes]],
        gone: Callable[[], Awaitable[None]],
    ) -> AsyncGenerator[bytes]:
        """Pieces of `make`, one slot for all of them; each may take as long as a query.

        Raises as `run` at any piece: the answer then breaks off.
        """
        self._enter(tenant_id)
        ends = self.monotonic() + EXPORT_SECONDS
        budget = _Budget(ends, self.monotonic)
        running: asyncio.Future[bytes | None] | None = None
        try:
            pieces = make(budget.is_cancelled)
            while True:
                budget.ends = min(ends, self.monotonic() + self.seconds)
                running = self._start(lambda: next(pieces, None))
                piece = await self._wait(tenant_id, running, budget, gone)
                if piece is None:
                    return
                yield piece
        finally:
            budget.stopped = True
            if running is None or running.done():
                self._leave(tenant_id)
            else:
                running.add_done_callback(lambda _: self._leave(tenant_id))

    # ------------------------------------------------------------------------------------ slots

    def _enter(self, tenant_id: str) -> None:
        now = self.monotonic()
        barred = self._barred_until.get(tenant_id, now) - now
        if barred > 0:
            self.telemetry.count(QUERY_REFUSED, reason="cooling_down")
            raise QueryProblem(
                "cooling_down",
                f"a query of {tenant_id} ran longer than {self.seconds:g} s and was cancelled",
                remedy="wait, then ask for a shorter window or with more filters",
                retry_after_seconds=int(barred) + 1,
            )
        self._barred_until.pop(tenant_id, None)
        if self._running[tenant_id] >= MAX_QUERIES_PER_TENANT:
            self.telemetry.count(QUERY_REFUSED, reason="too_many_queries")
            raise QueryProblem(
                "too_many_queries",
                f"{MAX_QUERIES_PER_TENANT} queries of {tenant_id} are running",
                remedy="wait for one of them",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        if self._running.total() >= MAX_QUERIES:
            self.telemetry.count(QUERY_REFUSED, reason="overloaded")
            raise QueryProblem(
                "overloaded",
                f"{MAX_QUERIES} queries are running",
                remedy="ask again later",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self._running[tenant_id] += 1
        self.telemetry.set(QUERY_RUNNING, self._running.total())

    def _leave(self, tenant_id: str) -> None:
        self._running[tenant_id] -= 1
        if not self._running[tenant_id]:
            del self._running[tenant_id]
        self.telemetry.set(QUERY_RUNNING, self._running.total())

    # ---------------------------------------------------------------------------------- waiting

    def _start(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        # Somebody who left does not look at it; asyncio would call that a fault.
        future.add_done_callback(lambda f: f.cancelled() or f.exception())
        return future

    async def _wait(
        self,
        tenant_id: str,
        running: asyncio.Future[_T],
        budget: _Budget,
        gone: Callable[[], Awaitable[None]],
    ) -> _T:
        watch = asyncio.ensure_future(gone())
        both: set[asyncio.Future[Any]] = {running, watch}
        patience = max(0.0, budget.ends - self.monotonic()) + PATIENCE_SECONDS
        try:
            await asyncio.wait(both, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not running.done() and watch.done():
                self.telemetry.count(QUERY_CANCELLED, reason="client_gone")
                raise ClientGone
            if running.done():
                return running.result()
        except QueryCancelled:
            pass  # by its budget: nobody else has stopped it
        finally:
            watch.cancel()
            budget.stopped = budget.stopped or not running.done()
        raise self._overspent(tenant_id, ended=running.done())

    def _overspent(self, tenant_id: str, *, ended: bool) -> QueryProblem:
        self._barred_until[tenant_id] = self.monotonic() + self.cool_down_seconds
        self.telemetry.count(QUERY_CANCELLED, reason="budget")
        _logger.warning(
            "a query was cancelled",
            extra={"tenant": tenant_id, "seconds": self.seconds, "ended": ended},
        )
        return QueryProblem(
            "query_cancelled",
            f"the query ran longer than {self.seconds:g} s",
            remedy="ask for a shorter window or with more filters; "
            f"the tenant's next queries are refused for {self.cool_down_seconds:g} s",
        )
