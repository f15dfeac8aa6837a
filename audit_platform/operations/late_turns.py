"""Which sealed days have to be sealed again: looked for a little at a time, from what is new.

Range records are read once each as they come, so a tick costs what came since the last one; what it
remembers is only a hint. Days with late rows are closed again, after a rest, and each tenant that
such a closing names is due until its manifest reaches as far.
Belongs here: that bookkeeping. Does not: finding late rows, claiming closings (`late.py`), the turn
of a tenant's next day (`turns.py`). Source: design section 5 (revision).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from audit_platform.operations import late
from audit_platform.operations.claims import read_claim
from audit_platform.operations.coverage import Missing
from audit_platform.operations.turns import Sealed, standing_of
from audit_platform.ports import Platform
from audit_platform.record import layout
from audit_platform.record.ranges import Closing

#: Range records of one partition that are read in one go: a day of them is read in seven.
RECORDS_AT_ONCE: Final = 200

#: Days that are closed again in one go: each may walk far.
CLOSINGS_AT_ONCE: Final = 3


@dataclass(slots=True)
class Known:
    """What one look hands to the next; a hint, good for the store with this `store` digest only.

    `reached`: place as text -> offset looked at. `late`: days seen with late rows. `settled`:
    further closings whose tenants all have their revision.
    """

    store: str = ""
    reached: dict[str, int] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, order=True)
class Due:
    """A tenant's day to seal (again), and the closing that it is sealed up to."""

    day: str
    tenant_id: str
    closing: Closing = field(compare=False)


@dataclass(slots=True)
class LateTurns:
    """What is due; `unclosed` are (day, tenant) of rows for days that were never closed."""

    known: Known
    due: list[Due] = field(default_factory=list)
    unclosed: set[tuple[str, str]] = field(default_factory=set)
    holes: list[Missing] = field(default_factory=list)


def look_for_late_days(platform: Platform, known: Known, grace_ms: int) -> LateTurns:
    """See what came since `known`, and close late days again. Bounded; safe at any time.

    Raises `RecordMalformed`, `StoreUnavailable`.
    """
    first = read_claim(platform.objects, layout.generation_key(1))
    store = layout.short_digest(first.data) if first else ""
    if known.store != store:
        known = Known(store)
    start = {_place(text): offset for text, offset in known.reached.items()}
    found = late.look(platform, start, most=RECORDS_AT_ONCE)
    days = sorted({*known.late, *found.late})
    again = 0
    for day in list(days):
        closing = late.newest_closing(platform, day)
        if closing is None or again == CLOSINGS_AT_ONCE:
            continue
        if late.is_rested(closing, platform.clock.now_ms(), grace_ms):
            again += 1
            if late.close_again(platform, day) is None:
                days.remove(day)
    reached = {_text(place): offset for place, offset in found.reached.items()}
    after = Known(store, reached, days, known.settled)
    return LateTurns(after, unclosed=found.unclosed, holes=found.holes)


def add_due(turns: LateTurns, platform: Platform, sealed: dict[str, Sealed]) -> None:
    """Fill `due` from the further closings that are not settled, and settle those that are done.

    `sealed`: how far each tenant is sealed; a tenant without a manifest has its turn elsewhere.
    """
    due: dict[tuple[str, str], Due] = {}
    for day, revision in late.listed_closings(platform):
        name = f"{day}-r{revision}"
        if name in turns.known.settled:
            continue
        closings = late.further_closings(platform, day)
        closing, newest = closings[revision - 2], closings[-1]
        open_days = [
            Due(d, t, newest if d == day else c)
            for t in sorted({x.tenant_id for x in closing.late})
            if t in sealed
            for d, c in _open_days(platform, t, closing, sealed[t])
        ]
        due |= {(d.day, d.tenant_id): d for d in open_days}
        if not open_days:
            turns.known.settled.append(name)
    turns.due = sorted(due.values())


def _open_days(
    platform: Platform, tenant_id: str, closing: Closing, sealed: Sealed
) -> list[tuple[str, Closing]]:
    """The closing's day when the tenant's manifest does not reach as far; days before it first.

    A day before the tenant's first one is sealed after those between, so that no day is left out.
    """
    if not sealed.number:
        return []
    day = closing.day
    standing, later = standing_of(platform.objects, tenant_id, day, sealed.number)
    if standing is not None:
        ends = late.ends_of_manifest(standing)
        done = all(end <= late.end_at(ends, p) for p, end in late.ends_of(closing).items())
        return [] if done else [(day, closing)]
    between = []
    other = layout.next_day(day)
    while later and other < max(later):
        found = late.newest_closing(platform, other) if other not in later else None
        if found is not None:
            between.append((other, found))
        other = layout.next_day(other)
    return between or [(day, closing)]


def _text(place: late.Place) -> str:
    return "/".join(map(str, place))


def _place(text: str) -> late.Place:
    topic, generation, partition = text.split("/")
    return topic, int(generation), int(partition)
