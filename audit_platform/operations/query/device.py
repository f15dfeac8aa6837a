"""All rows of one device in a window, out of either tier, each event once.

Belongs here: reading them. Does not: what is said of them (`marks.py`, `timeline.py`), searches
with other filters (`cold.py`). Source: design section 5 (parts are sorted by device).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import pyarrow as pa

from audit_platform.operations.query import units
from audit_platform.operations.query.cold import (
    Copied,
    Place,
    copies_before,
    place_of,
    standing_of,
    with_standing,
)
from audit_platform.operations.query.model import ANSWER_SCHEMA, IsCancelled, TimelineQuery
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import Scope, Source
from audit_platform.operations.query.search import hot_answer, position_of
from audit_platform.ports import EventClock, EventQuery
from audit_platform.record.columns import Mask, ints_of

#: Rows of one device that are judged together, about 1 KB each; a device that sends one a second
#: for two days has fewer.
MAX_DEVICE_ROWS: Final = 200_000

_HOT_PAGE: Final = 10_000


@dataclass(slots=True)
class Collected:
    """Rows of `ANSWER_SCHEMA` as they are read; `places` are of the unsealed ones, by row."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    places: dict[int, Place] = field(default_factory=dict)
    rows: int = 0
    cut: bool = False

    def add(self, rows: pa.RecordBatch, source: Source, places: Sequence[Place]) -> None:
        """Rows of one source, and which copies they are when it is not sealed."""
        if not source.sealed:
            self.places |= {self.rows + i: place for i, place in enumerate(places)}
        self.batches.append(with_standing(rows, [standing_of(source)] * len(rows)))
        self.rows += len(rows)
        self.cut = self.cut or self.rows > MAX_DEVICE_ROWS

    def one_of_each(self) -> tuple[pa.RecordBatch, list[Place | None]]:
        """Each event once: the sealed copy, else the one with the least place."""
        if not self.batches:
            return pa.RecordBatch.from_pylist([], schema=ANSWER_SCHEMA), []
        rows = pa.Table.from_batches(self.batches).combine_chunks().to_batches()[0]
        if not self.places:
            return rows, [None] * len(rows)
        hashes = rows["event_hash"].to_pylist()
        best: dict[bytes, int] = {}
        for i, h in enumerate(hashes):
            standing = best.setdefault(h, i)
            if i not in self.places or (
                standing in self.places and self.places[i] < self.places[standing]
            ):
                best[h] = i
        kept = sorted(best.values())
        return rows.take(pa.array(kept)), [self.places.get(i) for i in kept]


def cold_rows(
    reader: Reader, scope: Scope, query: TimelineQuery, is_cancelled: IsCancelled
) -> tuple[pa.RecordBatch, bool]:
    """(the device's rows in the window out of COLD, whether there are more than are judged)."""
    clock = f"{query.clock}_time"
    found = Collected()
    good = [s for s in scope.sources if s.may_hold(query.device_id)]
    for unit in units.units_of(reader, scope, good, is_cancelled):
        if found.cut:
            break
        if unit.may_hold("device_id", query.device_id) and unit.may_hold_time(
            clock, query.from_ms, query.to_ms
        ):
            units.check(is_cancelled)
            collect(
                reader,
                scope,
                unit,
                found,
                lambda batch: _of_device(batch, query, clock),
                ("device_id", clock),
            )
    rows, places = found.one_of_each()
    if query.clock is EventClock.INGESTION and found.places:
        rows = _counting(reader, scope, rows, places, is_cancelled)
    return rows, found.cut


def _of_device(batch: pa.RecordBatch, query: TimelineQuery, clock: str) -> Mask:
    ms = ints_of(batch[clock].cast(pa.int64()).fill_null(query.to_ms))
    mask = units.equal_mask(batch, "device_id", query.device_id)
    wanted: Mask = mask & (ms >= query.from_ms) & (ms < query.to_ms)
    return wanted


def collect(
    reader: Reader,
    scope: Scope,
    unit: units.Unit,
    found: Collected,
    choose: units.Choose,
    columns: Sequence[str],
) -> None:
    """Add the rows of a unit that count and are chosen by these columns."""
    wanted = list(dict.fromkeys([*columns, *units.place_columns(unit.source)]))
    batch = units.read(reader, scope, unit, wanted)
    if batch is None:
        return
    at = np.flatnonzero(choose(batch) & units.counts_mask(unit, batch))
    rows = units.event_rows(reader, scope, unit, at) if len(at) else None
    if rows is not None:
        places = (
            [] if unit.source.sealed else [place_of(unit.source, batch, i) for i in at.tolist()]
        )
        found.add(rows, unit.source, places)


def _counting(
    reader: Reader,
    scope: Scope,
    rows: pa.RecordBatch,
    places: Sequence[Place | None],
    is_cancelled: IsCancelled,
) -> pa.RecordBatch:
    """Rows that no copy outside the window stands before."""
    event_ms = ints_of(rows["event_time"]).tolist()
    copies, at = [], []
    for i, place in enumerate(places):
        if place is not None:
            hash_, device = rows["event_hash"][i].as_py(), rows["device_id"][i].as_py()
            copies.append(Copied(hash_, device, event_ms[i], place))
            at.append(i)
    keep = np.ones(len(rows), dtype=np.bool_)
    keep[at] = ~np.array(copies_before(reader, scope, copies, is_cancelled), dtype=np.bool_)
    return rows.filter(pa.array(keep))


def hot_rows(
    reader: Reader, scope: Scope, query: TimelineQuery, is_cancelled: IsCancelled
) -> tuple[pa.RecordBatch, bool]:
    """The same out of HOT. Raises `HotUnavailable`."""
    asked = EventQuery(
        query.tenant_id,
        query.from_ms,
        query.to_ms,
        clock=query.clock,
        device_id=query.device_id,
        limit=_HOT_PAGE,
    )
    batches: list[pa.RecordBatch] = []
    rows = 0
    while rows <= MAX_DEVICE_ROWS:
        table = reader.platform.hot.search(asked, is_cancelled=is_cancelled)
        if table.num_rows:
            batch = table.combine_chunks().to_batches()[0]
            batches.append(hot_answer(reader, scope, batch))
            rows += len(batch)
        if table.num_rows < _HOT_PAGE:
            break
        asked = replace(asked, after=position_of(batch, len(batch) - 1, query.clock))
    if not batches:
        return pa.RecordBatch.from_pylist([], schema=ANSWER_SCHEMA), False
    whole = pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
    return whole, rows > MAX_DEVICE_ROWS
