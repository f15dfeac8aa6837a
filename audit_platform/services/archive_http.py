"""Health and metrics of a consumer of the log over HTTP, in a thread beside its loop.

`GET /healthz`: 200 while the loop turns, 503 when it has not for a while; JSON with what it waits
for and which partitions stand still. `GET /readyz`: the same, and 503 while there is any such:
then somebody has to look. `GET /metrics`: Prometheus text.
Belongs here: these answers. Does not: what the figures mean (`telemetry.py`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from audit_platform.errors import SettingInvalid
from audit_platform.telemetry import METRICS_CONTENT_TYPE, Telemetry

#: A client that sends nothing is let go: a probe or a scrape is one short request.
REQUEST_SECONDS: Final = 10.0

#: Facts of a consumer that say, when they are not empty, that something does not go on.
_WAITING: Final = ("waitingFor", "waiting", "stopped")


@contextmanager
def serve(
    host: str,
    port: int,
    telemetry: Telemetry,
    health: Callable[[], tuple[bool, Mapping[str, object]]],
    *,
    setting: str = "AUDIT_ARCHIVE_PORT",
) -> Iterator[int]:
    """Answer until the block is left; yields the port (another one than 0, which means any).

    `setting` names the port. `health` gives whether the loop turns and what else there is to tell.
    Raises `SettingInvalid` when the port cannot be had.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_SECONDS

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(HTTPStatus.OK, METRICS_CONTENT_TYPE, telemetry.text())
            elif self.path in ("/healthz", "/readyz"):
                good, facts = health()
                word = "ok" if good else "stuck"
                if good and self.path == "/readyz" and any(facts.get(n) for n in _WAITING):
                    good, word = False, "waiting"
                status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
                body = json.dumps({"status": word, **facts}).encode()
                self._answer(status, "application/json", body)
            else:
                self._answer(
                    HTTPStatus.NOT_FOUND, "text/plain", b"try /healthz, /readyz or /metrics\n"
                )

        def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - stdlib's name
            """Say nothing: a scrape every few seconds is no news."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as e:
        raise SettingInvalid(setting, str(port), f"a free port ({e})") from e
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="health-http", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
