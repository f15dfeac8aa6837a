"""The other end of the devices' HTTP connection: an edge's contract, with answers by script.

It remembers every body it was sent and every event it took, and can answer 503 or 429, close the
connection before or after taking a body, or hang. Not here: chains, durability.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
import zstandard

#: What to do with the n-th request (from 0): None = take it; else an answer, or "close", "lose".
Script = Callable[[int], tuple[int, dict[str, str], bytes] | str | None]


@dataclass
class Edge:
    """What was received: every body as sent, and the events that were taken, once each."""

    script: Script = lambda _: None
    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    seen: set[tuple[str, int]] = field(default_factory=set)

    def take(self, body: bytes) -> bytes:
        """The answer to a body, all events of which are taken now, or were before."""
        events = [orjson.loads(line) for line in zstandard.decompress(body).splitlines()]
        lines = []
        for number, event in enumerate(events, 1):
            place = (event["deviceId"], event["sequenceNumber"])
            if place in self.seen:
                lines.append({"line": number, "outcome": "already_taken"})
                continue
            self.seen.add(place)
            self.events.append(event)
        return orjson.dumps(
            {
                "accepted": len(events) - len(lines),
                "alreadyTaken": len(lines),
                "conflicts": 0,
                "refused": 0,
                "lines": lines,
                "quarantine": None,
            }
        )


@contextmanager
def running(edge: Edge) -> Iterator[Edge]:
    """Serve on a free port of this machine while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            planned = edge.script(len(edge.bodies))
            edge.bodies.append(body)
            edge.headers.append(dict(self.headers.items()))
            if planned == "close":
                self.close_connection = True
                return
            if planned == "lose":
                edge.take(body)
                self.close_connection = True
                return
            if planned is None:
                planned = (202, {}, edge.take(body))
            assert not isinstance(planned, str)
            status, headers, answer = planned
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # the base's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    edge.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield edge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
