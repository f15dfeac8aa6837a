"""The edge feeder: one hospital's devices and their edge, as a process of its own.

It takes the excerpt's events when the wall clock reaches their time of sending, completes them
(sequence, prevHash, checksum, eventId), and sends bodies of up to 500, one at a time, the same
bytes again until they are acknowledged. Each start is an epoch: a new chainId, announced by a
signed `chain_start`. Belongs here: pacing, making batches, the command line. Does not: what must
survive a kill (`edge_state.py`), HTTP (`sender.py`), what devices say (`mapping.py`).
Source: design section 3 (who fills what, chains) and 4; `docs/data.md`.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_platform.adapters.clock import ScaledClock, parse_clock
from audit_platform.demo import sources
from audit_platform.demo.edge_state import Batch, EdgeFolder, EdgeState, SentEvent, edge_key
from audit_platform.demo.mapping import DeviceEvent, device_events
from audit_platform.demo.sender import Receipt, Sender
from audit_platform.demo.synthesis import EDGE_DEVICE
from audit_platform.errors import AuditPlatformError
from audit_platform.ports import Clock
from audit_platform.record import layout, signing
from audit_platform.record.event import CompletedEvent, complete_event
from audit_platform.record.schemas import registry
from audit_platform.record.times import format_time_ms
from audit_platform.settings import Settings

#: Events in one body: the size that the whole way is made for (design section 4).
MAX_BATCH_EVENTS: Final = 500

#: A body goes out when it is full or after this much real time: fewer, larger bodies cost less.
GATHER_SECONDS: Final = 0.25

#: A scaled clock is looked at again at least this often while waiting.
MAX_WAIT_SECONDS: Final = 1.0

#: Level of the bodies' compression: 3 costs 0.4 us an event to undo, more gains little.
ZSTD_LEVEL: Final = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """The wall clock, how fast it runs, and how to wait. `wait` takes real seconds."""

    clock: Clock
    rate: float = 1.0
    wait: Callable[[float], None] = time.sleep

    @classmethod
    def of(cls, text: str) -> Pace:
        """The pace of a clock as the setting `AUDIT_CLOCK` names it."""
        clock = parse_clock(text)
        return cls(clock, clock.rate if isinstance(clock, ScaledClock) else 1.0)

    def wait_until(self, wall_ms: int) -> None:
        """Return when the wall clock has reached `wall_ms`."""
        while (left := wall_ms - self.clock.now_ms()) > 0:
            self.wait(min(left / 1000 / self.rate, MAX_WAIT_SECONDS))


class Edge:
    """Completes what devices say into chains; keeps their heads in the state it is given."""

    def __init__(
        self, tenant_id: str, hospital_id: str, key: Ed25519PrivateKey, state: EdgeState
    ) -> None:
        self._tenant_id = tenant_id
        self._hospital_id = hospital_id
        self._key = key
        self._state = state
        self._chain_id = ""
        self._chain_start_hash = layout.ZERO_HASH

    def open_epoch(self, now_ms: int, reason: str) -> CompletedEvent:
        """Begin new chains: the signed `chain_start`, an event of the edge itself."""
        self._state.epoch += 1
        self._chain_id = secrets.token_hex(8)
        said = self._said(EDGE_DEVICE, "chain_start", 1, now_ms)
        said["payload"] = signing.chain_start_payload(
            self._key,
            tenant_id=self._tenant_id,
            hospital_id=self._hospital_id,
            device_id=EDGE_DEVICE,
            chain_id=self._chain_id,
            event_time=said["eventTime"],
            sequence_number=said["sequenceNumber"],
            reason=reason,
        )
        completed = self._complete(said, layout.ZERO_HASH)
        self._chain_start_hash = completed.event_hash.hex()
        return completed

    def complete(self, event: DeviceEvent, day_start_ms: int) -> CompletedEvent:
        """One device's event, linked to what the edge knows of the device."""
        said = self._said(
            event.device_id,
            event.event_type,
            event.event_version,
            day_start_ms + event.event_offset_ms,
        )
        said["payload"] = event.payload
        return self._complete(said, self._state.heads.get(event.device_id, self._chain_start_hash))

    def _said(self, device: str, event_type: str, version: int, time_ms: int) -> dict[str, Any]:
        return {
            "deviceId": device,
            "eventType": event_type,
            "eventVersion": version,
            "eventTime": format_time_ms(time_ms),
            "sequenceNumber": self._state.next_sequence.get(device, 0),
        }

    def _complete(self, said: Mapping[str, Any], prev_hash: str) -> CompletedEvent:
        completed = complete_event(
            said,
            tenant_id=self._tenant_id,
            hospital_id=self._hospital_id,
            chain_id=self._chain_id,
            prev_hash=prev_hash,
            criticality=registry().criticality(said["eventType"], said["eventVersion"]),
        )
        device = said["deviceId"]
        self._state.heads[device] = completed.event_hash.hex()
        self._state.next_sequence[device] = said["sequenceNumber"] + 1
        return completed


@dataclass(frozen=True, slots=True)
class Plan:
    """What a feeder is to send: a tenant's laid day, as the UTC day `day`, from/to in that day."""

    tenant_id: str
    day: str
    from_ms: int = 0
    to_ms: int = layout.MS_PER_DAY
    excerpt: Path = sources.EXCERPT


class Feeder:
    """Sends one plan. `run` may be called again after any death of the process: it goes on."""

    def __init__(self, plan: Plan, folder: EdgeFolder, sender: Sender, pace: Pace) -> None:
        self._plan = plan
        self._folder = folder
        self._sender = sender
        self._pace = pace
        self._day_start_ms = layout.day_start_ms(plan.day)
        self._counts = {"sent": 0, "accepted": 0, "refused": 0}

    def run(self) -> None:
        """Send everything that is due, as it becomes due; return when all is acknowledged.

        Raises `SendRefused` when the gateway says that the client must change something.
        """
        self._state = self._folder.load()
        events = list(device_events(self._plan.tenant_id, self._plan.excerpt))
        self._planned = len(events)
        if self._state.pending is not None:
            self._deliver(self._state.pending)
        todo = [
            (index, event)
            for index, event in enumerate(events)
            if index >= self._state.taken.get(self._plan.day, 0)
            and self._plan.from_ms <= event.offset_ms < self._plan.to_ms
        ]
        if todo:
            self._send_all(todo)
        self._show("done")

    def _send_all(self, todo: Sequence[tuple[int, DeviceEvent]]) -> None:
        hospital = todo[0][1].hospital_id
        edge = Edge(self._plan.tenant_id, hospital, edge_key(self._folder.home), self._state)
        self._pace.wait_until(self._day_start_ms + todo[0][1].offset_ms)
        reason = "first start" if self._state.epoch == 0 else "restart"
        lines = [edge.open_epoch(self._pace.clock.now_ms(), reason)]
        at = 0
        while at < len(todo):
            self._show("waiting")
            self._pace.wait_until(self._day_start_ms + todo[at][1].offset_ms)
            self._gather(todo, at)
            now = self._pace.clock.now_ms() - self._day_start_ms
            while at < len(todo) and len(lines) < MAX_BATCH_EVENTS and todo[at][1].offset_ms <= now:
                lines.append(edge.complete(todo[at][1], self._day_start_ms))
                at += 1
            self._state.taken[self._plan.day] = todo[at - 1][0] + 1
            self._deliver(self._batch(lines))
            lines = []

    def _gather(self, todo: Sequence[tuple[int, DeviceEvent]], at: int) -> None:
        """Wait a little for more, unless a full body is due already."""
        last = todo[min(at + MAX_BATCH_EVENTS, len(todo)) - 1][1]
        if self._day_start_ms + last.offset_ms > self._pace.clock.now_ms():
            self._pace.wait(GATHER_SECONDS)

    def _batch(self, lines: Sequence[CompletedEvent]) -> Batch:
        """Write down a batch before it is sent, together with the state after it."""
        body = b"".join(line.canonical + b"\n" for line in lines)
        self._state.batches += 1
        self._state.pending = Batch(
            self._state.batches,
            zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(body),
            tuple(SentEvent(line.event_id, line.event_hash.hex()) for line in lines),
        )
        self._folder.store(self._state)
        return self._state.pending

    def _deliver(self, batch: Batch) -> None:
        """Send until acknowledged, then write the receipt down and forget the batch."""
        self._folder.note_sent(self._plan.tenant_id, batch)
        self._counts["sent"] += len(batch.events)
        self._show("sending")
        receipt = self._sender.send(batch.body, len(batch.events))
        self._folder.note_receipt(batch, _receipt_lines(self._plan.tenant_id, batch, receipt))
        self._state.pending = None
        self._folder.store(self._state)
        self._counts["accepted"] += receipt.accepted
        self._counts["refused"] += len(receipt.refused)

    def _show(self, state: str) -> None:
        self._folder.show(
            {
                "tenant": self._plan.tenant_id,
                "day": self._plan.day,
                "state": state,
                "planned": self._planned,
                "taken": self._state.taken.get(self._plan.day, 0),
                "epoch": self._state.epoch,
                "retries": self._sender.retries,
                **self._counts,
            }
        )


def _receipt_lines(tenant_id: str, batch: Batch, receipt: Receipt) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for number, event in enumerate(batch.events):
        slug = receipt.refused.get(number)
        lines.append(
            {
                "tenantId": tenant_id,
                "eventId": event.event_id,
                "eventHash": event.event_hash,
                "outcome": "refused" if slug else "accepted",
                **({"slug": slug} if slug else {}),
                "batchId": receipt.batch_id,
            }
        )
    lines.append({"batchId": receipt.batch_id, "records": receipt.records})
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: `python -m audit_platform.demo.feeder --help`."""
    parser = argparse.ArgumentParser(
        description="Send one tenant's day of the excerpt by the clock that AUDIT_CLOCK names."
    )
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--url", required=True, help="of the ingest-gateway, without a path")
    parser.add_argument("--api-key-file", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True, help="folder of this edge")
    parser.add_argument("--day", required=True, help="UTC day that the excerpt is laid on")
    parser.add_argument("--from-ms", type=int, default=0, help="first millisecond of the day")
    parser.add_argument("--to-ms", type=int, default=layout.MS_PER_DAY, help="end (exclusive)")
    parser.add_argument("--excerpt", type=Path, default=sources.EXCERPT)
    given = parser.parse_args(arguments)
    try:
        secret = given.api_key_file.read_text("ascii").strip()
        plan = Plan(given.tenant, given.day, given.from_ms, given.to_ms, given.excerpt)
        sender = Sender(given.url, secret)
        pace = Pace.of(Settings.from_environment(os.environ).clock)
        Feeder(plan, EdgeFolder(given.home), sender, pace).run()
    except (AuditPlatformError, OSError, ValueError) as e:
        sys.stderr.write(f"feeder {given.tenant}: {e}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
