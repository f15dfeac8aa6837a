"""Filling one index of HOT from the record, and the proof that it holds just that.

A sealed part that was filled whole is noted in the index, with the number and the sum of its
eventHashes. A later run passes over noted parts without reading them, and proves them together:
what the index holds besides all that this run read must have just that number and that sum. If it
has not, the parts are read after all. The note guards against lost and doubled rows, not against
somebody who may write to HOT: they could write the note too. `check_hot` reads the bytes.

Belongs here: rows into an index, notes, the proof. Does not: where rows come from
(`hot_source.py`), aliases (`rebuild_hot.py`). Source: design section 8 (HOT).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from audit_platform.errors import HotUnavailable
from audit_platform.operations.hot_source import DaySource, Offsets, OurLog
from audit_platform.ports import Hot, Platform
from audit_platform.record.columns import hashes_of, ints_of
from audit_platform.record.manifest import Part

#: Rows put in order of their ingestionTime together, so that blocks of an index are short spans;
#: and their bytes at most. Rows of one fill, which costs about three times as much memory.
SORTED_ROWS: Final = 200_000
SORTED_BYTES: Final = 128 * 1024 * 1024
FILL_ROWS: Final = 20_000

_LANE: Final = 2**64

HashSet = npt.NDArray[np.void]


def as_set(hashes: npt.NDArray[np.uint8]) -> HashSet:
    """Hashes, shape (n, 32), as values that sort and compare."""
    return np.array(np.ascontiguousarray(hashes).view("V32").ravel())


@dataclass(frozen=True, slots=True)
class Tally:
    """How many hashes, and their sum in four lanes of 64 bits: the same in any order."""

    count: int = 0
    lanes: tuple[int, ...] = (0, 0, 0, 0)

    @classmethod
    def of(cls, hashes: HashSet) -> Tally:
        """The tally of some hashes, each counted as often as it stands there."""
        lanes = hashes.view(">u8").reshape(-1, 4).sum(axis=0, dtype=np.uint64).tolist()
        return cls(len(hashes), tuple(lanes))

    def __add__(self, other: Tally) -> Tally:
        """Of both together."""
        a, b = self.lanes, other.lanes
        lanes = tuple((x + y) % _LANE for x, y in zip(a, b, strict=True))
        return Tally(self.count + other.count, lanes)

    def to_note(self) -> str:
        """As a note says it."""
        return " ".join(map(str, (self.count, *self.lanes)))

    @classmethod
    def of_note(cls, text: str) -> Tally | None:
        """What a note says; None for any other text."""
        try:
            count, *lanes = map(int, text.split(" "))
        except ValueError:
            return None
        return cls(count, tuple(lanes)) if len(lanes) == len(cls().lanes) else None


class Filling:
    """One index that is being filled, by one process."""

    def __init__(
        self,
        platform: Platform,
        source: DaySource,
        generation: int,
        told: Callable[[int], None],
        *,
        read_all: bool,
    ) -> None:
        """`told` gets the rows that were looked at so far. `read_all`: pass over nothing."""
        self._platform = platform
        self._hot: Hot = platform.hot
        self._source = source
        self._index = (source.tenant_id, source.day, generation)
        self._told = told
        self._read_all = read_all
        self._done = 0
        self._read: list[HashSet] = []
        self._held = as_set(self._hot.hashes(*self._index))
        self._skipped: dict[str, tuple[Part, Tally]] = {}

    @property
    def skipped(self) -> tuple[str, ...]:
        """Keys of the parts that an earlier run has filled, which were not read again."""
        return tuple(self._skipped)

    def fill(self, archived: Offsets, ends: Offsets) -> None:
        """Fill from COLD, landing, and the log from `archived` to `ends`; what is there is kept.

        Raises `HotUnavailable`, `StoreUnavailable`, `LogUnavailable`, `RecordMalformed`.
        """
        notes = {} if self._read_all else self._hot.notes(*self._index)
        for part in self._source.parts():
            known = Tally.of_note(notes.get(_note_of(part), ""))
            if known is not None and known.count == part.object.rows:
                self._skipped[part.object.key] = part, known
            else:
                self._fill_part(part)
        self._fill(_chained(self._source.landed(), self._source.logged(archived, ends)))

    def _fill_part(self, part: Part) -> None:
        tally = self._fill(self._source.rows_of(part))
        if tally.count == part.object.rows:
            self._hot.note(*self._index, {_note_of(part): tally.to_note()})

    def _fill(self, batches: Iterable[pa.RecordBatch]) -> Tally:
        tally = Tally()
        for rows in _sorted(batches):
            hashes = as_set(hashes_of(rows["event_hash"]))
            self._read.append(hashes)
            tally += Tally.of(hashes)
            mask = ~_among(hashes, self._held)
            lacking = rows if mask.all() else rows.filter(pa.array(mask))
            for start in range(0, lacking.num_rows, FILL_ROWS):
                self._hot.fill(*self._index, lacking.slice(start, FILL_ROWS))
                self._told(self._done + start)
            self._done += rows.num_rows
            self._told(self._done)
        return tally

    def prove(self, ends: Offsets) -> int:
        """Hold the index against what it was filled with; how many unexplained entries it lost.

        More than was filled is right only where the log says so behind `ends`. Raises
        `HotUnavailable` when something that was filled is not there.
        """
        expected, more = self._compared()
        if self._explained(more):
            return 0
        since = _joined(
            as_set(hashes_of(rows["event_hash"]))
            for rows in self._source.logged(ends, OurLog(self._platform).ends())
        )
        if self._explained(np.setdiff1d(more, since)):
            return 0
        again, self._skipped = self._skipped, {}
        for part, _ in again.values():
            self._fill_part(part)
        if again:
            expected, more = self._compared()
        unexplained = np.setdiff1d(more, np.union1d(expected, since))
        if len(unexplained):
            self._hot.remove(*self._index, [bytes(h) for h in unexplained])
        return len(unexplained)

    def _compared(self) -> tuple[HashSet, HashSet]:
        """(what was read, what the index has besides). `HotUnavailable` for what it lacks."""
        expected = _joined(self._read)
        self._held = as_set(self._hot.hashes(*self._index))
        missing = len(np.setdiff1d(expected, self._held))
        if missing:
            tenant_id, day, _ = self._index
            raise HotUnavailable(
                f"{missing} events of {tenant_id} {day} were filled and are not in the index",
                remedy="check the disk; run rebuild-hot again",
            )
        return expected, np.setdiff1d(self._held, expected)

    def _explained(self, more: HashSet) -> bool:
        """Is this just what the parts hold that were passed over?"""
        noted = Tally()
        for _, tally in self._skipped.values():
            noted += tally
        return Tally.of(more) == noted


def _note_of(part: Part) -> str:
    """Its name tells the bytes too (`layout.part_key`)."""
    return f"filled {part.object.key.rpartition('/')[2]}"


def _among(hashes: HashSet, known: HashSet) -> npt.NDArray[np.bool_]:
    """Which of some hashes are known ones (ascending)."""
    if not len(known):
        return np.zeros(len(hashes), np.bool_)
    at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    found: npt.NDArray[np.bool_] = known[at] == hashes
    return found


def _joined(sets: Iterable[HashSet]) -> HashSet:
    return np.unique(np.concatenate([np.zeros(0, "V32"), *sets]))


def _chained(*sources: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for source in sources:
        yield from source


def _sorted(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows, some together at a time, in order of their ingestionTime."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        waiting.append(batch)
        rows += batch.num_rows
        size += batch.get_total_buffer_size()
        if rows >= SORTED_ROWS or size >= SORTED_BYTES:
            yield _in_order(waiting)
            waiting, rows, size = [], 0, 0
    if waiting:
        yield _in_order(waiting)


def _in_order(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    rows = pa.concat_batches(batches)
    order = np.argsort(ints_of(rows["ingestion_time"]), kind="stable")
    return rows.take(pa.array(order))
