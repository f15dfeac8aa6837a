"""The demo's processes: started in sessions of their own, watched, and none left behind.

A child dies with the demo (`PR_SET_PDEATHSIG`), whatever kills the demo; what its children's
children may still do then is ended by the next run, which finds them by the list on disk and by
`AUDIT_HOME` in their environment. Belongs here: start, stop, logs, stale processes, free ports.
Does not: which programs these are (`story.py`).
Source: Linux prctl(2), proc(5), credentials(7).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from audit_platform.demo.home import DemoStopped
from audit_platform.settings_forms import FIRST_LENT_PORT

#: A log that grows beyond this is put aside once as `<name>.log.1`, and begins anew.
MAX_LOG_BYTES: Final = 4 * 1024 * 1024

#: Lines of a log that an error shows.
SHOWN_LINES: Final = 8

#: What ends in order does so within a second or two; the gateway gives bodies in hand 15 s.
STOP_SECONDS: Final = 20.0

#: A killed process is gone at once unless it hangs in the kernel.
KILL_SECONDS: Final = 5.0

_LOOK_SECONDS: Final = 0.05
_PR_SET_PDEATHSIG: Final = 1
_PROC: Final = Path("/proc")
_libc: Final = ctypes.CDLL(None)


@dataclass(slots=True)
class Child:
    """One process. `leads` is its pid, which is also the id of its session."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def leads(self) -> int:
        """Id of the session."""
        return self.process.pid

    def ended(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self.process.poll()

    def failure(self, what: str) -> DemoStopped:
        """An error that shows the end of its log."""
        lines = self.log.read_text("utf-8", "replace").splitlines()[-SHOWN_LINES:]
        said = "".join(f"\n    {line[:200]}" for line in lines)
        return DemoStopped(f"{self.name} {what}; it said:{said}", remedy=f"read {self.log}")


class Children:
    """All processes of one run of the demo."""

    def __init__(self, logs: Path, listed: Path, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self._listed = listed
        self._environment = dict(environment)
        self._children: list[Child] = []
        logs.mkdir(parents=True, exist_ok=True)

    def start(
        self,
        name: str,
        command: Sequence[str],
        output: Path | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a program; what it says goes to its log, its output to `output` where given.

        `more` is added to its environment.
        """
        log = self._logs / f"{name}.log"
        # Appended to, so that a log which is cut goes on at its new end.
        with (
            log.open("wb") as emptied,
            log.open("ab") as said,
            (output or log).open("wb" if output else "ab") as written,
        ):
            emptied.truncate()
            process = subprocess.Popen(  # noqa: S603 - our own programs, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=said,
                env={**self._environment, **(more or {})},
                start_new_session=True,
                preexec_fn=_in_child,  # noqa: PLW1509 - the demo has one thread
            )
        child = Child(name, process, log)
        self._children.append(child)
        self._listed.write_bytes(orjson.dumps([c.leads for c in self._children]))
        return child

    def cap_logs(self) -> None:
        """Put a log that grew too long aside. A line written just then may be lost."""
        for child in self._children:
            if child.log.stat().st_size > MAX_LOG_BYTES:
                shutil.copyfile(child.log, child.log.with_suffix(".log.1"))
                os.truncate(child.log, 0)

    def stop(self) -> None:
        """End all children and all that they started; none is left on return.

        Raises `DemoStopped` naming what would not die.
        """
        leaders = [c.leads for c in self._children]
        _signal(members(leaders), signal.SIGTERM)
        self._wait(leaders, STOP_SECONDS)
        _signal(members(leaders), signal.SIGKILL)
        self._wait(leaders, KILL_SECONDS)
        left = members(leaders)
        if left:
            raise DemoStopped(f"processes that would not end: {left}", remedy="end them by hand")
        self._children = []
        self._listed.unlink(missing_ok=True)

    def _wait(self, leaders: Sequence[int], seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            running = [c for c in self._children if c.ended() is None]
            if not running and not members(leaders):
                return
            time.sleep(_LOOK_SECONDS)


def _in_child() -> None:
    # A demo that was started in a script's background ignores SIGINT, and Dagster's code server
    # stops by it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it ended by itself
            os.kill(pid, number)


def members(leaders: Sequence[int], environment: bytes = b"") -> list[int]:
    """Living processes of these sessions (with this text in their environment)."""
    wanted = set(leaders)
    found = []
    for folder in _PROC.iterdir() if wanted else []:
        if not folder.name.isdigit():
            continue
        try:
            # pid (name) state parent group session ...: the name may hold anything.
            state, _, _, session = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:4]
            if int(session) not in wanted or state in {b"Z", b"X"}:
                continue
            if environment in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # it ended just now, or is somebody else's
    return found


def end_stale(listed: Path, home: Path) -> int:
    """End what a killed demo of this home left running; returns how many processes that were.

    A number on the list that now belongs to somebody else's process is left alone: ours have this
    home in their environment.
    """
    try:
        leaders = [int(pid) for pid in orjson.loads(listed.read_bytes())]
    except FileNotFoundError:
        return 0
    except (ValueError, TypeError):
        leaders = []  # torn when the demo was killed; its children died with it
    mark = f"AUDIT_HOME={home}\0".encode()
    stale = members(leaders, mark)
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS / 4), (signal.SIGKILL, KILL_SECONDS)):
        _signal(members(leaders, mark), number)
        until = time.monotonic() + seconds
        while members(leaders, mark) and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
    listed.unlink()
    return len(stale)


def free_port(wanted: int, taken: Sequence[int] = ()) -> int:
    """`wanted`, or the next port that nobody has; below those that the system lends out.

    Raises `DemoStopped` when there is none.
    """
    for port in range(wanted, FIRST_LENT_PORT):
        if port in taken:
            continue
        with socket.socket() as tried:
            # As servers do: a port whose last connections are still winding down is free.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise DemoStopped(f"no port from {wanted} on is free", remedy="stop what holds them")
