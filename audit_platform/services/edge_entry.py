"""What the spool keeps of events, and the canonical lines that are made of it again.

An entry is text. Its first line says where the events belong, each other line what one event says:

    e1 <chainId> <hospitalId> <tenantId> <deviceId> <prevHash of the first event>
    <eventTime> <sequenceNumber> <eventType> <eventVersion> <criticality> <schemaRef> <stamped>
        <payload>

(the payload on the same line). `schemaRef` is empty where it is `<eventType>/<eventVersion>`;
`stamped` is `s` where the device gave no eventTime and the edge did. What can be derived is not
stored: checksum, eventId, and prevHash of all but the first. An event that joins no chain is kept
as `c1`, LF, its bytes. Belongs here: this form, and completing an event, by which intake and uplink
come to the same bytes. Does not: reading what devices send (`edge_reading.py`), frames and files
(the spool). Source: design section 3; the bytes are those of `record.event.complete_event`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from audit_platform.errors import RecordMalformed
from audit_platform.record.times import parse_time_ms

_EVENTS: Final = "e1"
_CONFLICT: Final = b"c1\n"
_WHERE: Final = "spool entry"

#: Kinds that are remembered: an installation knows about 30, and a device may invent others.
_KINDS: Final = 4096


_sha256: Final = hashlib.sha256


class HasData(Protocol):
    """A spool entry, as far as its bytes go."""

    @property
    def data(self) -> bytes:
        """What `encode` or `conflict_entry` made."""
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """What events of one sort have in common: pieces of the canonical line, and of the entry's.

    `tag` stands for all of it in the digest of what a device gave.
    """

    event_type: str
    version: int
    criticality: str
    schema_ref: str
    after_checksum: str
    after_time: str
    after_prev: str
    stored: str
    tag: int


@lru_cache(maxsize=_KINDS)
def kind_of(
    event_type: str, version: int, criticality: str, schema_ref: str, hospital: str
) -> Kind:
    """The kind; without `schema_ref` it is `<eventType>/<version>`. All texts are well formed."""
    stored = f"{event_type} {version} {criticality} {schema_ref}"
    named = schema_ref or f"{event_type}/{version}"
    return Kind(
        event_type,
        version,
        criticality,
        named,
        f'","criticality":"{criticality}","deviceId":"',
        f'","eventType":"{event_type}","eventVersion":{version},"hospitalId":"{hospital}","payload":',
        f'","schemaRef":"{named}","sequenceNumber":',
        stored,
        int.from_bytes(hashlib.sha256(stored.encode()).digest()[:8], "big"),
    )


class Said(NamedTuple):
    """One event as its device gave it, well formed: `payload` is canonical text.

    `stamped`: the edge gave the time, so it is not part of what the device said.
    """

    device_id: str
    event_time: str
    sequence: int
    kind: Kind
    payload: str
    stamped: bool


class Place(NamedTuple):
    """Where events belong: the edge's epoch (or a device's own chain) and whose they are."""

    chain_id: str
    hospital_id: str
    tenant_id: str
    device_id: str


#: First digit of a UUID's fourth group, as in `record.event`.
_VARIANT: Final = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))

#: Digests of what devices gave are 64 bits: far more than any accident needs, and a device that
#: forges one only hides its own second event from itself.
_DIGEST_DIGITS: Final = 16


class Naming(NamedTuple):
    """What is derived of an event before it has a place: hex checksum, eventId, digest (not 0)."""

    checksum: str
    event_id: str
    digest: int


def name(said: Said, tenant_id: str) -> Naming:
    """Checksum and eventId of an event, and the digest by which the edge knows it again."""
    device, time, sequence, kind, payload, stamped = said
    checksum = _sha256(payload.encode()).hexdigest()
    h = _sha256(f"{tenant_id}\n{device}\n{time}\n{sequence}\n{checksum}".encode()).hexdigest()
    event_id = f"{id_beginning(time)}7{h[1:4]}-{_VARIANT[h[4]]}{h[5:8]}-{h[8:20]}"
    given = h
    if stamped:
        given = _sha256(f"{tenant_id}\n{device}\n\n{sequence}\n{checksum}".encode()).hexdigest()
    # 0 means "not taken" where digests are kept. Past the class's own __new__, which is Python
    # code: this is the hottest line of the edge.
    digest = int(given[-_DIGEST_DIGITS:], 16) ^ kind.tag or 1
    return tuple.__new__(Naming, (checksum, event_id, digest))


@lru_cache(maxsize=16_384)
def id_beginning(event_time: str) -> str:
    """The beginning of an eventId: the time's 48 bits, with hyphens. Raises `ValueError`."""
    digits = f"{parse_time_ms(event_time) % 2**48:012x}"
    return f"{digits[:8]}-{digits[8:]}-"


def canonical(said: Said, named: Naming, place: Place, prev_hash: str) -> bytes:
    """The canonical event. `prev_hash` is lower hex."""
    device, time, sequence, kind, payload, _ = said
    return (
        f'{{"chainId":"{place.chain_id}","checksum":"{named.checksum}{kind.after_checksum}{device}'
        f'","eventId":"{named.event_id}","eventTime":"{time}{kind.after_time}{payload}'
        f',"prevHash":"{prev_hash}{kind.after_prev}{sequence},"tenantId":"{place.tenant_id}"}}'
    ).encode()


def encode(place: Place, prev_hash: str, events: Sequence[Said]) -> bytes:
    """The entry of events of one device in one chain, in order; the first names `prev_hash`."""
    lines = [f"{_EVENTS} {' '.join(place)} {prev_hash}"]
    lines += [
        f"{time} {sequence} {kind.stored} {'s' if stamped else ''} {payload}"
        for _, time, sequence, kind, payload, stamped in events
    ]
    return "\n".join(lines).encode()


def conflict_entry(line: bytes) -> bytes:
    """The entry of one line that joins no chain."""
    return _CONFLICT + line


class Decoded(NamedTuple):
    """An entry's events before they are completed."""

    place: Place
    prev_hash: str
    events: list[Said]


def decode(data: bytes) -> Decoded | None:
    """What `encode` was given; None for a line that joins no chain. Raises `RecordMalformed`."""
    if data.startswith(_CONFLICT):
        return None
    try:
        head, *lines = data.decode().split("\n")
        form, *place, prev_hash = head.split(" ")
        if form != _EVENTS:
            raise RecordMalformed(_WHERE, "form", f"{form[:20]!a} is not {_EVENTS}")
        at = Place(*place)
        return Decoded(at, prev_hash, [_said(line, at) for line in lines])
    except (ValueError, TypeError) as e:
        raise RecordMalformed(_WHERE, "", f"not an entry: {e}") from e


def _said(line: str, place: Place) -> Said:
    time, sequence, event_type, version, criticality, ref, stamped, payload = line.split(" ", 7)
    id_beginning(time)  # raises for what is no time
    kind = kind_of(event_type, int(version), criticality, ref, place.hospital_id)
    return Said(place.device_id, time, int(sequence), kind, payload, stamped == "s")


def lines_of(entry: HasData) -> list[bytes]:
    """The lines of an entry, ready to be sent, in order. Raises `RecordMalformed`."""
    found = decode(entry.data)
    if found is None:
        return [entry.data[len(_CONFLICT) :]]
    lines = []
    prev_hash = found.prev_hash
    for said in found.events:
        line = canonical(said, name(said, found.place.tenant_id), found.place, prev_hash)
        prev_hash = hashlib.sha256(line).hexdigest()
        lines.append(line)
    return lines


@dataclass(frozen=True, slots=True)
class LiveEntry:
    """A spooled entry and its lines, fresh from the intake: nobody needs to read it again."""

    position: int
    device_id: str
    count: int
    lines: list[bytes]
