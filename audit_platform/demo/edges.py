"""The demo's edges: one edge-gateway a tenant, one line that is cut, one edge that is killed.

Belongs here: their settings and processes, what is done to them at which share of the day, what
was seen of it. Does not: the devices (`devices.py`), the line itself (`relay.py`), proofs.
Source: failures 10 (uplink cut) and the issue's "Done when".
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
import urllib3

from audit_platform.demo.children import Child, Children
from audit_platform.demo.home import DemoHome
from audit_platform.demo.proofs import CLI, Proof, TenantFigures
from audit_platform.settings import Settings

#: Shares of the day's events at which the first tenant's line is cut and healed, and at which the
#: second tenant's edge is killed.
CUT_AT: Final = 0.35
HEAL_AT: Final = 0.7
KILL_AT: Final = 0.5

#: An edge answers at once, or is being started.
_ASK_SECONDS: Final = 1.0


@dataclass(slots=True)
class Seen:
    """What became of the disturbances, in events of the first tenant's edge.

    `backlog`: the most that waited in the spool while the line was cut. `disconnected`: the edge
    said so itself. `killed`: the second tenant's edge was ended by SIGKILL.
    """

    cut: bool = False
    healed: bool = False
    killed: bool = False
    disconnected: bool = False
    backlog: int = 0


@dataclass(slots=True)
class _Edge:
    tenant_id: str
    port: int
    more: dict[str, str]
    process: Child | None = None


@dataclass(slots=True)
class Edges:
    """All edges of a run. `step` is called again and again while the day runs."""

    home: DemoHome
    settings: Settings
    children: Children
    hospitals: Mapping[str, str]
    ports: Sequence[int]
    relay_port: int
    ingest_ports: Sequence[int]
    seen: Seen = field(default_factory=Seen)
    _edges: dict[str, _Edge] = field(default_factory=dict)
    _relay: Child | None = None

    def start(self) -> None:
        """Start the line and every edge; the first tenant's edge goes through the line.

        An edge has one gateway. Where there are two, edges have them in turn.
        """
        line = (
            *(sys.executable, "-m", "audit_platform.stack.relay"),
            *("--port", str(self.relay_port), "--target-port", str(self.ingest_ports[0])),
        )
        self._relay = self.children.start("uplink-relay", line)
        for n, (tenant_id, hospital) in enumerate(self.hospitals.items()):
            port = self.ports[n]
            ingest = self.ingest_ports[n % len(self.ingest_ports)] if n else self.relay_port
            uplink = f"http://127.0.0.1:{ingest}"
            more = edge_environment(self.home, tenant_id, hospital)
            more |= {"AUDIT_EDGE_PORT": str(port), "AUDIT_EDGE_UPLINK": uplink}
            self._edges[tenant_id] = _Edge(tenant_id, port, more)
            self._launch(self._edges[tenant_id])

    @property
    def processes(self) -> list[Child]:
        """What must run until the end."""
        found = [e.process for e in self._edges.values() if e.process is not None]
        return found + ([self._relay] if self._relay else [])

    def url(self, tenant_id: str) -> str:
        """Where a tenant's devices find their edge."""
        return f"http://127.0.0.1:{self._edges[tenant_id].port}"

    def step(self, share: float) -> str:
        """Do what is due at this share of the day's events; says what was done, or nothing."""
        tenants = list(self._edges)
        seen = self.seen
        if seen.cut and not seen.healed:
            self._look(tenants[0])
        if not seen.cut and share >= CUT_AT:
            seen.cut = True
            self._signal(signal.SIGUSR1)
            return f"the line of {tenants[0]} is cut: its edge spools"
        if not seen.killed and share >= KILL_AT:
            seen.killed = True
            self._kill(self._edges[tenants[1]])
            return f"the edge of {tenants[1]} is killed, and starts again"
        if not seen.healed and share >= HEAL_AT:
            seen.healed = True
            self._signal(signal.SIGUSR2)
            return f"the line of {tenants[0]} is back: {seen.backlog} events wait in the spool"
        return ""

    def waiting(self) -> dict[str, str]:
        """Of each edge that still holds something, what it says of that."""
        found = {}
        for tenant_id in self._edges:
            status = self._status(tenant_id)
            if status is None:
                found[tenant_id] = "does not answer"
                continue
            uplink = status["uplink"]
            if uplink["backlogEntries"] or uplink["unarchivedRecords"]:
                found[tenant_id] = (
                    f"{uplink['backlogEvents']} events not sent, "
                    f"{uplink['unarchivedRecords']} records not archived"
                )
        return found

    def proof(self, table: Sequence[TenantFigures]) -> Proof:
        """The line that was cut filled a spool, and the edge that was killed lost nothing."""
        seen, (first, second, *_) = self.seen, table
        devices, turned = _replayed(self.home.objects, first.tenant_id)
        held = seen.cut and seen.healed and seen.killed and seen.disconnected and seen.backlog > 0
        held &= not (first.unaccounted or second.unaccounted or turned) and devices > 0
        return Proof(
            "a cut line and a killed edge lose nothing",
            held,
            f"{first.tenant_id}: up to {seen.backlog} events waited in the spool and came in order "
            f"({turned} of {devices} devices not), unaccounted {first.unaccounted}; "
            f"{second.tenant_id}: {second.duplicates} copies sent again by its killed edge, "
            f"counted once, unaccounted {second.unaccounted}",
        )

    def _look(self, tenant_id: str) -> None:
        status = self._status(tenant_id)
        if status is not None:
            uplink = status["uplink"]
            self.seen.backlog = max(self.seen.backlog, int(uplink["backlogEvents"]))
            self.seen.disconnected |= not uplink["connected"]

    def _status(self, tenant_id: str) -> dict[str, Any] | None:
        try:
            answer = urllib3.request(
                "GET", self.url(tenant_id) + "/v1/status", timeout=_ASK_SECONDS, retries=False
            )
            status: dict[str, Any] = answer.json()
        except (urllib3.exceptions.HTTPError, ValueError):
            return None
        return status

    def _signal(self, number: signal.Signals) -> None:
        assert self._relay is not None
        self._relay.process.send_signal(number)

    def _kill(self, edge: _Edge) -> None:
        assert edge.process is not None
        edge.process.process.kill()
        edge.process.process.wait()
        self._launch(edge)

    def _launch(self, edge: _Edge) -> None:
        name = f"edge-{edge.tenant_id}"
        edge.process = self.children.start(name, [*CLI, "edge-gateway"], more=edge.more)


def _replayed(objects: Path, tenant_id: str) -> tuple[int, int]:
    """Devices in landing, and how many of them have a first copy behind a later event's."""
    columns = ["log_offset", "log_index", "device_id", "sequence_number", "event_hash"]
    rows = []
    for file in (objects / f"landing/v1/tenant={tenant_id}").rglob("*.parquet"):
        table = pq.ParquetFile(file).read(columns=columns)
        rows += [tuple(row.values()) for row in table.to_pylist() if row["device_id"] is not None]
    last: dict[str, int] = {}
    seen: set[bytes] = set()
    turned: set[str] = set()
    # A device is in one partition, so the order of its offsets is its order in the log.
    for _, _, device, sequence, event_hash in sorted(rows, key=lambda r: r[:2]):
        if event_hash not in seen:
            seen.add(event_hash)
            if sequence < last.get(device, -1):
                turned.add(device)
            last[device] = sequence
    return len(last), len(turned)


def edge_environment(home: DemoHome, tenant_id: str, hospital: str) -> dict[str, str]:
    """What an edge's processes are told beside everybody's settings."""
    folder = home.edges / tenant_id
    return {
        "AUDIT_EDGE_HOME": str(folder),
        "AUDIT_EDGE_TENANT": tenant_id,
        "AUDIT_EDGE_HOSPITAL": hospital,
        "AUDIT_EDGE_SECRET_FILE": str(folder / "api-key"),
    }
