"""The form of query-api's answers, as /openapi.json describes them.

Every answer of a test is held against these. Belongs here: names, types and meanings of members.
Does not: making an answer (`query_render.py`), problems (`query_problems.py`).
Source: OpenAPI 3.1; design section 3 (fields of an event).
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, validate_by_name=True)


class DaySearched(_Answer):
    """One UTC day of ingestionTime that was looked at."""

    day: str
    manifest: int | None
    verified: bool
    landing_objects: int
    closed: bool


class PartitionReach(_Answer):
    """How far a partition of the log is archived, and what waits behind that."""

    partition: int
    archived_up_to: str | None
    waiting_events: int
    waiting_is_least: bool
    oldest_waiting: str | None


class Completeness(_Answer):
    """What was searched, up to when, and what is missing; `sentence` says it for people."""

    sentence: str
    tier: str
    asked: str
    days: list[DaySearched]
    partitions: list[PartitionReach]
    unavailable: list[str]
    missing: list[str]


class EventRow(_Answer):
    """One event as its columns have it. `skewed`: its two times are more than 5 minutes apart."""

    tenant_id: str
    hospital_id: str
    device_id: str
    chain_id: str
    event_type: str
    event_version: int
    event_id: str
    event_time: str
    ingestion_time: str
    sequence_number: int
    schema_ref: str
    criticality: str
    payload: dict[str, Any]
    prev_hash: str
    event_hash: str
    standing: str = Field(description="`sealed`, `not yet sealed` or `unverified day`")
    skew_seconds: float = Field(description="eventTime minus ingestionTime")
    skewed: bool


class Page(_Answer):
    """What every list has: the question as it was applied, and how to get the next page."""

    request_id: str
    query: dict[str, Any]
    next_cursor: str | None
    next: str | None = Field(description="Path and query of the next page")


class SearchAnswer(Page):
    """A page of a search, ascending by (time by the clock asked for, device, sequence, hash)."""

    tier: str
    completeness: Completeness
    rows: list[EventRow]


class Mark(_Answer):
    """A verdict that stands before a row, or after the last one."""

    verdict: str
    chain_id: str
    first: int
    last: int
    count: int
    detail: str
    cause: str | None


class EventCopyLine(_Answer):
    """Another copy of a row's event: resent, shown once, kept here."""

    chain_id: str
    sequence_number: int
    event_hash: str
    ingestion_time: str
    standing: str


class TimelineRow(EventRow):
    """An event of a timeline: `marks` stand before it, `verdicts` are of itself."""

    verdicts: list[str]
    marks: list[Mark]
    copies: list[EventCopyLine]


class TimelineAnswer(Page):
    """A page of a device's timeline, chain by chain. `counts` and `events` are of the window."""

    tier: str
    completeness: Completeness
    events: int
    counts: dict[str, int]
    rows: list[TimelineRow]
    tail: list[Mark]


class PlaceAnswer(_Answer):
    """Where something stands: the object's key and version, and the row in it, from 0."""

    key: str
    version_id: str
    row: int


class EventCopy(_Answer):
    """One copy of an event with its exact bytes (no line end), and its proof once it is sealed."""

    event_hash: str
    standing: str
    ingestion_time: str
    stored_base64: str
    stored_text: str
    proven: bool = Field(description="The bytes have the hash")
    place: PlaceAnswer
    proof: dict[str, Any] | None = Field(description="As docs/formats.md describes it")


class RefusedLine(_Answer):
    """A refused line with its exact bytes; `text` is null when they are no UTF-8."""

    entry_id: str
    received: str
    slug: str
    field: str
    reason: str
    remedy: str
    whole: bool
    bytes_base64: str
    text: str | None
    event_hash: str | None
    place: PlaceAnswer


class EventAnswer(_Answer):
    """All copies of an event, and what quarantine holds of it."""

    request_id: str
    tenant_id: str
    asked: str
    verdict: str
    copies: list[EventCopy]
    quarantined: list[RefusedLine]
    completeness: Completeness


class EntryDecision(_Answer):
    """What a proposal says, or said, of an entry. `became` is null while nothing has."""

    proposal_id: str
    action: str
    state: str
    became: str | None
    proposed: str


class QuarantineLine(_Answer):
    """A refused line of a list, without its bytes."""

    entry_id: str
    received: str
    gateway: str
    batch_id: str
    line: int
    slug: str
    field: str
    reason: str
    remedy: str
    sha256: str
    device_id: str | None
    event_hash: str | None
    place: PlaceAnswer
    decisions: list[EntryDecision]


class QuarantineAnswer(Page):
    """A page of what was refused, ascending by (received, entryId)."""

    completeness: Completeness
    rows: list[QuarantineLine]


class EntryAnswer(_Answer):
    """One refused line, and all that was ever decided about it, oldest first."""

    request_id: str
    entry: RefusedLine
    decisions: list[EntryDecision]


class ManifestLine(_Answer):
    """A manifest in short. `signed`: its signature is good by the key that it names."""

    number: int
    day: str
    revision: int
    status: str
    sealed: str
    rows: int
    duplicates: int
    root: str
    sha256: str
    key_id: str
    signed: bool
    key: str
    version_id: str


class ManifestsAnswer(Page):
    """A page of a tenant's manifests, ascending by number. `problems`: files that are none."""

    rows: list[ManifestLine]
    problems: list[str]


class ReadLine(_Answer):
    """One read, or one refusal. Who it was is null when it was no key of this tenant."""

    event_id: str
    event_hash: str
    time: str
    kind: str = Field(description="`record_read` or `access_refused`")
    key_id: str | None
    subject: str | None = Field(description="whom a token spoke for; null for an API key")
    role: str | None
    route: str
    query: dict[str, Any] | None
    query_digest: str | None
    outcome: str
    tier: str | None
    rows: int | None
    status: int | None
    suppressed: int | None
    read_request_id: str


class ReadsAnswer(Page):
    """A page of who looked at what, ascending by time."""

    completeness: Completeness
    rows: list[ReadLine]


class KeyLine(_Answer):
    """A public key, 64 hex digits. Signatures over days sealed from `revoked` on do not count."""

    key_id: str
    public_key: str
    purpose: str
    created: str
    revoked: str | None
    active: bool


class KeysAnswer(_Answer):
    """All public keys that ever signed here."""

    request_id: str
    keys: list[KeyLine]


class WhoamiAnswer(_Answer):
    """Whose credential this is, and what it may ask. `subject`: whom a token speaks for."""

    request_id: str
    tenant_id: str
    role: str
    key_id: str
    subject: str | None
    routes: list[str]


class Ready(_Answer):
    """Whether queries can be answered now; `trouble` says why not."""

    ready: bool
    trouble: str
    lock: str
