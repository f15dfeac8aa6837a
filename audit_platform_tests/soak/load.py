"""Devices under load: one thread that says events to an edge at a rate, and keeps its receipts.

Belongs here: making events, sending them until the edge has them, the receipts file. Does not:
killing (`kills.py`). Imports nothing of the platform: what it promises is compared with the record
by the independent checker, which does not either.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

#: Devices, and events in one body: each body has some of several devices.
DEVICES: Final = 40
BATCH: Final = 200

#: An edge that is being started again needs this long at most; then the run has failed.
PATIENCE_SECONDS: Final = 120.0
PAUSE_SECONDS: Final = 0.05


def event_id(tenant: str, said: dict[str, Any]) -> str:
    """The UUIDv7 of design section 3, from what a device says."""
    payload = json.dumps(said["payload"], sort_keys=True, separators=(",", ":")).encode()
    parts = (
        tenant,
        said["deviceId"],
        said["eventTime"],
        str(said["sequenceNumber"]),
        hashlib.sha256(payload).hexdigest(),
    )
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    moment = datetime.fromisoformat(said["eventTime"])
    ms = (moment - EPOCH) // timedelta(milliseconds=1)
    raw = bytearray((ms % 2**48).to_bytes(6, "big") + digest[:10])
    raw[6] = raw[6] & 0x0F | 0x70
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass
class Load:
    """Says events until `stop`; `rate` is events a second, 0 for as fast as the edge takes them."""

    tenant: str
    url: str
    receipts: Path
    now_ms: Callable[[], int]
    rate: float = 0.0
    prefix: str = "pump"
    sent: int = 0
    acknowledged: int = 0
    retries: int = 0
    failure: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, or go on after `stop`, in a thread of its own."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the body that is on its way has been taken. Raises when the run failed."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2 * PATIENCE_SECONDS)
            assert not self._thread.is_alive(), "the load does not end"
        assert not self.failure, self.failure

    def abandon(self) -> None:
        """End soon, whatever has been taken: the run is over."""
        self._stop.set()

    def _run(self) -> None:
        try:
            with self.receipts.open("ab") as kept:
                started, before = time.monotonic(), self.sent
                while not self._stop.is_set():
                    self._deliver(self._batch(), kept.write)
                    kept.flush()
                    if self.rate:
                        due = started + (self.sent - before) / self.rate
                        self._stop.wait(max(0.0, due - time.monotonic()))
        except (OSError, ValueError, KeyError, AssertionError) as e:
            self.failure = repr(e)

    def _batch(self) -> list[dict[str, Any]]:
        batch = []
        for _ in range(BATCH):
            at = EPOCH + timedelta(milliseconds=self.now_ms())
            number = self.sent
            self.sent += 1
            batch.append(
                {
                    "deviceId": f"{self.prefix}-{number % DEVICES:03}",
                    "eventType": "heartbeat",
                    "eventVersion": 1,
                    "eventTime": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                    "sequenceNumber": number // DEVICES,
                    "payload": {
                        "batteryPercent": number % 101,
                        "synthetic": True,
                        "uptimeSeconds": number,
                    },
                }
            )
        return batch

    def _deliver(self, batch: list[dict[str, Any]], keep: Callable[[bytes], object]) -> None:
        body = b"".join(json.dumps(event).encode() + b"\n" for event in batch)
        answer = self._send(body)
        kept = answer["accepted"] + answer["alreadyTaken"]
        assert kept == len(batch), f"{len(batch)} events sent; the edge says {answer}"
        for said in batch:
            line = {
                "tenantId": self.tenant,
                "eventId": event_id(self.tenant, said),
                "outcome": "accepted",
            }
            keep(json.dumps(line).encode() + b"\n")
            self.acknowledged += 1

    def _send(self, body: bytes) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - a loopback address of ours
            f"{self.url}/v1/events",
            data=body,
            headers={"Content-Type": "application/x-ndjson"},
            method="POST",
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the same
                    said: dict[str, Any] = json.load(answer)
                    return said
            except (OSError, ValueError) as e:
                # Killed, or not up again yet: no answer promises nothing, so the same bytes again.
                if time.monotonic() > deadline:
                    raise OSError(f"the edge is gone: {e!r}") from e
                self.retries += 1
                time.sleep(PAUSE_SECONDS)
