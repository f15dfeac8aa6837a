"""A spool on a disk that tests can break, and a plain model of what it has promised.

Belongs here: opening a spool in tests, `Model`. Does not: tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from audit_platform.adapters.embedded.files import Files
from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.adapters.spool.spool import FileSpool
from audit_platform.errors import SpoolFull, SpoolUnavailable
from audit_platform.ports import Clock, Entry, Full, Keys, NewEntry, SpoolLimits
from audit_platform_tests.clocks import ManualClock

#: In another tree than the spool: keys fsync their own folders, which must not stand in for ours.
KEYS: Final = Path("/keys")
SPOOL: Final = Path("/srv/edge/spool")
ASIDE: Final = SPOOL / "set-aside"
POLICY: Final = {"low": Full.DROP, "critical": Full.REFUSE}
#: Segments of a frame or two, so that short scripts see many of them.
SMALL: Final = SpoolLimits(1 << 20, 72.0, POLICY, segment_bytes=400)


def open_spool(
    files: Files,
    limits: SpoolLimits = SMALL,
    *,
    clock: Clock | None = None,
    keys: Keys | None = None,
    folder: Path = SPOOL,
) -> FileSpool:
    """One process's spool, encrypted."""
    found = FileKeys(KEYS, files) if keys is None else keys
    return FileSpool.open(folder, files, clock or ManualClock(), limits, found)


def entry(data: bytes, event_class: str = "low", device_id: str = "pump-1") -> NewEntry:
    """An entry of one event."""
    return NewEntry(device_id, event_class, 1, data)


def read_all(spool: FileSpool, max_bytes: int = 1 << 20) -> list[Entry]:
    """Everything that is kept, in calls of about `max_bytes`."""
    found: list[Entry] = []
    position = spool.bounds()[0]
    while more := spool.read(position, max_bytes):
        found += more
        position = more[-1].position + 1
    return found


@dataclass(slots=True)
class Model:
    """What a spool has promised, over all of its lives.

    `told`: appended or read, and neither released nor dropped: it must be there. `ever`: everything
    that had a position. `tried`: all data that was ever given to `append`. `let_go`: need not be
    there, though it may: a release or a drop of it was begun.
    """

    told: dict[int, NewEntry] = field(default_factory=dict)
    ever: dict[int, NewEntry] = field(default_factory=dict)
    released: set[int] = field(default_factory=set)
    let_go: set[int] = field(default_factory=set)
    tried: set[bytes] = field(default_factory=set)

    def append(self, spool: FileSpool, *entries: NewEntry, declare: bool = True) -> bool:
        """Append, and remember what was promised; whether it was."""
        self.tried |= {e.data for e in entries}
        try:
            positions, dropped = spool.append(entries)
        except (SpoolUnavailable, SpoolFull):
            return False
        assert len(positions) == len(entries)
        assert positions == sorted(set(positions))
        for position, one in zip(positions, entries, strict=True):
            assert position not in self.ever, f"position {position} was given twice"
            self.ever[position] = self.told[position] = one
        for gone in dropped:
            assert gone.entries
            for lost in gone.entries:
                # Not more is declared than there was, and nothing that was released.
                assert _new(lost) == self.ever.setdefault(lost.position, _new(lost))
                assert lost.position not in self.released
                assert POLICY[lost.event_class] is Full.DROP
                self.told.pop(lost.position, None)
                if declare:
                    self.let_go.add(lost.position)
        if declare:
            spool.declared(dropped)
        return True

    def release(self, spool: FileSpool, first: int, after: int) -> bool:
        """Release, and remember what was promised; whether it was."""
        done = set(range(max(first, 0), min(after, spool.bounds()[1])))
        self.let_go |= done  # even a call that fails may have its effect
        self.told = {p: e for p, e in self.told.items() if p not in done}
        try:
            spool.release([(first, after)])
        except SpoolUnavailable:
            return False
        self.released |= done
        return True

    def read(self, spool: FileSpool, max_bytes: int = 1 << 20) -> None:
        """Read everything: nothing made up, and what was read once stays."""
        for one in read_all(spool, max_bytes):
            assert one.data in self.tried
            assert _new(one) == self.ever.setdefault(one.position, _new(one))
            if one.position not in self.let_go:
                self.told.setdefault(one.position, _new(one))

    def missing(self, spool: FileSpool) -> list[str]:
        """Promises that this spool does not keep."""
        found = read_all(spool)
        positions = [one.position for one in found]
        assert positions == sorted(set(positions))
        there = {one.position: _new(one) for one in found}
        broken = [f"entry {p} is gone" for p, e in self.told.items() if there.get(p) != e]
        first = spool.bounds()[0]
        marked = {p for a, b in spool.released() for p in range(a, b)}
        broken += [
            f"the mark of {p} is gone" for p in self.released if p >= first and p not in marked
        ]
        broken += [f"{p} is marked as released" for p in self.told if p in marked or p < first]
        return broken


def _new(one: Entry) -> NewEntry:
    return NewEntry(one.device_id, one.event_class, one.count, one.data)


def kinds(data: Sequence[bytes], event_class: str = "low") -> list[NewEntry]:
    """One entry for each."""
    return [entry(one, event_class) for one in data]
