"""What the services that take bodies over HTTP share: answers, room for bodies, reading one.

Belongs here: the parts of plain ASGI that are the same whoever asks. Does not: routes
(`ingest_gateway.py`, `edge_gateway.py`), the server's own bounds (`ingest_server.py`).
Source: RFC 9110 (semantics), RFC 9457 (problem details), design section 4.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Final

from audit_platform.services.ingest_problems import PROBLEM_CONTENT_TYPE, Problem

_logger: Final = logging.getLogger(__name__)

#: Real time for a body to arrive: 8 MiB at 280 kB/s. A slower line should send smaller bodies.
BODY_SECONDS: Final = 30.0

#: What a client should wait before it sends again when there is no room: bodies leave in about
#: this time.
RETRY_AFTER_SECONDS: Final = 1

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = dict[bytes, bytes]


class ClientGone(Exception):
    """The client closed the connection before its body was complete."""


@dataclass(slots=True)
class Answer:
    """A whole HTTP answer. Its date is the wall-clock port's: edges compare theirs with it."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: Sequence[tuple[bytes, bytes]] = ()

    @classmethod
    def to_problem(cls, problem: Problem) -> Answer:
        """Problem details."""
        return cls(problem.status, problem.to_bytes(), PROBLEM_CONTENT_TYPE, problem.headers)

    async def send(self, send: Send, now_ms: int) -> None:
        """Send it whole."""
        headers = [
            (b"date", formatdate(now_ms // 1000, usegmt=True).encode("ascii")),
            (b"content-type", self.content_type),
            (b"content-length", b"%d" % len(self.body)),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


@dataclass(slots=True)
class InFlight:
    """What is held of all bodies, and of one. Touched by the event loop only."""

    max_bodies: int
    max_bytes: int
    bodies: int = 0
    bytes: int = 0

    @contextmanager
    def one_body(self) -> Iterator[Callable[[int], None]]:
        """Room for one body; the value takes the size of each piece. Raises `Problem`."""
        if self.bodies >= self.max_bodies:
            raise self._overloaded()
        self.bodies += 1
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if self.bytes + size > self.max_bytes:
                raise self._overloaded()
            self.bytes += size
            held += size

        try:
            yield hold
        finally:
            self.bodies -= 1
            self.bytes -= held

    def _overloaded(self) -> Problem:
        return Problem(
            "overloaded",
            f"{self.max_bodies} bodies or {self.max_bytes} bytes are being handled",
            remedy="send the same body again later",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )


def joined_headers(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """Headers by lower-case name; one that stands several times has all its values (RFC 9110)."""
    joined: Headers = {}
    for name, value in headers:
        joined[name] = joined[name] + b", " + value if name in joined else value
    return joined


async def safely(answering: Awaitable[Answer]) -> tuple[str, Answer | None]:
    """The slug of what went wrong, or "", and the answer; None when nobody waits for one."""
    try:
        return "", await answering
    except ClientGone:
        return "client_gone", None
    except Problem as e:
        return e.slug, Answer.to_problem(e)
    except Exception:
        _logger.exception("a request could not be handled")
        problem = Problem(
            "internal_error",
            "the gateway failed; nothing is acknowledged",
            remedy="send the same body again later; if it fails again, report the time",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
        return problem.slug, Answer.to_problem(problem)


def check_type(headers: Headers, wanted: bytes, meaning: str) -> None:
    """Raises `Problem` for any content type but the wanted one."""
    content_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if content_type != wanted:
        raise Problem(
            "unsupported_media_type",
            f"the content type is {content_type[:100]!a}",
            remedy=f"send {wanted.decode()}: {meaning}",
        )


async def read_body(
    headers: Headers, receive: Receive, hold: Callable[[int], None], limit: int
) -> bytes:
    """The whole body as sent, at most `limit` bytes. Raises `Problem`, `ClientGone`."""
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
                    raise ClientGone
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
        remedy="send it in several bodies",
    )


def check_route(routes: Mapping[str, str], method: str, path: str) -> None:
    """Raises `Problem` for a path that is not among the routes, and for another method than its."""
    allowed = routes.get(path)
    if allowed is None:
        raise Problem(
            "not_found", f"nothing is at {path[:200]!a}", remedy="send events to /v1/events"
        )
    if method != allowed:
        raise Problem(
            "method_not_allowed",
            f"{method} is not allowed at {path}",
            remedy=f"use {allowed}",
            headers=((b"allow", allowed.encode()),),
        )


def is_zstd(headers: Headers) -> bool:
    """Whether the body is zstd. Raises `Problem` for any other encoding."""
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in {b"identity", b"zstd"}:
        raise Problem(
            "unsupported_encoding",
            f"the content encoding is {encoding[:100]!a}",
            remedy="send zstd, or no content encoding",
            headers=((b"accept-encoding", b"zstd, identity"),),
        )
    return encoding == b"zstd"
