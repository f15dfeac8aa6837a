"""The processes of a stack: who one is, who belongs to it, how it is signalled and ended.

Belongs here: what `/proc` says and what the kernel does. Does not: files of a stack (`state.py`),
the order of steps (`supervision.py`). A process is named by its id and its start time, so that an
id that was given to another program since is never signalled.
Source: Linux proc(5).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit_platform.stack.model import Program

#: Stands in the environment of each process of a stack, with the folder of its server as value.
MARK: Final = "AUDIT_STACK_SERVER"

#: How long a server may take to end when asked. PostgreSQL and Kafka write their last state.
END_SECONDS: Final = 12.0

#: After this the whole family is asked, not only its head: PostgreSQL waits for its clients.
FAMILY_SECONDS: Final = 3.0

#: How long those have that outlive their head: nothing of theirs is worth waiting for.
ORPHAN_SECONDS: Final = 0.5

#: How often a process is looked at that should end.
_LOOK_SECONDS: Final = 0.03

#: States of proc(5) that mean: it does not run any more.
_GONE: Final = frozenset("ZXx")

#: What this process has started: its parent alone can let the kernel forget it.
_ours: Final[list[subprocess.Popen[bytes]]] = []


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for as long as the machine runs: `started` is in clock ticks since boot."""

    pid: int
    started: int
    boot: str


@dataclass(frozen=True, slots=True)
class _Line:
    """What is read of `/proc/<pid>/stat`."""

    state: str
    parent: int
    session: int
    started: int


def _line(pid: int) -> _Line | None:
    """None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name stands in brackets and may hold anything, brackets too.
    fields = text[text.rindex(")") + 2 :].split()
    return _Line(
        state=fields[0], parent=int(fields[1]), session=int(fields[3]), started=int(fields[19])
    )


def boot_id() -> str:
    """The kernel's name for this run of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Identity | None:
    """Who has that id now; None when nobody has."""
    line = _line(pid)
    if line is None or line.state in _GONE:
        return None
    return Identity(pid=pid, started=line.started, boot=boot_id())


def alive(who: Identity) -> bool:
    """Whether that very process still runs (or is frozen)."""
    return identify(who.pid) == who


def frozen(who: Identity) -> bool:
    """Whether that very process is stopped by a signal."""
    line = _line(who.pid)
    return line is not None and line.state == "T" and alive(who)


def group_of(user: int) -> int:
    """The main group of a user; its own number where the machine does not know the user."""
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:
        return user


def start(program: Program, *, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, in that folder, with its output in that log.

    Its environment is made anew: settings and allocator variables of ours are not its own. Raises
    `OSError` when the program is not there or may not be run.
    """
    names = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        MARK: str(folder),
        **program.environment,
    }
    down = program.user if os.geteuid() == 0 else None
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - a server's own module names the program
            program.argv,
            cwd=folder,
            env=names,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=down,
            group=None if down is None else group_of(down),
            extra_groups=None if down is None else [],
        )
    _ours.append(process)
    return process


def reap() -> None:
    """Let the kernel forget those of our own children that have ended."""
    for process in _ours:
        process.poll()


def exit_code(pid: int) -> int | None:
    """What one of our own children ended with (negative: the signal); None when not known."""
    reap()
    return next((p.returncode for p in reversed(_ours) if p.pid == pid), None)


def _processes() -> Iterator[int]:
    return (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit())


def _marked(pid: int, folder: Path) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"{MARK}={folder}".encode() in environment.split(b"\0")


def family(folder: Path, head: Identity | None) -> list[Identity]:
    """Every process of the server with that folder: its head first, and what came from it.

    Those that lost their parent are known by the mark in their environment.
    """
    parents: dict[int, int] = {}
    for pid in _processes():
        line = _line(pid)
        if line is not None and line.state not in _GONE:
            parents[pid] = line.parent
    members: set[int] = set()
    if head is not None and alive(head):
        members.add(head.pid)
    members |= {pid for pid in parents if pid not in members and _marked(pid, folder)}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in members} - members
        members |= more
        grown = bool(more)
    members.discard(os.getpid())
    first = head.pid if head is not None else 0
    found = (identify(pid) for pid in sorted(members, key=lambda pid: (pid != first, pid)))
    return [who for who in found if who is not None]


def send(who: Identity, number: signal.Signals) -> None:
    """Signal that very process; nothing happens when it is gone."""
    if alive(who):
        with contextlib.suppress(ProcessLookupError):
            os.kill(who.pid, number)


def kill(folder: Path, head: Identity | None) -> None:
    """SIGKILL to the whole family; on return nothing of it runs. For faults and for the end."""
    _until_gone(folder, head, signal.SIGKILL, END_SECONDS)


def freeze(folder: Path, head: Identity | None) -> None:
    """SIGSTOP to the whole family, head first: what it starts meanwhile is found in a second look.

    The kernel stops a process before the call returns to us or soon after; the head's state is
    waited for.
    """
    for _ in range(2):
        for who in family(folder, head):
            send(who, signal.SIGSTOP)
    deadline = time.monotonic() + END_SECONDS
    while head is not None and alive(head) and not frozen(head) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)


def thaw(folder: Path, head: Identity | None) -> None:
    """SIGCONT to the whole family, its head last."""
    for who in reversed(family(folder, head)):
        send(who, signal.SIGCONT)


def end(folder: Path, head: Identity | None) -> None:
    """Ask the head to end, then the family, then end it; on return nothing of it runs."""
    if head is not None and alive(head):
        send(head, signal.SIGTERM)
        send(head, signal.SIGCONT)  # a frozen one would never hear it
        began = time.monotonic()
        told = False
        while alive(head) and time.monotonic() < began + END_SECONDS:
            if not told and time.monotonic() > began + FAMILY_SECONDS:
                told = True
                for who in family(folder, head):
                    send(who, signal.SIGTERM)
                    send(who, signal.SIGCONT)
            time.sleep(_LOOK_SECONDS)
            reap()
    if not _until_gone(folder, head, signal.SIGTERM, ORPHAN_SECONDS):
        kill(folder, head)


def _until_gone(
    folder: Path, head: Identity | None, number: signal.Signals, seconds: float
) -> bool:
    """Signal the family until it is gone or the time is up; each member hears it once."""
    told: set[Identity] = set()
    deadline = time.monotonic() + seconds
    while members := family(folder, head):
        reap()
        for who in members:
            if who not in told:
                send(who, number)
                send(who, signal.SIGCONT)
                told.add(who)
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def end_helpers() -> None:
    """Kill what this process has started in its own session, and what is below that.

    For the way out: a build or a download that nobody waits for any more. Servers are safe: each
    has a session of its own.
    """
    session = os.getsid(0)
    me = os.getpid()
    for pid in _processes():
        line = _line(pid)
        if line is not None and line.parent == me and line.session == session:
            _kill_below(pid)


def _kill_below(pid: int) -> None:
    below = [p for p in _processes() if (line := _line(p)) is not None and line.parent == pid]
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for child in below:
        _kill_below(child)


def memory_bytes(members: list[Identity]) -> int:
    """Memory that these processes hold: what they share is counted once in all of them."""
    return sum(_memory(who.pid) for who in members)


def _memory(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # another user's process, or gone
    return 0
