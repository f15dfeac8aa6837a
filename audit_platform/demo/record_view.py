"""What the objects and the senders' lists say so far: for the progress display and the last table.

Belongs here: reading range records, manifests, and the devices' files, each file once. Does not:
judging (`fsck`, the independent checker), showing (`display.py`).
Source: design section 5 (range record, manifest) and 6 (the sender's own receipts).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from audit_platform.demo.ground import RecordSource
from audit_platform.errors import StoreUnavailable
from audit_platform.record import layout
from audit_platform.record.manifest import Manifest
from audit_platform.record.ranges import RangeRecord


class RecordView:
    """The record, read as it grows; looked at no more often than once in `look_seconds`."""

    def __init__(self, source: RecordSource, look_seconds: float = 0.0) -> None:
        self._source = source
        self._look_seconds = look_seconds
        self._looked = -look_seconds
        self._read: set[str] = set()
        #: (tenant, day) -> events that range records name, accepted and refused ones.
        self.archived: Counter[tuple[str, str]] = Counter()
        #: (tenant, day) -> its counting manifest.
        self.manifests: dict[tuple[str, str], Manifest] = {}

    def show(self) -> None:
        """Read what is new, unless that was done just now or the store is away: for the eye."""
        if time.monotonic() - self._looked < self._look_seconds:
            return
        with suppress(StoreUnavailable):  # what is new is read when it is back
            self.refresh()
        self._looked = time.monotonic()

    def refresh(self) -> None:
        """Read what is new. Raises `StoreUnavailable`."""
        for prefix in (layout.LANDING, layout.QUARANTINE):
            for key, data in self._new(f"{prefix}/ranges/"):
                for named in RangeRecord.from_bytes(key, data).objects:
                    self.archived[named.tenant_id, named.day] += named.events
        for key, data in self._new(f"{layout.COLD}/"):
            manifest = Manifest.from_bytes(key, data)
            place = (manifest.tenant_id, manifest.day)
            if place not in self.manifests or self.manifests[place].number < manifest.number:
                self.manifests[place] = manifest

    def _new(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        for key in self._source.keys(prefix):
            if key in self._read or not key.endswith(".json"):
                continue
            with self._source.open(key, "") as file:
                data = file.read()
            yield key, data
            self._read.add(key)

    def archived_of(self, tenant_id: str) -> int:
        """Events of a tenant that are in objects."""
        return sum(n for (tenant, _), n in self.archived.items() if tenant == tenant_id)

    def manifests_of(self, tenant_id: str) -> list[Manifest]:
        """The counting manifests of a tenant."""
        return [m for (tenant, _), m in self.manifests.items() if tenant == tenant_id]

    def after(self, day: str) -> int:
        """Events that arrived after a day: they are sealed with a later one."""
        return sum(n for (_, landed), n in self.archived.items() if landed > day)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a tenant's devices say of themselves, in events of this run; zeros before it began."""

    state: str = "starting"
    planned: int = 0
    taken: int = 0
    sent: int = 0
    accepted: int = 0
    refused: int = 0


def progress_of(edge: Path, day: str) -> Progress:
    """The progress file of them, unless it is of another day."""
    try:
        value: dict[str, Any] = orjson.loads((edge / "progress.json").read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return Progress()
    if value["day"] != day:
        return Progress()
    return Progress(**{name: value[name] for name in Progress.__slots__})


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a tenant's devices wrote down over all runs: events, each counted once."""

    sent: int
    acknowledged: int


def ledger_of(edge: Path) -> Ledger:
    """Read the devices' lists."""
    outcomes: Counter[str] = Counter()
    for line in _lines(edge / "receipts.ndjson"):
        if "eventId" in line:
            outcomes[line["outcome"]] += 1
    sent = sum("eventId" in line for line in _lines(edge / "sent.ndjson"))
    return Ledger(sent, outcomes["accepted"] + outcomes["already_taken"])


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]
