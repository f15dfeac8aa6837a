"""Which days and objects a question concerns.

A sealed day is read from the parts of its manifest, and from landing rows that came behind the
offsets which its manifests cover; a day without manifest from the landing objects that range
records name. Belongs here: that choice. Does not: rows (`cold.py`), the completeness line
(`reach.py`). Source: design section 5 (landing, closing, sealed day).

Cost: names of new manifests, one small listing for each day of landing and each partition, and the
range records since the day before the first unsealed day, each read once by a process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from audit_platform.errors import RecordMalformed
from audit_platform.operations.closing import closing_of
from audit_platform.operations.query.model import DaySearched
from audit_platform.operations.query.reader import Day, RangeFacts, Reader
from audit_platform.ports import EventClock
from audit_platform.record import layout
from audit_platform.record.ranges import Generation

_FIRST_MS: Final = layout.day_start_ms("0001-01-02")
_LAST_MS: Final = layout.day_start_ms("9999-12-31")


@dataclass(frozen=True, slots=True)
class Source:
    """One Parquet object to read rows from.

    Of landing, rows with `log_offset >= from_offset` count; `generation` and `partition` are of
    its log records. Of a sealed part, `part` counts in the day's manifest.
    """

    day: str
    key: str
    version_id: str
    sealed: bool
    verified: bool = True
    part: int = 0
    first_device: str = ""
    last_device: str = ""
    generation: int = 0
    partition: int = 0
    from_offset: int = 0

    def may_hold(self, device_id: str | None) -> bool:
        """Whether rows of this device can be in it."""
        return (
            device_id is None
            or not self.sealed
            or (self.first_device <= device_id <= self.last_device)
        )


@dataclass(slots=True)
class Scope:
    """What to look at. `problems` are gaps in words; `unavailable` grows as objects fail."""

    tenant_id: str
    days: dict[str, DaySearched] = field(default_factory=dict)
    sealed: dict[str, Day] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)
    landed: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unavailable: set[str] = field(default_factory=set)

    def narrowed(self, first: str, last: str) -> Scope:
        """The same for fewer days; what turns out to be unavailable is told to both."""
        return Scope(
            self.tenant_id,
            {day: d for day, d in self.days.items() if first <= day <= last},
            {day: d for day, d in self.sealed.items() if first <= day <= last},
            [source for source in self.sources if first <= source.day <= last],
            {day: n for day, n in self.landed.items() if first <= day <= last},
            self.problems,
            self.unavailable,
        )

    def events_of(self, day: str) -> int:
        """Rows known of a day: of its manifest, and those that landed besides (with copies)."""
        sealed = self.sealed.get(day)
        return (sealed.facts.rows if sealed else 0) + self.landed.get(day, 0)


def days_between(from_ms: int, to_ms: int) -> tuple[str, str]:
    """First and last UTC day of a window (`from_ms <= t < to_ms`), cut to years 1 to 9999."""
    low = min(max(from_ms, _FIRST_MS), _LAST_MS)
    high = min(max(to_ms - 1, _FIRST_MS), _LAST_MS)
    return layout.day_of(low), layout.day_of(high)


def days_of(from_ms: int, to_ms: int, clock: EventClock) -> tuple[str, str]:
    """First and last UTC day of ingestionTime that a window concerns.

    A window of the device's clock concerns every day: what a device dates so may have come at any
    time.
    """
    if clock is EventClock.EVENT:
        return layout.day_of(_FIRST_MS), layout.day_of(_LAST_MS)
    return days_between(from_ms, to_ms)


def widened(first: str, last: str, days: int) -> tuple[str, str]:
    """So many days before and after two days, as far as the calendar goes."""
    room = layout.MS_PER_DAY * days
    low = max(layout.day_start_ms(first) - room, _FIRST_MS)
    high = min(layout.day_start_ms(last) + room, _LAST_MS)
    return layout.day_of(low), layout.day_of(high)


def scope_of_days(reader: Reader, tenant_id: str, first: str, last: str) -> Scope:
    """Days and objects from one UTC day of ingestionTime to another, both included.

    Raises `StoreUnavailable`, `KeysUnavailable`.
    """
    scope = Scope(tenant_id)
    sealed, problems = reader.days(tenant_id)
    scope.problems += problems
    scope.sealed = {day: sealed[day] for day in sorted(sealed) if first <= day <= last}
    for day, found in scope.sealed.items():
        _sealed_day(scope, day, found)
    landing = _Landing(reader, scope)
    days = list(listed_days(reader, layout.LANDING, tenant_id, first, last))
    landing.walk(first, last, [day for day in days if day not in sealed], max(sealed, default=""))
    for day in days:
        landing.list_day(day)
    scope.days = dict(sorted(scope.days.items()))
    return scope


def sealed_sources(day: Day) -> list[Source]:
    """The parts of a sealed day."""
    return [
        Source(
            day=day.facts.day,
            key=part.object.key,
            version_id=part.object.version_id,
            sealed=True,
            verified=day.verified,
            part=number,
            first_device=part.first_device,
            last_device=part.last_device,
        )
        for number, part in enumerate(day.facts.parts)
    ]


def _sealed_day(scope: Scope, day: str, found: Day) -> None:
    facts = found.facts
    scope.sources += sealed_sources(found)
    scope.days[day] = DaySearched(
        day,
        facts.number,
        verified=found.verified and not found.doubtful,
        landing_objects=0,
        closed=True,
    )
    if facts.undecodable:
        scope.problems.append(f"{facts.undecodable} rows of {day} are kept as undecoded bytes")


def listed_days(
    reader: Reader, prefix: str, tenant_id: str, first: str, last: str
) -> Iterator[str]:
    """Days of which landing or quarantine holds objects: one name is looked at for each day."""
    of_tenant = f"{prefix}/tenant={tenant_id}/"
    after = f"{of_tenant}day={first}"
    while True:
        found = next(reader.platform.objects.versions(of_tenant, after_key=after), None)
        parsed = layout.parse_range_object(found.key) if found else None
        if found is None or (parsed is not None and parsed[2] > last):
            return
        if parsed is None:
            after = found.key  # not ours to judge here: the name means nothing
            continue
        yield parsed[2]
        after = f"{of_tenant}day={parsed[2]}0"  # "0" is the character after "/"


class _Landing:
    """Landing objects that no manifest covers, by way of the range records that name them."""

    def __init__(self, reader: Reader, scope: Scope) -> None:
        self._reader, self._scope = reader, scope
        self._generation = reader.generation()
        self._seen: set[tuple[str, str]] = set()
        #: Where the walk over range records began, for each partition of the current generation.
        self._walked: dict[int, int] = {}

    def walk(self, first: str, last: str, unsealed: list[str], newest: str) -> None:
        """Objects that range records name since the closing two days before the first unsealed day.

        What such a record names and the store lacks is read in vain later, and told.
        """
        if self._generation is None:
            return
        # Unsealed days before the newest sealed one are late events: listing finds their objects.
        since = layout.next_day(newest) if newest else min(unsealed, default="")
        number = self._generation.number
        self._walked = _starts(self._reader, since, self._generation)
        for partition, at in self._walked.items():
            for found in self._reader.ranges(layout.EVENTS_TOPIC, number, partition, at):
                self._add(found, first, last)

    def list_day(self, day: str) -> None:
        """Objects of a day that lie before the walked ranges, by listing their names."""
        prefix = layout.range_objects_prefix(layout.LANDING, self._scope.tenant_id, day)
        sealed = self._scope.sealed.get(day)
        covered = sealed.covered if sealed else {}
        oldest = min((g for g, _ in covered), default=1)
        current = self._generation.number if self._generation else 0
        for generation in range(oldest, current + 1):
            ends = {p: end for (g, p), end in covered.items() if g == generation}
            if generation < current and not ends:
                self._list(day, prefix, f"g{generation}-", 0, None)
                continue
            walked = self._walked if generation == current else {}
            for partition in sorted(walked.keys() | ends.keys()):
                end, stop = ends.get(partition, 0), walked.get(partition)
                if stop is None or end < stop:  # else the walk has all that is not covered
                    self._straddling(day, generation, partition, end)
                    self._list(day, prefix, f"g{generation}-p{partition}-", end, stop)

    def _list(self, day: str, prefix: str, stem: str, start: int, stop: int | None) -> None:
        after = f"{prefix}{stem}o{start:020d}" if start else f"{prefix}{stem}"
        for version in self._reader.platform.objects.versions(prefix, after_key=after):
            parsed = layout.parse_range_object(version.key)
            if not version.key.startswith(prefix + stem):
                return
            if parsed is None or version.is_delete_marker:
                continue
            address = parsed[0]
            if stop is not None and address.first_offset >= stop:
                return
            try:
                found = self._reader.range_at(address)
            except RecordMalformed as e:
                self._scope.problems.append(e.reason)
                continue
            if found is not None:
                self._add(found, day, day)

    def _straddling(self, day: str, generation: int, partition: int, end: int) -> None:
        """The range that goes on over the end of what a day's manifests cover."""
        if end:
            found = self._reader.range_over(generation, partition, end)
            if found is not None:
                self._add(found, day, day)

    def _add(self, found: RangeFacts, first: str, last: str) -> None:
        """What a range record names for days of the tenant, as far as no manifest covers it."""
        scope = self._scope
        for o in found.objects:
            if o.tenant_id != scope.tenant_id or not first <= o.day <= last:
                continue
            sealed = scope.sealed.get(o.day)
            covered = sealed.covered_to(found.generation, found.partition) if sealed else 0
            if found.end_offset <= covered or (o.key, o.version_id) in self._seen:
                continue
            self._seen.add((o.key, o.version_id))
            scope.sources.append(
                Source(
                    day=o.day,
                    key=o.key,
                    version_id=o.version_id,
                    sealed=False,
                    generation=found.generation,
                    partition=found.partition,
                    from_offset=covered,
                )
            )
            known = scope.days.get(o.day) or self._open_day(o.day)
            scope.landed[o.day] = scope.landed.get(o.day, 0) + o.events
            scope.days[o.day] = replace(known, landing_objects=known.landing_objects + 1)
            if found.undecodable:
                text = f"up to {found.undecodable} rows of {o.key} are kept as undecoded bytes"
                scope.problems.append(text)

    def _open_day(self, day: str) -> DaySearched:
        closed = closing_of(self._reader.platform, day) is not None
        return DaySearched(day, 0, verified=True, landing_objects=0, closed=closed)


def _starts(reader: Reader, day: str, generation: Generation) -> dict[int, int]:
    """Where reading range records begins, for each partition of the generation."""
    topic = generation.topic(layout.EVENTS_TOPIC)
    starts = dict(enumerate(topic.start_offsets)) if topic else {}
    before = closing_of(reader.platform, layout.next_day(day, -2)) if day else None
    for p in before.partitions if before else ():
        if (p.topic, p.generation) == (layout.EVENTS_TOPIC, generation.number):
            starts[p.partition] = p.end_offset
    return starts
