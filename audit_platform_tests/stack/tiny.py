"""Servers of a few lines of Python, for tests of what treats all servers alike.

Each is a real process that listens on a real port. Belongs here: their form. Does not: any test.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from audit_platform.stack.model import HOST, Place, Program, Tell

#: Answers `<name>` to every connection.
ANSWERING = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
while True:
    taken, _ = listener.accept()
    taken.sendall(sys.argv[2].encode())
    taken.close()
"""

#: The same, with a child that ignores polite words, in a session of its own.
WITH_A_CHILD = (
    """
import subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c",
     "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('child', flush=True);"
     "signal.pause()"],
    start_new_session=True,
)
"""
    + ANSWERING
)

ENDING = "import sys; print('the volume is not formatted'); sys.exit(3)"

SILENT = "import signal; print('thinking', flush=True); signal.pause()"

CHATTY = (
    """
import sys
for _ in range(20000):
    sys.stdout.write("x" * 99 + "\\n")
sys.stdout.flush()
"""
    + ANSWERING
)


@dataclass
class Tiny:
    """A `model.Server`. Its port is at `offset` from the place's base; it keeps what was done."""

    name: str
    offset: int
    code: str = ANSWERING
    needs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    fetching: Callable[[Path], None] = lambda _: None
    done: list[str] = field(default_factory=list)

    def fetch(self, cache: Path, tell: Tell) -> None:
        self.done.append("fetch")
        self.fetching(cache)
        tell("fetched")

    def prepare(self, place: Place) -> None:
        self.done.append("prepare")
        (place.folder(self.name) / "data").mkdir(exist_ok=True)

    def program(self, place: Place) -> Program:
        port = str(place.base_port + self.offset)
        return Program(argv=(sys.executable, "-u", "-c", self.code, port, self.name))

    def missing(self, place: Place) -> str:
        said = ask(place.base_port + self.offset)
        return "" if said == self.name else f"it says {said!r}"

    def settle(self, place: Place) -> None:  # noqa: ARG002 - the form's argument
        self.done.append("settle")

    def settings(self, place: Place) -> dict[str, str]:
        return {f"AUDIT_{self.name.upper()}": f"{HOST}:{place.base_port + self.offset}"}


def ask(port: int) -> str:
    """What is said on that port; "" when nobody says anything within half a second."""
    try:
        with socket.create_connection((HOST, port), timeout=0.5) as connection:
            return connection.recv(100).decode()
    except OSError:
        return ""
