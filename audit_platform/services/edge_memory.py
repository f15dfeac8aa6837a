"""What an edge remembers of its devices: where each chain stands, and what was taken already.

Of a device: the chain that it is in, its head, and for its last sequences a digest of what the
device gave (0: not taken). An event whose sequence goes on from the head joins that chain. One from
*before* it (a counter that began anew, events that come late) must not: its place is taken or
unknown. It begins a chain of its own beside the first, which names the head as the event before it;
the next of it go on there; when the device has gone on there alone for a whole window, that chain
is the device's from then on. So a rebooted device makes a new chain and never a false fork, and a
late event disturbs no other.
Belongs here: this memory, and giving an event its place. Does not: bytes of events, the spool.
Source: design section 3 (chains).
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from audit_platform.errors import RecordMalformed
from audit_platform.ports import Entry, Spool
from audit_platform.services.edge_entry import canonical, decode, name

_logger: Final = logging.getLogger(__name__)

#: Sequences of a device that are remembered: at 10 events a second the last 100 s, within which a
#: device that heard no answer sends again.
WINDOW: Final = 1024

#: Digests in all, 64 MB: for 8,000 devices the whole window each, for more of them less.
MAX_DIGESTS: Final = 8 << 20

#: Devices of one edge: twice the largest hospital that the mission names. More are refused, because
#: forgetting one would make its next event a false fork.
MAX_DEVICES: Final = 20_000

#: How much of the spool's end is read at a start: about 25,000 events (up to four times as many
#: when entries are small), in less than a second. Of a device that said nothing since, the head is
#: not known any more: its next event names the `chain_start`, as a new device's does.
REMEMBERED_BYTES: Final = 8 << 20
_READ_BYTES: Final = 4 << 20
_FIRST_STEP: Final = 64
_STEP_GROWTH: Final = 4

#: A window is cut when it has grown this much over its length: cutting costs a move of all of it.
_SLACK: Final = 256


@dataclass(slots=True)
class Run:
    """Sequences of one device in one chain: `digests` are those from `first` to `last`."""

    chain_id: str
    head: str
    first: int
    digests: array[int]

    @property
    def last(self) -> int:
        """The sequence of the head."""
        return self.first + len(self.digests) - 1

    def digest(self, sequence: int) -> int:
        """The digest at a sequence, 0 where none is remembered."""
        at = sequence - self.first
        return self.digests[at] if 0 <= at < len(self.digests) else 0

    def extend(self, sequence: int, digest: int) -> None:
        """Remember the next event, perhaps after a gap."""
        gap = sequence - self.first - len(self.digests)
        if gap:
            if gap >= WINDOW:
                self.first, self.digests = sequence, array("Q", [digest])
                return
            self.digests.extend([0] * gap)
        self.digests.append(digest)

    def trim(self, window: int) -> None:
        """Forget what is before the last `window` sequences, once there is enough of it."""
        surplus = len(self.digests) - window
        if surplus > _SLACK:
            del self.digests[:surplus]
            self.first += surplus

    def state(self) -> _RunState:
        """What `restore` needs, as long as the run is not trimmed."""
        return self, self.chain_id, self.head, self.first, self.digests, len(self.digests)

    @staticmethod
    def restore(state: _RunState) -> Run:
        """The run as it was."""
        run, chain_id, head, first, digests, length = state
        run.chain_id, run.head, run.first, run.digests = chain_id, head, first, digests
        del digests[length:]
        return run


#: A run, its chain, head and first sequence, its digests and how many there were.
_RunState = tuple[Run, str, str, int, "array[int]", int]


@dataclass(slots=True)
class Device:
    """One device: its chain, and perhaps one beside it that late events are in.

    `aside` is how many of those came since the last event of the main chain. `last_conflict` is the
    digest of the last event that was refused because its sequence is another's.
    """

    main: Run
    late: Run | None = None
    aside: int = 0
    last_seen_ms: int = 0
    last_conflict: int = 0

    def goes_on(self, sequence: int) -> bool:
        """Whether a sequence is behind all that is known of the device, so that it is not taken.

        What is beside the device's chain is never ahead of it.
        """
        return sequence >= self.main.first + len(self.main.digests)

    def state(self, window: int) -> DeviceState:
        """What `restore` needs to make the device what it is now; taken before each change."""
        main, late = self.main, self.late
        if len(main.digests) > window:
            main.trim(window)
        late_state = None
        if late is not None:
            late.trim(window)
            late_state = late.state()
        return main.state(), late_state, self.aside, self.last_seen_ms, self.last_conflict

    def restore(self, state: DeviceState) -> None:
        """Make the device what it was."""
        main, late, self.aside, self.last_seen_ms, self.last_conflict = state
        self.main = Run.restore(main)
        self.late = None if late is None else Run.restore(late)


#: A device's runs, and its other fields.
DeviceState = tuple[_RunState, _RunState | None, int, int, int]


@dataclass(slots=True)
class Memory:
    """All devices of an edge in one epoch: its chainId and the hash of its `chain_start`.

    Without an epoch (`chain_id` is "") events can be remembered, as at a start, but none be made.
    A run that has no event in this epoch yet has chain_id "": its head is of an earlier one.
    """

    chain_id: str = ""
    chain_start: str = ""
    devices: dict[str, Device] = field(default_factory=dict)
    new_chain: Callable[[], str] = field(default=lambda: secrets.token_hex(8))

    def taken(self, device_id: str, sequence: int) -> int:
        """The digest of what was taken at a sequence; 0 where nothing is remembered."""
        device = self.devices.get(device_id)
        if device is None:
            return 0
        found = device.main.digest(sequence)
        return found or (0 if device.late is None else device.late.digest(sequence))

    def state(self, device_id: str) -> DeviceState | None:
        """How a device is now, None for one that is not known; taken before it is changed."""
        device = self.devices.get(device_id)
        if device is None:
            return None
        return device.state(self.window())

    def window(self) -> int:
        """How many sequences of each device are remembered now."""
        return min(WINDOW, MAX_DIGESTS // max(len(self.devices), 1))

    def restore(self, device_id: str, state: DeviceState | None) -> None:
        """Make a device what it was."""
        if state is None:
            self.devices.pop(device_id, None)
        else:
            self.devices[device_id].restore(state)

    def place(self, device_id: str, sequence: int, digest: int) -> tuple[Run, str]:
        """Take a sequence that is not taken: the run it joins, and the head that it names.

        The caller sets the run's `head` to the event's own hash.
        """
        device = self.devices.get(device_id)
        if device is None:
            run = self.begin(device_id, sequence).main
            run.digests.append(digest)
            return run, self.chain_start
        main = device.main
        if sequence >= main.first + len(main.digests):
            if not main.chain_id:
                main.chain_id = self.chain_id
            if sequence == main.first + len(main.digests):
                main.digests.append(digest)
            else:
                main.extend(sequence, digest)
            device.aside = 0
            return main, main.head
        late = device.late
        if late is not None and sequence == late.last + 1:
            late.extend(sequence, digest)
        else:
            late = device.late = Run("", main.head, sequence, array("Q", [digest]))
        if not late.chain_id:
            late.chain_id = self.new_chain()
        device.aside += 1
        if device.aside >= WINDOW:
            device.main, device.late, device.aside = late, None, 0
        return late, late.head

    def begin(self, device_id: str, first: int) -> Device:
        """A device that was not known, before its first event, which has sequence `first`."""
        device = Device(Run(self.chain_id, self.chain_start, first, array("Q")))
        self.devices[device_id] = device
        return device

    def begin_epoch(self, chain_id: str, chain_start: str) -> None:
        """From now on events are in new chains; each device's first names its last head."""
        self.chain_id, self.chain_start = chain_id, chain_start
        for device in self.devices.values():
            device.main.chain_id = ""
            if device.late is not None:
                device.late.chain_id = ""

    def next_sequence(self, device_id: str) -> int:
        """The sequence after the head of a device's chain; 0 for one that is not known."""
        device = self.devices.get(device_id)
        return 0 if device is None else device.main.last + 1


# ------------------------------------------------------------------------------------ at a start


def remember(spool: Spool, memory: Memory) -> None:
    """Fill a memory from the end of the spool. Raises `SpoolUnavailable`."""
    for entry in _entries(spool, _tail(spool)):
        try:
            _recall(entry, memory)
        except RecordMalformed:
            _logger.exception("entry %d of the spool is not one of ours", entry.position)


def _recall(entry: Entry, memory: Memory) -> None:
    found = decode(entry.data)
    if found is None:
        return
    prev_hash = found.prev_hash
    for said in found.events:
        naming = name(said, found.place.tenant_id)
        line = canonical(said, naming, found.place, prev_hash)
        prev_hash = hashlib.sha256(line).hexdigest()
        if not memory.taken(said.device_id, said.sequence):
            memory.state(said.device_id)  # cuts its window
            run, _ = memory.place(said.device_id, said.sequence, naming.digest)
            run.head = prev_hash
            memory.devices[said.device_id].last_seen_ms = entry.appended_ms


def _tail(spool: Spool) -> int:
    """The position from which on about `REMEMBERED_BYTES` of entries lie."""
    first, end = spool.bounds()
    at, step = end, _FIRST_STEP
    while at > first:
        at = max(first, end - step)
        size = 0
        for entry in _entries(spool, at):
            size += len(entry.data)
            if size >= REMEMBERED_BYTES:
                return at
        step *= _STEP_GROWTH
    return at


def _entries(spool: Spool, at: int) -> Iterator[Entry]:
    """All entries from a position on."""
    while entries := spool.read(at, _READ_BYTES):
        yield from entries
        at = entries[-1].position + 1
