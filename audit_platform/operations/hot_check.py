"""Is HOT what the record says? A quick look at all days, and an exact one at a single day.

The quick look counts: it finds an index that is gone, damaged or short, without reading an event.
The exact one reads the bytes of COLD and landing again and compares sets of eventHashes.
Belongs here: those two answers. Does not: rebuilding (`rebuild_hot.py`), rows (`hot_source.py`).
Source: design section 8 (HOT promises a set); failures 13 and 14, game day "delete HOT index".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from audit_platform.errors import HotUnavailable
from audit_platform.operations.hot_source import DaySource, OurLog
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import scope_of_days
from audit_platform.ports import HOT_COPY_DAYS, HotIndex, Platform
from audit_platform.record import layout
from audit_platform.record.columns import hashes_of

#: Days that HOT holds (the mission: HOT 0-30 d), and those that have an index at all (WARM to
#: 90 d); older ones are not missed.
HOT_DAYS: Final = 30
INDEX_DAYS: Final = 90

_Set = npt.NDArray[np.void]


class HotFaultKind(StrEnum):
    """What is wrong with the index of a day."""

    MISSING = "missing"
    DAMAGED = "damaged"
    SHORT = "short"


@dataclass(frozen=True, slots=True)
class HotFault:
    """A day whose index needs a rebuild. `generation` is 0 where there is none.

    `documents` are in the index that is read (-1: it cannot tell), `known` rows the record names;
    copies count in both `known` and not in `documents`, so `short` may turn out to be whole.
    """

    tenant_id: str
    day: str
    kind: HotFaultKind
    generation: int
    documents: int
    known: int


def hot_faults(platform: Platform, reader: Reader, tenant_id: str) -> list[HotFault]:
    """Days of the last `INDEX_DAYS` whose index is missing, damaged or short, in order.

    Reads names, manifests and range records, no event. Raises `StoreUnavailable`,
    `HotUnavailable`, `KeysUnavailable`.
    """
    today = layout.day_of(platform.clock.now_ms())
    scope = scope_of_days(reader, tenant_id, layout.next_day(today, -INDEX_DAYS), today)
    read = {i.day: i for i in platform.hot.indexes(tenant_id) if i.is_read}
    days = sorted({*scope.days, *read})
    return [f for day in days if (f := _fault(tenant_id, day, read.get(day), scope.events_of(day)))]


def _fault(tenant_id: str, day: str, index: HotIndex | None, known: int) -> HotFault | None:
    if index is None:
        kind = HotFaultKind.MISSING if known else None
    elif index.documents < 0:
        kind = HotFaultKind.DAMAGED
    else:
        kind = HotFaultKind.SHORT if index.documents < known else None
    if kind is None:
        return None
    generation, documents = (index.generation, index.documents) if index else (0, 0)
    return HotFault(tenant_id, day, kind, generation, documents, known)


@dataclass(frozen=True, slots=True)
class HotCheck:
    """The index that is read, held against the record, event by event.

    `expected` events were read out of COLD and landing. `lacking` of them are not in the index;
    `foreign` ones are only there: neither this day nor the days around it nor the log knows them.
    """

    tenant_id: str
    day: str
    generation: int
    documents: int
    expected: int
    lacking: int
    foreign: int
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Something was read, all of it is there, and nothing else is."""
        whole = not (self.lacking or self.foreign or self.problems)
        return whole and self.generation > 0 and self.documents >= self.expected


def check_hot(platform: Platform, tenant_id: str, day: str) -> HotCheck:
    """Compare one day's set of eventHashes. Raises the ports' `…Unavailable`, `RecordMalformed`."""
    source = DaySource(platform, tenant_id, day)
    expected = _hashes(source.archived())
    problems = list(source.seen.problems)
    if source.seen.refused:
        problems.append(f"{source.seen.refused} archived rows do not rebuild their event")
    read = [i for i in platform.hot.indexes(tenant_id) if i.day == day and i.is_read]
    generation = read[0].generation if read else 0
    try:
        held = _as_set(platform.hot.hashes(tenant_id, day, generation))
    except HotUnavailable as e:
        problems.append(e.reason)
        held = expected[:0]
    foreign = np.setdiff1d(held, expected)
    if len(foreign):
        foreign = _unexplained(platform, source, foreign)
    return HotCheck(
        tenant_id=tenant_id,
        day=day,
        generation=generation,
        documents=len(held),
        expected=len(expected),
        lacking=len(np.setdiff1d(expected, held)),
        foreign=len(foreign),
        problems=tuple(problems),
    )


def _unexplained(platform: Platform, source: DaySource, hashes: _Set) -> _Set:
    """Those that neither the log behind landing nor the days around (a copy came later) hold."""
    log = OurLog(platform)
    ends = log.ends()
    hashes = np.setdiff1d(hashes, _hashes(source.logged(log.archived_ends(ends), ends)))
    for away in (n for n in range(-HOT_COPY_DAYS, HOT_COPY_DAYS + 1) if n):
        if not len(hashes):
            break
        other = DaySource(platform, source.tenant_id, layout.next_day(source.day, away))
        hashes = np.setdiff1d(hashes, _hashes(other.archived()))
    return hashes


def _hashes(batches: Iterable[pa.RecordBatch]) -> _Set:
    sets = [_as_set(hashes_of(rows["event_hash"])) for rows in batches if rows.num_rows]
    return np.unique(np.concatenate([np.zeros(0, "V32"), *sets]))


def _as_set(hashes: npt.NDArray[np.uint8]) -> _Set:
    return np.array(np.ascontiguousarray(hashes).view("V32").ravel())
