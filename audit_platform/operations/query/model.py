"""What answers look like: rows with their standing, how complete they are, verdicts, proofs.

Belongs here: frozen results of the query operations and their JSON form. Does not: how they are
found (the modules beside this one), HTTP, printing.
Source: issue "One machine, whole", queries; design section 3 (verdicts), 5 (proof).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import pyarrow as pa

from audit_platform.ports import EventClock, EventPosition
from audit_platform.record.columns import EVENT_SCHEMA
from audit_platform.record.proofs import EventProof
from audit_platform.record.spans import Verdict
from audit_platform.record.times import format_time_ms

#: Asked between row groups; True stops the query with `QueryCancelled`.
IsCancelled = Callable[[], bool]


def never() -> bool:
    """Nobody cancels."""
    return False


class Tier(StrEnum):
    """Where rows are looked for. `auto` is HOT where it covers the window, else COLD."""

    AUTO = "auto"
    HOT = "hot"
    COLD = "cold"


class Standing(StrEnum):
    """How far one row is proved by its day's manifest.

    `unverified day`: a manifest names the row, but its signature does not verify or its key was
    revoked before the day was sealed.
    """

    SEALED = "sealed"
    NOT_YET_SEALED = "not yet sealed"
    UNVERIFIED_DAY = "unverified day"


#: Rows of answers: the event's columns and `standing`.
ANSWER_SCHEMA: Final = pa.schema([*EVENT_SCHEMA, pa.field("standing", pa.string())])


# ---------------------------------------------------------------------------------- completeness


@dataclass(frozen=True, slots=True)
class DaySearched:
    """One UTC day of ingestionTime that was looked at.

    `manifest` is the number of the one that counts, 0 while there is none. `landing_objects` are
    those with rows that no manifest holds yet.
    """

    day: str
    manifest: int
    verified: bool
    landing_objects: int
    closed: bool


@dataclass(frozen=True, slots=True)
class PartitionReach:
    """How far a partition of the event log is archived, and what of the tenant waits behind that.

    No offsets and no other tenant's events: they would tell how much others send.
    `waiting_events` is a lower bound when `waiting_is_least`; `oldest_ms` (the log's clock) is 0
    when nothing waits. `archived_ms` is the log's time of the last archived record, 0 for none.
    """

    partition: int
    archived_ms: int
    waiting_events: int
    waiting_is_least: bool
    oldest_ms: int


@dataclass(frozen=True, slots=True)
class Completeness:
    """What was searched, up to when, and what is missing.

    `partitions` is empty when log or store do not answer (`log_unavailable`). `unavailable` names
    objects that could not be read; `notes` are further gaps in words.
    """

    tier: Tier
    asked_ms: int
    days: tuple[DaySearched, ...]
    partitions: tuple[PartitionReach, ...]
    log_unavailable: bool = False
    unavailable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def waiting_events(self) -> int:
        """The tenant's events in the log that are not archived yet."""
        return sum(p.waiting_events for p in self.partitions)

    @property
    def open_days(self) -> tuple[str, ...]:
        """Days that are not closed: more may come for them."""
        return tuple(d.day for d in self.days if not d.closed)

    @property
    def missing(self) -> tuple[str, ...]:
        """What this answer may lack, in words; empty for a complete one."""
        found = []
        if self.log_unavailable:
            found.append("what waits in the log is not known: log or store do not answer")
        is_least = any(p.waiting_is_least for p in self.partitions)
        if self.tier is not Tier.HOT and self.waiting_events:
            least = "at least " if is_least else ""
            oldest = min(p.oldest_ms for p in self.partitions if p.oldest_ms)
            age = max(0, self.asked_ms - oldest) // 1000
            found.append(f"{least}{self.waiting_events} events not archived yet, oldest {age} s")
        elif self.tier is not Tier.HOT and is_least:
            found.append("too much of the log is not archived to say what waits in it")
        if self.unavailable:
            found.append(f"{len(self.unavailable)} objects could not be read")
        unverified = [d.day for d in self.days if not d.verified]
        if unverified:
            found.append(f"the manifest of {_some(unverified)} does not verify")
        return (*found, *self.notes)

    @property
    def sentence(self) -> str:
        """The completeness line."""
        days = [d.day for d in self.days]
        looked = f"{len(days)} days, {days[0]} to {days[-1]}" if days else "no day that holds rows"
        sealed = sum(1 for d in self.days if d.manifest)
        text = f"Searched {self.tier.upper()}: {looked}, {sealed} of them sealed"
        landing = sum(d.landing_objects for d in self.days)
        if self.tier is not Tier.HOT:
            text += f", and {landing} landing objects"
            reached = min((p.archived_ms for p in self.partitions), default=0)
            if reached:
                text += f"; archived up to {format_time_ms(reached)}"
        if self.open_days:
            text += f"; not closed: {_some(list(self.open_days))}"
        text += f"; missing: {', '.join(self.missing)}" if self.missing else "; nothing missing"
        return text + "."

    def to_json(self) -> dict[str, Any]:
        """A camelCase object."""
        return {
            "sentence": self.sentence,
            "tier": str(self.tier),
            "asked": format_time_ms(self.asked_ms),
            "days": [
                {
                    "day": d.day,
                    "manifest": d.manifest or None,
                    "verified": d.verified,
                    "landingObjects": d.landing_objects,
                    "closed": d.closed,
                }
                for d in self.days
            ],
            "partitions": [
                {
                    "partition": p.partition,
                    "archivedUpTo": format_time_ms(p.archived_ms) if p.archived_ms else None,
                    "waitingEvents": p.waiting_events,
                    "waitingIsLeast": p.waiting_is_least,
                    "oldestWaiting": format_time_ms(p.oldest_ms) if p.oldest_ms else None,
                }
                for p in self.partitions
            ],
            "unavailable": list(self.unavailable),
            "missing": list(self.missing),
        }


#: The completeness of an answer before it is told.
NOTHING_ASKED: Final = Completeness(Tier.AUTO, 0, (), ())

#: Days named in a sentence; the rest is counted.
_NAMED_DAYS: Final = 3


def _some(days: list[str]) -> str:
    more = f" and {len(days) - _NAMED_DAYS} more" if len(days) > _NAMED_DAYS else ""
    return ", ".join(days[:_NAMED_DAYS]) + more


# ---------------------------------------------------------------------------------------- search


@dataclass(frozen=True, slots=True)
class SearchResult:
    """`rows` of `ANSWER_SCHEMA`, ascending by `EventPosition`; `next` asks for the page after."""

    rows: pa.Table
    tier: Tier
    completeness: Completeness
    next: EventPosition | None


# -------------------------------------------------------------------------------------- timeline


@dataclass(frozen=True, slots=True)
class TimelinePosition:
    """Where an entry's row stands in a timeline: by chain, sequence, hash."""

    chain_id: str
    sequence_number: int
    event_hash: bytes


@dataclass(frozen=True, slots=True)
class TimelineQuery:
    """One device's events with `from_ms <= t < to_ms`; `after` is the last row seen."""

    tenant_id: str
    device_id: str
    from_ms: int
    to_ms: int
    clock: EventClock = EventClock.INGESTION
    after: TimelinePosition | None = None
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class Mark:
    """A verdict that stands before a row (or, at the end, after the last one).

    `first` to `last` are the sequences it speaks of, `count` how many; `cause` names what declares
    a gap: the loss, or the quarantined entry with its slug.
    """

    verdict: Verdict
    chain_id: str
    first: int
    last: int
    count: int
    detail: str
    cause: str = ""

    def to_json(self) -> dict[str, Any]:
        """A camelCase object."""
        return {
            "verdict": str(self.verdict),
            "chainId": self.chain_id,
            "first": self.first,
            "last": self.last,
            "count": self.count,
            "detail": self.detail,
            "cause": self.cause or None,
        }


@dataclass(frozen=True, slots=True)
class Copy:
    """Another copy of a row's event in another chain or place: `resent`, shown once, kept here."""

    chain_id: str
    sequence_number: int
    event_hash: str
    ingestion_ms: int
    standing: Standing

    def to_json(self) -> dict[str, Any]:
        """A camelCase object."""
        return {
            "chainId": self.chain_id,
            "sequenceNumber": self.sequence_number,
            "eventHash": self.event_hash,
            "ingestionTime": format_time_ms(self.ingestion_ms),
            "standing": str(self.standing),
        }


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """Row `row` of the timeline's table, and what is said of it.

    `marks` stand before it. `skew_ms` is eventTime - ingestionTime; `skewed` when it is more than
    five minutes either way. `verdicts` are of the row itself (resent, id_reuse, bad_checksum, ...).
    """

    row: int
    standing: Standing
    skew_ms: int
    skewed: bool
    verdicts: tuple[Verdict, ...] = ()
    marks: tuple[Mark, ...] = ()
    copies: tuple[Copy, ...] = ()


@dataclass(frozen=True, slots=True)
class Timeline:
    """A device's events in the order of its chains; `tail` are marks after the last row.

    `rows` has `ANSWER_SCHEMA`, one row for each entry. Chains stand in the order in which they were
    first seen, in a chain sequences ascend. `counts` are of the whole window, not of this page.
    """

    rows: pa.Table
    entries: tuple[TimelineRow, ...]
    tail: tuple[Mark, ...]
    counts: dict[str, int]
    events: int
    tier: Tier
    completeness: Completeness
    next: TimelinePosition | None


# ------------------------------------------------------------------------------------- one event


@dataclass(frozen=True, slots=True)
class Place:
    """Where a copy stands: the object by key and version, and its row there (from 0)."""

    key: str
    version_id: str
    row: int


@dataclass(frozen=True, slots=True)
class EventCopy:
    """One copy of an event. `stored` are its exact bytes, rebuilt; `proven`: they have its hash.

    `proof` is there for a sealed row of a day whose manifest verifies.
    """

    event_hash: str
    stored: bytes
    proven: bool
    ingestion_ms: int
    standing: Standing
    place: Place
    proof: EventProof | None


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A refused line with its exact bytes and why it was refused. `place` is of its first chunk."""

    entry_id: str
    slug: str
    field: str
    reason: str
    remedy: str
    received_ms: int
    data: bytes
    whole: bool
    event_hash: str
    place: Place


@dataclass(frozen=True, slots=True)
class EventFound:
    """All copies of an event, and what quarantine holds of it. Both empty: not found.

    `verdict` over several copies: `resent`, or `id_reuse` where checksums differ; else `ok`.
    """

    tenant_id: str
    asked: str
    copies: tuple[EventCopy, ...]
    quarantined: tuple[Quarantined, ...]
    verdict: Verdict
    completeness: Completeness


# ---------------------------------------------------------------------------------------- export


class ExportFormat(StrEnum):
    """Text forms of an export; both are described in `export.py`."""

    CSV = "csv"
    NDJSON = "ndjson"
