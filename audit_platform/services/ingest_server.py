"""The HTTP server of ingest-gateway: uvicorn with limits that it does not have itself.

Belongs here: the socket, the bounds on what a connection may send or leave unsent, start and stop.
Does not: routes and answers (`ingest_gateway.py`).
Source: RFC 9112 (HTTP/1.1); measured server choice: uvicorn, plain ASGI, uvloop, httptools.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from http import HTTPStatus
from typing import Any, Final

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from audit_platform.errors import SettingInvalid
from audit_platform.services.ingest_problems import PROBLEM_CONTENT_TYPE, Problem

#: Bytes of a request that are no body: request line, headers, chunk sizes, trailers. Ours are
#: about 300 B; without a bound one endless header would fill the memory.
MAX_OVERHEAD_BYTES: Final = 64 * 1024

#: A chunked body may cost this many bytes of framing for each byte of body (a chunk of one byte
#: costs 5 beside it).
MAX_FRAMING_RATIO: Final = 8

#: A connection that owes us bytes and sends none for this long is closed. Edges that send now and
#: then open a new one; longer than any pause inside a body that a radio link makes.
IDLE_SECONDS: Final = 60.0

#: After a refused request the connection is still read, and thrown away, for this long: closing it
#: with unread bytes would make the kernel take our answer back.
LINGER_SECONDS: Final = 2.0

#: How long a stop waits for bodies that are being handled: longer than an append may take.
STOP_SECONDS: Final = 15

#: Connections that the kernel may hold until we take them.
BACKLOG: Final = 1024


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with bounds on overhead bytes and on silence."""

    _heard = 0  # bytes of the current request, about
    _body = 0  # those of them that are body
    _lingering = False
    _last_heard = 0.0
    _watcher: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Start to watch for silence."""
        super().connection_made(transport)
        self._last_heard = self.loop.time()
        self._watcher = self.loop.call_later(IDLE_SECONDS, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.cancel()
        super().connection_lost(exc)

    def _is_handling(self) -> bool:
        """Whether a whole request is here and waits for its answer."""
        cycle: RequestResponseCycle | None = self.cycle  # None until the first request
        return cycle is not None and not cycle.response_complete and not cycle.more_body

    def _watch(self) -> None:
        silent = self.loop.time() - self._last_heard
        handling = self._is_handling()
        if silent >= IDLE_SECONDS and not handling:
            self.transport.abort()
            return
        wait = IDLE_SECONDS if handling else IDLE_SECONDS - silent
        self._watcher = self.loop.call_later(wait, self._watch)

    def data_received(self, data: bytes) -> None:
        """Parse, unless the request already is mostly overhead."""
        if self._lingering:
            return
        self._last_heard = self.loop.time()
        self._heard += len(data)
        super().data_received(data)
        self._check_overhead()

    def _check_overhead(self) -> None:
        overhead = self._heard - self._body
        too_much = overhead > MAX_OVERHEAD_BYTES + MAX_FRAMING_RATIO * self._body
        if too_much and not self._lingering:
            self._refuse(
                Problem(
                    "overhead_too_large",
                    f"headers and framing have more than {MAX_OVERHEAD_BYTES} bytes",
                    remedy="send fewer headers and larger chunks",
                )
            )

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP: the same form as every other answer."""
        self._refuse(Problem("bad_http", msg, remedy="send HTTP/1.1"))

    def _refuse(self, problem: Problem) -> None:
        """Answer and end: what follows on this connection cannot be told apart any more."""
        self.logger.warning("ending a connection: %s: %s", problem.slug, problem.detail)
        self._lingering = True
        if self._is_handling():
            # The body before the garbage gets its own answer, then the connection closes.
            self.cycle.keep_alive = False
            self.pipeline.clear()
            return
        content = problem.to_bytes()
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b"
            % (
                problem.status,
                HTTPStatus(problem.status).phrase.encode(),
                PROBLEM_CONTENT_TYPE,
                len(content),
                content,
            )
        )
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def on_message_begin(self) -> None:
        """Count anew. What is left of this piece of data is not counted: it is bounded."""
        self._heard = self._body = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """Count what is body."""
        self._body += len(body)
        super().on_body(body)


class Server(uvicorn.Server):
    """uvicorn's server; a stop signal ends `serve` in order instead of ending the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """As uvicorn's, without raising the signal again: the caller closes the platform."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def listen(host: str, port: int, *, setting: str = "AUDIT_INGEST_PORT") -> socket.socket:
    """A bound socket. Raises `SettingInvalid` naming the setting when it cannot be had."""
    try:
        return socket.create_server((host, port), backlog=BACKLOG)
    except OSError as e:
        raise SettingInvalid(
            setting, f"{host}:{port}", f"an address that is free here ({e.strerror})"
        ) from e


def make_server(app: Any) -> Server:
    """A server for an ASGI app: run it by `serve`, stop it by `should_exit = True`."""
    return Server(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            loop="uvloop",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,  # the application's, by the wall-clock port
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=int(IDLE_SECONDS),
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )


def serve(server: Server, sock: socket.socket) -> None:
    """Serve until SIGTERM, SIGINT or `server.should_exit`; bodies in hand are finished first."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve(sockets=[sock]))
