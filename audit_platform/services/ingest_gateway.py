"""ingest-gateway: takes bodies of events over HTTP and answers 202 when they are durable.

Belongs here: routes, the way of a body from the socket to the receipt, back-pressure, start and
stop. Does not: checking and keeping a body (`ingest_body.py`, `ingest_keeping.py`), what is
archived (`ingest_archived.py`), credentials (`ingest_credentials.py`), the HTTP server and its
limits (`ingest_server.py`).
Source: design section 4 (batches, acknowledgement, order); failures 2, 21, 24.

Order: a connection's requests are handled one after another, so an edge that has one body on its
way at a time keeps the order of its devices. Between connections nothing is promised.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import orjson

from audit_platform.killpoints import Killpoint, reach
from audit_platform.metrics.clients import LOG_ERRORS
from audit_platform.metrics.ingest import (
    INGEST_ACCEPTED,
    INGEST_APPEND_SECONDS,
    INGEST_BODY_BYTES,
    INGEST_CHECK_SECONDS,
    INGEST_FULL_CHECKS,
    INGEST_INFLIGHT_BODIES,
    INGEST_INFLIGHT_BYTES,
    INGEST_LOCAL_LIMITS,
    INGEST_REFUSED,
    INGEST_RESPONSES,
    INGEST_SKEW_SECONDS,
    INGEST_STALE_KEYS,
)
from audit_platform.ports import Platform
from audit_platform.processes import freeze_startup_objects, tune_process
from audit_platform.services.http_parts import (
    Answer,
    Headers,
    InFlight,
    Receive,
    Send,
    check_route,
    check_type,
    is_zstd,
    joined_headers,
    read_body,
    safely,
)
from audit_platform.services.ingest_archived import Archived
from audit_platform.services.ingest_body import MAX_BODY, MAX_COMPRESSED_BODY
from audit_platform.services.ingest_credentials import Credentials, Sender
from audit_platform.services.ingest_keeping import Keeper
from audit_platform.services.ingest_limits import Budgets
from audit_platform.services.ingest_placement import Placement
from audit_platform.services.ingest_problems import Problem
from audit_platform.services.ingest_question import MAX_QUESTION_BYTES
from audit_platform.services.ingest_server import listen, make_server, serve
from audit_platform.settings import Settings
from audit_platform.telemetry import METRICS_CONTENT_TYPE, Telemetry, log_as_json
from audit_platform.wiring import open_platform

_logger: Final = logging.getLogger(__name__)

#: Bodies being received or handled. Each edge has one on its way, so this is 64 sites at the very
#: same moment; what comes beside them is told to come back.
MAX_BODIES_IN_FLIGHT: Final = 64

#: Bytes held of bodies as received: two of the largest. With the bodies that are checked and
#: appended, and nothing but the largest on all sides, 300 MB of memory were measured (350 allowed).
MAX_BYTES_IN_FLIGHT: Final = 32 * 1024 * 1024

#: Threads that check and append. One at a time checks, the others wait for it or for the disk, and
#: bodies that wait are appended together. Each may hold a body's records, up to 17 MiB.
WORKERS: Final = 6

#: Questions about what is archived, being received or waiting: each edge asks one at a time.
MAX_QUESTIONS_IN_FLIGHT: Final = 64

CONTENT_TYPE: Final = b"application/x-ndjson"
QUESTION_TYPE: Final = b"application/json"

#: Method of each path.
ROUTES: Final = {
    "/v1/events": "POST",
    "/v1/archived": "POST",
    "/healthz": "GET",
    "/readyz": "GET",
    "/metrics": "GET",
}

METRICS: Final = (
    INGEST_ACCEPTED,
    INGEST_REFUSED,
    INGEST_RESPONSES,
    INGEST_BODY_BYTES,
    INGEST_CHECK_SECONDS,
    INGEST_FULL_CHECKS,
    INGEST_APPEND_SECONDS,
    INGEST_SKEW_SECONDS,
    INGEST_INFLIGHT_BODIES,
    INGEST_INFLIGHT_BYTES,
    INGEST_LOCAL_LIMITS,
    INGEST_STALE_KEYS,
)


class IngestGateway:
    """The ASGI application. `close` stops its threads; the platform stays the caller's."""

    def __init__(
        self, platform: Platform, gateway: str, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._platform = platform
        self._telemetry = Telemetry(METRICS)
        self._telemetry.follow(LOG_ERRORS, platform.log_errors)
        self._credentials = Credentials(
            platform.metadata,
            platform.clock,
            self._telemetry,
            tokens=platform.tokens,
            monotonic=monotonic,
        )
        self._budgets = Budgets(platform.limits, self._telemetry)
        self._archived = Archived(platform, monotonic=monotonic)
        self._placement = Placement(platform.log, self._archived.generation, monotonic=monotonic)
        self._keeper = Keeper(
            platform, gateway, self._telemetry, self._archived.late, self._placement
        )
        self._workers = ThreadPoolExecutor(WORKERS, "ingest")
        self._in_flight = InFlight(MAX_BODIES_IN_FLIGHT, MAX_BYTES_IN_FLIGHT)
        self._questions = InFlight(
            MAX_QUESTIONS_IN_FLIGHT, MAX_QUESTIONS_IN_FLIGHT * MAX_QUESTION_BYTES
        )

    def close(self) -> None:
        """Wait for bodies in hand, then stop all threads. Idempotent."""
        self._workers.shutdown(wait=True)
        self._archived.close()
        self._credentials.close()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        method, path = scope["method"], scope["path"]
        if path == "/v1/events" and method == "POST":
            answer = await self._take(joined_headers(scope["headers"]), receive)
            if answer is not None and answer.status == 202:  # noqa: PLR2004 - the one status that is a promise
                reach(Killpoint.ACKNOWLEDGED)
        elif path == "/v1/archived" and method == "POST":
            _, answer = await safely(self._ask(joined_headers(scope["headers"]), receive))
        else:
            _, answer = await safely(self._look(method, path))
        if answer is not None:
            await answer.send(send, self._platform.clock.now_ms())

    # ------------------------------------------------------------------------- the way of a body

    async def _take(self, headers: Headers, receive: Receive) -> Answer | None:
        """The answer to a body, or None when nobody waits for one."""
        slug, answer = await safely(self._receipt(headers, receive))
        status = "none" if answer is None else str(answer.status)
        self._telemetry.count(INGEST_RESPONSES, status=status, slug=slug)
        return answer

    async def _receipt(self, headers: Headers, receive: Receive) -> Answer:
        """The receipt of a body that is durable now. Raises `Problem`, `_ClientGone`."""
        sender = await self._credentials.admit(headers.get(b"authorization", b""))
        check_type(headers, CONTENT_TYPE, "one JSON event a line")
        compressed = is_zstd(headers)
        with self._in_flight.one_body() as hold:
            limit = MAX_COMPRESSED_BODY if compressed else MAX_BODY
            data = await read_body(headers, receive, hold, limit)
            reach(Killpoint.RECEIVED)
            work = asyncio.get_running_loop().run_in_executor(
                self._workers, lambda: self._keep(data, sender, compressed=compressed)
            )
            return Answer(202, await work)

    def _keep(self, data: bytes, sender: Sender, *, compressed: bool) -> bytes:
        """The receipt of a body for which there is a budget. Raises `Problem`."""
        self._budgets.demand(sender.tenant_id, data, compressed=compressed)
        return self._keeper.keep(
            data, sender.tenant_id, compressed=compressed, roster=sender.roster
        )

    async def _ask(self, headers: Headers, receive: Receive) -> Answer:
        """What is archived of the log records that an edge names. Raises as `_receipt`."""
        await self._credentials.admit(headers.get(b"authorization", b""))
        check_type(headers, QUESTION_TYPE, "one JSON object")
        with self._questions.one_body() as hold:
            data = await read_body(headers, receive, hold, MAX_QUESTION_BYTES)
            return Answer(200, await self._archived.answer(data))

    # ------------------------------------------------------------------------------ other routes

    async def _look(self, method: str, path: str) -> Answer:
        check_route(ROUTES, method, path)
        if path == "/metrics":
            self._telemetry.set(INGEST_INFLIGHT_BODIES, self._in_flight.bodies)
            self._telemetry.set(INGEST_INFLIGHT_BYTES, self._in_flight.bytes)
            return Answer(200, self._telemetry.text(), METRICS_CONTENT_TYPE.encode())
        if path == "/healthz":
            return Answer(200, b'{"status":"alive"}')
        trouble = await asyncio.get_running_loop().run_in_executor(self._workers, self._trouble)
        ready = {"ready": not trouble, "trouble": trouble, "lock": self._platform.objects.lock}
        return Answer(503 if trouble else 200, orjson.dumps(ready))

    def _trouble(self) -> str:
        """Why no body could be acknowledged now, or "". Metadata may be away for a while."""
        try:
            self._placement.topics()
        except Problem as e:
            return f"{e.detail} ({e.remedy})"
        return ""


def build_app(platform: Platform, settings: Settings) -> IngestGateway:
    """The application over an open platform."""
    return IngestGateway(platform, f"{socket.gethostname()}:{settings.ingest_port}")


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; bodies in hand are finished first.

    Starts the program again once to set the allocator's variables (`tune_process`). Raises
    `SettingInvalid` when the port cannot be had.
    """
    tune_process()
    log_as_json("ingest-gateway")
    platform = open_platform(settings)
    try:
        app = build_app(platform, settings)
        try:
            sock = listen(settings.ingest_host, settings.ingest_port)
            freeze_startup_objects()
            serve(make_server(app), sock)
        finally:
            app.close()
    finally:
        platform.close()
