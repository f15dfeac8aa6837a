"""One hospital's devices, as a process of their own: they say the excerpt's events to their edge.

They take the excerpt's events when the wall clock reaches their time of sending, number them, and
send bodies of up to 500, one at a time, the same bytes again until the edge has taken them. What
the edge took is written down as the devices' own receipts: the proof of the demo starts there.
Belongs here: pacing, numbering, sending, the command line. Does not: what must survive a kill
(`device_state.py`), what devices say (`mapping.py`), completing and chains (the edge-gateway).
Source: design section 3 (who fills what), 6 (the sender keeps its own receipts); `docs/data.md`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import urllib3
import zstandard

from audit_platform.adapters.clock import ScaledClock, parse_clock
from audit_platform.demo import sources
from audit_platform.demo.device_state import Batch, DeviceFolder, SaidEvent
from audit_platform.demo.mapping import DeviceEvent, device_events
from audit_platform.errors import AuditPlatformError
from audit_platform.ports import Clock
from audit_platform.record import layout
from audit_platform.record.canonical import canonical_bytes
from audit_platform.record.event import derive_event_id
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

#: First and longest pause between attempts, seconds; each is drawn from half of it to all of it.
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 5.0

#: The edge answers after an fsync.
READ_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 5.0

#: Statuses that promise nothing and may pass later. Any other but 200 and 202 needs a person.
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 507})
_TAKEN: Final = frozenset({200, 202})

#: Answers of the edge to one event after which the device may forget it.
_KEPT: Final = frozenset({"accepted", "already_taken"})


class EdgeRefused(AuditPlatformError):
    """The edge will never take this body as it is."""


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


@dataclass(frozen=True, slots=True)
class Plan:
    """What the devices say: a tenant's laid day, as the UTC day `day`, from/to in that day."""

    tenant_id: str
    day: str
    from_ms: int = 0
    to_ms: int = layout.MS_PER_DAY
    excerpt: Path = sources.EXCERPT


class EdgeConnection:
    """One connection to an edge-gateway; one body on its way at a time."""

    def __init__(
        self,
        url: str,
        *,
        wait: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._url = url.rstrip("/") + "/v1/events"
        self._wait = wait
        self._jitter = jitter
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=1, timeout=timeout, retries=False)
        self.retries = 0

    def send(self, body: bytes, events: int) -> list[str]:
        """Send a body until the edge has answered for each of its events; the outcomes in order.

        Blocks as long as that takes. Raises `EdgeRefused` for an answer that will not change.
        """
        headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "zstd"}
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                answer = self._pool.request("POST", self._url, body=body, headers=headers)
                if answer.status in _TAKEN:
                    return _outcomes(answer.data, events)
                if answer.status not in _AGAIN:
                    raise EdgeRefused(
                        f"HTTP {answer.status}: {answer.data[:300]!r}", remedy="see the reason"
                    )
            except urllib3.exceptions.HTTPError:
                pass  # no answer promises nothing: the same bytes again
            self.retries += 1
            self._wait(pause * (1 + self._jitter()) / 2)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def _outcomes(data: bytes, events: int) -> list[str]:
    """Of each event: the edge lists only those of which there is more to say than "accepted"."""
    try:
        said = orjson.loads(data)
        counted = sum(said[name] for name in ("accepted", "alreadyTaken", "conflicts", "refused"))
        if counted != events:
            raise EdgeRefused(
                f"{events} events sent, {counted} answered", remedy="report it: keep the body"
            )
        outcomes = ["accepted"] * events
        for line in said["lines"]:
            outcomes[line["line"] - 1] = str(line["outcome"])
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError) as e:
        raise EdgeRefused(f"not an answer of an edge: {e!r}", remedy="compare the versions") from e
    return outcomes


class Devices:
    """Say one plan. `run` may be called again after any death of the process: it goes on."""

    def __init__(self, plan: Plan, folder: DeviceFolder, edge: EdgeConnection, pace: Pace) -> None:
        self._plan = plan
        self._folder = folder
        self._edge = edge
        self._pace = pace
        self._day_start_ms = layout.day_start_ms(plan.day)
        self._counts = {"sent": 0, "accepted": 0, "refused": 0}

    def run(self) -> None:
        """Say everything that is due, as it becomes due; return when the edge has all of it.

        Raises `EdgeRefused` when the edge says that the devices must change something.
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
        at = 0
        while at < len(todo):
            self._show("waiting")
            self._pace.wait_until(self._day_start_ms + todo[at][1].offset_ms)
            self._gather(todo, at)
            now = self._pace.clock.now_ms() - self._day_start_ms
            due: list[DeviceEvent] = []
            while at < len(todo) and len(due) < MAX_BATCH_EVENTS and todo[at][1].offset_ms <= now:
                due.append(todo[at][1])
                at += 1
            self._state.taken[self._plan.day] = todo[at - 1][0] + 1
            self._deliver(self._batch(due))
        self._show("done")

    def _gather(self, todo: Sequence[tuple[int, DeviceEvent]], at: int) -> None:
        """Wait a little for more, unless a full body is due already."""
        last = todo[min(at + MAX_BATCH_EVENTS, len(todo)) - 1][1]
        if self._day_start_ms + last.offset_ms > self._pace.clock.now_ms():
            self._pace.wait(GATHER_SECONDS)

    def _batch(self, due: Sequence[DeviceEvent]) -> Batch:
        """Number the events and write them down before they are sent, with the state after it."""
        said = [self._said(event) for event in due]
        body = b"".join(orjson.dumps(event) + b"\n" for event in said)
        self._state.batches += 1
        self._state.pending = Batch(
            self._state.batches,
            zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(body),
            tuple(SaidEvent(event_id_of(self._plan.tenant_id, event)) for event in said),
        )
        self._folder.store(self._state)
        return self._state.pending

    def _said(self, event: DeviceEvent) -> dict[str, Any]:
        number = self._state.next_sequence.get(event.device_id, 0)
        self._state.next_sequence[event.device_id] = number + 1
        return {
            "deviceId": event.device_id,
            "eventType": event.event_type,
            "eventVersion": event.event_version,
            "eventTime": format_time_ms(self._day_start_ms + event.event_offset_ms),
            "sequenceNumber": number,
            "payload": event.payload,
        }

    def _deliver(self, batch: Batch) -> None:
        """Send until the edge has it, then write the receipt down and forget the batch."""
        self._folder.note_sent(self._plan.tenant_id, batch)
        self._counts["sent"] += len(batch.events)
        self._show("sending")
        outcomes = self._edge.send(batch.body, len(batch.events))
        self._folder.note_receipt(self._plan.tenant_id, batch, outcomes)
        self._state.pending = None
        self._folder.store(self._state)
        kept = sum(outcome in _KEPT for outcome in outcomes)
        self._counts["accepted"] += kept
        self._counts["refused"] += len(outcomes) - kept

    def _show(self, state: str) -> None:
        self._folder.show(
            {
                "tenant": self._plan.tenant_id,
                "day": self._plan.day,
                "state": state,
                "planned": self._planned,
                "taken": self._state.taken.get(self._plan.day, 0),
                "retries": self._edge.retries,
                **self._counts,
            }
        )


def event_id_of(tenant_id: str, said: dict[str, Any]) -> str:
    """The eventId that follows from what a device says (design section 3)."""
    checksum = hashlib.sha256(canonical_bytes(said["payload"])).hexdigest()
    return derive_event_id(
        tenant_id, said["deviceId"], said["eventTime"], said["sequenceNumber"], checksum
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: `python -m audit_platform.demo.devices --help`."""
    parser = argparse.ArgumentParser(
        description="Say one tenant's day of the excerpt by the clock that AUDIT_CLOCK names."
    )
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--url", required=True, help="of the edge-gateway, without a path")
    parser.add_argument("--home", type=Path, required=True, help="folder of these devices")
    parser.add_argument("--day", required=True, help="UTC day that the excerpt is laid on")
    parser.add_argument("--from-ms", type=int, default=0, help="first millisecond of the day")
    parser.add_argument("--to-ms", type=int, default=layout.MS_PER_DAY, help="end (exclusive)")
    parser.add_argument("--excerpt", type=Path, default=sources.EXCERPT)
    given = parser.parse_args(arguments)
    try:
        plan = Plan(given.tenant, given.day, given.from_ms, given.to_ms, given.excerpt)
        pace = Pace.of(Settings.from_environment(os.environ).clock)
        Devices(plan, DeviceFolder(given.home), EdgeConnection(given.url), pace).run()
    except (AuditPlatformError, OSError, ValueError) as e:
        sys.stderr.write(f"devices of {given.tenant}: {e}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
