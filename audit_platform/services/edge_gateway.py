"""edge-gateway: takes events of the devices of one site over HTTP, and keeps them on its own disk.

`202` means that one fsynced disk has them; the platform's promise begins with ingest-gateway's own
202, for which the uplink cares. Belongs here: routes, the way of a body, the answer, start and
stop. Does not: taking events (`edge_intake.py`), sending them on (`edge_uplink.py`), the status
page (`edge_status.py`), the HTTP server and its limits (`ingest_server.py`).
Source: design section 1 and 4; the issue's "The edge"; `docs/edge.md`.

Order: a connection's requests are handled one after another, so a device that has one body on its
way at a time keeps the order of its events. Between connections nothing is promised.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final

import orjson

from audit_platform.errors import (
    AuditPlatformError,
    KeysUnavailable,
    KeyUnknown,
    SettingInvalid,
    SpoolFull,
    SpoolUnavailable,
)
from audit_platform.metrics.edge import EDGE_RESPONSES
from audit_platform.processes import freeze_startup_objects, tune_process
from audit_platform.services import edge_intake, edge_status, edge_uplink
from audit_platform.services.edge_intake import Intake
from audit_platform.services.edge_placing import ACCEPTED, DeviceAnswer, EdgeIdentity, Outcome
from audit_platform.services.edge_quarantine import Quarantine, RefusedLine
from audit_platform.services.edge_status import EdgeParts
from audit_platform.services.edge_uplink import Uplink
from audit_platform.services.edge_uplink_files import SetAside
from audit_platform.services.edge_uplink_http import UplinkSender
from audit_platform.services.http_parts import (
    Answer,
    Headers,
    InFlight,
    Receive,
    Send,
    check_route,
    is_zstd,
    joined_headers,
    read_body,
    safely,
)
from audit_platform.services.ingest_body import (
    MAX_BODY,
    MAX_COMPRESSED_BODY,
    MAX_EVENTS_PER_BODY,
    decompressed,
)
from audit_platform.services.ingest_problems import Problem
from audit_platform.services.ingest_server import listen, make_server, serve
from audit_platform.settings import Settings
from audit_platform.telemetry import METRICS_CONTENT_TYPE, Telemetry, log_as_json
from audit_platform.wiring import open_edge

_logger: Final = logging.getLogger(__name__)

#: Bodies being received or handled: many devices send single events, which wait for one fsync
#: together.
MAX_BODIES_IN_FLIGHT: Final = 512

#: Bytes held of bodies as received: two of the largest.
MAX_BYTES_IN_FLIGHT: Final = 32 * 1024 * 1024

#: Threads that take bodies. One at a time works, the others wait for the disk: so many bodies may
#: share an fsync.
WORKERS: Final = 32

#: What a device should wait before it sends again while the spool takes nothing.
RETRY_AFTER_SECONDS: Final = 5

#: How often the edge looks after its clock, losses and segments set aside (real time).
CARE_SECONDS: Final = 1.0

BATCH_TYPE: Final = b"application/x-ndjson"
SINGLE_TYPE: Final = b"application/json"

_BLANK: Final = b" \t\r"

#: Method of each path.
ROUTES: Final = {
    "/": "GET",
    "/v1/events": "POST",
    "/v1/status": "GET",
    "/healthz": "GET",
    "/readyz": "GET",
    "/metrics": "GET",
}

METRICS: Final = (
    EDGE_RESPONSES,
    *edge_intake.METRICS,
    *edge_status.METRICS,
    *edge_uplink.METRICS,
)


class EdgeGateway:
    """The ASGI application. `close` stops its threads; its parts stay the caller's."""

    def __init__(self, parts: EdgeParts, telemetry: Telemetry) -> None:
        self._parts = parts
        self._telemetry = telemetry
        self._workers = ThreadPoolExecutor(WORKERS, "edge")
        self._in_flight = InFlight(MAX_BODIES_IN_FLIGHT, MAX_BYTES_IN_FLIGHT)

    def close(self) -> None:
        """Wait for bodies in hand, then stop all threads. Idempotent."""
        self._workers.shutdown(wait=True)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        method, path = scope["method"], scope["path"]
        if path == "/v1/events" and method == "POST":
            slug, answer = await safely(self._take(joined_headers(scope["headers"]), receive))
            status = "none" if answer is None else str(answer.status)
            self._telemetry.count(EDGE_RESPONSES, status=status, slug=slug)
        else:
            _, answer = await safely(self._look(method, path))
        if answer is not None:
            await answer.send(send, self._parts.ports.clock.now_ms())

    # ------------------------------------------------------------------------- the way of a body

    async def _take(self, headers: Headers, receive: Receive) -> Answer:
        """The answer to a body. Raises `Problem`, `ClientGone`."""
        is_single = _is_single(headers)
        compressed = is_zstd(headers)
        with self._in_flight.one_body() as hold:
            limit = MAX_COMPRESSED_BODY if compressed else MAX_BODY
            data = await read_body(headers, receive, hold, limit)
            return await asyncio.get_running_loop().run_in_executor(
                self._workers, lambda: self._keep(data, is_single, compressed)
            )

    def _keep(self, data: bytes, is_single: bool, compressed: bool) -> Answer:  # noqa: FBT001 - both are the request's own
        """Take a body: all that it says is durable, and what could not be taken is kept."""
        if compressed:
            try:
                body = decompressed(data)
            except Problem as e:
                refusal = DeviceAnswer(Outcome.REFUSED, e.slug, "", e.detail, e.remedy)
                self._quarantine([RefusedLine(1, data, refusal)])
                raise
        else:
            body = data
        numbers, lines = _lines(body, is_single)
        try:
            answers = self._parts.intake.take(lines)
        except SpoolFull as e:
            raise _later("spool_full", e) from e
        except (SpoolUnavailable, KeysUnavailable, KeyUnknown) as e:
            raise _later("spool_unavailable", e) from e
        refused = [
            RefusedLine(number, line, answer)
            for number, line, answer in zip(numbers, lines, answers, strict=True)
            if answer is not ACCEPTED and answer.outcome is Outcome.REFUSED
        ]
        kept = self._quarantine(refused) if refused else None
        status = 422 if len(refused) == len(lines) else 202
        return Answer(status, _receipt(numbers, answers, kept))

    def _quarantine(self, refused: Sequence[RefusedLine]) -> str | None:
        """Keep refused bytes; None when that failed: the device was promised nothing."""
        try:
            return self._parts.quarantine.keep(self._parts.ports.clock.now_ms(), refused)
        except OSError:
            _logger.exception("refused bytes could not be kept")
            return None

    # ------------------------------------------------------------------------------ other routes

    async def _look(self, method: str, path: str) -> Answer:
        check_route(ROUTES, method, path)
        if path == "/healthz":
            return Answer(200, b'{"status":"alive"}')
        return await asyncio.get_running_loop().run_in_executor(
            self._workers, lambda: self._show(path)
        )

    def _show(self, path: str) -> Answer:
        if path == "/metrics":
            edge_status.set_gauges(self._parts, self._telemetry)
            return Answer(200, self._telemetry.text(), METRICS_CONTENT_TYPE.encode())
        if path == "/readyz":
            # Ready means: it takes events. Whether they can be sent on is another matter.
            ready = bool(self._parts.intake.epoch)
            trouble = "" if ready else "no epoch could be opened yet: see the log"
            content = {"ready": ready, "trouble": trouble}
            return Answer(200 if ready else 503, orjson.dumps(content))
        status = edge_status.document(self._parts)
        if path == "/v1/status":
            return Answer(200, orjson.dumps(status))
        return Answer(200, edge_status.page(status).encode(), b"text/html; charset=utf-8")


def _is_single(headers: Headers) -> bool:
    """Whether the body is one event, not one a line. Raises `Problem` for another type."""
    content_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if content_type not in {SINGLE_TYPE, BATCH_TYPE}:
        raise Problem(
            "unsupported_media_type",
            f"the content type is {content_type[:100]!a}",
            remedy=f"send {BATCH_TYPE.decode()}, one JSON event a line, or one event as "
            f"{SINGLE_TYPE.decode()}",
        )
    return content_type == SINGLE_TYPE


def _lines(body: bytes, is_single: bool) -> tuple[Sequence[int], list[bytes]]:  # noqa: FBT001 - the request's own
    """The lines that are not blank, and their numbers from 1. Raises `Problem`."""
    lines = [body] if is_single else body.split(b"\n")
    numbers: Sequence[int] = range(1, len(lines) + 1)
    if not lines[-1]:
        lines.pop()
        numbers = range(1, len(lines) + 1)
    # White space of any kind is looked for first, because that is one call a line without Python.
    if not all(lines) or (
        any(map(bytes.isspace, lines)) and any(not line.strip(_BLANK) for line in lines)
    ):
        numbers = [n for n, line in zip(numbers, lines, strict=True) if line.strip(_BLANK)]
        lines = [lines[n - 1] for n in numbers]
    if not lines:
        raise Problem("empty_body", "the body holds no event", remedy="send one event a line")
    if len(lines) > MAX_EVENTS_PER_BODY:
        raise Problem(
            "too_many_events",
            f"a body has at most {MAX_EVENTS_PER_BODY} events",
            remedy="send the events in several bodies",
        )
    return numbers, lines


def _later(slug: str, error: AuditPlatformError) -> Problem:
    return Problem(
        slug,
        f"nothing is promised: {error}",
        remedy="send the same events again later",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _receipt(numbers: Sequence[int], answers: Sequence[DeviceAnswer], kept: str | None) -> bytes:
    """Counts, and every line of which there is more to say than that it was accepted."""
    counts = Counter([answer.outcome for answer in answers if answer is not ACCEPTED])
    counts[Outcome.ACCEPTED] += answers.count(ACCEPTED)
    lines = []
    for number, answer in zip(numbers, answers, strict=True):
        if answer is ACCEPTED:
            continue
        said: dict[str, Any] = {"line": number, "outcome": answer.outcome}
        if answer.slug:
            said["flag" if answer.outcome is Outcome.ACCEPTED else "slug"] = answer.slug
            said |= {"field": answer.field, "reason": answer.reason, "remedy": answer.remedy}
        lines.append(said)
    return orjson.dumps(
        {
            "accepted": counts[Outcome.ACCEPTED],
            "alreadyTaken": counts[Outcome.ALREADY_TAKEN],
            "conflicts": counts[Outcome.CONFLICT],
            "refused": counts[Outcome.REFUSED],
            "lines": lines,
            "quarantine": kept,
        }
    )


# --------------------------------------------------------------------------------- start and stop


class _Care(threading.Thread):
    """Looks after what is nobody's request, until it is stopped."""

    def __init__(self, intake: Intake, clock_offset_ms: Callable[[], int | None]) -> None:
        super().__init__(name="edge-care")
        self._intake = intake
        self._clock_offset_ms = clock_offset_ms
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(CARE_SECONDS):
            try:
                self._intake.look_after(self._clock_offset_ms())
            except AuditPlatformError as e:
                _logger.warning("not on record yet: %s", e)
            except Exception:
                _logger.exception("looking after the edge failed")

    def stop(self) -> None:
        self._stopping.set()
        self.join()


def identity_of(settings: Settings) -> EdgeIdentity:
    """Whose edge this is. Raises `SettingInvalid` when the tenant or the hospital is not named."""
    for setting in ("AUDIT_EDGE_TENANT", "AUDIT_EDGE_HOSPITAL"):
        if not getattr(settings, setting.removeprefix("AUDIT_").lower()):
            raise SettingInvalid(setting, "", "the name that all events of this edge will carry")
    return EdgeIdentity(
        settings.edge_tenant,
        settings.edge_hospital,
        settings.edge_device,
        settings.edge_site or settings.edge_hospital,
    )


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; bodies in hand are finished first.

    Starts the program again once to set the allocator's variables (`tune_process`). Raises
    `SettingInvalid`, `KeyUnknown` before there is a key, `SpoolUnavailable` while the disk refuses.
    """
    tune_process()
    log_as_json("edge-gateway")
    identity = identity_of(settings)
    telemetry = Telemetry(METRICS)
    with ExitStack() as opened:
        ports = open_edge(settings)
        opened.callback(ports.spool.close)
        sender = UplinkSender(
            settings.edge_uplink,
            lambda: settings.edge_secret.read_text("ascii").strip(),
            ports.clock,
        )
        opened.callback(sender.close)
        folder = settings.edge_folder
        uplink = Uplink(ports.spool, sender, telemetry, SetAside(folder / "set-aside"))
        intake = Intake(ports.spool, ports.keys, ports.clock, identity, telemetry, uplink.offer)
        parts = EdgeParts(
            ports,
            identity,
            intake,
            Quarantine(folder / "quarantine"),
            uplink.status,
            settings.edge_spool_bytes,
            settings.edge_spool_hours,
        )
        app = EdgeGateway(parts, telemetry)
        opened.callback(app.close)
        sock = listen(settings.edge_host, settings.edge_port, setting="AUDIT_EDGE_PORT")
        try:
            intake.open_epoch()
        except (SpoolFull, SpoolUnavailable) as e:
            _logger.warning("no epoch yet, the next event tries again: %s", e)
        uplink.start()
        opened.callback(uplink.close)
        care = _Care(intake, sender.clock_offset_ms)
        care.start()
        opened.callback(care.stop)
        freeze_startup_objects()
        serve(make_server(app), sock)
