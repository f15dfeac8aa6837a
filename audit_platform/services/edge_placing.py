"""Giving events their places: which chain, behind which head, or why not; and taking it all back.

Belongs here: a job (what was placed together), and placing into it. Does not: locks, the spool
(`edge_intake.py`), what is remembered of a device (`edge_memory.py`).
Source: design section 3 (chains).
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from audit_platform.errors import EventRefused
from audit_platform.ports import NewEntry
from audit_platform.record.canonical import canonical_bytes
from audit_platform.record.envelope import EDGE_CONFLICT
from audit_platform.record.layout import ZERO_HASH
from audit_platform.services.edge_entry import (
    Place,
    Ready,
    Said,
    conflict_entry,
    encode,
    ready,
    said_again,
    start_of,
)
from audit_platform.services.edge_memory import MAX_DEVICES, DeviceState, Memory, Run
from audit_platform.services.edge_reading import Batch

_logger: Final = logging.getLogger(__name__)

#: Events and bytes of canonical lines in one entry: as much as one log record holds.
MAX_ENTRY_EVENTS: Final = 500
MAX_ENTRY_BYTES: Final = 1024 * 1024

#: Criticalities, the least first: the classes of the spool's entries.
CLASSES: Final = ("low", "normal", "high", "critical")
_RANK: Final = {"": -1} | {name: n for n, name in enumerate(CLASSES)}

#: What a line has beside its `before`: its start, two hashes and its end, and then some.
_REST_OF_LINE: Final = 512

_sha256: Final = hashlib.sha256

#: Past a class's own __new__, which is Python code: for what is made for each device of a body.
_new: Final = tuple.__new__


@dataclass(frozen=True, slots=True)
class EdgeIdentity:
    """Whose edge this is. `device_id` is the edge as a device; `site` is a label of metrics."""

    tenant_id: str
    hospital_id: str
    device_id: str
    site: str


class Outcome(StrEnum):
    """What became of one event."""

    ACCEPTED = "accepted"
    ALREADY_TAKEN = "already_taken"
    CONFLICT = "conflict"
    REFUSED = "refused"


class DeviceAnswer(NamedTuple):
    """What the device is told of one event.

    Of an accepted one `slug` is a flag: ingest will refuse it, and it stays a link of its chain.
    """

    outcome: Outcome
    slug: str = ""
    field: str = ""
    reason: str = ""
    remedy: str = ""


#: The answer that most events get: always this one object.
ACCEPTED: Final = DeviceAnswer(Outcome.ACCEPTED)
_ALREADY_TAKEN: Final = DeviceAnswer(Outcome.ALREADY_TAKEN)
_CONFLICT: Final = DeviceAnswer(
    Outcome.CONFLICT,
    "sequence_conflict",
    "sequenceNumber",
    "the edge took another event of this device with this sequence number",
    "count every event once; what was sent is kept as a dead letter, so do not send it again",
)
_TOO_MANY: Final = DeviceAnswer(
    Outcome.REFUSED,
    "too_many_devices",
    "deviceId",
    f"the edge knows {MAX_DEVICES} devices, and this is another one",
    "use fewer names, or a second edge",
)


class _Piece:
    """Events of one device and run on their way into one entry.

    `head` is the run's. `next` is the sequence that simply goes on here; -1 beside the device's own
    chain, and when there is no more room.
    Its class is that of its most critical event: a spool drops whole segments, and none that holds
    anything it must keep, so a class for each event would only make more entries.
    """

    __slots__ = (
        "event_class",
        "head",
        "is_main",
        "lines",
        "next",
        "place",
        "prev_hash",
        "run",
        "size",
        "start",
        "stored",
    )

    def __init__(self, run: Run, place: Place, prev_hash: str, *, is_main: bool) -> None:
        self.run = run
        self.place = place
        self.prev_hash = prev_hash
        self.is_main = is_main
        self.start = start_of(place.chain_id)
        self.head = prev_hash
        self.next = -1
        self.event_class = ""
        self.lines: list[bytes] = []
        self.stored: list[bytes] = []
        self.size = 0

    def has_room(self) -> bool:
        """Whether another event may join it."""
        return len(self.lines) < MAX_ENTRY_EVENTS and self.size < MAX_ENTRY_BYTES

    def add(self, event: Ready) -> None:
        """Complete an event that has its sequence in the run, and make it the run's head."""
        _, sequence, _, criticality, before, after, stored = event
        line = b"".join((self.start, before, self.head.encode(), after))
        self.head = self.run.head = _sha256(line).hexdigest()
        self.lines.append(line)
        self.stored.append(stored)
        self.size += len(line)
        if self.is_main:
            self.next = sequence + 1 if self.has_room() else -1
        if criticality != self.event_class:
            self.event_class = max(criticality, self.event_class, key=_RANK.__getitem__)

    def entry(self) -> NewEntry:
        data = encode(self.place, self.prev_hash, self.stored)
        return _new(NewEntry, (self.place.device_id, self.event_class, len(self.stored), data))


@dataclass(slots=True)
class Job:
    """What was placed together, at `now_ms`: its entries, and how to take it back."""

    now_ms: int
    opens_epoch: bool = False
    is_decided: bool = False
    error: BaseException | None = None
    #: Where the next event of a device may go.
    open: dict[str, _Piece] = field(default_factory=dict)
    _pieces: list[_Piece | tuple[NewEntry, list[bytes]]] = field(default_factory=list)
    _before: dict[str, DeviceState | None] = field(default_factory=dict)

    def entries(self) -> Iterator[tuple[NewEntry, list[bytes]]]:
        """Entries in order, each with the lines that are sent for it."""
        for piece in self._pieces:
            if isinstance(piece, _Piece):
                yield piece.entry(), piece.lines
            else:
                yield piece

    def add(self, entry: NewEntry, lines: list[bytes]) -> None:
        """A whole entry, and the lines that are sent for it."""
        self._pieces.append((entry, lines))

    def piece(self, device_id: str) -> _Piece | None:
        """Where the next event of a device may go, if there is such a piece already."""
        piece = self.open.get(device_id)
        return piece if piece is not None and piece.has_room() else None

    def new_piece(self, run: Run, place: Place, prev_hash: str, *, is_main: bool) -> _Piece:
        """A piece for the next events of a run; `prev_hash` is the head before them."""
        piece = self.open[place.device_id] = _Piece(run, place, prev_hash, is_main=is_main)
        self._pieces.append(piece)
        return piece

    def add_conflict(self, device_id: str, event_class: str, line: bytes) -> None:
        """A line that joins no chain, between the events of its device."""
        self.open.pop(device_id, None)
        self.add(NewEntry(device_id, event_class, 1, conflict_entry(line)), [line])

    def touch(self, memory: Memory, device_id: str, window: int) -> None:
        """Call it before a device changes: it can be taken back then. `window` is the memory's."""
        if device_id not in self._before:
            device = memory.devices.get(device_id)
            self._before[device_id] = None if device is None else device.state(window)

    def undo(self, memory: Memory) -> None:
        """Make the memory what it was; of several jobs the last one first."""
        for device_id, state in self._before.items():
            memory.restore(device_id, state)
        if self.opens_epoch:
            memory.chain_id = ""


class Placer:
    """Places events. For one thread at a time; the memory is used by nobody else meanwhile."""

    def __init__(self, identity: EdgeIdentity, memory: Memory) -> None:
        self._identity = identity
        self._memory = memory

    def place_all(self, job: Job, batch: Batch) -> list[DeviceAnswer]:
        """Give what each line says its place, or say why it has none: the answers.

        Device by device: they know nothing of each other, and each one's events stay in order.
        """
        answers = [ACCEPTED] * len(batch.found)
        of_device: defaultdict[str, list[Ready]] = defaultdict(list)
        for n, event in enumerate(batch.found):
            if isinstance(event, Ready):
                of_device[event[0]].append(event)
            else:
                answers[n] = _refused(event)
        window = self._memory.window()
        odd = {
            device_id
            for device_id, events in of_device.items()
            if not self._go_on(job, device_id, events, window)
        }
        if odd:
            for n, event in enumerate(batch.found):
                if isinstance(event, Ready) and event[0] in odd:
                    answers[n] = self._place(job, event)
        for n, flag in batch.flags.items():
            if answers[n] is ACCEPTED:
                answers[n] = DeviceAnswer(Outcome.ACCEPTED, *flag)
        return answers

    def _go_on(self, job: Job, device_id: str, events: list[Ready], window: int) -> bool:
        """Place all that a device says if it simply goes on in its chain and makes one entry.

        That is what nearly every device does, and many bodies hold few events of many devices: the
        same as `_place` of each, without a call and an object for each step. False: nothing done.
        """
        memory = self._memory
        device = memory.devices.get(device_id)
        count, first = len(events), events[0][1]
        if device is None:
            if len(memory.devices) >= MAX_DEVICES:
                return False
        elif first != device.main.first + len(device.main.digests) or device_id in job.open:
            return False
        if count > 1 and (
            count > MAX_ENTRY_EVENTS
            or [event[1] for event in events] != list(range(first, first + count))
            or sum([len(event[4]) for event in events]) > MAX_ENTRY_BYTES - count * _REST_OF_LINE
        ):
            return False
        job.touch(memory, device_id, window)
        if device is None:
            device = memory.begin(device_id, first)
        run = device.main
        if not run.chain_id:
            run.chain_id = memory.chain_id
        start, prev_hash = start_of(run.chain_id), run.head
        head = prev_hash
        lines, stored, take = [], [], run.digests.append
        event_class = events[0][3]
        for _, _, digest, criticality, before, after, kept in events:
            line = b"".join((start, before, head.encode(), after))
            head = _sha256(line).hexdigest()
            lines.append(line)
            stored.append(kept)
            take(digest)
            if criticality != event_class and _RANK[criticality] > _RANK[event_class]:
                event_class = criticality
        run.head = head
        device.aside, device.last_seen_ms = 0, job.now_ms
        me = self._identity
        data = encode((run.chain_id, me.hospital_id, me.tenant_id, device_id), prev_hash, stored)
        job.add(_new(NewEntry, (device_id, event_class, count, data)), lines)
        return True

    def _place(self, job: Job, event: Ready) -> DeviceAnswer:
        memory = self._memory
        device_id, sequence, digest, _, _, _, _ = event
        device = memory.devices.get(device_id)
        if device is None:
            if len(memory.devices) >= MAX_DEVICES:
                return _TOO_MANY
        elif not device.goes_on(sequence) and (taken := memory.taken(device_id, sequence)):
            if taken == digest:
                return _ALREADY_TAKEN
            self._conflict(job, event)
            return _CONFLICT
        self.join(job, event)
        return ACCEPTED

    def join(self, job: Job, event: Ready) -> None:
        """Put an event at the end of its device's chain."""
        me, memory = self._identity, self._memory
        device, sequence, digest, _, _, _, _ = event
        job.touch(memory, device, memory.window())
        run, prev_hash = memory.place(device, sequence, digest)
        known = memory.devices[device]
        known.last_seen_ms = job.now_ms
        piece = job.piece(device)
        if piece is None or piece.run is not run:
            place = _new(Place, (run.chain_id, me.hospital_id, me.tenant_id, device))
            piece = job.new_piece(run, place, prev_hash, is_main=known.main is run)
        piece.add(event)

    def begin_epoch(self, job: Job, chain_id: str, said: Said) -> None:
        """Place a `chain_start`, an event of the edge itself, and begin its epoch."""
        me, memory = self._identity, self._memory
        event = ready(said, me.tenant_id)
        place = Place(chain_id, me.hospital_id, me.tenant_id, me.device_id)
        job.touch(memory, me.device_id, memory.window())
        job.opens_epoch = True
        memory.begin_epoch(chain_id, "")
        run, _ = memory.place(me.device_id, said.sequence, event.digest)
        piece = job.new_piece(run, place, ZERO_HASH, is_main=True)
        piece.add(event)
        memory.chain_start = run.head

    def _conflict(self, job: Job, event: Ready) -> None:
        """Another event for a taken sequence goes to the dead letters, once."""
        device = self._memory.devices[event.device_id]
        if device.last_conflict == event.digest:
            return
        job.touch(self._memory, event.device_id, self._memory.window())
        device.last_conflict = event.digest
        said = said_again(event, self._identity.hospital_id)
        line = conflict_line(said, self._identity)
        job.add_conflict(said.device_id, said.kind.criticality, line)
        _logger.warning(
            "a device gave two events one sequence number",
            extra={"device": said.device_id, "sequence": said.sequence},
        )


def _refused(item: EventRefused) -> DeviceAnswer:
    return DeviceAnswer(Outcome.REFUSED, item.slug, item.field, item.reason, item.remedy)


def new_chain_id() -> str:
    """A chainId that nobody else has."""
    return secrets.token_hex(8)


def conflict_line(said: Said, edge: EdgeIdentity) -> bytes:
    """What ingest refuses as `sequence_conflict`: an event that has no place in any chain."""
    kind = said.kind
    value = {
        "criticality": kind.criticality,
        "deviceId": said.device_id,
        EDGE_CONFLICT: {"edgeDeviceId": edge.device_id},
        "eventTime": said.event_time,
        "eventType": kind.event_type,
        "eventVersion": kind.version,
        "hospitalId": edge.hospital_id,
        "schemaRef": kind.schema_ref,
        "sequenceNumber": said.sequence,
        "tenantId": edge.tenant_id,
    }
    # The payload is canonical text already: it goes to its sorted place. No field before it can
    # hold a quote.
    before, after = canonical_bytes(value).split(b'"schemaRef":', 1)
    return before + b'"payload":' + said.payload.encode() + b',"schemaRef":' + after
