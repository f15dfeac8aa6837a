"""Searching COLD: sealed parts, and landing where nothing is sealed yet.

Row groups are taken in the order of the least time that they can hold; of each, the columns of the
question and of the order are read, and only the best `limit` places are kept. The rows themselves
are read last, from the row groups that hold them. So memory is one row group and one page, whatever
the window. Belongs here: that order, and which of several copies counts. Does not: tiers
(`search.py`), reading a row group (`units.py`). Source: design section 4 (copies), 5.

Which copy counts: a sealed one before others; else the lowest place in the log of the earliest day.
By the ingestion clock a copy may lie outside the window or before the page; it is looked for in
`HOT_COPY_DAYS` days before and one after, by the event's own time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from audit_platform.operations.query import units
from audit_platform.operations.query.footers import EQUAL_COLUMNS
from audit_platform.operations.query.model import ANSWER_SCHEMA, IsCancelled, Standing
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import Scope, Source, scope_of_days
from audit_platform.operations.query.units import Unit
from audit_platform.ports import HOT_COPY_DAYS, EventClock, EventPosition, EventQuery
from audit_platform.record import layout
from audit_platform.record.columns import Mask, hashes_of, ints_of
from audit_platform.record.words import TEXT_COLUMNS, rows_with_words, words

#: Before and after any time.
_FOREVER: Final = 1 << 62

_ORDER_COLUMNS: Final = ("event_time", "ingestion_time", "device_id", "sequence_number")


class Place(NamedTuple):
    """Which of several copies counts: the least. Sealed ones have only zeros after the first."""

    unsealed: bool
    day: str
    generation: int
    partition: int
    offset: int
    line: int


@dataclass(frozen=True, slots=True)
class Found:
    """A row that matches: its position, which copy it is, and where to read it."""

    position: EventPosition
    place: Place
    unit: Unit
    row: int
    event_ms: int


def search_cold(
    reader: Reader, scope: Scope, query: EventQuery, is_cancelled: IsCancelled
) -> tuple[pa.Table, EventPosition | None]:
    """(rows of `ANSWER_SCHEMA`, position of the last row if more follow). Raises as `Objects`."""
    search = _Search(reader, scope, query, is_cancelled)
    page: dict[bytes, Found] = {}
    after = query.after
    while len(page) <= query.limit:
        found = search.best(after, query.limit + 1 - len(page))
        if not found:
            break
        for f in search.counting(found):
            page.setdefault(f.position.event_hash, f)
        after = found[-1].position
    kept = sorted(page.values(), key=lambda f: f.position)
    more = len(kept) > query.limit
    rows = rows_of(reader, scope, kept[: query.limit], is_cancelled)
    return rows, kept[query.limit - 1].position if more else None


class _Search:
    """One question over the row groups of a scope."""

    def __init__(
        self, reader: Reader, scope: Scope, query: EventQuery, is_cancelled: IsCancelled
    ) -> None:
        self._reader, self._scope, self._query = reader, scope, query
        self._is_cancelled = is_cancelled
        self._clock = f"{query.clock}_time"
        self._words = words(query.text) if query.text else []
        self._units = sorted(
            self._concerned(scope.sources), key=lambda unit: unit.least(self._clock)
        )
        equal = [c for c in EQUAL_COLUMNS if getattr(query, c) is not None]
        wanted = [*_ORDER_COLUMNS, *equal, *(TEXT_COLUMNS if self._words else ())]
        self._columns = list(dict.fromkeys(wanted))
        self._horizon = _FOREVER

    def _concerned(self, sources: Sequence[Source]) -> Iterator[Unit]:
        query = self._query
        good = [s for s in sources if s.may_hold(query.device_id)]
        for unit in units.units_of(self._reader, self._scope, good, self._is_cancelled):
            fits = all(unit.may_hold(c, getattr(query, c)) for c in EQUAL_COLUMNS)
            if fits and unit.may_hold_time(self._clock, query.from_ms, query.to_ms):
                yield unit

    def best(self, after: EventPosition | None, limit: int) -> list[Found]:
        """At most `limit` different positions behind `after`, in order, without a hole.

        At least one, if there is any; of each, the copy that counts among those that match.
        """
        kept: list[Found] = []
        bound: int | None = None
        self._horizon = _FOREVER
        for unit in self._units:
            if bound is not None and unit.least(self._clock) > bound:
                break
            if after is not None and not unit.may_hold_time(self._clock, after.ms, _FOREVER):
                continue
            units.check(self._is_cancelled)
            new = self._matching(unit, after, bound, limit)
            if new:
                kept = _first(kept + new, limit)
                bound = kept[-1].position.ms if len(kept) == limit else None
        return [f for f in kept if f.position.ms <= self._horizon]

    def _matching(
        self, unit: Unit, after: EventPosition | None, bound: int | None, limit: int
    ) -> list[Found]:
        columns = list(dict.fromkeys([*self._columns, *units.place_columns(unit.source)]))
        batch = units.read(self._reader, self._scope, unit, columns)
        if batch is None or not len(batch):
            return []
        mask = self._mask(unit, batch, after, bound)
        at = np.flatnonzero(mask)
        if self._words and len(at):
            at = at[rows_with_words(_texts(batch, at), self._words)]
        ms = _times(batch, self._clock)[at]
        # Rows of the time of `after` may all stand before it.
        enough = limit + (int((ms == after.ms).sum()) if after is not None else 0)
        if len(at) > enough:
            # Only what may be on the page becomes Python objects. Copies may leave it short: then
            # nothing behind the cut is on this page either.
            cut = int(np.partition(ms, enough - 1)[enough - 1])
            self._horizon = min(cut, self._horizon)
            at, ms = at[ms <= cut], ms[ms <= cut]
        return _founds(unit, batch, at, ms, after)

    def _mask(
        self, unit: Unit, batch: pa.RecordBatch, after: EventPosition | None, bound: int | None
    ) -> Mask:
        query = self._query
        ms = _times(batch, self._clock)
        mask = units.counts_mask(unit, batch)
        mask &= (ms >= query.from_ms) & (ms < query.to_ms)
        if after is not None:
            mask &= ms >= after.ms
        if bound is not None:
            mask &= ms <= bound
        for column in EQUAL_COLUMNS:
            value = getattr(query, column)
            if value is not None and mask.any():
                mask &= units.equal_mask(batch, column, value)
        return mask

    def counting(self, found: list[Found]) -> list[Found]:
        """Those of the found that no other copy, in or outside the window, stands before."""
        if self._query.clock is EventClock.EVENT:
            return found  # all copies have one position, and the best of them was taken
        copies = [
            Copied(f.position.event_hash, f.position.device_id, f.event_ms, f.place) for f in found
        ]
        late = copies_before(self._reader, self._scope, copies, self._is_cancelled)
        return [f for f, copy in zip(found, late, strict=True) if not copy]


def _texts(batch: pa.RecordBatch, at: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """The searched columns of some rows, as text."""
    rows = batch.select(TEXT_COLUMNS).take(pa.array(at))
    return rows.cast(pa.schema([(name, pa.string()) for name in TEXT_COLUMNS]))


def _times(batch: pa.RecordBatch, column: str) -> npt.NDArray[np.int64]:
    # Raw rows of landing have no time; they are masked out by their missing hash.
    return ints_of(batch[column].cast(pa.int64()).fill_null(0))


def _founds(
    unit: Unit,
    batch: pa.RecordBatch,
    at: npt.NDArray[np.int64],
    ms: npt.NDArray[np.int64],
    after: EventPosition | None,
) -> list[Found]:
    rows = batch.take(pa.array(at))
    positions = map(
        EventPosition,
        ms.tolist(),
        rows["device_id"].to_pylist(),
        rows["sequence_number"].to_pylist(),
        [h.tobytes() for h in hashes_of(rows["event_hash"])],
    )
    event_ms = _times(rows, "event_time").tolist()
    return [
        Found(position, place_of(unit.source, rows, i), unit, int(at[i]), event_ms[i])
        for i, position in enumerate(positions)
        if after is None or position > after
    ]


def place_of(source: Source, rows: pa.RecordBatch, row: int) -> Place:
    """Which copy a row of a source is; of landing, `rows` has its place in the log."""
    if source.sealed:
        return Place(unsealed=False, day=source.day, generation=0, partition=0, offset=0, line=0)
    return Place(
        unsealed=True,
        day=source.day,
        generation=source.generation,
        partition=source.partition,
        offset=rows["log_offset"][row].as_py(),
        line=rows["log_index"][row].as_py(),
    )


def _first(found: list[Found], limit: int) -> list[Found]:
    """The first `limit` positions; of equal ones the copy that counts."""
    found.sort(key=lambda f: (f.position, f.place))
    out: list[Found] = []
    for f in found:
        if not out or out[-1].position != f.position:
            if len(out) == limit:
                break
            out.append(f)
    return out


# ---------------------------------------------------------------------------------------- copies


class Copied(NamedTuple):
    """A row that other copies may stand before."""

    event_hash: bytes
    device_id: str
    event_ms: int
    place: Place


def copies_before(
    reader: Reader, scope: Scope, rows: Sequence[Copied], is_cancelled: IsCancelled
) -> list[bool]:
    """For each row: does another copy of its event count instead?"""
    out = [False] * len(rows)
    for day in sorted({row.place.day for row in rows if row.place.unsealed}):
        of_day = [i for i, r in enumerate(rows) if r.place.unsealed and r.place.day == day]
        first, last = layout.next_day(day, -HOT_COPY_DAYS), layout.next_day(day)
        wider = scope_of_days(reader, scope.tenant_id, first, last)
        best = _best_places(reader, wider, [rows[i] for i in of_day], is_cancelled)
        scope.unavailable |= wider.unavailable
        for i in of_day:
            out[i] = best.get(rows[i].event_hash, rows[i].place) < rows[i].place
    return out


def _best_places(
    reader: Reader, scope: Scope, rows: Sequence[Copied], is_cancelled: IsCancelled
) -> dict[bytes, Place]:
    """The least place of each of these events, by the row groups that can hold it."""
    times = sorted({(row.event_ms, row.device_id) for row in rows})
    wanted = np.unique(np.array([row.event_hash for row in rows], dtype="V32"))
    best: dict[bytes, Place] = {}
    for unit in units.units_of(reader, scope, scope.sources, is_cancelled):
        if not _may_hold_any(unit, times):
            continue
        units.check(is_cancelled)
        batch = units.read(reader, scope, unit, units.place_columns(unit.source))
        if batch is None:
            continue
        hashes = np.ascontiguousarray(hashes_of(batch["event_hash"])).view("V32").ravel()
        at = np.flatnonzero(np.isin(hashes, wanted) & units.counts_mask(unit, batch))
        for row in at.tolist():
            place, known = place_of(unit.source, batch, row), hashes[row].tobytes()
            best[known] = min(best.get(known, place), place)
    return best


def _may_hold_any(unit: Unit, times: list[tuple[int, str]]) -> bool:
    """Whether a row group can hold one of these (eventTime, device), given in order."""
    bounds = unit.group.bounds.get("event_time", (-_FOREVER, _FOREVER))
    low = bisect_left(times, (bounds[0], ""))
    while low < len(times) and times[low][0] <= bounds[1]:
        if unit.may_hold("device_id", times[low][1]):
            return True
        low += 1
    return False


# ------------------------------------------------------------------------------------------ rows


def rows_of(
    reader: Reader, scope: Scope, found: Sequence[Found], is_cancelled: IsCancelled
) -> pa.Table:
    """The found rows, in their order, as `ANSWER_SCHEMA`. What cannot be read is left out."""
    by_unit: dict[tuple[str, int], list[int]] = {}
    for i, f in enumerate(found):
        by_unit.setdefault((f.unit.source.key, f.unit.group.number), []).append(i)
    batches: list[pa.RecordBatch] = []
    order: list[int] = []
    for indexes in by_unit.values():
        units.check(is_cancelled)
        unit = found[indexes[0]].unit
        at = np.array([found[i].row for i in indexes], dtype=np.int64)
        batch = units.event_rows(reader, scope, unit, at)
        if batch is not None:
            batches.append(with_standing(batch, [standing_of(unit.source)] * len(batch)))
            order += indexes
    if not batches:
        return ANSWER_SCHEMA.empty_table()
    return pa.Table.from_batches(batches).take(pa.array(np.argsort(order, kind="stable")))


def standing_of(source: Source) -> Standing:
    """How far rows of a source are proved."""
    if not source.sealed:
        return Standing.NOT_YET_SEALED
    return Standing.SEALED if source.verified else Standing.UNVERIFIED_DAY


def with_standing(rows: pa.RecordBatch, standing: Sequence[Standing]) -> pa.RecordBatch:
    """Rows of `EVENT_SCHEMA` as `ANSWER_SCHEMA`."""
    column = pa.array([str(s) for s in standing], pa.string())
    return pa.RecordBatch.from_arrays([*rows.columns, column], schema=ANSWER_SCHEMA)
