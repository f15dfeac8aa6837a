"""Which servers make a small and a full stack, and where a stack lives when nobody says.

Belongs here: the list of modules for each size, and what follows from it. Does not: any server.
A server's module is loaded when a stack is asked for, not before: `--help` needs none.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from audit_platform.errors import StackError
from audit_platform.stack.model import PORT_SPAN, TLS_LINES, Place, Server

#: Modules of this package, in the order of starting. Each has `servers(size)`.
SIZES: Final[Mapping[str, tuple[str, ...]]] = {
    "small": ("kafka", "versitygw", "opensearch", "postgres", "redis", "oidc"),
    "full": (
        "toxiproxy",
        "kafka",
        "minio",
        "versitygw",
        "opensearch",
        "postgres",
        "redis",
        "oidc",
        "webhook",
        "alertmanager",
        "prometheus",
    ),
}

#: Services reach every server through it where it is, so it is started with any of them.
PROXY: Final = "toxiproxy"

#: With TLS: what speaks it for servers that cannot.
TLS_LINE: Final = "tls_line"

#: A stack that a person starts is here, below the current folder.
DEFAULT_HOME: Final = Path(".audit/stack")
DEFAULT_BASE_PORT: Final = 21_000

#: From here on Linux lends ports to outgoing connections; below 1024 only root may listen.
LAST_BASE_PORT: Final = 32_768 - PORT_SPAN
FIRST_BASE_PORT: Final = 1024


def default_cache() -> Path:
    """Where programs are kept for all stacks of this user.

    Some servers refuse to be root and must be able to read their program, which root's own home
    does not let them: root's cache is the machine's.
    """
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if os.geteuid() == 0 and not _open_to_others(own):
        own = Path("/var/cache")
    return own / "audit-platform" / "stack"


def _open_to_others(folder: Path) -> bool:
    there = [p for p in (folder, *folder.parents) if p.exists()]
    return all(p.stat().st_mode & 0o001 for p in there)


def servers_at(place: Place) -> dict[str, Server]:
    """All servers of the stack of that place by name, in the order of starting."""
    return servers(place.size, faults=place.faults, tls=place.tls)


def servers(size: str, *, faults: bool = False, tls: bool = False) -> dict[str, Server]:
    """All servers of that size by name, in the order of starting.

    With `faults` also the fault proxy, which a full stack has anyway; with `tls` also the lines
    that speak it for servers that cannot. Raises `StackError` for a full stack with TLS.
    """
    if tls and size != "small":
        raise StackError(f"a {size} stack has no TLS", remedy="audit-platform stack up --tls")
    found: dict[str, Server] = {}
    names = SIZES[size]
    if faults and PROXY not in names:
        names = (PROXY, *names)
    if tls:
        names = (*names, TLS_LINE)
    for name in names:
        module = importlib.import_module(f"audit_platform.stack.{name}")
        for server in module.servers(size):
            found[server.name] = server
    return found


def choose(every: Mapping[str, Server], only: Iterable[str], size: str) -> list[Server]:
    """The named servers with all that they need, in the order of starting; all without a name.

    A name is a server's (`kafka-1`) or that of all of its kind (`kafka`). Raises `StackError`.
    """
    wanted: set[str] = set()
    for name in only:
        kind = {n for n in every if n == name or n.rpartition("-")[0] == name}
        if not kind:
            raise StackError(
                f"no server {name} in a stack of size {size}", remedy=f"there are {' '.join(every)}"
            )
        wanted |= kind
    if not wanted:
        return list(every.values())
    if PROXY in every:
        wanted.add(PROXY)
    wanted |= {line for name, line in TLS_LINES.items() if name in wanted and line in every}
    grown = True
    while grown:
        more = {need for name in wanted for need in every[name].needs} - wanted
        wanted |= more
        grown = bool(more)
    return [server for name, server in every.items() if name in wanted]


def settings(place: Place, chosen: Sequence[Server]) -> dict[str, str]:
    """The `AUDIT_` settings by which services use these servers."""
    merged = {"AUDIT_PROFILE": "stack"}
    if place.ca_file is not None:
        merged["AUDIT_CA_FILE"] = str(place.ca_file)
    for server in chosen:
        for name, value in server.settings(place).items():
            if merged.setdefault(name, value) != value:
                raise StackError(f"two servers of the stack name {name}: {server.name} is one")
    return merged
