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
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Final, NamedTuple, Protocol

import numpy as np

from audit_platform.errors import RecordMalformed
from audit_platform.record.columns import Ints
from audit_platform.record.derived import Text, event_id_rows, hex_rows, sha256_rows, texts_of
from audit_platform.record.times import parse_time_ms

EVENTS: Final = "e1"
_CONFLICT: Final = b"c1\n"
_WHERE: Final = "spool entry"

#: Kinds that are remembered: an installation knows about 30, and a device may invent others.
_KINDS: Final = 4096


#: Chains whose beginnings of lines are remembered: an epoch's, and those beside it.
_CHAINS: Final = 1024

_sha256: Final = hashlib.sha256


class HasData(Protocol):
    """A spool entry, as far as its bytes go."""

    @property
    def data(self) -> bytes:
        """What `encode` or `conflict_entry` made."""
        ...


class Kind(NamedTuple):
    """What events of one sort have in common: pieces of the canonical line, and of the entry's.

    `tag` stands for all of it in the digest of what a device gave.
    """

    event_type: str
    version: int
    criticality: str
    schema_ref: str
    after_checksum: bytes
    after_time: bytes
    after_prev: bytes
    stored: bytes
    tag: int


@lru_cache(maxsize=_KINDS)
def kind_of(
    event_type: str, version: int, criticality: str, schema_ref: str, hospital: str
) -> Kind:
    """The kind; without `schema_ref` it is `<eventType>/<version>`. All texts are well formed."""
    stored = f"{event_type} {version} {criticality} {schema_ref}".encode()
    named = schema_ref or f"{event_type}/{version}"
    return Kind(
        event_type,
        version,
        criticality,
        named,
        f'","criticality":"{criticality}","deviceId":"'.encode(),
        f'","eventType":"{event_type}","eventVersion":{version},'
        f'"hospitalId":"{hospital}","payload":'.encode(),
        f'","schemaRef":"{named}","sequenceNumber":'.encode(),
        stored,
        int.from_bytes(hashlib.sha256(stored).digest()[:8], "big"),
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


class Ready(NamedTuple):
    """An event that only wants its place: the canonical line, cut where the place comes in.

    The line is `start_of(place)`, `before`, prevHash, `after`; `stored` is its line in an entry.
    """

    device_id: str
    sequence: int
    digest: int
    criticality: str
    before: bytes
    after: bytes
    stored: bytes


@lru_cache(maxsize=_CHAINS)
def start_of(chain_id: str) -> bytes:
    """What a canonical line of a chain begins with."""
    return f'{{"chainId":"{chain_id}","checksum":"'.encode()


def canonical(said: Said, named: Naming, place: Place, prev_hash: str) -> bytes:
    """The canonical event. `prev_hash` is lower hex."""
    return b"%b%b%b%b" % (
        start_of(place.chain_id),
        _before(said, named),
        prev_hash.encode(),
        _after(said, place.tenant_id),
    )


def _before(said: Said, named: Naming) -> bytes:
    device, time, _, kind, payload, _ = said
    ids = f'{device}","eventId":"{named.event_id}","eventTime":"{time}'
    return b'%b%b%b%b%b,"prevHash":"' % (
        named.checksum.encode(),
        kind.after_checksum,
        ids.encode(),
        kind.after_time,
        payload.encode(),
    )


def _after(said: Said, tenant_id: str) -> bytes:
    return b'%b%d,"tenantId":"%b"}' % (said.kind.after_prev, said.sequence, tenant_id.encode())


def ready(said: Said, tenant_id: str) -> Ready:
    """One event, ready to be placed."""
    named = name(said, tenant_id)
    return Ready(
        said.device_id,
        said.sequence,
        named.digest,
        said.kind.criticality,
        _before(said, named),
        _after(said, tenant_id),
        stored_line(said),
    )


def stored_line(said: Said) -> bytes:
    """The line of an event in an entry."""
    _, time, sequence, kind, payload, stamped = said
    return b"%b %d %b %b %b" % (
        time.encode(),
        sequence,
        kind.stored,
        b"s" if stamped else b"",
        payload.encode(),
    )


def said_again(event: Ready, hospital_id: str) -> Said:
    """What the device said, from its line in an entry."""
    place = Place("", hospital_id, "", event.device_id)
    return _said(event.stored.decode(), place)


class Columns(NamedTuple):
    """Events as their devices gave them, well formed, none of them stamped: one column a field.

    Times are 24 bytes, `ms` the same as milliseconds since 1970, payloads canonical.
    """

    device_ids: Sequence[str]
    devices: Sequence[bytes]
    times: Sequence[bytes]
    ms: Ints
    sequences: Sequence[int]
    numbers: Sequence[bytes]
    kinds: Sequence[Kind]
    payloads: Sequence[bytes]


def ready_all(events: Columns, tenant_id: str) -> list[Ready]:
    """`ready` of each, by the block; at least one."""
    kinds, payloads = events.kinds, events.payloads
    _, _, criticalities, _, _, _, _, kept, tags = zip(*kinds, strict=True)
    before, after, hashes = pieces_of(
        events.devices, events.times, events.ms, events.numbers, kinds, payloads, tenant_id
    )
    digests = hashes.view(">u8")[:, -1].astype(np.uint64) ^ np.array(tags, np.uint64)
    digests[digests == 0] = 1
    stored = map(
        b" ".join, zip(events.times, events.numbers, kept, repeat(b""), payloads, strict=False)
    )
    rows = zip(
        events.device_ids,
        events.sequences,
        digests.tolist(),
        criticalities,
        before,
        after,
        stored,
        strict=True,
    )
    # Past the class's own __new__, which is Python code.
    return list(map(tuple.__new__, repeat(Ready), rows))


def pieces_of(
    devices: Sequence[bytes],
    times: Sequence[bytes],
    ms: Ints,
    numbers: Sequence[bytes],
    kinds: Sequence[Kind],
    payloads: Sequence[bytes],
    tenant_id: str,
) -> tuple[Iterator[bytes], Iterator[bytes], Text]:
    """`before` and `after` of each event (see `Ready`), and the hash of what it says."""
    _, _, _, _, after_checksum, after_time, after_prev, _, _ = zip(*kinds, strict=True)
    tenant = tenant_id.encode()
    checksums = texts_of(hex_rows(sha256_rows(payloads)))
    hashes = sha256_rows(
        map(b"\n".join, zip(repeat(tenant), devices, times, numbers, checksums, strict=False))
    )
    ids = texts_of(event_id_rows(ms, hashes))
    before = map(
        b"".join,
        zip(
            checksums,
            after_checksum,
            devices,
            repeat(b'","eventId":"'),
            ids,
            repeat(b'","eventTime":"'),
            times,
            after_time,
            payloads,
            repeat(b',"prevHash":"'),
            strict=False,
        ),
    )
    end = b',"tenantId":"%b"}' % tenant
    return before, map(b"".join, zip(after_prev, numbers, repeat(end), strict=False)), hashes


def encode(place: tuple[str, str, str, str], prev_hash: str, stored: Sequence[bytes]) -> bytes:
    """The entry of events of one device in one chain, in order; the first names `prev_hash`."""
    chain_id, hospital_id, tenant_id, device_id = place
    head = f"{EVENTS} {chain_id} {hospital_id} {tenant_id} {device_id} {prev_hash}"
    return b"\n".join((head.encode(), *stored))


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
        if form != EVENTS:
            raise RecordMalformed(_WHERE, "form", f"{form[:20]!a} is not {EVENTS}")
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


class LiveEntry(NamedTuple):
    """A spooled entry and its lines, fresh from the intake: nobody needs to read it again."""

    position: int
    device_id: str
    count: int  # type: ignore[assignment] # hides tuple.count, which nobody asks an entry for
    lines: list[bytes]
