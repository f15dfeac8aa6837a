"""What a stack keeps on disk about itself: its lock, its shape, one record a running server.

    <home>/stack.json      size, base port, servers, bounded volumes, owner
    <home>/stack.lock      held by whoever changes the stack
    <home>/run/<name>.json the server's process and whether it has answered
    <home>/logs/<name>.log its output; <name>.log.1 what stood there before
    <home>/<name>/         the server's own

Belongs here: these files. Does not: processes (`children.py`), what is done with them
(`supervision.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from audit_platform.errors import StackError
from audit_platform.stack.children import Identity
from audit_platform.stack.model import Place, Tell

#: The name under which the stack's keeper has its record.
KEEPER: Final = "keeper"

#: Bytes at a log's end that an error shows. Twenty lines or so: what a person reads.
TAIL_BYTES: Final = 3_000


@dataclass(frozen=True, slots=True)
class Shape:
    """What a stack is made of: each server that was asked for, with those that it needs.

    `volumes` are bounded data volumes, in MiB. With an `owner`, the stack lives as long as it.
    """

    size: str
    base_port: int
    faults: bool = False
    tls: bool = False
    servers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    volumes: Mapping[str, int] = field(default_factory=dict)
    owner: Identity | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """The record of one server. `ready` since it answered and was settled."""

    who: Identity
    ready: bool = False


def log_of(home: Path, name: str) -> Path:
    """The log of a server."""
    return home / "logs" / f"{name}.log"


def tail(home: Path, name: str, limit: int = TAIL_BYTES) -> str:
    """The last whole lines of a log, at most so many bytes; "" without one."""
    try:
        with log_of(home, name).open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - limit))
            text = log.read()
    except FileNotFoundError:
        return ""
    if size > limit:
        text = text[text.find(b"\n") + 1 :]
    return text.decode(errors="replace").rstrip()


def read_shape(home: Path) -> Shape | None:
    """None where no stack is. Raises `StackError` for a file that is not ours."""
    found = _read(home / "stack.json")
    if found is None:
        return None
    try:
        owner = found.pop("owner")
        return Shape(
            **{**found, "servers": {n: tuple(needs) for n, needs in found["servers"].items()}},
            owner=None if owner is None else Identity(**owner),
        )
    except (AttributeError, KeyError, TypeError) as e:
        raise StackError(
            f"{home / 'stack.json'} is not a stack's file: {e}",
            remedy="choose another --home, or move the folder away",
        ) from e


def write_shape(home: Path, shape: Shape) -> None:
    """Replace it, whole or not at all."""
    _write(home / "stack.json", asdict(shape))


def read_running(home: Path, name: str) -> Running | None:
    """The record of a server; None when it was not started, or was put down."""
    found = _read(home / "run" / f"{name}.json")
    if found is None:
        return None
    try:
        return Running(who=Identity(**found["who"]), ready=bool(found["ready"]))
    except (KeyError, TypeError):
        return None  # torn by a power cut: the process is then known by its mark alone


def write_running(home: Path, name: str, running: Running) -> None:
    """Replace it, whole or not at all."""
    (home / "run").mkdir(exist_ok=True)
    _write(home / "run" / f"{name}.json", asdict(running))


def forget_running(home: Path, name: str) -> None:
    """The server is down."""
    (home / "run" / f"{name}.json").unlink(missing_ok=True)


def set_ready(home: Path, name: str) -> None:
    """It has answered and is settled."""
    running = read_running(home, name)
    if running is not None:
        write_running(home, name, replace(running, ready=True))


def started_servers(home: Path) -> list[str]:
    """Names of the servers that have a record, dead ones too."""
    with contextlib.suppress(FileNotFoundError):
        names = (p.stem for p in (home / "run").iterdir() if p.suffix == ".json")
        return sorted(name for name in names if name != KEEPER and not name.startswith("."))
    return []


@contextmanager
def locked(home: Path, tell: Tell) -> Iterator[None]:
    """The stack is ours alone meanwhile. Says so when it must wait for another."""
    told = False
    while True:
        home.mkdir(parents=True, exist_ok=True)
        handle = os.open(home / "stack.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    tell(f"waiting for another command that changes the stack in {home}")
                    told = True
                fcntl.flock(handle, fcntl.LOCK_EX)
            if _still_there(handle, home / "stack.lock"):
                yield
                return
        finally:
            os.close(handle)


def _still_there(handle: int, path: Path) -> bool:
    """Whether the locked file is the one of that name: a `wipe` may have taken it away."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(handle)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def claim(place: Place, wanted: Shape) -> Shape:
    """Make the place this stack's, or go on with what is there; returns the whole shape.

    Raises `StackError` when another shape lies there.
    """
    there = read_shape(place.home)
    if there is not None and _kind(there) != _kind(wanted):
        raise StackError(
            f"{place.home} holds a stack of {_kind(there)}, not of {_kind(wanted)}",
            remedy="audit-platform stack wipe, or choose another --home",
        )
    if there is not None:
        wanted = replace(
            wanted,
            servers={**there.servers, **wanted.servers},
            volumes={**there.volumes, **wanted.volumes},
            owner=wanted.owner or there.owner,
        )
    for name in ("run", "logs"):
        (place.home / name).mkdir(exist_ok=True)
    write_shape(place.home, wanted)
    return wanted


def _kind(shape: Shape) -> str:
    """What cannot be changed once a stack is there, in words."""
    proxy = ", with a fault proxy" if shape.faults else ""
    tls = ", with TLS" if shape.tls else ""
    return f"size {shape.size} at port {shape.base_port}{proxy}{tls}"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None


def _write(path: Path, value: Mapping[str, object]) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(value, indent=1) + "\n")
    fresh.replace(path)
