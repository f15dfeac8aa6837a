"""How one server is started: had, prepared, run, asked until it answers, settled.

Belongs here: the steps for one server, and what to say when one fails. Does not: what starts them
at the same time and what ends them (`supervision.py`).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from audit_platform.errors import StackError
from audit_platform.stack import children, packages, state, volumes
from audit_platform.stack.children import Identity
from audit_platform.stack.model import HOST, PORTS, Place, Server, Tell

#: How long a server may take until it answers. Three OpenSearch nodes form in 22 s on two busy
#: cores; a machine five times slower is still served.
START_SECONDS: Final = 150.0

#: How often a server is asked. A small one answers within the first look or two.
_ASK_SECONDS: Final = 0.1

#: Programs that are fetched or built at the same time. A Go build takes every core by itself.
_FETCHES: Final = 2


class _Stopped(Exception):
    """The `up` was given up meanwhile."""


class Starting:
    """One `up`. `started` are the servers that it has started, `failures` those it could not."""

    def __init__(
        self, place: Place, bounded: Mapping[str, int], tell: Tell, seconds: float
    ) -> None:
        self.stop = threading.Event()
        self.started: list[str] = []
        self.failures: dict[str, StackError] = {}
        self._place = place
        self._bounded = bounded
        self._tell = tell
        self._seconds = seconds
        self._fetching = threading.Semaphore(_FETCHES)

    def run(self, server: Server, needs: Mapping[str, threading.Event]) -> None:
        """Have one server answer. `needs` are set when those servers are done, well or not.

        Puts a `StackError` into `failures`; anything else is a fault of ours and is raised.
        """
        began = time.monotonic()
        try:
            if self._goes_on(server):
                return
            packages.require(server.name, server.packages, self._tell)
            with self._fetching:
                self._check_stop()
                server.fetch(self._place.cache, self._tell)
            self._await_needs(server.name, needs)
            self._await_answer(server, self._start(server))
            self._tell(f"{server.name}: up after {time.monotonic() - began:.1f} s")
        except StackError as e:
            if self.stop.is_set():
                return  # we have ended its helpers ourselves
            self.failures[server.name] = e
            self._tell(f"{server.name}: FAILED: {e.reason.splitlines()[0]}")
        except _Stopped:
            pass

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise _Stopped

    def _goes_on(self, server: Server) -> bool:
        """Whether it runs already. One that has not answered yet is waited for."""
        running = state.read_running(self._place.home, server.name)
        if running is None or not children.alive(running.who):
            return False
        if children.frozen(running.who):
            raise StackError(
                f"{server.name} is frozen", remedy=f"audit-platform stack thaw {server.name}"
            )
        if not running.ready or server.missing(self._place):
            self._await_answer(server, running.who)
        self._tell(f"{server.name}: is up")
        return True

    def _await_needs(self, name: str, needs: Mapping[str, threading.Event]) -> None:
        for need, done in needs.items():
            while not done.wait(_ASK_SECONDS):
                self._check_stop()
            if need in self.failures:
                raise StackError(f"{name} was not started: it needs {need}")
        self._check_stop()

    def _start(self, server: Server) -> Identity:
        place, name = self._place, server.name
        folder = place.folder(name)
        children.kill(folder, None)  # what an earlier head may have left behind
        _refuse_taken_port(place, name)
        folder.mkdir(parents=True, exist_ok=True)
        if name in self._bounded:
            volumes.mount(folder, self._bounded[name])
        try:
            server.prepare(place)
            self._check_stop()
            program = server.program(place)
        except OSError as e:
            raise StackError(
                f"{name} cannot be prepared: {e}", remedy=f"look into {folder}, or stack wipe"
            ) from e
        if program.user is not None and os.geteuid() == 0:
            _refuse_closed_way(folder, program.user)
            _give(folder, program.user)
        log = state.log_of(place.home, name)
        try:
            process = children.start(program, folder=folder, log=log)
        except OSError as e:
            raise StackError(f"{name} cannot be started: {e}", remedy=_log_remedy(name)) from e
        who = children.identify(process.pid)
        if who is None:
            raise self._ended(name, process.pid)
        state.write_running(place.home, name, state.Running(who))
        self.started.append(name)
        return who

    def _await_answer(self, server: Server, who: Identity) -> None:
        deadline = time.monotonic() + self._seconds
        while True:
            self._check_stop()
            children.reap()
            if not children.alive(who):
                raise self._ended(server.name, who.pid)
            lacking = server.missing(self._place)
            if not lacking:
                break
            if time.monotonic() >= deadline:
                raise self._silent(server.name, who, lacking)
            self.stop.wait(_ASK_SECONDS)
        server.settle(self._place)
        state.set_ready(self._place.home, server.name)

    def _ended(self, name: str, pid: int) -> StackError:
        state.forget_running(self._place.home, name)
        children.kill(self._place.folder(name), None)
        code = children.exit_code(pid)
        how = "" if code is None else f" with code {code}"
        return StackError(
            f"{name} has ended{how} before it answered{self._last_lines(name)}",
            remedy=_log_remedy(name),
        )

    def _silent(self, name: str, who: Identity, lacking: str) -> StackError:
        children.end(self._place.folder(name), who)
        state.forget_running(self._place.home, name)
        return StackError(
            f"{name} did not answer within {self._seconds:.0f} s: {lacking}"
            f"{self._last_lines(name)}",
            remedy=_log_remedy(name),
        )

    def _last_lines(self, name: str) -> str:
        text = state.tail(self._place.home, name)
        return f"; the end of its log:\n{text}\n" if text else "; it has written no log"


def _log_remedy(name: str) -> str:
    return f"audit-platform stack logs {name} shows more; put right what it says, and `up` again"


def _refuse_taken_port(place: Place, name: str) -> None:
    if name not in PORTS:
        return
    port = place.port(name)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as e:
            raise StackError(
                f"{name} wants port {port}, which another program has",
                remedy="end that program, or choose another --base-port",
            ) from e


def _refuse_closed_way(folder: Path, user: int) -> None:
    """A server that steps down from root must be able to enter its own folder."""
    for parent in folder.resolve().parents:
        found = parent.stat()
        if not found.st_mode & 0o001 and found.st_uid != user:
            raise StackError(
                f"{folder.name} runs as user {user}, who cannot enter {parent}",
                remedy="choose a --home that others may enter, or run it without root",
            )


def _give(folder: Path, user: int) -> None:
    """Everything in the folder becomes the user's: prepare ran as root."""
    group = children.group_of(user)
    os.chown(folder, user, group)
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(Path(where) / name, user, group, follow_symlinks=False)
