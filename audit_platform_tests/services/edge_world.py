"""An edge in a folder or on a disk that can lose its power: real spool, real keys, a manual clock.

Belongs here: starting and starting again, sending, reading back what is spooled. Does not: tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from audit_platform.adapters.embedded.files import Files, RealFiles
from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.adapters.spool.spool import FileSpool
from audit_platform.ports import (
    Dropped,
    Entry,
    Full,
    NewEntry,
    SetAside,
    Spool,
    SpoolLimits,
    SpoolStatus,
)
from audit_platform.record.times import format_time_ms
from audit_platform.services import edge_intake
from audit_platform.services.edge_entry import LiveEntry, lines_of
from audit_platform.services.edge_intake import Intake
from audit_platform.services.edge_placing import DeviceAnswer, EdgeIdentity, Outcome
from audit_platform.telemetry import Telemetry
from audit_platform_tests.clocks import START_MS, ManualClock

TENANT = "north"
HOSPITAL = "h-1"
EDGE = EdgeIdentity(TENANT, HOSPITAL, "edge-1", "ward 3")

ROOMY = SpoolLimits(
    max_bytes=1 << 26,
    max_hours=72,
    policy={"low": Full.DROP, "normal": Full.DROP, "high": Full.REFUSE, "critical": Full.REFUSE},
)


def said(
    sequence: int = 0,
    device: str = "pump-1",
    payload: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """What a device says; None leaves a field out."""
    value = {
        "deviceId": device,
        "eventType": "heartbeat",
        "eventVersion": 1,
        "eventTime": format_time_ms(START_MS + sequence % 86_400_000),
        "sequenceNumber": sequence,
        "payload": {"uptimeSeconds": sequence % 1000} if payload is None else payload,
    }
    return {name: part for name, part in (value | more).items() if part is not None}


def line(sequence: int = 0, device: str = "pump-1", **more: Any) -> bytes:
    """The same as bytes, as a device would send it: in no canonical order."""
    return orjson.dumps(said(sequence, device, **more))


@dataclass
class EdgeWorld:
    """One edge; `start` it again after `stop` as often as wanted."""

    folder: Path
    files: Files = field(default_factory=RealFiles)
    limits: SpoolLimits = ROOMY
    clock: ManualClock = field(default_factory=ManualClock)
    wrap: Callable[[Spool], Spool] = lambda spool: spool
    live: list[LiveEntry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.keys = FileKeys(self.folder / "keys")
        if not self.keys.public_keys():
            self.keys.new("edge", START_MS)
        self.start()

    def start(self) -> None:
        """Open the spool and the intake, as the program does."""
        self.spool = FileSpool.open(
            self.folder / "spool", self.files, self.clock, self.limits, self.keys
        )
        self.telemetry = Telemetry(edge_intake.METRICS)
        self.intake = Intake(
            self.wrap(self.spool), self.keys, self.clock, EDGE, self.telemetry, self.live.extend
        )

    def stop(self) -> None:
        """Close the spool."""
        self.spool.close()

    def restart(self) -> None:
        """Stop, and start again."""
        self.stop()
        self.start()

    def take(self, *lines: bytes) -> list[DeviceAnswer]:
        """Send lines as one body."""
        return self.intake.take(lines)

    def outcomes(self, *lines: bytes) -> list[Outcome]:
        """The same; only what became of them."""
        return [answer.outcome for answer in self.take(*lines)]

    # -------------------------------------------------------------------------- reading back

    def entries(self) -> list[Entry]:
        """All entries of the spool."""
        return list(_entries(self.spool))

    def lines(self) -> list[bytes]:
        """All lines that would be sent, in order."""
        return [made for entry in self.entries() for made in lines_of(entry)]

    def events(self, device: str | None = None) -> list[dict[str, Any]]:
        """The same, decoded; of one device."""
        found = [orjson.loads(made) for made in self.lines()]
        return [e for e in found if device is None or e["deviceId"] == device]

    def edge_keys(self) -> dict[str, str]:
        """The edge's public keys, as a manifest lists them."""
        return {k.key_id: k.public_key.hex() for k in self.keys.public_keys()}


def _entries(spool: Spool) -> Iterator[Entry]:
    at, _ = spool.bounds()
    while found := spool.read(at, 1 << 20):
        yield from found
        at = found[-1].position + 1


def sequences(events: Sequence[dict[str, Any]]) -> list[int]:
    """Their sequence numbers."""
    return [event["sequenceNumber"] for event in events]


def event_hash(event: dict[str, Any]) -> str:
    """The eventHash of a decoded event."""
    return hashlib.sha256(orjson.dumps(event, option=orjson.OPT_SORT_KEYS)).hexdigest()


class Watched:
    """A spool whose calls can be made to fail, or to say that something was dropped."""

    def __init__(self, inner: Spool) -> None:
        self.inner = inner
        self.fails: BaseException | None = None
        self.dropped: list[Dropped] = []
        self.declared_parts: list[Dropped] = []
        self.appends: list[int] = []
        self.reports: tuple[SetAside, ...] = ()

    def __getattr__(self, name: str) -> Any:
        """Whatever else the port has."""
        return getattr(self.inner, name)

    def append(self, entries: Sequence[NewEntry]) -> tuple[list[int], list[Dropped]]:
        """Append, or fail; tell of what was to be dropped."""
        if self.fails is not None:
            raise self.fails
        self.appends.append(len(entries))
        positions, dropped = self.inner.append(entries)
        more, self.dropped = self.dropped, []
        return positions, [*dropped, *more]

    def declared(self, dropped: Sequence[Dropped]) -> None:
        """Note it."""
        self.declared_parts += dropped

    def status(self) -> SpoolStatus:
        """As it is, with these reports."""
        return replace(self.inner.status(), set_aside=self.reports)


def watched(tmp_path: Path) -> tuple[EdgeWorld, Watched]:
    """An edge over such a spool."""
    found: list[Watched] = []

    def wrap(spool: Spool) -> Spool:
        found.append(Watched(spool))
        return found[-1]

    return EdgeWorld(tmp_path, wrap=wrap), found[-1]
