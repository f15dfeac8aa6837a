"""What the uplink sends next: the backlog in order, and beside it what is live.

Every spooled entry is looked at once, in the order of positions (`scan`), and put into one lane:
*live*, when nothing of its device waits in the backlog, or else *replay*. The replay lane goes
through the spool from the first position that is not released; it passes over what the live lane
has sent and stops before what that has yet to send. So the entries of a device are sent in their
order, each lane has at most one load on its way, and no device is in both.

Which devices have something in the backlog: one number a device, its highest position there. It
counts until the replay lane has acknowledged everything below. What was spooled before this process
started is looked at in steps of `SCAN_BYTES`, one a load, and live entries wait until that is done;
device ids stand in the entries' headers, so nothing is decoded for it.

Belongs here: the lanes, what is still to be sent. Does not: cutting entries into bodies
(`edge_uplink_load.py`), HTTP, pauses, what is archived.
Source: design section 4 (order); the choice of lanes is in `docs/edge.md`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Final

from audit_platform.ports import Entry, Spool
from audit_platform.services.edge_entry import LiveEntry
from audit_platform.services.edge_uplink_load import (
    Filler,
    Item,
    KeepAside,
    Lane,
    Load,
    item_of,
)
from audit_platform.services.edge_uplink_runs import Runs

#: Replay loads for one live load while both lanes have something. Loads of the backlog are full,
#: live ones mostly are not: replay runs at least at three times the live rate.
REPLAY_PER_LIVE: Final = 3

#: Bytes of entries read from the spool at a time: a body's worth, compact as they are stored.
READ_BYTES: Final = 512 * 1024

#: Bytes of entries looked at between two loads: 1 GB of backlog takes 250 loads, a few seconds.
SCAN_BYTES: Final = 4 * 1024 * 1024

#: Bytes of live entries that wait in memory, and of those that were offered and not looked at. What
#: is over goes the way of the backlog: the spool has it.
LIVE_BYTES: Final = 8 * 1024 * 1024

#: Devices known to have a backlog: 150 bytes each. With more, all entries go into the backlog until
#: what is there now is sent.
MAX_DEVICES: Final = 100_000

#: Runs that the replay lane has to pass over. With more, all new entries go into the backlog.
MAX_SKIPS: Final = 100_000


class Lanes:
    """The two lanes. All but `offer` and the figures are for one thread."""

    def __init__(
        self, spool: Spool, lines_of: Callable[[Entry], list[bytes]], keep_aside: KeepAside
    ) -> None:
        self._spool = spool
        self._filler = Filler(lines_of, keep_aside)
        first, self._start_end = spool.bounds()
        self._skip = Runs(spool.released())
        self._cursor = self._scanned = first
        self._ahead: deque[Entry] = deque()
        self._behind: dict[str, int] = {}
        self._blind_to = 0
        self._live: deque[Item] = deque()
        self._live_bytes = 0
        self._loads: dict[Lane, Load] = {}
        self._again = Runs()
        self._later = Runs()
        self._replays_left = 0
        self._offered: dict[int, list[Item]] = {}  # by the position of the first
        self._offered_bytes = 0
        self._offering = threading.Lock()
        self._behind_entries = self._behind_events = 0
        self._live_events = 0
        self._most_behind = self._behind_now()

    # ---------------------------------------------------------------------------------- figures

    def waiting(self) -> tuple[int, int]:
        """(entries, events) spooled and not acknowledged.

        Events of entries that were not looked at yet are not known: they count as one each.
        """
        unseen = max(0, self._spool.bounds()[1] - self._scanned)
        live = self._loads.get(Lane.LIVE)
        entries = self._behind_entries + len(self._live) + (live.entries if live else 0)
        events = self._behind_events + self._live_events
        return entries + unseen, events + unseen

    def progress(self) -> float:
        """0..1: how much of the backlog is acknowledged, of the most that there was of it."""
        behind = self._behind_now()
        return 1.0 - behind / max(behind, self._most_behind) if behind else 1.0

    def _behind_now(self) -> int:
        return self._behind_entries + max(0, self._start_end - self._scanned)

    # ------------------------------------------------------------------------------ what comes in

    def offer(self, entries: Sequence[LiveEntry]) -> None:
        """Hand over entries that were just spooled, so that nobody needs to read them again.

        From any thread; never blocks. What there is no room for is read from the spool.
        """
        items = list(map(item_of, entries))
        size = sum([item.size for item in items])
        with self._offering:
            first = items[0].position if items else -1
            if first >= self._scanned and self._offered_bytes + size <= LIVE_BYTES:
                self._offered[first] = items
                self._offered_bytes += size

    def scan(self) -> bool:
        """Look at entries that are new here, `SCAN_BYTES` at most. Whether there were any.

        Raises `SpoolUnavailable`.
        """
        left, before = SCAN_BYTES, self._scanned
        while left > 0 and self._scanned < self._spool.bounds()[1]:
            found = self._next_entries()
            if not found:
                # Nothing more is durable. What was given before we started and is not there is a
                # hole, or released.
                self._scanned = max(self._scanned, self._start_end)
                break
            left -= sum([item.size for item in found])
            self._scanned = found[-1].position + 1
            self._classify(found)
        self._most_behind = max(self._most_behind, self._behind_now())
        return self._scanned > before

    def _next_entries(self) -> list[Item]:
        items: list[Item] = []
        with self._offering:
            at = self._scanned
            while (offered := self._offered.pop(at, None)) is not None:
                items += offered
                at = offered[-1].position + 1
            self._offered_bytes -= sum([item.size for item in items])
        if items:
            return items
        items = [item_of(entry) for entry in self._spool.read(self._scanned, READ_BYTES)]
        if items:
            self._forget_offers(items[-1].position)
        return items

    def _forget_offers(self, last: int) -> None:
        """Offers that come too late: the spool was read meanwhile. They come about in order."""
        with self._offering:
            while self._offered and (first := next(iter(self._offered))) <= last:
                self._offered_bytes -= sum([item.size for item in self._offered.pop(first)])

    def _classify(self, items: Sequence[Item]) -> None:
        replayed_to = self._replayed_to()
        may_be_live = not self._again and len(self._skip) < MAX_SKIPS
        for item in items:
            position, device_id, count, size, _ = item
            if position < self._start_end:
                if position not in self._skip:  # only what was there before us can be released
                    self._put_behind(item)
            elif (
                may_be_live
                and replayed_to >= self._blind_to
                and self._live_bytes + size <= LIVE_BYTES
                and self._behind.get(device_id, -1) < replayed_to
            ):
                self._live.append(item)
                self._live_bytes += size
                self._live_events += count
            elif device_id in self._behind:
                # As `_put_behind`, at less cost: nearly all of a backlog comes by here.
                self._behind[device_id] = position
                self._behind_entries += 1
                self._behind_events += count
            else:
                self._put_behind(item)

    def _put_behind(self, item: Item) -> None:
        self._behind_entries += 1
        self._behind_events += item.count
        known = self._behind.get(item.device_id, -1)
        if known < 0 and len(self._behind) >= MAX_DEVICES:
            replayed_to = self._replayed_to()
            self._behind = {d: p for d, p in self._behind.items() if p >= replayed_to}
            if len(self._behind) >= MAX_DEVICES:
                self._blind_to = max(self._blind_to, item.position + 1)
                return
        self._behind[item.device_id] = max(known, item.position)

    def _replayed_to(self) -> int:
        """Below this every position is acknowledged, released, or in the live lane."""
        load = self._loads.get(Lane.REPLAY)
        first = None if load is None or load.is_again else load.positions.first()
        return self._cursor if first is None else first[0]

    # ------------------------------------------------------------------------------ what goes out

    def next_load(self) -> Load | None:
        """The load to send now: one that is on its way already, or a new one. None: nothing waits.

        Raises as `Filler.fill`.
        """
        order = [Lane.LIVE, Lane.REPLAY]
        if self._replays_left > 0:
            order.reverse()
        for lane in order:
            load = self._loads.get(lane) or self._assembled(lane)
            if load is not None:
                self._replays_left = (
                    REPLAY_PER_LIVE if lane is Lane.LIVE else max(0, self._replays_left - 1)
                )
                return load
        return None

    def _assembled(self, lane: Lane) -> Load | None:
        other = next(iter(self._loads.values()), None)
        if lane is Lane.LIVE:
            if other is not None and other.is_again:
                return None  # one of its devices might be in that load
            return self._keep(self._live_load())
        if self._again and other is None:
            load = self._again_load()
            if load is not None:
                return self._keep(load)
        return None if self._again else self._keep(self._replay_load())

    def _keep(self, load: Load | None) -> Load | None:
        if load is not None:
            self._loads[load.lane] = load
        return load

    def _live_load(self) -> Load | None:
        load = Load(Lane.LIVE, is_again=False)

        def items() -> Iterator[Item]:
            while self._live:
                item = self._live[0]
                yield item
                self._live.popleft()
                self._live_bytes -= item.size

        return self._filler.fill(load, items())

    def _replay_load(self) -> Load | None:
        load = Load(Lane.REPLAY, is_again=False)

        def items() -> Iterator[Item]:
            while self._cursor < (stop := self._to_cursor()):
                self._filler.complete(takewhile(lambda e: e.position < stop, self._ahead))
                while self._ahead and self._ahead[0].position == self._cursor < stop:
                    yield item_of(self._ahead[0])
                    self._ahead.popleft()
                    self._cursor += 1

        found = self._filler.fill(load, items())
        self._skip.discard_below(self._cursor)
        if found is None:
            self._settle()
        return found

    def _to_cursor(self) -> int:
        """Move the cursor up to the next entry of the backlog, the first of those read ahead.

        Returns up to where the lane may go now: the cursor itself when there is no such entry.
        """
        live = self._loads.get(Lane.LIVE)
        first_live = live.positions.first() if live else None
        limit = min(
            self._scanned,
            self._live[0].position if self._live else self._scanned,
            first_live[0] if first_live else self._scanned,
        )
        while True:
            self._cursor = max(self._cursor, min(self._skip.end_of(self._cursor), limit))
            if self._cursor >= limit:
                return self._cursor
            while self._ahead and self._ahead[0].position < self._cursor:
                self._ahead.popleft()
            if not self._ahead:
                self._ahead.extend(self._spool.read(self._cursor, READ_BYTES))
            stop = min(limit, self._skip.next_start(self._cursor, limit))
            if self._ahead and self._ahead[0].position == self._cursor:
                return stop
            found = self._ahead[0].position if self._ahead else stop
            # A hole: dropped by a full spool, most likely. Looked at once more: an append that
            # fails half-way gives back what it dropped.
            hole_end = min(stop, found)
            self._later.add(self._cursor, hole_end)
            self._cursor = hole_end

    def _again_load(self) -> Load | None:
        load = Load(Lane.REPLAY, is_again=True)

        def items() -> Iterator[Item]:
            while (run := self._again.first()) is not None:
                found = self._spool.read(run[0], READ_BYTES)
                of_run = [entry for entry in found if entry.position < run[1]]
                self._filler.complete(of_run)
                for entry in of_run:
                    yield item_of(entry)
                    self._again.discard_below(entry.position + 1)
                if not of_run:
                    self._again.discard_below(run[1])

        return self._filler.fill(load, items())

    # ---------------------------------------------------------------------------- what came of it

    def done(self, load: Load) -> None:
        """No body of a load is left: all of it is acknowledged, or kept aside."""
        del self._loads[load.lane]
        if load.lane is Lane.LIVE:
            self._live_events -= load.events
            for run in load.positions:
                self._skip.add(*run)
        elif not load.is_again:
            self._behind_entries -= load.entries
            self._behind_events -= load.events
        self._settle()

    def _settle(self) -> None:
        """Nothing waits: what is remembered of the backlog may go (drops left some behind)."""
        if self._cursor >= self._scanned and not self._loads and not self._live:
            self._behind.clear()
            self._behind_entries = self._behind_events = self._live_events = 0
            self._most_behind = self._behind_now()

    def send_again(self, positions: Runs) -> None:
        """The log lost these: they go before everything else, in order.

        Until they are sent nothing new is live, so that each device's order holds again.
        """
        for run in positions:
            self._again.add(*run)
        if not self._again:
            return
        for item in self._live:
            self._live_events -= item.count
            self._put_behind(item)
        self._live.clear()
        self._live_bytes = 0

    def send_again_later(self, positions: Runs) -> None:
        """These must be sent again one day: nobody remembers where they are in the log."""
        for run in positions:
            self._later.add(*run)

    def take_later(self, most: int) -> None:
        """Send up to so many of the former again now, unless something is sent again already."""
        run = self._later.first()
        if run is not None and not self._again:
            end = min(run[1], run[0] + most)
            self._later.discard_below(end)
            self.send_again(Runs([(run[0], end)]))
