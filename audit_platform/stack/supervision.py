"""A stack goes up, is looked at, is broken on purpose, and goes down without a trace.

Belongs here: the order of steps for any servers of the form `model.Server`. Does not: which servers
there are (`registry.py`), what `/proc` says (`children.py`), files (`state.py`), words for a person
(`commands/stack.py`).

Every step may be repeated: `up` starts what does not run and leaves alone what answers; `down` ends
what is there. One command at a time changes a stack (`state.locked`).
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit_platform.errors import StackError
from audit_platform.stack import authority, children, keeper, packages, state, volumes
from audit_platform.stack.children import Identity
from audit_platform.stack.model import PORTS, Place, Server, Tell
from audit_platform.stack.starting import START_SECONDS, Starting

#: How often the threads of an `up` that was given up are looked at.
_LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Status:
    """One server as it is now.

    `state` is `up`, `starting`, `frozen`, `dead` (it has ended by itself or was killed), `down`, or
    `silent` (it runs, but cannot work); `detail` then says what is not so. Port 0: it has none.
    """

    name: str
    state: str
    detail: str
    pid: int
    port: int
    memory_bytes: int
    log: Path


def up(
    place: Place,
    servers: Sequence[Server],
    *,
    tell: Tell,
    bounded: Mapping[str, int] | None = None,
    owner: Identity | None = None,
    seconds: float = START_SECONDS,
) -> None:
    """Have all these servers answer: fetched, started where they do not run, settled.

    `bounded` names servers whose data lie on a volume of so many MiB. A stack with an `owner` is
    wiped when that process is gone. A server may take `seconds` to answer once started.

    Raises `StackError` for each server that could not be had; the others run then. When it is
    interrupted (Ctrl-C), what it has started is ended again.
    """
    shape = state.Shape(
        size=place.size,
        base_port=place.base_port,
        faults=place.faults,
        tls=place.tls,
        servers={server.name: tuple(server.needs) for server in servers},
        volumes=dict(bounded or {}),
        owner=owner,
    )
    with state.locked(place.home, tell):
        shape = state.claim(place, shape)
        keeper.ensure(place.home)
        starting = Starting(place, shape.volumes, tell, seconds)
        try:
            _start_all(starting, servers)
        except BaseException:
            for name in starting.started:
                _end(place.home, name)
            _close(place.home)
            raise
        _raise_failures(starting.failures)


def _start_all(starting: Starting, servers: Sequence[Server]) -> None:
    """A thread a server: most of its time is waiting. Ends early only by an interrupt."""
    names = {server.name for server in servers}
    done = {name: threading.Event() for name in names}

    def one(server: Server) -> None:
        try:
            starting.run(server, {need: done[need] for need in server.needs if need in names})
        finally:
            done[server.name].set()

    pool = ThreadPoolExecutor(max_workers=max(1, len(servers)), thread_name_prefix="stack")
    waiting: set[Future[None]] = set()
    try:
        waiting = {pool.submit(one, server) for server in servers}
        while waiting:
            # Not one long wait: a signal is heard between two.
            finished, waiting = wait(waiting, _LOOK_SECONDS, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
    except BaseException:
        starting.stop.set()
        while waiting:
            children.end_helpers()
            _, waiting = wait(waiting, _LOOK_SECONDS)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _raise_failures(failures: Mapping[str, StackError]) -> None:
    if not failures:
        return
    if len(failures) == 1:
        raise next(iter(failures.values()))
    remedies = dict.fromkeys(e.remedy for e in failures.values() if e.remedy)
    raise StackError("\n".join(e.reason for e in failures.values()), remedy="; ".join(remedies))


def fetch(servers: Sequence[Server], cache: Path, *, tell: Tell) -> None:
    """Have all packages and programs that these servers need. Nothing is started.

    Raises `StackError` for those that could not be had, after all others were.
    """
    failures: dict[str, StackError] = {}
    for server in servers:
        try:
            packages.require(server.name, server.packages, tell)
            server.fetch(cache, tell)
        except StackError as e:
            failures[server.name] = e
    _raise_failures(failures)


def down(home: Path, *, tell: Tell) -> None:
    """End every server of the stack; on return no process, mount or port of it is left.

    Data and logs stay, except on bounded volumes. Nothing happens where no stack is. Raises
    `StackError` for each server that could not be ended, after all others were.
    """
    failures: dict[str, StackError] = {}

    def end(name: str) -> None:
        try:
            _end(home, name)
        except StackError as e:
            failures[name] = e

    if not home.exists():
        return
    with state.locked(home, tell):
        shape = state.read_shape(home)
        if shape is None:
            return
        left = {**dict.fromkeys(state.started_servers(home), ()), **shape.servers}
        while left:
            needed = {need for needs in left.values() for need in needs}
            wave = [name for name in left if name not in needed] or list(left)
            _each(wave, end)
            for name in wave:
                del left[name]
        _close(home)
    _raise_failures(failures)


def wipe(home: Path, *, tell: Tell) -> None:
    """Put the stack down and forget its data and logs. Programs stay in the cache.

    Raises `StackError` for a folder that holds no stack: nothing is deleted then.
    """
    down(home, tell=tell)
    if not home.exists():
        return
    with state.locked(home, tell):
        if state.read_shape(home) is None and any(p.name != "stack.lock" for p in home.iterdir()):
            raise StackError(
                f"{home} holds no stack, but other things", remedy="delete it by hand, or --home"
            )
        shutil.rmtree(home)


def status(home: Path, servers: Mapping[str, Server], place: Place | None) -> list[Status]:
    """Every server that the stack was asked for, in the order of its names' start.

    Those in `servers` are also asked whether they can work (at most 2 s each, at the same time).
    """
    shape = state.read_shape(home)
    if shape is None:
        return []
    found: dict[str, Status] = {}

    def look(name: str) -> None:
        found[name] = _look(home, name, shape.base_port, servers.get(name), place)

    _each(shape.servers, look)
    return [found[name] for name in shape.servers]


def _look(
    home: Path, name: str, base_port: int, server: Server | None, place: Place | None
) -> Status:
    running = state.read_running(home, name)
    now, detail, pid = "down", "", 0
    members: list[Identity] = []
    if running is not None:
        members = children.family(home / name, running.who)
        now, pid = "dead", running.who.pid
        if children.frozen(running.who):
            now = "frozen"
        elif children.alive(running.who):
            now = "up" if running.ready else "starting"
            if server is not None and place is not None:
                detail = server.missing(place)
                if detail and running.ready:
                    now = "silent"
    return Status(
        name=name,
        state=now,
        detail=detail,
        pid=pid if now not in {"down", "dead"} else 0,
        port=base_port + PORTS[name] if name in PORTS else 0,
        memory_bytes=children.memory_bytes(members),
        log=state.log_of(home, name),
    )


def rotate(place: Place, servers: Mapping[str, Server], *, tell: Tell) -> list[str]:
    """A new certificate for each running server that has one; each is restarted with it.

    Returns their names. The others run meanwhile. Raises `StackError` for a stack without TLS, and
    for a server that does not come back: those after it keep theirs.
    """
    if not place.tls:
        raise StackError(
            f"the stack in {place.home} has no TLS",
            remedy="audit-platform stack up --tls, in another --home",
        )
    with state.locked(place.home, tell):
        names = [name for name in state.started_servers(place.home) if name in servers]
        with_one = [n for n in names if authority.certificate_of(place, n).certificate.exists()]
    for name in with_one:
        with state.locked(place.home, tell):
            authority.issue(place, name)
            _end(place.home, name)
        up(place, [servers[name]], tell=tell)
    return with_one


# ------------------------------------------------------------------------------------------ faults


def kill(home: Path, name: str) -> None:
    """SIGKILL. On return nothing of the server runs; its record stays, so `status` says dead."""
    children.kill(home / name, _running(home, name))


def freeze(home: Path, name: str) -> None:
    """SIGSTOP: its port still takes connections, and nobody answers."""
    children.freeze(home / name, _running(home, name))


def thaw(home: Path, name: str) -> None:
    """SIGCONT after `freeze`."""
    children.thaw(home / name, _running(home, name))


def _running(home: Path, name: str) -> Identity:
    known(home, name)
    running = state.read_running(home, name)
    if running is None or not children.alive(running.who):
        raise StackError(f"{name} does not run", remedy=f"audit-platform stack start {name}")
    return running.who


def known(home: Path, name: str) -> state.Shape:
    """The stack's shape, when it has a server of that name. Raises `StackError` otherwise."""
    shape = state.read_shape(home)
    if shape is None:
        raise StackError(f"no stack in {home}", remedy="audit-platform stack up, or --home")
    if name not in shape.servers:
        raise StackError(
            f"the stack in {home} has no server {name}",
            remedy=f"it has {' '.join(shape.servers)}",
        )
    return shape


# -------------------------------------------------------------------------------------------- ends


def _end(home: Path, name: str) -> None:
    running = state.read_running(home, name)
    children.end(home / name, None if running is None else running.who)
    volumes.unmount(home / name)
    state.forget_running(home, name)


def _close(home: Path) -> None:
    """With its last server the keeper goes."""
    if not state.started_servers(home):
        keeper.dismiss(home)


def _each(names: Iterable[str], act: Callable[[str], None]) -> None:
    """For all at once; raises what the first that failed has raised, after all are done."""
    every = list(names)
    with ThreadPoolExecutor(max_workers=max(1, len(every))) as pool:
        for future in [pool.submit(act, name) for name in every]:
            future.result()
