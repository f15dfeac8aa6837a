"""The other end of a feeder's HTTP connection: the ingest contract, with answers by script.

It checks each line as the ingest-gateway does, remembers every body it was sent, and can answer
503 or 429, close the connection before or after taking a body, or hang. Not here: durability.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
import zstandard

from audit_platform.errors import EventRefused
from audit_platform.record.event import check_event
from audit_platform.record.schemas import registry

API_KEY = "a-secret-of-a-test"

#: What to do with the n-th request (from 0): None = take it; else an answer, or "close", "lose".
Script = Callable[[int], tuple[int, dict[str, str], bytes] | str | None]


@dataclass
class Gateway:
    """What was received: every body as sent, and the events of those that were taken."""

    tenant_id: str
    script: Script = lambda _: None
    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    accepted: list[dict[str, Any]] = field(default_factory=list)
    accepted_lines: list[bytes] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    refused_lines: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def take(self, body: bytes) -> bytes:
        """The receipt of a body, all lines of which are taken or refused now."""
        lines = zstandard.ZstdDecompressor().decompress(body).splitlines()
        refused = []
        for number, line in enumerate(lines, 1):
            event = check_event(line, self.tenant_id)
            try:
                registry().validate(
                    event.event_type, event.event_version, event.schema_ref, event.payload
                )
            except EventRefused as e:
                event_hash = hashlib.sha256(line).hexdigest()
                self.refused[event_hash] = e.slug
                self.refused_lines.append(line)
                refused.append(
                    {
                        "line": number,
                        "slug": e.slug,
                        "field": e.field,
                        "reason": e.reason,
                        "remedy": e.remedy,
                        "entryId": event_hash[:32],
                        "eventHash": event_hash,
                    }
                )
                continue
            self.accepted.append(orjson.loads(line))
            self.accepted_lines.append(line)
        records = [
            {
                "topic": "audit.events.v1",
                "partition": 0,
                "offset": len(self.bodies),
                "digest": hashlib.sha256(body).hexdigest()[:16],
                "count": len(lines) - len(refused),
            }
        ]
        return orjson.dumps(
            {
                "batchId": hashlib.sha256(body).hexdigest(),
                "accepted": len(lines) - len(refused),
                "refused": refused,
                "records": records,
            }
        )


@contextmanager
def running(gateway: Gateway) -> Iterator[Gateway]:
    """Serve on a free port of this machine while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            planned = gateway.script(len(gateway.bodies))
            gateway.bodies.append(body)
            gateway.headers.append(dict(self.headers.items()))
            if planned == "close":
                self.close_connection = True
                return
            if planned == "lose":
                gateway.take(body)
                self.close_connection = True
                return
            if planned is None:
                planned = (202, {}, gateway.take(body))
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
    gateway.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield gateway
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
