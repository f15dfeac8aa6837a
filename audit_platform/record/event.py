"""The event: its canonical shape, its hashes, its stored form, and the check at the door.

Belongs here: the one byte shape of a canonical event, the check that the ingest-gateway runs on
every line, and what an edge fills in. Does not: naming the field that is wrong (`envelope.py`),
payload schemas (ingest), links between events (`chain.py`).
Source: design section 3; RFC 8785 (canonical bytes), RFC 9562 (UUIDv7).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from audit_platform.errors import EventRefused
from audit_platform.record.canonical import (
    MAX_SAFE_INTEGER,
    canonical_bytes,
    load_canonical,
    parse_strict,
)
from audit_platform.record.envelope import (
    bad_time,
    other_tenant,
    require_well_formed,
    sequence_range,
)
from audit_platform.record.layout import ZERO_HASH
from audit_platform.record.links import EventLink
from audit_platform.record.times import format_time_ms, parse_time_ms, shaped_time_ms

__all__ = [
    "MAX_EVENT_BYTES",
    "CheckedEvent",
    "CompletedEvent",
    "EventLink",
    "canonical_of_stored",
    "check_event",
    "complete_event",
    "derive_event_id",
    "event_hash",
    "format_time_ms",
    "link_of",
    "parse_time_ms",
    "stored_line",
]

#: Largest event, as sent and as canonical bytes: its stored line (43 bytes of ingestionTime more,
#: and a newline) still is one log record of at most 1 MiB.
MAX_EVENT_BYTES: Final = 2**20 - 64

# The canonical envelope has one shape, because every field but the payload is ASCII without
# escapes. checksum and eventId are compared with what they must be, so their digits are not looked
# at here; nor are the payload's own bytes, the calendar and the tenant.
_CANONICAL: Final = re.compile(
    r'\{"chainId":"([0-9a-f]{16})","checksum":"(.{64})",'
    r'"criticality":"(?:critical|high|low|normal)","deviceId":"([A-Za-z0-9._:/-]{1,128})",'
    r'"eventId":"(.{8}-.{4}-.{4}-.{4}-.{12})",'
    r'"eventTime":"([0-9T:-]{16}:[0-5][0-9]\.[0-9]{3}Z)",'
    r'"eventType":"([A-Za-z0-9._:/-]{1,128})","eventVersion":([1-9][0-9]{0,2}),'
    r'"hospitalId":"[A-Za-z0-9._:/-]{1,128}","payload":(\{.*\}),'
    r'"prevHash":"[0-9a-f]{64}","schemaRef":"([A-Za-z0-9._:/-]{1,128})",'
    r'"sequenceNumber":(0|[1-9][0-9]{0,15}),"tenantId":"([a-z0-9-]{1,63})"\}',
    re.DOTALL,
)

_BEFORE_PAYLOAD: Final = b',"payload":'
_INGESTION_TIME: Final = b',"ingestionTime":"'
_INGESTION_MEMBER: Final = re.compile(rb',"ingestionTime":"[0-9T:-]{19}\.[0-9]{3}Z"(?=,"payload":)')


class CheckedEvent(NamedTuple):
    """An accepted line: its canonical bytes and what the ingest needs of it.

    `payload` is decoded from the canonical bytes; `event_time_ms` is milliseconds since 1970.
    """

    canonical: bytes
    device_id: str
    event_type: str
    event_version: int
    schema_ref: str
    payload: dict[str, Any]
    chain_id: str
    sequence_number: int
    event_time_ms: int


@dataclass(frozen=True, slots=True)
class CompletedEvent:
    """An event as an edge made it: canonical bytes, their SHA-256 (32 bytes), its eventId."""

    canonical: bytes
    event_hash: bytes
    event_id: str


# -------------------------------------------------------------------------------------- hashes


def event_hash(canonical: bytes) -> bytes:
    """SHA-256 of a canonical event, 32 bytes."""
    return hashlib.sha256(canonical).digest()


def derive_event_id(
    tenant_id: str, device_id: str, event_time: str, sequence_number: int, checksum: str
) -> str:
    """The UUIDv7 that names what a device said. Raises `ValueError` for a bad `event_time`."""
    said = f"{tenant_id}\n{device_id}\n{event_time}\n{sequence_number}\n{checksum}"
    d = _event_id_digits(parse_time_ms(event_time), said)
    return f"{d[:8]}-{d[8:12]}-{d[12:16]}-{d[16:20]}-{d[20:]}"


#: First digit of a UUID's fourth group for a digit of the hash: variant bits 10, then its low two.
_VARIANT: Final = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def _event_id_digits(ms: int, said: str) -> str:
    """The 32 hex digits of an eventId."""
    h = hashlib.sha256(said.encode()).hexdigest()
    return f"{ms % 2**48:012x}7{h[1:4]}{_VARIANT[h[4]]}{h[5:20]}"


# ------------------------------------------------------------------------------------- storing


def stored_line(canonical: bytes, ingestion_time: bytes) -> bytes:
    """The stored form of a *checked* canonical event: `ingestionTime` at its sorted place.

    `ingestion_time` is 24 ASCII bytes (`format_time_ms`); no newline is added.
    """
    head, tail = halves_of(canonical)
    return b"".join((head, _INGESTION_TIME, ingestion_time, b'"', tail))


def halves_of(canonical: bytes) -> tuple[bytes, bytes]:
    """A *checked* canonical event, cut where its stored form has the ingestionTime."""
    # No field before the payload can hold a quote, so the first hit is the envelope's own.
    at = canonical.index(_BEFORE_PAYLOAD)
    return canonical[:at], canonical[at:]


def canonical_of_stored(stored: bytes) -> bytes:
    """The canonical event inside a stored line. Raises `ValueError` when there is none."""
    at = stored.find(_INGESTION_TIME)
    m = _INGESTION_MEMBER.match(stored, at) if at >= 0 else None
    if m is None or stored.find(_BEFORE_PAYLOAD) < at:
        raise ValueError("no ingestionTime before the payload: not a stored event")
    return stored[:at] + stored[m.end() :]


# ------------------------------------------------------------------------------------ checking


def check_event(line: bytes, tenant_id: str) -> CheckedEvent:
    """Accept one line (no newline) of a tenant, or raise `EventRefused` naming what is wrong.

    A canonical line takes a fast path; any other is canonicalised first, with the same result.
    The payload's schema is not looked at.
    """
    if len(line) > MAX_EVENT_BYTES:
        raise _too_large(len(line))
    try:
        m = _CANONICAL.fullmatch(line.decode())
    except UnicodeDecodeError:
        m = None
    raw = m[8].encode() if m else b""
    payload = load_canonical(raw)
    if m is None or payload is None:
        line, m = _canonicalize_event(line, tenant_id)
        raw = m[8].encode()
        payload = orjson.loads(raw)
    chain, checksum, device, event_id, time, kind, version, _, schema, number, tenant = m.groups()
    if tenant != tenant_id:
        raise other_tenant()
    sequence = int(number)
    if sequence > MAX_SAFE_INTEGER:
        raise sequence_range()
    try:
        ms = shaped_time_ms(time)
    except ValueError as e:
        raise bad_time(str(e)) from e
    if hashlib.sha256(raw).hexdigest() != checksum:
        raise _bad_checksum(line, tenant_id)
    said = f"{tenant}\n{device}\n{time}\n{number}\n{checksum}"
    # The pattern holds the hyphens in their places.
    if _event_id_digits(ms, said) != event_id.replace("-", ""):
        raise _bad_event_id(line, tenant_id)
    # Past the class's own __new__, which is Python code: this is the hottest line of the ingest.
    return tuple.__new__(
        CheckedEvent, (line, device, kind, int(version), schema, payload, chain, sequence, ms)
    )


def _too_large(size: int) -> EventRefused:
    return EventRefused(
        "too_large",
        "",
        f"the event has {size} bytes, more than {MAX_EVENT_BYTES}",
        remedy="split what it says into several events",
    )


def _bad_checksum(line: bytes, tenant_id: str) -> EventRefused:
    # The pattern leaves the digits open: a checksum that is no hash at all is named as that.
    _well_formed(line, tenant_id)
    return EventRefused(
        "bad_checksum",
        "checksum",
        "checksum is not the SHA-256 of the payload's canonical bytes",
        remedy="recompute it over RFC 8785 bytes of the payload, lower-case hex",
    )


def _bad_event_id(line: bytes, tenant_id: str) -> EventRefused:
    _well_formed(line, tenant_id)
    return EventRefused(
        "bad_event_id",
        "eventId",
        "eventId is not derived from tenantId, deviceId, eventTime, sequenceNumber, checksum",
        remedy="derive it as docs/formats.md says",
    )


def _canonicalize_event(line: bytes, tenant_id: str) -> tuple[bytes, re.Match[str]]:
    """A line that is not certainly canonical, made so and cut; or the refusal with its field."""
    canonical = canonical_bytes(_well_formed(line, tenant_id))
    if len(canonical) > MAX_EVENT_BYTES:
        raise _too_large(len(canonical))
    m = _CANONICAL.fullmatch(canonical.decode())
    if m is None:  # `envelope.py` and the pattern say the same; tests hold them equal
        raise EventRefused(
            "bad_form", "", "not the shape of an event", remedy="see docs/formats.md"
        )
    return canonical, m


def _well_formed(line: bytes, tenant_id: str) -> dict[str, Any]:
    try:
        value = parse_strict(line)
    except EventRefused as e:
        if e.slug == "number_range" and e.field == "sequenceNumber":
            raise sequence_range() from e
        raise
    return require_well_formed(value, tenant_id)


def link_of(line: bytes, tenant_id: str) -> EventLink | None:
    """The link that a *refused* line still is, or None.

    A link is canonicalisable and of this tenant, has every envelope field well formed, and no
    other field. Its size, schema, checksum and eventId may be what it was refused for.
    """
    try:
        value = _well_formed(line, tenant_id)
        canonical = canonical_bytes(value)
    except EventRefused:
        return None
    return EventLink(
        hospital_id=value["hospitalId"],
        device_id=value["deviceId"],
        chain_id=value["chainId"],
        sequence_number=int(value["sequenceNumber"]),
        event_hash=event_hash(canonical).hex(),
        prev_hash=value["prevHash"],
        event_id=value["eventId"],
        event_time=value["eventTime"],
        checksum=value["checksum"],
    )


# ---------------------------------------------------------------------------------- completing


def complete_event(
    said: Mapping[str, Any],
    *,
    tenant_id: str,
    hospital_id: str,
    chain_id: str,
    prev_hash: str,
    schema_ref: str = "",
    criticality: str = "normal",
) -> CompletedEvent:
    """What an edge sends for what a device said; `check_event` accepts the result.

    `said` has deviceId, eventType, eventVersion, eventTime, sequenceNumber, payload and nothing
    else. `prev_hash` is lower hex. Without `schema_ref` it is `<eventType>/<eventVersion>`.
    Raises `EventRefused` naming the field, as `check_event`.
    """
    for name in said:
        if name not in _SAID:
            raise EventRefused(
                "unknown_field",
                name,
                f"a device does not say {name!a}",
                remedy="put it into the payload; send a complete event as it is",
            )
    value = {
        **said,
        "chainId": chain_id,
        "checksum": ZERO_HASH,
        "criticality": criticality,
        "eventId": _NO_ID,
        "hospitalId": hospital_id,
        "prevHash": prev_hash,
        "schemaRef": schema_ref or "-",
        "tenantId": tenant_id,
    }
    require_well_formed(value, tenant_id)
    sequence, version = int(value["sequenceNumber"]), int(value["eventVersion"])
    payload = canonical_bytes({"payload": value["payload"]})[len(b'{"payload":') : -1]
    checksum = hashlib.sha256(payload).hexdigest()
    event_id = derive_event_id(tenant_id, value["deviceId"], value["eventTime"], sequence, checksum)
    value["checksum"] = checksum
    value["eventId"] = event_id
    value["schemaRef"] = schema_ref or f"{value['eventType']}/{version}"
    canonical = canonical_bytes(value)
    if len(canonical) > MAX_EVENT_BYTES:
        raise _too_large(len(canonical))
    return CompletedEvent(canonical, event_hash(canonical), event_id)


#: What a device says; the edge knows or derives the rest.
_SAID: Final = frozenset(
    {"deviceId", "eventType", "eventVersion", "eventTime", "sequenceNumber", "payload"}
)
_NO_ID: Final = "00000000-0000-0000-0000-000000000000"
