"""Reconciliation: every event in the log is in the objects, once, or waits to be archived.

Counted by log position on both topics, in all log generations; a log record that two of them have
archived counts once. What is expected comes from the log records' headers (from
the range records' digests where the log has let go of them); what is found comes from the rows of
the objects that range records name, never from the records' own sums. A loss and a double never
cancel out: positions are compared as sets.
Belongs here: the comparison and its figures. Does not: bytes of single events (the verifier),
coverage of a day (`coverage.py`). Source: design section 6.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.errors import ObjectNotFound, OffsetOutOfRange
from audit_platform.operations.coverage import Doubles, range_records
from audit_platform.operations.generations import ensure_generation, generations
from audit_platform.ports import Log, Objects, Platform
from audit_platform.record.columns import Ints, ints_of
from audit_platform.record.landing import WHOLE_RECORD, header_count
from audit_platform.record.layout import DLQ_TOPIC, short_digest
from audit_platform.record.parquet import read_columns
from audit_platform.record.ranges import Generation, RangeObject, RangeRecord, RecordDigest

#: Bytes of log values held at a time.
READ_BYTES: Final = 4 * 1024 * 1024


@dataclass(slots=True)
class Figures:
    """One partition of one topic, in events. `lost` is a figure of its own, never subtracted.

    events: by the log records' headers. archived: found in rows. undecodable: kept as raw log
    records. pending: beyond the last range. lost: in a range, but not in its objects. doubled:
    found more often than once, or where nothing is expected.
    """

    topic: str
    partition: int
    events: int = 0
    archived: int = 0
    undecodable: int = 0
    pending: int = 0
    lost: int = 0
    doubled: int = 0

    @property
    def unaccounted(self) -> int:
        """Events of the log that are nowhere: `audit_unaccounted_events`."""
        return self.events - self.archived - self.undecodable - self.pending


@dataclass(slots=True)
class Reconciliation:
    """All partitions, what was read for it, and what was wrong with it in words."""

    partitions: list[Figures] = field(default_factory=list)
    ranges: int = 0
    objects: int = 0
    rows: int = 0
    findings: list[str] = field(default_factory=list)

    @property
    def events(self) -> int:
        """Events in the log by headers."""
        return sum(p.events for p in self.partitions)

    @property
    def archived(self) -> int:
        """Events found in rows."""
        return sum(p.archived for p in self.partitions)

    @property
    def undecodable(self) -> int:
        """Events in log records that are kept as raw bytes."""
        return sum(p.undecodable for p in self.partitions)

    @property
    def pending(self) -> int:
        """Events not archived yet."""
        return sum(p.pending for p in self.partitions)

    @property
    def lost(self) -> int:
        """Events in ranges whose rows are missing."""
        return sum(p.lost for p in self.partitions)

    @property
    def doubled(self) -> int:
        """Events found too often."""
        return sum(p.doubled for p in self.partitions)

    @property
    def unaccounted(self) -> int:
        """Events of the log that are nowhere."""
        return sum(p.unaccounted for p in self.partitions)

    @property
    def ok(self) -> bool:
        """Nothing unaccounted, lost, doubled or found wrong; and something was read."""
        return not (self.unaccounted or self.lost or self.doubled or self.findings)


def reconcile(platform: Platform) -> Reconciliation:
    """Compare the log with the objects of all generations, position by position.

    Reads the whole log that is held and two or three columns of every landing and quarantine
    object. Raises `GenerationMismatch`, `RecordMalformed`, `LogUnavailable`, `StoreUnavailable`.
    """
    ensure_generation(platform)
    opened = list(generations(platform))
    result = Reconciliation()
    doubles = Doubles(platform.objects)
    of_place: dict[tuple[str, int], Figures] = {}
    for generation in opened:
        for start in generation.topics:
            for partition, offset in enumerate(start.start_offsets):
                place = (start.topic, partition)
                figures = of_place.setdefault(place, Figures(*place))
                log = _HeldRecords(
                    platform.log, *place, offset, _log_end(platform, opened, generation, place)
                )
                _partition(platform, generation.number, log, figures, result, doubles)
    result.partitions = list(of_place.values())
    if result.ranges and not result.rows:
        result.findings.append("range records exist, but not one row was read")
    return result


def _log_end(
    platform: Platform, opened: Sequence[Generation], generation: Generation, place: tuple[str, int]
) -> int:
    """Up to where the log that is there now is the one that a generation means: 0 for not at all.

    Behind the start of a younger generation it is that one's.
    """
    topic, partition = place
    now = opened[-1].topic(topic)
    ends = [platform.log.bounds(topic, partition)[1] if _names(opened[-1], place) else 0]
    for other in opened[generation.number - 1 :]:
        named = other.topic(topic)
        if named is None or now is None or named.topic_id != now.topic_id:
            return 0
        if other is not generation and _names(other, place):
            ends.append(named.start_offsets[partition])
    return min(ends)


def _names(generation: Generation, place: tuple[str, int]) -> bool:
    named = generation.topic(place[0])
    return named is not None and place[1] < len(named.start_offsets)


def _partition(
    platform: Platform,
    generation: int,
    log: _HeldRecords,
    figures: Figures,
    result: Reconciliation,
    doubles: Doubles,
) -> None:
    topic, partition = figures.topic, figures.partition
    reached = log.start
    for record in range_records(platform.objects, topic, generation, partition):
        result.ranges += 1
        if record.first_offset != reached:
            result.findings.append(
                f"{topic}/{partition}: a range starts at {record.first_offset}, not at {reached}"
            )
        # Between ranges: in the log, covered by nothing. They stay unaccounted.
        figures.events += sum(r.count for r in log.before(record.first_offset))
        held = log.before(record.end_offset)
        _range(platform.objects, record, held, figures, result, doubles.of(record))
        reached = max(reached, record.end_offset)
    pending = sum(r.count for r in log.before(log.end))
    figures.pending += pending
    figures.events += pending


class _HeldRecords:
    """The log records that a partition still holds, in order, from `start` up to `end`."""

    def __init__(self, log: Log, topic: str, partition: int, start: int, end: int) -> None:
        self._log, self._topic, self._partition = log, topic, partition
        self.start, self.end = start, end
        self._offset = max(start, log.bounds(topic, partition)[0] if end else 0)
        self._read: deque[RecordDigest] = deque()

    def before(self, offset: int) -> list[RecordDigest]:
        """The next records with an offset below `offset` (and below `end`)."""
        out: list[RecordDigest] = []
        while True:
            while self._read and self._read[0].offset < offset:
                out.append(self._read.popleft())
            if self._read or self._offset >= min(offset, self.end) or not self._more():
                return out

    def _more(self) -> bool:
        try:
            found = self._log.read(self._topic, self._partition, self._offset, READ_BYTES)
        except OffsetOutOfRange as e:
            if e.start <= self._offset:
                raise
            self._offset = e.start  # retention went on while we read
            return True
        self._read.extend(
            RecordDigest(r.offset, short_digest(r.value), header_count(r.headers))
            for r in found
            if r.offset < self.end
        )
        self._offset = found[-1].offset + 1 if found else self.end
        return bool(found)


# ------------------------------------------------------------------------------------- one range


def _range(
    objects: Objects,
    record: RangeRecord,
    held: Sequence[RecordDigest],
    figures: Figures,
    result: Reconciliation,
    doubled: frozenset[int],
) -> None:
    expected = {r.offset: r for r in record.records}
    for r in held:
        archived = expected.get(r.offset)
        if archived is None or archived.digest != r.digest:
            result.findings.append(
                f"{record.topic}/{record.partition}: the log record at {r.offset} is not the one"
                " that was archived"
            )
        expected[r.offset] = r
    ordered = sorted(expected.keys() - doubled)
    counts = np.array([expected[offset].count for offset in ordered], np.int64)
    figures.events += int(counts.sum())
    rows = _rows(objects, record, result, doubled)
    _count(np.array(ordered, np.int64), counts, rows, figures)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Places of rows that stand for events: log offset, line or entry number, tell-tale topic."""

    offset: Ints
    index: Ints
    is_indexed: bool


def _rows(
    objects: Objects, record: RangeRecord, result: Reconciliation, doubled: frozenset[int]
) -> _Rows:
    """Places of all rows that count as events, from all objects that the record names."""
    # A dead letter cut into chunks is one event, at its chunk 0; a raw row has no chunk.
    is_dlq = record.topic == DLQ_TOPIC
    names = ["log_offset", "log_index", *(["chunk"] if is_dlq else [])]
    places: list[tuple[Ints, Ints]] = []
    for o in record.objects:
        table = _read(objects, o, names, result)
        if table is None:
            continue
        result.objects += 1
        result.rows += len(table)
        if len(table) != o.rows:
            result.findings.append(f"{o.key}: {len(table)} rows, its range record says {o.rows}")
        if is_dlq:
            table = table.filter(pc.equal(table["chunk"].fill_null(0), 0))
        places.append((_ints(table, "log_offset"), _ints(table, "log_index")))
    none = np.zeros(0, np.int64)
    offset = np.concatenate([none, *(place[0] for place in places)])
    index = np.concatenate([none, *(place[1] for place in places)])
    again = np.isin(offset, np.array(sorted(doubled), np.int64))
    return _Rows(offset[~again], index[~again], is_indexed=not is_dlq)


def _ints(table: pa.Table, name: str) -> Ints:
    return ints_of(table[name].combine_chunks())


def _read(
    objects: Objects, named: RangeObject, names: list[str], result: Reconciliation
) -> pa.Table | None:
    try:
        with objects.open(named.key, named.version_id) as reader:
            return read_columns(reader, names)
    except ObjectNotFound:
        result.findings.append(f"{named.key}: not in the store")
    except (pa.ArrowException, OSError, KeyError) as e:
        result.findings.append(f"{named.key}: not readable: {e}")
    return None


def _count(offsets: Ints, counts: Ints, rows: _Rows, figures: Figures) -> None:
    """Compare positions as sets. `offsets` ascend; `counts` are the events expected at each."""
    n = len(offsets)
    place = np.searchsorted(offsets, rows.offset)
    known = place < n
    known[known] = offsets[place[known]] == rows.offset[known]
    whole = rows.index == WHOLE_RECORD

    raw = np.bincount(place[known & whole], minlength=n)
    is_raw = raw > 0
    figures.undecodable += int(counts[is_raw].sum())
    figures.doubled += int(((raw - 1) * counts)[is_raw].sum())

    single = known & (rows.index >= 0)
    single[single] = ~is_raw[place[single]]
    if rows.is_indexed:
        single[single] = rows.index[single] < counts[place[single]]
    found = _distinct(place[single], rows.index[single], n)
    wanted = np.where(is_raw, 0, counts)
    good = np.minimum(found, wanted)
    figures.archived += int(good.sum())
    figures.lost += int((wanted - good).sum())
    # Every other row: again the same place, a place that is not there, a line of a raw record.
    figures.doubled += int((~whole).sum() - good.sum()) + int((whole & ~known).sum())


def _distinct(place: Ints, index: Ints, n: int) -> npt.NDArray[np.int64]:
    """How many different `index` each of `n` places has."""
    pairs = np.unique(np.stack([place, index], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=n)
