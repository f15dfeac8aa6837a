"""What the devices remember over a kill: numbers, the batch on its way, what was sent, receipts.

One folder per tenant: `state.json` (replaced whole), `sent.ndjson` and `receipts.ndjson` (appended,
fsynced). A batch is written down before it is sent and forgotten after its receipt is on disk; so
one that a killed process left is sent again with the same bytes. Belongs here: these files. Does
not: HTTP, pacing, making events (`devices.py`).
Source: design section 4 (order, acknowledgement) and 6 (the sender keeps its own receipts).
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from audit_platform.errors import SettingInvalid

FORMAT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class SaidEvent:
    """One event of a batch, by its eventId. Its eventHash is not known here: the edge completes."""

    event_id: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A body on its way: number (from 1), the bytes as sent, and the events in line order."""

    number: int
    body: bytes
    events: tuple[SaidEvent, ...]


@dataclass(slots=True)
class DeviceState:
    """What must survive: how far each device has counted, and how far each day was taken.

    `next_sequence` is the number that a device's next event gets, `taken` by day the number of its
    events that were put into batches.
    """

    batches: int = 0
    next_sequence: dict[str, int] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    pending: Batch | None = None

    def to_bytes(self) -> bytes:
        """The state file."""
        pending = self.pending and {
            "number": self.pending.number,
            "body": base64.b64encode(self.pending.body).decode("ascii"),
            "events": [e.event_id for e in self.pending.events],
        }
        return orjson.dumps(
            {
                "version": FORMAT_VERSION,
                "batches": self.batches,
                "nextSequence": self.next_sequence,
                "taken": self.taken,
                "pending": pending,
            }
        )

    @classmethod
    def from_bytes(cls, where: Path, data: bytes) -> DeviceState:
        """Parse a state file. Raises `SettingInvalid` for one that is not ours."""
        try:
            value = orjson.loads(data)
            version, pending = value["version"], value["pending"]
            state = cls(
                batches=int(value["batches"]),
                next_sequence=dict(value["nextSequence"]),
                taken=dict(value["taken"]),
                pending=pending
                and Batch(
                    int(pending["number"]),
                    base64.b64decode(pending["body"], validate=True),
                    tuple(SaidEvent(e) for e in pending["events"]),
                ),
            )
        except (ValueError, KeyError, TypeError) as e:
            raise _not_a_state(where, str(e)) from e
        if version != FORMAT_VERSION:
            raise _not_a_state(where, f"version {version}")
        return state


def _not_a_state(where: Path, found: str) -> SettingInvalid:
    return SettingInvalid(str(where), found, "the devices' state; start afresh with another folder")


class DeviceFolder:
    """The files of one tenant's devices. Used by one process at a time."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state_path = home / "state.json"
        self.sent_path = home / "sent.ndjson"
        self.receipts_path = home / "receipts.ndjson"
        self.progress_path = home / "progress.json"
        home.mkdir(parents=True, exist_ok=True)

    def load(self) -> DeviceState:
        """The state as last stored, agreed with the lists that a kill may have left behind.

        A batch on its way whose receipt is complete is on its way no more. Otherwise it will be
        sent again, and its lines written again: what the lists have of it is cut off.
        """
        if not self.state_path.exists():
            return DeviceState()
        state = DeviceState.from_bytes(self.state_path, self.state_path.read_bytes())
        if state.pending and _last_complete(self.receipts_path) == state.pending.number:
            state.pending = None
        done = state.batches - (state.pending is not None)
        _keep_lines(self.sent_path, done)
        _keep_lines(self.receipts_path, done)
        return state

    def store(self, state: DeviceState) -> None:
        """Replace the state file; durable on return."""
        _replace(self.state_path, state.to_bytes())

    def note_sent(self, tenant_id: str, batch: Batch) -> None:
        """Write down what is about to be sent; durable on return."""
        _append(
            self.sent_path,
            (
                {"tenantId": tenant_id, "eventId": e.event_id, "batch": batch.number}
                for e in batch.events
            ),
        )

    def note_receipt(self, tenant_id: str, batch: Batch, outcomes: Sequence[str]) -> None:
        """Write down what the edge answered to each event; durable on return."""
        lines: list[dict[str, Any]] = [
            {
                "tenantId": tenant_id,
                "eventId": event.event_id,
                "outcome": outcome,
                "batch": batch.number,
            }
            for event, outcome in zip(batch.events, outcomes, strict=True)
        ]
        _append(self.receipts_path, [*lines, {"complete": True, "batch": batch.number}])

    def show(self, progress: dict[str, Any]) -> None:
        """Replace the progress file; it may be lost."""
        draft = self.progress_path.with_suffix(".new")
        draft.write_bytes(orjson.dumps(progress))
        draft.replace(self.progress_path)


# -------------------------------------------------------------------------------------- files


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_suffix(".new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    draft.replace(path)
    _fsync_folder(path.parent)


def _append(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    is_new = not path.exists()
    with path.open("ab") as opened:
        opened.write(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        opened.flush()
        os.fsync(opened.fileno())
    if is_new:
        _fsync_folder(path.parent)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _last_complete(path: Path) -> int:
    """Number of the last batch whose receipt is whole: its last line says so."""
    last = 0
    if path.exists():
        with path.open("rb") as opened:
            for line in opened:
                if line.endswith(b"\n") and b'"complete"' in line:
                    last = int(orjson.loads(line)["batch"])
    return last


def _keep_lines(path: Path, last_batch: int) -> None:
    """Cut a list after the lines of `last_batch`: what follows is torn, or will come again."""
    if not path.exists():
        return
    good = 0
    with path.open("r+b") as opened:
        for line in opened:
            if not line.endswith(b"\n") or orjson.loads(line)["batch"] > last_batch:
                break
            good += len(line)
        opened.truncate(good)
        opened.flush()
        os.fsync(opened.fileno())
