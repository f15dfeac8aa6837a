"""The program of the webhook receiver: each message that is POSTed becomes a JSON line in a file.

Needs nothing but Python: a container runs this file by itself (`deploy/compose.yaml`). Belongs
here: taking and keeping; and, since a stack has no kubelet, how full its bounded volumes are, by
the kubelet's own names on `GET /metrics`. Does not: how it is started and read (`webhook.py`).
Source: Alertmanager, "webhook_config", version 4 of its message.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

#: A notification of a hundred alerts has 100 kB.
MAX_BYTES: Final = 4 << 20


class Receiver(ThreadingHTTPServer):
    """Keeps messages in the file `kept`, one JSON line each."""

    daemon_threads = True

    def __init__(self, host: str, port: int, kept: Path, volumes: Path | None = None) -> None:
        super().__init__((host, port), _Handler)
        self.volumes = volumes
        self._file = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def keep(self, line: bytes) -> None:
        """One write a line: lines of two threads never mix. On return a reader sees it."""
        os.write(self._file, line)

    def server_close(self) -> None:
        """Stop listening and close the file."""
        super().server_close()
        os.close(self._file)


def fullness(home: Path) -> bytes:
    """How full each volume is that is mounted in `home`, in Prometheus text."""
    rows = []
    for folder in sorted(home.iterdir()):
        if folder.is_mount():
            found = os.statvfs(folder)
            sizes = {
                "capacity": found.f_blocks,
                "available": found.f_bavail,
                "used": found.f_blocks - found.f_bfree,
            }
            label = f'persistentvolumeclaim="{folder.name}"'
            rows += [
                f"kubelet_volume_stats_{name}_bytes{{{label}}} {blocks * found.f_frsize}\n"
                for name, blocks in sizes.items()
            ]
    return "".join(["# Bounded volumes of the stack.\n", *rows]).encode()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    timeout = 10  # a sender that stops in the middle holds one thread so long

    def do_GET(self) -> None:
        found = self.server.volumes if self.path == "/metrics" else None
        self._answer(200, fullness(found) if found else b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()) or int(length) > MAX_BYTES:
            self._answer(413)
            return
        try:
            message = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError, OSError):
            self._answer(400)
            return
        if not isinstance(message, dict):
            self._answer(400)
            return
        self.server.keep(json.dumps(message).encode() + b"\n")
        self._answer(200)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        if body:
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Requests are in the file already."""


if __name__ == "__main__":
    Receiver(sys.argv[1], int(sys.argv[2]), *map(Path, sys.argv[3:])).serve_forever()
