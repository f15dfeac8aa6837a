"""A real ingest-gateway in a thread: the real server, the embedded adapters, a client.

Belongs here: starting, sending, reading back what is in the two topics. Does not: any test.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import urllib3
import zstandard

from audit_platform.ports import Limits, Log, LogRecord, Metadata, Platform, Role, Tokens
from audit_platform.record.deadletter import DeadLetter, assemble, record_entries
from audit_platform.record.event import complete_event, format_time_ms
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC, ZERO_HASH
from audit_platform.services.ingest_gateway import IngestGateway
from audit_platform.services.ingest_server import Server, make_server, serve
from audit_platform.settings import Settings
from audit_platform.wiring import open_platform
from audit_platform_tests.clocks import START_MS, ManualClock

TENANT = "st-anna"
CHAIN = "0123456789abcdef"
SECONDS = 30.0


def event(
    sequence: int = 0,
    device: str = "pump-1",
    payload: dict[str, Any] | None = None,
    **envelope: Any,
) -> bytes:
    """A good canonical event of a type that the packaged schemas know."""
    return complete_event(
        {
            "deviceId": device,
            "eventType": envelope.pop("event_type", "heartbeat"),
            "eventVersion": 1,
            "eventTime": format_time_ms(envelope.pop("ms", START_MS - 1500)),
            "sequenceNumber": sequence,
            "payload": {"uptimeSeconds": sequence} if payload is None else payload,
        },
        tenant_id=envelope.pop("tenant", TENANT),
        hospital_id="h-1",
        chain_id=CHAIN,
        prev_hash=ZERO_HASH,
        **envelope,
    ).canonical


def body_of(*lines: bytes) -> bytes:
    """Lines as a body."""
    return b"".join(line + b"\n" for line in lines)


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, decoded."""
        value: dict[str, Any] = json.loads(self.body)
        return value

    def problem(self) -> str:
        """The slug, of an answer that has the whole form of problem details."""
        assert self.headers["content-type"] == "application/problem+json"
        value = self.json
        assert value.keys() == {"type", "title", "status", "detail", "remedy"}
        assert value["status"] == self.status
        assert all(value.values())
        prefix, _, slug = value["type"].rpartition(":")
        assert prefix == "urn:audit-platform:problem"
        return str(slug)


@dataclass
class World:
    """One gateway, one tenant, one edge's key."""

    platform: Platform
    clock: ManualClock
    app: IngestGateway
    server: Server
    port: int
    secret: str
    pool: urllib3.HTTPConnectionPool = field(init=False)

    def __post_init__(self) -> None:
        self.pool = urllib3.HTTPConnectionPool("127.0.0.1", self.port, timeout=SECONDS, maxsize=4)

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Any request."""
        found = self.pool.request(method, path, body=body, headers=headers or {}, retries=False)
        return Answer(found.status, {k.lower(): v for k, v in found.headers.items()}, found.data)

    def headers(self, **more: str) -> dict[str, str]:
        """What an edge sends with a body; names with `_` for `-`, "" leaves one out."""
        given = {"authorization": f"Bearer {self.secret}", "content-type": "application/x-ndjson"}
        given |= {name.replace("_", "-"): value for name, value in more.items()}
        return {name: value for name, value in given.items() if value}

    def post(self, body: Any, **headers: str) -> Answer:
        """Send a body as the edge does."""
        return self.request("POST", "/v1/events", body, self.headers(**headers))

    def post_zstd(self, body: bytes) -> Answer:
        """Send a body compressed."""
        return self.post(zstandard.ZstdCompressor().compress(body), content_encoding="zstd")

    def records(self, topic: str) -> list[LogRecord]:
        """All records of a topic, partition by partition."""
        return list(_records(self.platform.log, topic))

    def stored(self) -> list[bytes]:
        """All stored lines."""
        return [line for r in self.records(EVENTS_TOPIC) for line in r.value[:-1].split(b"\n")]

    def dead_letters(self) -> list[DeadLetter]:
        """All dead letters, put together, by line."""
        entries = [e for r in self.records(DLQ_TOPIC) for e in record_entries(r.value)]
        found = assemble(entries)
        assert found.incomplete == []
        return sorted(found.whole, key=lambda entry: (entry.received_ms, entry.line))

    def metric(self, name: str, labels: str = "") -> float:
        """One figure of /metrics; a series with labels is 0 until it is first counted."""
        text = self.request("GET", "/metrics").body.decode()
        declared = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
        assert any(name.startswith(metric) for metric in declared)
        prefix = f"{name}{labels} "
        found = [line for line in text.splitlines() if line.startswith(prefix)]
        assert len(found) == 1 or (labels and not found)
        return float(found[0].removeprefix(prefix)) if found else 0.0


def _records(log: Log, topic: str) -> Iterator[LogRecord]:
    for partition in range(log.describe(topic).partitions):
        offset, _ = log.bounds(topic, partition)
        while found := log.read(topic, partition, offset, 1 << 20):
            yield from found
            offset = found[-1].offset + 1


@contextmanager
def open_world(
    folder: Path,
    *,
    partitions: int = 3,
    log: Log | None = None,
    metadata: Metadata | None = None,
    tokens: Tokens | None = None,
    limits: Limits | None = None,
    **gateway: Any,
) -> Iterator[World]:
    """A gateway over a fresh installation; `log` and `metadata` stand in for the embedded ones."""
    settings = Settings.from_environment(
        {"AUDIT_HOME": str(folder), "AUDIT_PARTITIONS": str(partitions)}
    )
    clock = ManualClock()
    platform = open_platform(settings, clock=clock)
    try:
        platform.metadata.add_tenant(TENANT, START_MS)
        _, secret = platform.metadata.add_api_key(TENANT, Role.EDGE, START_MS)
        seen = replace(
            platform,
            log=log or platform.log,
            metadata=metadata or platform.metadata,
            tokens=tokens,
            limits=limits,
        )
        app = IngestGateway(seen, "gateway-1", **gateway)
        with serving(app) as (server, port):
            yield World(platform, clock, app, server, port, secret)
    finally:
        platform.close()


@contextmanager
def serving(app: IngestGateway) -> Iterator[tuple[Server, int]]:
    """The app's server, which runs in a thread, and its port."""
    sock = free_socket()
    server = make_server(app)
    thread = threading.Thread(target=serve, args=(server, sock))
    thread.start()
    try:
        yield server, sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        app.close()
        assert not thread.is_alive()


def free_socket() -> socket.socket:
    """A bound socket below the range of other programs' client sockets."""
    for port in range(21_000, 32_000):
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            continue
    raise AssertionError("no free port")
