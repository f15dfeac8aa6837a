"""All names: topics, groups, object keys, digests in names, shards. Built and parsed only here.

Belongs here: a function per name, its inverse where somebody lists, and the constants of the
layout. Does not: bytes inside the objects (`manifest.py`, `landing.py`, `sealed.py`), I/O.
Source: design section 3 (identifiers), 4 (shards), 5 (COLD) and 8 (names).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

EVENTS_TOPIC: Final = "audit.events.v1"
DLQ_TOPIC: Final = "audit.dlq.v1"
#: What verification found (incidents), for whoever wants to be told; one partition.
INTEGRITY_TOPIC: Final = "audit.integrity.v1"
ARCHIVE_GROUP: Final = "archive-writer"
INDEXER_GROUP: Final = "search-indexer"

#: The tenant that holds what the platform does itself (reads, sign-ins, operator actions).
PLATFORM_TENANT: Final = "platform"

#: Shards never change; partitions do, with a new log generation.
SHARDS: Final = 4096

TENANT_PATTERN: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
IDENTIFIER_PATTERN: Final = re.compile(r"[A-Za-z0-9._:/-]{1,128}")

ZERO_HASH: Final = "0" * 64

MS_PER_DAY: Final = 86_400_000

#: First segment of a key -> bucket. One bucket may hold all as prefixes.
LANDING: Final = "landing/v1"
COLD: Final = "cold/v1"
QUARANTINE: Final = "quarantine/v1"
INCIDENTS: Final = "incidents/v1"
#: Canaries that try whether the store's lock holds; nothing below it counts for anything.
PROBES: Final = "probes/v1"
#: What was decided about dead letters, and what became of it.
DECISIONS: Final = "dlq/v1"
#: What was read again, night by night.
VERIFIED: Final = "verified/v1"
#: Legal holds: put on, their end asked for, lifted; and days that were let go.
HOLDS: Final = "holds/v1"

#: Which prefix a topic's archived ranges live under.
PREFIX_OF_TOPIC: Final = {EVENTS_TOPIC: LANDING, DLQ_TOPIC: QUARANTINE}


def day_of(ms: int) -> str:
    """UTC day (`YYYY-MM-DD`) of a time in milliseconds since 1970."""
    return datetime.fromtimestamp(ms // 1000, tz=UTC).date().isoformat()


def day_start_ms(day: str) -> int:
    """First millisecond of a UTC day."""
    parsed = date.fromisoformat(day)
    return int(datetime(parsed.year, parsed.month, parsed.day, tzinfo=UTC).timestamp()) * 1000


def day_end_ms(day: str) -> int:
    """First millisecond after a UTC day."""
    return day_start_ms(day) + MS_PER_DAY


def next_day(day: str, days: int = 1) -> str:
    """The day `days` later (or earlier when negative)."""
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


def shard_of(tenant_id: str, device_id: str) -> int:
    """Shard 0..4095 of a device: first 8 bytes of SHA-256(tenantId, LF, deviceId), mod 4096."""
    digest = hashlib.sha256(f"{tenant_id}\n{device_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % SHARDS


def partition_of(tenant_id: str, device_id: str, partitions: int) -> int:
    """Partition of a device in a topic with this many partitions."""
    return shard_of(tenant_id, device_id) % partitions


def short_digest(data: bytes) -> str:
    """First 16 hex digits of SHA-256: log record digests and content digests in names."""
    return hashlib.sha256(data).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class RangeAddress:
    """Where a range starts: which prefix, log generation, partition and first offset."""

    prefix: str
    generation: int
    partition: int
    first_offset: int

    @property
    def record_key(self) -> str:
        """Key of the range record, the commit of this range."""
        return (
            f"{self.prefix}/ranges/g{self.generation}/p{self.partition}"
            f"/o{self.first_offset:020d}.json"
        )

    def object_key(self, tenant_id: str, day: str, data_sha256_hex: str) -> str:
        """Key of the Parquet object of this range for one tenant and day."""
        return (
            f"{self.prefix}/tenant={tenant_id}/day={day}/g{self.generation}-p{self.partition}"
            f"-o{self.first_offset:020d}-{data_sha256_hex[:16]}.parquet"
        )


_RANGE_OBJECT: Final = re.compile(
    r"(?P<prefix>landing/v1|quarantine/v1)/tenant=(?P<tenant>[a-z0-9-]+)/day=(?P<day>[0-9-]{10})"
    r"/g(?P<g>\d+)-p(?P<p>\d+)-o(?P<o>\d{20})-(?P<hex>[0-9a-f]{16})\.parquet"
)
_RANGE_RECORD: Final = re.compile(
    r"(?P<prefix>landing/v1|quarantine/v1)/ranges/g(?P<g>\d+)/p(?P<p>\d+)/o(?P<o>\d{20})\.json"
)


def parse_range_object(key: str) -> tuple[RangeAddress, str, str] | None:
    """(range, tenant, day) of a landing or quarantine object's key; None for any other key."""
    m = _RANGE_OBJECT.fullmatch(key)
    if m is None:
        return None
    return RangeAddress(m["prefix"], int(m["g"]), int(m["p"]), int(m["o"])), m["tenant"], m["day"]


def parse_range_record(key: str) -> RangeAddress | None:
    """The range of a range record's key; None for any other key."""
    m = _RANGE_RECORD.fullmatch(key)
    if m is None:
        return None
    return RangeAddress(m["prefix"], int(m["g"]), int(m["p"]), int(m["o"]))


def range_records_prefix(prefix: str, generation: int, partition: int) -> str:
    """Prefix under which the range records of one partition are listed, in offset order."""
    return f"{prefix}/ranges/g{generation}/p{partition}/"


def range_objects_prefix(prefix: str, tenant_id: str, day: str) -> str:
    """Prefix under which one tenant's day is listed in landing or quarantine."""
    return f"{prefix}/tenant={tenant_id}/day={day}/"


def generation_key(generation: int) -> str:
    """Key of the record that opens a log generation."""
    return f"{LANDING}/generations/{generation}.json"


def lock_probe_key(day: str) -> str:
    """Key of the canary by which the store's lock is tried on a day. No evidence."""
    return f"{PROBES}/lock/{day}.txt"


def closing_key(day: str) -> str:
    """Key of the record that closes a day for all tenants."""
    return f"{LANDING}/closed/{day}.json"


def closings_prefix() -> str:
    """Prefix of all closing records."""
    return f"{LANDING}/closed/"


def parse_closing(key: str) -> str | None:
    """Day of a closing record's key; None for any other key."""
    m = re.fullmatch(r"landing/v1/closed/(\d{4}-\d{2}-\d{2})\.json", key)
    return m[1] if m else None


def late_closing_key(day: str, revision: int) -> str:
    """Key of a further closing of a day (from 2): how far a revision of its seals reaches."""
    return f"{LANDING}/closed/{day}-r{revision}.json"


def parse_late_closing(key: str) -> tuple[str, int] | None:
    """(day, revision) of a further closing's key; None for any other key."""
    m = re.fullmatch(r"landing/v1/closed/(\d{4}-\d{2}-\d{2})-r([1-9]\d{0,8})\.json", key)
    return (m[1], int(m[2])) if m else None


def part_key(tenant_id: str, day: str, part: int, data_sha256_hex: str) -> str:
    """Key of one sealed part."""
    return f"{COLD}/tenant={tenant_id}/day={day}/part-{part}-{data_sha256_hex[:16]}.parquet"


_PART: Final = re.compile(
    r"cold/v1/tenant=(?P<tenant>[a-z0-9-]+)/day=(?P<day>[0-9-]{10})"
    r"/part-(?P<n>\d+)-(?P<hex>[0-9a-f]{16})\.parquet"
)


def parse_part(key: str) -> tuple[str, str, int] | None:
    """(tenant, day, part number) of a sealed part's key; None for any other key."""
    m = _PART.fullmatch(key)
    return (m["tenant"], m["day"], int(m["n"])) if m else None


def manifest_key(tenant_id: str, number: int) -> str:
    """Key of a tenant's manifest number `number` (from 1)."""
    return f"{COLD}/tenant={tenant_id}/manifests/{number:020d}.json"


def manifests_prefix(tenant_id: str) -> str:
    """Prefix of all manifests of a tenant, in number order."""
    return f"{COLD}/tenant={tenant_id}/manifests/"


_MANIFEST: Final = re.compile(
    r"cold/v1/tenant=(?P<tenant>[a-z0-9-]+)/manifests/(?P<n>\d{20})\.json"
)


def parse_manifest(key: str) -> tuple[str, int] | None:
    """(tenant, number) of a manifest's key; None for any other key."""
    m = _MANIFEST.fullmatch(key)
    return (m["tenant"], int(m["n"])) if m else None


def incidents_prefix(tenant_id: str, day: str = "") -> str:
    """Prefix of a tenant's incidents, in day order; with a day, of that day's."""
    of_tenant = f"{INCIDENTS}/tenant={tenant_id}/"
    return f"{of_tenant}day={day}/" if day else of_tenant


def incident_key(tenant_id: str, day: str, incident_id: str) -> str:
    """Key of the record that opens an incident."""
    return f"{incidents_prefix(tenant_id, day)}{incident_id}.json"


def resolution_key(tenant_id: str, day: str, incident_id: str) -> str:
    """Key of the record that ends an incident."""
    return f"{incidents_prefix(tenant_id, day)}{incident_id}-resolved.json"


_INCIDENT: Final = re.compile(
    r"incidents/v1/tenant=(?P<tenant>[a-z0-9-]+)/day=(?P<day>[0-9-]{10})"
    r"/(?P<id>[0-9a-f]{16})(?P<resolved>-resolved)?\.json"
)


def parse_incident(key: str) -> tuple[str, str, str, bool] | None:
    """(tenant, day, incident id, is it the end) of an incident's key; None for any other key."""
    m = _INCIDENT.fullmatch(key)
    return (m["tenant"], m["day"], m["id"], bool(m["resolved"])) if m else None


def proposals_prefix(tenant_id: str) -> str:
    """Prefix of all that was proposed about a tenant's dead letters, proposal by proposal."""
    return f"{DECISIONS}/tenant={tenant_id}/proposals/"


def proposal_key(tenant_id: str, proposal_id: str) -> str:
    """Key of a proposal about dead letters."""
    return f"{proposals_prefix(tenant_id)}{proposal_id}.json"


def dry_run_key(tenant_id: str, proposal_id: str, number: int) -> str:
    """Key of a proposal's dry run number `number` (from 1)."""
    return f"{proposals_prefix(tenant_id)}{proposal_id}/dry-run-{number:06d}.json"


def approval_key(tenant_id: str, proposal_id: str) -> str:
    """Key of the record that approves a proposal."""
    return f"{proposals_prefix(tenant_id)}{proposal_id}/approval.json"


def replay_key(tenant_id: str, proposal_id: str, chunk: int) -> str:
    """Key of the record that says what became of a chunk (from 0) of an approved proposal."""
    return f"{proposals_prefix(tenant_id)}{proposal_id}/replayed-{chunk:06d}.json"


_DECISION: Final = re.compile(
    r"dlq/v1/tenant=(?P<tenant>[a-z0-9-]+)/proposals/(?P<id>[0-9a-f]{16})"
    r"(?:/(?P<kind>approval|dry-run|replayed)(?:-(?P<n>\d{6}))?)?\.json"
)


def parse_decision(key: str) -> tuple[str, str, str, int] | None:
    """(tenant, proposal id, which record, its number) of such a key; None for any other key.

    Which: "" for the proposal itself, `approval`, `dry-run`, `replayed`; the first two have no
    number (-1).
    """
    m = _DECISION.fullmatch(key)
    if m is None:
        return None
    return m["tenant"], m["id"], m["kind"] or "", int(m["n"] or -1)


def verified_key(night: str, chunk: int) -> str:
    """Key of the record of chunk `chunk` (from 0) of what was read again in a night."""
    return f"{VERIFIED}/{night}-{chunk:06d}.json"


def parse_verified(key: str) -> tuple[str, int] | None:
    """(night, chunk) of such a record's key; None for any other key."""
    m = re.fullmatch(r"verified/v1/(\d{4}-\d{2}-\d{2})-(\d{6})\.json", key)
    return (m[1], int(m[2])) if m else None


def hold_prefix(tenant_id: str, day: str) -> str:
    """Prefix of all that was done about legal holds of a tenant's day."""
    return f"{HOLDS}/tenant={tenant_id}/day={day}/"


def hold_key(tenant_id: str, day: str, number: int, act: str) -> str:
    """Key of one act (`hold`, `lift-asked`, `lifted`) of hold number `number` (from 1)."""
    return f"{hold_prefix(tenant_id, day)}{number:06d}-{act}.json"
