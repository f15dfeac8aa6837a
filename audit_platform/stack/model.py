"""What a server of the stack is: how it is had, started, asked for health, and named to services.

Each server's module gives one or more objects of the form `Server`; the stack's own code knows
only that form. Belongs here: the form, and where a stack lives. Does not: any server's words.

A node of a cluster is a server of its own: `kafka-1`, `kafka-2`. Everything listens on loopback,
below port 32768 (above, other programs' outgoing connections may have taken the port).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

HOST: Final = "127.0.0.1"

#: Ports of a stack: `base_port + offset`. One list, so that no two servers ask for the same.
PORTS: Final[Mapping[str, int]] = {
    "kafka-1": 0,
    "kafka-2": 1,
    "kafka-3": 2,
    "kafka-controller-1": 5,
    "kafka-controller-2": 6,
    "kafka-controller-3": 7,
    "kafka-metrics-1": 10,
    "kafka-metrics-2": 11,
    "kafka-metrics-3": 12,
    "kafka-controller-metrics-1": 13,
    "kafka-controller-metrics-2": 14,
    "kafka-controller-metrics-3": 15,
    "kafka-brokers-1": 16,  # where brokers speak to each other: services' faults are not theirs
    "kafka-brokers-2": 17,
    "kafka-brokers-3": 18,
    "versitygw": 20,
    "minio-1": 21,
    "minio-2": 22,
    "minio-3": 23,
    "minio-4": 24,
    "minio-5": 25,
    "minio-6": 26,
    "opensearch-1": 30,
    "opensearch-2": 31,
    "opensearch-3": 32,
    "opensearch-line-1": 33,  # speaks TLS for a server that cannot
    "opensearch-transport-1": 35,
    "opensearch-transport-2": 36,
    "opensearch-transport-3": 37,
    "postgres": 40,
    "postgres-standby": 41,
    "redis": 45,
    "prometheus": 50,
    "alertmanager": 51,
    "webhook": 52,
    "oidc": 55,
    "toxiproxy": 60,
    "first-proxy": 61,  # and the 38 after it: the fault proxy's own listeners
}

#: Servers that cannot speak TLS, and the line that does it for them.
TLS_LINES: Final[Mapping[str, str]] = {"opensearch-1": "opensearch-line-1"}

#: How many ports a stack may use, from its base on.
PORT_SPAN: Final = 100

#: What services reach through the fault proxy, in the order of its listeners. The
#: one table of proxies: `Place.front` reads it, and the fault proxy's configuration.
PROXIED: Final = (
    "kafka-1",
    "kafka-2",
    "kafka-3",
    "versitygw",
    "minio-1",
    "minio-2",
    "minio-3",
    "minio-4",
    "minio-5",
    "minio-6",
    "opensearch-1",
    "opensearch-2",
    "opensearch-3",
    "postgres",
    "postgres-standby",
    "redis",
    "oidc",
)

#: What says how far a long step is: called with one short line.
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one stack lives. Data, logs and process files are below `home`.

    `cache` has the programs, fetched once for all stacks of the user. `size` is `small` or `full`.
    """

    home: Path
    cache: Path
    base_port: int
    size: str
    #: The fault proxy stands between services and servers. In `full` it always does.
    faults: bool = False
    #: Servers prove to services who they are, by certificates of the stack's own authority.
    tls: bool = False

    def port(self, name: str) -> int:
        """The port of that name in `PORTS`."""
        return self.base_port + PORTS[name]

    def folder(self, server: str) -> Path:
        """A server's own folder; it is the server's from `prepare` on."""
        return self.home / server

    def address(self, name: str) -> str:
        """host:port of that name."""
        return f"{HOST}:{self.port(name)}"

    @property
    def is_proxied(self) -> bool:
        """Whether services reach servers through the fault proxy."""
        return self.faults or self.size == "full"

    def front_port(self, name: str) -> int:
        """The port by which services reach that server: the fault proxy's own one if there is one.

        `name` is one of `PROXIED`. What a server tells its clients of itself (Kafka's advertised
        listener for services) must name this one.
        """
        if not self.is_proxied:
            return self.door_port(name)
        return self.port("first-proxy") + PROXIED.index(name)

    def door_port(self, name: str) -> int:
        """The port where a server takes services in: its own, or of the line that speaks TLS."""
        return self.port(TLS_LINES.get(name, name) if self.tls else name)

    def front(self, name: str) -> str:
        """host:port by which services reach that server; `settings` are made of these."""
        return f"{HOST}:{self.front_port(name)}"

    @property
    def authority(self) -> Path:
        """The file of the stack's own certificate authority; it is there with `tls` only."""
        return self.home / "tls" / "ca.pem"

    @property
    def ca_file(self) -> Path | None:
        """What a client of these servers checks certificates against; None without TLS."""
        return self.authority if self.tls else None

    def url(self, address: str) -> str:
        """The URL of a server that speaks HTTP, at host:port."""
        return f"{'https' if self.tls else 'http'}://{address}"


@dataclass(frozen=True, slots=True)
class Program:
    """What is run. `user` is a user id that root steps down to (some servers refuse to be root)."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: int | None = None


class Server(Protocol):
    """One process of the stack. Every method may be called again at any time and does no harm."""

    @property
    def name(self) -> str:
        """Its name in commands, folders and logs."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Servers that must answer before this one is started."""
        ...

    @property
    def packages(self) -> tuple[str, ...]:
        """Debian packages that it needs. They are installed only when that is allowed."""
        ...

    def fetch(self, cache: Path, tell: Tell) -> None:
        """Have its program in the cache: pinned, checked, whole or not at all. Quick when there.

        Raises `StackError` with what was wanted, what was found, and what to do.
        """
        ...

    def prepare(self, place: Place) -> None:
        """Write configuration; make data folders and format them if they are not there yet."""
        ...

    def program(self, place: Place) -> Program:
        """What to run, in the foreground; its output becomes its log."""
        ...

    def missing(self, place: Place) -> str:
        """Ask the server whether it can work, within 2 s. "" if it can, else what is not so yet."""
        ...

    def settle(self, place: Place) -> None:
        """Once it answers: make users, databases, buckets that services need."""
        ...

    def settings(self, place: Place) -> dict[str, str]:
        """The `AUDIT_` settings that let a service use it. Empty for a follower in a cluster."""
        ...
