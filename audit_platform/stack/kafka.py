"""Kafka on one machine: one node for tests, or three controllers and three brokers.

Belongs here: which nodes there are, how each is formatted, started and asked. Does not: its files'
text and its jars (`kafka_files.py`), our topics (`audit-platform log init`).
Source: Kafka 4.3 documentation, "KRaft"; design section 9 (profiles).

Small: `kafka-1` is controller and broker at once and asks for no secret. Full: services come as a
SCRAM user, by the fault proxy; brokers and controllers speak to each other on ports of their own,
so that a fault between services and Kafka is no fault inside Kafka. Directory ids are fixed: a node
whose volume was lost is formatted again as the same voter.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit_platform.errors import StackError
from audit_platform.stack import authority
from audit_platform.stack import kafka_files as files
from audit_platform.stack.model import HOST, Place, Program, Server, Tell

NODES: Final = (1, 2, 3)

#: The user that services are in the full stack.
USER: Final = "audit"

#: Controllers' node ids lie behind the brokers'.
_FIRST_CONTROLLER_ID: Final = 10

#: The same for every stack: nodes of another one are at other ports.
_CLUSTER_ID: Final = "YXVkaXQtcGxhdGZvcm0tMQ"
_DIRECTORY_IDS: Final = (
    "YXVkaXQtY29udHJvbGxlcg",
    "YXVkaXQtY29udHJvbGxlcA",
    "YXVkaXQtY29udHJvbGxlcQ",
)

_COPIES: Final = 3
_IN_SYNC: Final = 2

#: A JVM that writes two files; on two busy cores.
_FORMAT_SECONDS: Final = 120.0

#: The form's limit (`model.Server.missing`) is 2 s.
_ASK_SECONDS: Final = 1.8

#: Kafka's ApiVersions request, version 0, and the longest answer that is believed (30 kB is usual).
_API_VERSIONS: Final = 18
_MAX_ANSWER: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class KafkaNode:
    """One process: `number` 1 to 3; a broker, a controller, or (small) both."""

    number: int
    is_broker: bool
    is_controller: bool

    @property
    def name(self) -> str:
        """See `model.Server`."""
        return f"kafka-{self.number}" if self.is_broker else f"kafka-controller-{self.number}"

    @property
    def needs(self) -> tuple[str, ...]:
        """See `model.Server`."""
        if self.is_controller:
            return ()
        return tuple(f"kafka-controller-{n}" for n in NODES)

    @property
    def packages(self) -> tuple[str, ...]:
        """See `model.Server`."""
        return ("openjdk-17-jre-headless",)

    def fetch(self, cache: Path, tell: Tell) -> None:
        """See `model.Server`."""
        files.fetch(cache, tell)

    def prepare(self, place: Place) -> None:
        """See `model.Server`."""
        folder = place.folder(self.name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log4j2.xml").write_text(files.LOG_SETTINGS)
        (folder / "metrics.yaml").write_text(files.METRICS_SETTINGS)
        (folder / "server.properties").write_text(files.properties(self._properties(place)))
        authority.prepare(place, self.name)
        if not (folder / "data" / "meta.properties").exists():
            self._format(place)

    def program(self, place: Place) -> Program:
        """See `model.Server`."""
        folder = place.folder(self.name)
        heap = 224 if place.size == "small" else 192 if self.is_broker else 96
        argv = [_java(), f"-Xmx{heap}m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"]
        argv.append("-XX:TieredStopAtLevel=1")  # starts with a third of the CPU; works slower
        if place.size == "full":
            kind = "metrics" if self.is_broker else "controller-metrics"
            port = place.port(f"kafka-{kind}-{self.number}")
            agent = files.jars(place.cache) / files.AGENT_JAR
            argv.append(f"-javaagent:{agent}={HOST}:{port}:{folder / 'metrics.yaml'}")
        argv += [
            *(f"-Dlog4j2.configurationFile={folder / 'log4j2.xml'}", "-Djava.awt.headless=true"),
            *("-cp", _class_path(place), "kafka.Kafka", str(folder / "server.properties")),
        ]
        return Program(tuple(argv))

    def missing(self, place: Place) -> str:
        """See `model.Server`."""
        if not self.is_broker:
            return _not_kafka(place.port(self.name))
        # The client library is loaded by who asks, not by `--help`.
        from audit_platform.adapters.kafka.probes import node_trouble  # noqa: PLC0415 - see above

        return node_trouble(
            place.address(self.name),
            place.front(self.name),
            _ASK_SECONDS,
            user=USER if place.size == "full" else "",
            password=_password(place),
            ca_file=place.ca_file,
        )

    def settle(self, place: Place) -> None:
        """See `model.Server`. Users came by the formatting, topics come by `log init`."""

    def settings(self, place: Place) -> dict[str, str]:
        """See `model.Server`."""
        if not self.is_broker or self.number != 1:
            return {}
        numbers = NODES if place.size == "full" else (1,)
        found = {"AUDIT_KAFKA": ",".join(place.front(f"kafka-{n}") for n in numbers)}
        if place.size == "full":
            found |= {"AUDIT_KAFKA_USER": USER, "AUDIT_KAFKA_PASSWORD": _password(place)}
        return found

    # ---------------------------------------------------------------------------------- files

    def _node_id(self) -> int:
        return self.number if self.is_broker else _FIRST_CONTROLLER_ID + self.number

    def _properties(self, place: Place) -> dict[str, object]:
        folder = place.folder(self.name)
        small = place.size == "small"
        voters = (1,) if small else NODES
        roles = [
            *(("broker",) if self.is_broker else ()),
            *(("controller",) if self.is_controller else ()),
        ]
        security = {"CONTROLLER": "PLAINTEXT", "BROKERS": "PLAINTEXT", "CLIENTS": "PLAINTEXT"}
        if not small:
            security["CLIENTS"] = "SASL_PLAINTEXT"
        elif place.tls:
            security["CLIENTS"] = "SSL"
        listeners, advertised = [], []
        if self.is_broker:
            brokers = f"BROKERS://{place.address(f'kafka-brokers-{self.number}')}"
            listeners += [f"CLIENTS://{place.address(self.name)}", brokers]
            advertised += [f"CLIENTS://{place.front(self.name)}", brokers]
        if self.is_controller:
            listeners.append(f"CONTROLLER://{place.address(f'kafka-controller-{self.number}')}")
        made: dict[str, object] = {
            "process.roles": ",".join(roles),
            "node.id": self._node_id(),
            "controller.quorum.bootstrap.servers": ",".join(
                place.address(f"kafka-controller-{n}") for n in voters
            ),
            "controller.listener.names": "CONTROLLER",
            "listeners": ",".join(listeners),
            "listener.security.protocol.map": ",".join(f"{n}:{p}" for n, p in security.items()),
            "log.dirs": folder / "data",
            "metadata.log.dir": folder / "metadata",
            **files.COMMON,
            **files.replication(1 if small else _COPIES, 1 if small else _IN_SYNC),
        }
        if self.is_broker:
            made |= {
                "advertised.listeners": ",".join(advertised),
                "inter.broker.listener.name": "BROKERS",
            }
            if place.tls:
                made |= _certificate(place, self.name)
            if not small:
                made |= _scram()
        return made

    def _format(self, place: Place) -> None:
        folder = place.folder(self.name)
        argv = [
            *(_java(), "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            f"-Dlog4j2.configurationFile={folder / 'log4j2.xml'}",
            *("-cp", _class_path(place), "kafka.tools.StorageTool", "format"),
            *("--config", str(folder / "server.properties"), "--cluster-id", _CLUSTER_ID),
            "--ignore-formatted",
        ]
        if self.is_controller:
            voters = (1,) if place.size == "small" else NODES
            argv += ["--initial-controllers", ",".join(_voter(place, n) for n in voters)]
            if place.size == "full":
                # Both, so that a secret can be changed while the old one is still good.
                for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                    credential = f"{mechanism}=[name={USER},password={_password(place)}]"
                    argv += ["--add-scram", credential]
        else:
            argv.append("--no-initial-controllers")
        files.run(
            tuple(argv), _FORMAT_SECONDS, f"formatting {self.name}", f"look at {folder}, or wipe it"
        )


def servers(size: str) -> tuple[Server, ...]:
    """The nodes of a stack of this size."""
    if size == "small":
        return (KafkaNode(1, is_broker=True, is_controller=True),)
    return (
        *(KafkaNode(n, is_broker=False, is_controller=True) for n in NODES),
        *(KafkaNode(n, is_broker=True, is_controller=False) for n in NODES),
    )


def _java() -> str:
    found = shutil.which("java")
    if found is None:
        raise StackError("Kafka needs Java", remedy="apt-get install openjdk-17-jre-headless")
    return found


def _class_path(place: Place) -> str:
    return str(files.jars(place.cache) / "*")


def _voter(place: Place, number: int) -> str:
    node_id = number if place.size == "small" else _FIRST_CONTROLLER_ID + number
    address = place.address(f"kafka-controller-{number}")
    return f"{node_id}@{address}:{_DIRECTORY_IDS[number - 1]}"


def _scram() -> dict[str, object]:
    """Services come as SCRAM users; every user may do all (loopback, one installation)."""
    module = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    enabled = ("SCRAM-SHA-512", "SCRAM-SHA-256")
    return {
        "sasl.enabled.mechanisms": ",".join(enabled),
        **{f"listener.name.clients.{m.lower()}.sasl.jaas.config": module for m in enabled},
    }


def _certificate(place: Place, name: str) -> dict[str, object]:
    """Who a broker proves to be to services; among themselves brokers speak as without TLS."""
    listener = "listener.name.clients.ssl"
    both = authority.certificate_of(place, name).both
    return {f"{listener}.keystore.type": "PEM", f"{listener}.keystore.location": both}


def _password(place: Place) -> str:
    """The user's secret: random, made once for a stack by whoever asks first."""
    if place.size == "small":
        return ""
    path = place.home / "kafka-password"
    if not path.exists():
        draft = path.with_name(f".kafka-password-{os.getpid()}-{secrets.token_hex(4)}")
        draft.touch(mode=0o600, exist_ok=False)
        draft.write_text(secrets.token_hex(16))
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_text()


def _not_kafka(port: int) -> str:
    """Ask a node of any role which requests it knows: whoever answers is up."""
    # api key, version, correlation id, length of the client's name (none)
    request = struct.pack(">hhih", _API_VERSIONS, 0, 1, -1)
    try:
        with socket.create_connection((HOST, port), timeout=_ASK_SECONDS) as asked:
            asked.sendall(struct.pack(">i", len(request)) + request)
            head = asked.recv(10, socket.MSG_WAITALL)
    except OSError as e:
        return f"port {port}: {e}"
    if len(head) < 10:  # noqa: PLR2004 - length, correlation id and error code: as was asked for
        return f"port {port}: it hung up"
    size, correlation, error = struct.unpack(">iih", head)
    if correlation != 1 or error or size > _MAX_ANSWER:
        return f"port {port}: {head!r} is no answer of Kafka's"
    return ""
