"""Loads of the uplink: which entries go together, cut into bodies.

Belongs here: the sizes of bodies, lines that no body can hold. Does not: which entry is next
(`edge_uplink_lanes.py`). Source: design section 4 (batches).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from audit_platform.errors import RecordMalformed, SpoolUnavailable
from audit_platform.ports import Entry
from audit_platform.services.edge_completing import lines_of_all
from audit_platform.services.edge_entry import LiveEntry
from audit_platform.services.edge_uplink_http import LogPlace
from audit_platform.services.edge_uplink_runs import Runs

#: Events and bytes of one body (before compression): what a log record holds at most, so that a
#: body of one device becomes one record. A single larger event makes a body of its own.
BODY_EVENTS: Final = 500
BODY_BYTES: Final = 1024 * 1024

#: Times that ingest must call one single event unreadable, or that an entry must be, before it is
#: kept aside. A body is halved first until the event is found; with the pauses between, a fault
#: that makes everything unreadable takes days to empty a spool into `set-aside/`.
UNREADABLE_TRIES: Final = 5

#: An entry in memory costs this much beside its bytes.
_ENTRY_COST: Final = 300

_BLANK: Final = b" \t\r"


class Lane(StrEnum):
    """Which way an entry goes."""

    LIVE = "live"
    REPLAY = "replay"


@dataclass(slots=True)
class Load:
    """Entries on their way together, as bodies that are sent one after the other.

    `bodies[0]` is next. The positions are acknowledged when no body is left.
    """

    lane: Lane
    is_again: bool
    positions: Runs = field(default_factory=Runs)
    entries: int = 0
    events: int = 0
    bodies: deque[list[bytes]] = field(default_factory=deque)
    records: list[LogPlace] = field(default_factory=list)
    tries: int = 0

    def split(self) -> bool:
        """Make two of the next body; False when it is a single event."""
        lines = self.bodies[0]
        if len(lines) == 1:
            return False
        self.bodies.popleft()
        half = len(lines) // 2
        self.bodies.extendleft([lines[half:], lines[:half]])
        return True


class Item(NamedTuple):
    """An entry in one of the lanes, from the spool or fresh from the intake."""

    position: int
    device_id: str
    count: int  # type: ignore[assignment]  # nobody counts in an entry as in a tuple
    size: int
    entry: Entry | LiveEntry


def item_of(entry: Entry | LiveEntry) -> Item:
    """The item of an entry; its size is about what it takes in memory."""
    if isinstance(entry, LiveEntry):
        size = sum(map(len, entry.lines)) + _ENTRY_COST
    else:
        size = len(entry.data) + _ENTRY_COST
    # Past the class's own __new__, which is Python code: every entry of the edge comes by here.
    return tuple.__new__(Item, (entry.position, entry.device_id, entry.count, size, entry))


#: Keeps bytes that can not be sent: (position, bytes, why). Durable on return, or raises `OSError`.
KeepAside = Callable[[int, bytes, str], None]


class Filler:
    """Makes bodies of entries."""

    def __init__(self, lines_of: Callable[[Entry], list[bytes]], keep_aside: KeepAside) -> None:
        self._lines_of = lines_of
        self._keep_aside = keep_aside
        self._unreadable = (-1, 0)  # position of an entry, and how often it was tried
        self._completed: dict[int, list[bytes]] = {}  # by position, each line good for a body

    def complete(self, entries: Iterable[Entry]) -> None:
        """Complete by the block what `fill` is about to take, a body's worth at most."""
        wanted, events = [], 0
        for entry in entries:
            wanted.append(entry)
            events += entry.count
            if events >= BODY_EVENTS:
                break
        known = self._completed
        if all(entry.position in known for entry in wanted):
            return
        new = [entry for entry in wanted if entry.position not in known]
        self._completed = {e.position: known[e.position] for e in wanted if e.position in known}
        for entry, lines in zip(new, lines_of_all(new), strict=True):
            if lines is not None:
                self._completed[entry.position] = lines

    def fill(self, load: Load, items: Iterator[Item]) -> Load | None:
        """Take items until the load is full; None when there is not one.

        An item counts as taken when the next is asked for. Raises `SpoolUnavailable` (the items
        do), `RecordMalformed` for an entry that is tried again, `OSError` when bytes are to be kept
        aside and can not be; but not once something is taken.
        """
        lines: list[bytes] = []
        size = start = end = 0
        while True:
            try:
                item = next(items, None)
                if item is None:
                    break
                of_item = self._sendable(item)
            except (SpoolUnavailable, RecordMalformed, OSError):
                if load.entries:
                    break  # what was taken must go; the next load meets the trouble again
                raise
            size += sum(map(len, of_item)) + len(of_item)
            if lines and (len(lines) + len(of_item) > BODY_EVENTS or size > BODY_BYTES):
                break
            lines += of_item
            if item.position != end:
                load.positions.add(start, end)
                start = item.position
            end = item.position + 1
            load.entries += 1
            load.events += item.count
        if not load.entries:
            return None
        load.positions.add(start, end)
        load.bodies.extend(cut(lines))
        return load

    def _sendable(self, item: Item) -> list[bytes]:
        """The lines of an item that can stand in a body. Others are kept aside at once."""
        entry = item.entry
        completed = self._completed.get(item.position)
        if completed is not None:
            return completed
        if isinstance(entry, LiveEntry):
            lines = entry.lines
        else:
            try:
                lines = self._lines_of(entry)
            except RecordMalformed as e:
                return self._given_up(entry, e)
        bad = [line for line in lines if b"\n" in line or not line.strip(_BLANK)]
        if not bad:
            return lines
        for line in bad:
            self._keep_aside(item.position, line, "not one line")
        return [line for line in lines if line not in bad]

    def _given_up(self, entry: Entry, error: RecordMalformed) -> list[bytes]:
        """No lines: the entry is kept aside. Raises the error while it is worth another try.

        The spool checks its own bytes, so more likely this program is older than the one that wrote
        them; at the pace of an uplink in trouble a person sees it before much is kept aside.
        """
        position, tries = self._unreadable
        tries = tries + 1 if position == entry.position else 1
        self._unreadable = (entry.position, tries)
        if tries < UNREADABLE_TRIES:
            raise error
        self._keep_aside(entry.position, entry.data, str(error)[:300])
        return []


def cut(lines: list[bytes]) -> Iterator[list[bytes]]:
    """Bodies of at most `BODY_EVENTS` and `BODY_BYTES`."""
    if len(lines) <= BODY_EVENTS and sum(map(len, lines)) + len(lines) <= BODY_BYTES:
        if lines:
            yield lines
        return
    body: list[bytes] = []
    size = 0
    for line in lines:
        if body and (len(body) == BODY_EVENTS or size + len(line) + 1 > BODY_BYTES):
            yield body
            body, size = [], 0
        body.append(line)
        size += len(line) + 1
    if body:
        yield body
