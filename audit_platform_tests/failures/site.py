"""One hospital's edge and the platform behind it, in one process over real sockets.

The real intake, spool and uplink; the real ingest-gateway, whose listening socket can be closed and
opened again on its port. Belongs here: what rows 10 and 11 share. Does not: any test.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.adapters.spool.spool import FileSpool
from audit_platform.demo import independent_checker
from audit_platform.ports import EdgePorts, Role
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform.services import edge_gateway
from audit_platform.services.edge_intake import Intake
from audit_platform.services.edge_placing import EdgeIdentity, Outcome
from audit_platform.services.edge_quarantine import Quarantine
from audit_platform.services.edge_status import EdgeParts, set_gauges
from audit_platform.services.edge_uplink import ASK_SECONDS, Uplink
from audit_platform.services.edge_uplink_files import ReceiptsFile, SetAside
from audit_platform.services.edge_uplink_http import UplinkSender
from audit_platform.services.ingest_archived import LOOK_SECONDS
from audit_platform.services.ingest_gateway import IngestGateway
from audit_platform.services.ingest_server import Server, make_server, serve
from audit_platform.telemetry import Telemetry
from audit_platform_tests import world as worlds
from audit_platform_tests.services.edge_world import HOSPITAL, ROOMY, TENANT, line
from audit_platform_tests.services.ingest_world import free_socket
from audit_platform_tests.services.uplink_world import Seconds, no_jitter

SITE = "ward 3"
IDENTITY = EdgeIdentity(TENANT, HOSPITAL, "edge-1", SITE)

#: More real seconds than any pause of the uplink, any look, any round of questions.
LONG = 400.0


@dataclass
class Site:
    """An edge, its uplink, and the platform."""

    folder: Path
    world: worlds.World
    port: int = 0
    seconds: Seconds = field(default_factory=Seconds)
    numbers: dict[str, int] = field(default_factory=dict)
    server: tuple[Server, threading.Thread, IngestGateway] | None = None

    def __post_init__(self) -> None:
        platform, now = self.world.platform, self.world.clock.now_ms()
        platform.metadata.add_tenant(TENANT, now)
        _, self.secret = platform.metadata.add_api_key(TENANT, Role.EDGE, now)
        self.keys = FileKeys(self.folder / "keys")
        public = self.keys.new("edge", now).public_key
        platform.metadata.add_edge_key(TENANT, public, now)
        self.receipts = self.folder / "receipts.ndjson"
        self.connect()
        self.start()

    # ------------------------------------------------------------------------------- the uplink

    def connect(self) -> None:
        """Let ingest-gateway listen, on the port that it had."""
        sock = socket.create_server(("127.0.0.1", self.port)) if self.port else free_socket()
        self.port = sock.getsockname()[1]
        app = IngestGateway(self.world.platform, "gateway-1", monotonic=self.seconds)
        server = make_server(app)
        thread = threading.Thread(target=serve, args=(server, sock))
        thread.start()
        self.server = (server, thread, app)

    def cut(self) -> None:
        """Close the gateway's listening socket and its connections."""
        assert self.server is not None
        server, thread, app = self.server
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
        app.close()
        self.server = None

    # --------------------------------------------------------------------------------- the edge

    def start(self) -> None:
        """Start the edge, as its program does."""
        clock = self.world.clock
        self.spool = FileSpool.open(self.folder / "spool", RealFiles(), clock, ROOMY, self.keys)
        self.telemetry = Telemetry(edge_gateway.METRICS)
        self.sender = UplinkSender(f"http://127.0.0.1:{self.port}", lambda: self.secret, clock)
        self.uplink = Uplink(
            self.spool,
            self.sender,
            self.telemetry,
            SetAside(self.folder / "set-aside"),
            on_receipt=ReceiptsFile(self.receipts).note,
            monotonic=self.seconds,
            jitter=no_jitter,
        )
        ports = EdgePorts(clock, self.keys, self.spool)
        self.intake = Intake(
            self.spool, self.keys, clock, IDENTITY, self.telemetry, self.uplink.offer
        )
        self.parts = EdgeParts(
            ports,
            IDENTITY,
            self.intake,
            Quarantine(self.folder / "quarantine"),
            self.uplink.status,
            ROOMY.max_bytes,
            ROOMY.max_hours,
        )
        self.intake.open_epoch()

    def stop(self) -> None:
        """Stop the edge."""
        self.spool.close()
        self.sender.close()

    def say(self, device: str, count: int = 1) -> None:
        """Let a device say the next things it has to say; each must be taken."""
        first = self.numbers.get(device, 0)
        self.numbers[device] = first + count
        answers = self.intake.take([line(n, device) for n in range(first, first + count)])
        assert {answer.outcome for answer in answers} == {Outcome.ACCEPTED}

    def send(self, rounds: int = 3) -> None:
        """Let the uplink do what it can, with all its pauses over between."""
        for _ in range(rounds):
            while self.uplink.step():
                pass
            self.seconds.now += LONG
        while self.uplink.step():
            pass

    def metrics(self) -> dict[str, float]:
        """Every sample of the edge's /metrics, by name and labels."""
        set_gauges(self.parts, self.telemetry)
        shown = [x for x in self.telemetry.text().decode().splitlines() if not x.startswith("#")]
        return {name: float(value) for name, _, value in (x.rpartition(" ") for x in shown)}

    def kept(self) -> int:
        """Entries that the spool has to keep."""
        first, end = self.spool.bounds()
        return end - first - sum(b - a for a, b in self.spool.released())

    # ----------------------------------------------------------------------------- the platform

    def arrived(self) -> list[dict[str, Any]]:
        """All events in the log, by partition and offset."""
        log = self.world.platform.log
        found = []
        for partition in range(log.describe(EVENTS_TOPIC).partitions):
            offset, _ = log.bounds(EVENTS_TOPIC, partition)
            while records := log.read(EVENTS_TOPIC, partition, offset, 1 << 20):
                found += [orjson.loads(x) for r in records for x in r.value.splitlines()]
                offset = records[-1].offset + 1
        return found

    def archive(self) -> None:
        """Archive all that is in the log, and let the edge hear of it."""
        self.world.archive()
        self.seconds.now += LOOK_SECONDS + ASK_SECONDS
        self.send()

    def check(self) -> dict[str, Any]:
        """Compare the edge's receipts with what is sealed, as sets."""
        return independent_checker.check(self.world.objects_folder, [self.receipts], [])


@contextmanager
def open_site(folder: Path) -> Iterator[Site]:
    """A new site."""
    with worlds.open_world(folder / "home") as world:
        (folder / "edge").mkdir()
        site = Site(folder / "edge", world)
        try:
            yield site
        finally:
            site.stop()
            if site.server is not None:
                site.cut()
