"""Which days' indexes a search concerns, and in which order.

Belongs here: days against a query's window. Does not: searching one (`hot.py`, `hot_find.py`).
Source: `ports.Hot.search`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from audit_platform.adapters.embedded.hot_aliases import DayIndexes, Days
from audit_platform.ports import HOT_COPY_DAYS, EventClock, EventQuery
from audit_platform.record.layout import MS_PER_DAY, day_end_ms, day_start_ms


@dataclass(frozen=True, slots=True)
class Searched:
    """A day's read index, and the least time by the query's clock that a row of it can have."""

    day: str
    indexes: DayIndexes
    from_ms: int


def days_before(day: str) -> Iterator[str]:
    """The days whose index may have an event that came again on this one, nearest first."""
    number = date.fromisoformat(day).toordinal()
    for back in range(1, min(HOT_COPY_DAYS, number - 1) + 1):
        yield date.fromordinal(number - back).isoformat()


def concerned(days: Days, query: EventQuery) -> list[Searched]:
    """Days whose read index can have rows in the window, by the least time of such a row."""
    from_ms = max(query.from_ms, query.after.ms) if query.after else query.from_ms
    found = []
    for day, indexes in days.items():
        if query.clock is EventClock.INGESTION:
            start, end = day_start_ms(day), day_end_ms(day)
        else:
            start = indexes.first_event_day * MS_PER_DAY
            end = (indexes.last_event_day + 1) * MS_PER_DAY
        if indexes.read and start < query.to_ms and end > from_ms:
            found.append(Searched(day, indexes, max(start, from_ms)))
    return sorted(found, key=lambda s: (s.from_ms, s.day))
