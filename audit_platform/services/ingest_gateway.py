"""ingest-gateway: takes bodies of events over HTTP and answers 202 when they are durable.

Belongs here: routes, the way of a body from the socket to the receipt, back-pressure, start and
stop. Does not: checking and keeping a body (`ingest_body.py`, `ingest_keeping.py`), credentials
(`ingest_credentials.py`), the HTTP server and its limits (`ingest_server.py`).
Source: design section 4 (batches, acknowledgement, order); failures 2, 21, 24.

Order: a connection's requests are handled one after another, so an edge that has one body on its
way at a time keeps the order of its devices. Between connections nothing is promised.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson

from audit_platform.errors import AuditPlatformError
from audit_platform.killpoints import Killpoint, reach
from audit_platform.ports import Platform
from audit_platform.processes import freeze_startup_objects, tune_process
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC
from audit_platform.services.ingest_body import MAX_BODY, MAX_COMPRESSED_BODY
from audit_platform.services.ingest_credentials import Credentials
from audit_platform.services.ingest_keeping import Keeper
from audit_platform.services.ingest_problems import PROBLEM_CONTENT_TYPE, Problem
from audit_platform.services.ingest_server import listen, make_server, serve
from audit_platform.settings import Settings
from audit_platform.telemetry import (
    INGEST_ACCEPTED,
    INGEST_APPEND_SECONDS,
    INGEST_BODY_BYTES,
    INGEST_CHECK_SECONDS,
    INGEST_INFLIGHT_BODIES,
    INGEST_INFLIGHT_BYTES,
    INGEST_REFUSED,
    INGEST_RESPONSES,
    INGEST_SKEW_SECONDS,
    INGEST_STALE_KEYS,
    METRICS_CONTENT_TYPE,
    Telemetry,
    log_as_json,
)
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

#: Real time for a body to arrive: 8 MiB at 280 kB/s. A slower line should send smaller bodies.
BODY_SECONDS: Final = 30.0

#: What a client should wait before it sends again when there is no room: bodies leave in about
#: this time.
RETRY_AFTER_SECONDS: Final = 1

CONTENT_TYPE: Final = b"application/x-ndjson"

METRICS: Final = (
    INGEST_ACCEPTED,
    INGEST_REFUSED,
    INGEST_RESPONSES,
    INGEST_BODY_BYTES,
    INGEST_CHECK_SECONDS,
    INGEST_APPEND_SECONDS,
    INGEST_SKEW_SECONDS,
    INGEST_INFLIGHT_BODIES,
    INGEST_INFLIGHT_BYTES,
    INGEST_STALE_KEYS,
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = dict[bytes, bytes]


class _ClientGone(Exception):
    """The client closed the connection before its body was complete."""


@dataclass(slots=True)
class _Answer:
    """A whole HTTP answer."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: Sequence[tuple[bytes, bytes]] = ()

    @classmethod
    def to_problem(cls, problem: Problem) -> _Answer:
        return cls(problem.status, problem.to_bytes(), PROBLEM_CONTENT_TYPE, problem.headers)

    async def send(self, send: Send) -> None:
        headers = [
            (b"content-type", self.content_type),
            (b"content-length", b"%d" % len(self.body)),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


@dataclass(slots=True)
class _InFlight:
    """What is held of all bodies, and of one. Touched by the event loop only."""

    bodies: int = 0
    bytes: int = 0

    @contextmanager
    def one_body(self) -> Iterator[Callable[[int], None]]:
        """Room for one body; the value takes the size of each piece. Raises `Problem`."""
        if self.bodies >= MAX_BODIES_IN_FLIGHT:
            raise _overloaded()
        self.bodies += 1
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if self.bytes + size > MAX_BYTES_IN_FLIGHT:
                raise _overloaded()
            self.bytes += size
            held += size

        try:
            yield hold
        finally:
            self.bodies -= 1
            self.bytes -= held


class IngestGateway:
    """The ASGI application. `close` stops its threads; the platform stays the caller's."""

    def __init__(
        self, platform: Platform, gateway: str, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._platform = platform
        self._telemetry = Telemetry(METRICS)
        self._credentials = Credentials(platform.metadata, self._telemetry, monotonic=monotonic)
        self._keeper = Keeper(platform, gateway, self._telemetry)
        self._workers = ThreadPoolExecutor(WORKERS, "ingest")
        self._in_flight = _InFlight()

    def close(self) -> None:
        """Wait for bodies in hand, then stop all threads. Idempotent."""
        self._workers.shutdown(wait=True)
        self._credentials.close()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        method, path = scope["method"], scope["path"]
        if path == "/v1/events" and method == "POST":
            answer = await self._take(_joined(scope["headers"]), receive)
            if answer is None:
                return
            if answer.status == 202:  # noqa: PLR2004 - the one status that is a promise
                reach(Killpoint.ACKNOWLEDGED)
        else:
            try:
                answer = await self._look(method, path)
            except Problem as e:
                answer = _Answer.to_problem(e)
        await answer.send(send)

    # ------------------------------------------------------------------------- the way of a body

    async def _take(self, headers: Headers, receive: Receive) -> _Answer | None:
        """The answer to a body, or None when nobody waits for one."""
        slug = ""
        try:
            answer = _Answer(202, await self._receipt(headers, receive))
        except _ClientGone:
            self._telemetry.count(INGEST_RESPONSES, status="none", slug="client_gone")
            return None
        except Problem as e:
            slug, answer = e.slug, _Answer.to_problem(e)
        except Exception:
            _logger.exception("a body could not be handled")
            problem = Problem(
                "internal_error",
                "the gateway failed; nothing is acknowledged",
                remedy="send the same body again later; if it fails again, report the time",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
            slug, answer = problem.slug, _Answer.to_problem(problem)
        self._telemetry.count(INGEST_RESPONSES, status=str(answer.status), slug=slug)
        return answer

    async def _receipt(self, headers: Headers, receive: Receive) -> bytes:
        """The receipt of a body that is durable now. Raises `Problem`, `_ClientGone`."""
        key = await self._credentials.admit(headers.get(b"authorization", b""))
        compressed = _is_compressed(headers)
        with self._in_flight.one_body() as hold:
            data = await _body(headers, receive, hold, compressed=compressed)
            reach(Killpoint.RECEIVED)
            work = asyncio.get_running_loop().run_in_executor(
                self._workers, lambda: self._keeper.keep(data, key.tenant_id, compressed=compressed)
            )
            return await work

    # ------------------------------------------------------------------------------ other routes

    async def _look(self, method: str, path: str) -> _Answer:
        if path not in {"/v1/events", "/healthz", "/readyz", "/metrics"}:
            raise Problem(
                "not_found", f"nothing is at {path[:200]!a}", remedy="send events to /v1/events"
            )
        allowed = "POST" if path == "/v1/events" else "GET"
        if method != allowed:
            raise Problem(
                "method_not_allowed",
                f"{method} is not allowed at {path}",
                remedy=f"use {allowed}",
                headers=((b"allow", allowed.encode()),),
            )
        if path == "/metrics":
            self._telemetry.set(INGEST_INFLIGHT_BODIES, self._in_flight.bodies)
            self._telemetry.set(INGEST_INFLIGHT_BYTES, self._in_flight.bytes)
            return _Answer(200, self._telemetry.text(), METRICS_CONTENT_TYPE.encode())
        if path == "/healthz":
            return _Answer(200, b'{"status":"alive"}')
        trouble = await asyncio.get_running_loop().run_in_executor(self._workers, self._trouble)
        ready = {"ready": not trouble, "trouble": trouble, "lock": self._platform.objects.lock}
        return _Answer(503 if trouble else 200, orjson.dumps(ready))

    def _trouble(self) -> str:
        """Why no body could be acknowledged now, or "". Metadata may be away for a while."""
        try:
            for topic in (EVENTS_TOPIC, DLQ_TOPIC):
                self._platform.log.describe(topic)
        except AuditPlatformError as e:
            return str(e)
        return ""


def _joined(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """Headers by lower-case name; one that stands several times has all its values (RFC 9110)."""
    joined: Headers = {}
    for name, value in headers:
        joined[name] = joined[name] + b", " + value if name in joined else value
    return joined


def _is_compressed(headers: Headers) -> bool:
    """Whether the body is zstd. Raises `Problem` for any other type or encoding."""
    content_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if content_type != CONTENT_TYPE:
        raise Problem(
            "unsupported_media_type",
            f"the content type is {content_type[:100]!a}",
            remedy=f"send {CONTENT_TYPE.decode()}: one JSON event a line",
        )
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in {b"identity", b"zstd"}:
        raise Problem(
            "unsupported_encoding",
            f"the content encoding is {encoding[:100]!a}",
            remedy="send zstd, or no content encoding",
            headers=((b"accept-encoding", b"zstd, identity"),),
        )
    return encoding == b"zstd"


async def _body(
    headers: Headers, receive: Receive, hold: Callable[[int], None], *, compressed: bool
) -> bytes:
    """The whole body as sent. Raises `Problem`, `_ClientGone`."""
    limit = MAX_COMPRESSED_BODY if compressed else MAX_BODY
    # The server's parser took the number; a body that is longer or shorter cannot get past it.
    if int(headers.get(b"content-length", b"0")) > limit:
        raise _too_large(limit)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _ClientGone
                piece: bytes = message["body"]
                size += len(piece)
                if size > limit:
                    raise _too_large(limit)
                hold(len(piece))
                pieces.append(piece)
                if not message["more_body"]:
                    return b"".join(pieces)
    except TimeoutError as e:
        raise Problem(
            "body_timeout",
            f"the body did not arrive within {BODY_SECONDS:.0f} s",
            remedy="send smaller bodies",
            headers=((b"connection", b"close"),),
        ) from e


def _too_large(limit: int) -> Problem:
    return Problem(
        "body_too_large",
        f"a body has at most {limit} bytes as sent",
        remedy="send the events in several bodies",
    )


def _overloaded() -> Problem:
    return Problem(
        "overloaded",
        f"{MAX_BODIES_IN_FLIGHT} bodies or {MAX_BYTES_IN_FLIGHT} bytes are being handled",
        remedy="send the same body again later",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


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
