"""A million and more events for benchmarks, drawn from the excerpt's real rows, in right chains.

Each real event is said by `GROUPS` copies of its device in as many passes as the number asked for
needs, each time for another stay; values move by a little, so that payloads repeat about as often
as in the real rows. Deterministic: the same number gives the same bytes. Belongs here: making the
lines, and their cache on disk. Does not: what is measured with them.
Source: issue "Walking skeleton", speed and memory (10,000 devices, no line twice, zstd ratio within
20 % of the real rows'); design section 3 (canonical bytes, chains).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_platform.demo.devices import MAX_BATCH_EVENTS, ZSTD_LEVEL
from audit_platform.demo.mapping import device_events, tenant_ids
from audit_platform.demo.sources import EXCERPT
from audit_platform.demo.synthesis import EDGE_DEVICE
from audit_platform.record import layout, signing
from audit_platform.record.canonical import canonical_bytes
from audit_platform.record.event import complete_event, derive_event_id
from audit_platform.record.schemas import registry
from audit_platform.record.times import format_time_ms

#: Copies of each device: 12 x 895 devices are more than 10,000.
GROUPS: Final = 12

_GROUP_NAMES: Final = tuple(f"{g:02d}" for g in range(GROUPS))

#: The UTC day of all events.
DAY: Final = "2026-03-01"

#: Raise it when the bytes change, so that an old cache is not read.
FORMAT: Final = 2

#: Members of payloads whose numbers move. Whole numbers of two digits and more go down, so that no
#: upper limit of a schema is crossed, by less than `_REACH` of their digits; of others the last
#: digit changes, when the decimal text surely stays the shortest (at most 11 digits of 15).
_MOVING: Final = re.compile(
    r'(?<=")(value|rate|amount|uptimeSeconds)":(\d{2,}|\d{1,5}\.\d{1,6})(?=[,}])'
)
_REACH: Final = {2: 4, 3: 10}
_FARTHEST: Final = 60
_DIGITS: Final = "123456789"

_COPIED: Final = re.compile(r'("(?:stayId|recordId|correctsRecordId)":"[^"]*)"')
_STAY: Final = re.compile(r"(?<=-)\d{5,}")


class Body(NamedTuple):
    """One body of a tenant: canonical events, each followed by a line feed."""

    tenant_id: str
    ndjson: bytes
    events: int


@dataclass(frozen=True, slots=True)
class _Template:
    """A real event, cut where its copies differ. `pieces` and `moving` alternate."""

    devices: tuple[str, ...]
    event_type: str
    event_version: int
    criticality: str
    offset_ms: int
    pieces: tuple[str, ...]
    moving: tuple[str, ...]


@functools.cache
def _templates(tenant_id: str) -> tuple[str, tuple[_Template, ...]]:
    """(hospital id, good events of a tenant's day in the order of sending)."""
    hospital, made = "", []
    for event in device_events(tenant_id):
        if event.cause:
            continue
        hospital = event.hospital_id
        text = _COPIED.sub(r'\1\0"', canonical_bytes(event.payload).decode())
        pieces, moving, at = [], [], 0
        for match in _MOVING.finditer(text):
            pieces.append(text[at : match.start(2)])
            moving.append(match[2])
            at = match.end()
        pieces.append(text[at:])
        made.append(
            _Template(
                devices=tuple(_device_of(event.device_id, group) for group in _GROUP_NAMES),
                event_type=event.event_type,
                event_version=event.event_version,
                criticality=registry().criticality(event.event_type, event.event_version),
                offset_ms=event.offset_ms,
                pieces=tuple(pieces),
                moving=tuple(moving),
            )
        )
    return hospital, tuple(made)


def _moved(number: str, step: int) -> str:
    """The number, moved by a step: a canonical number still."""
    if "." in number:
        return number[:-1] + _DIGITS[step % len(_DIGITS)]
    return str(int(number) - step % _REACH.get(len(number), _FARTHEST))


def _device_of(device_id: str, group: str) -> str:
    """The copy of a device in a group: another stay, or another box."""
    copied, found = _STAY.subn(lambda m: m[0] + group, device_id, count=1)
    return copied if found else f"{device_id}-{group}"


class _Tenant:
    """Events of one tenant, without end: `GROUPS` edges, each with the chains of its devices."""

    def __init__(
        self, tenant_id: str, hospital: str, said: Sequence[_Template], passes: int
    ) -> None:
        self.tenant_id = tenant_id
        self._hospital = hospital
        self._said = said
        self._passes = passes
        self._start_ms = layout.day_start_ms(DAY)
        self._heads: dict[str, tuple[str, int]] = {}
        self._chains: list[tuple[str, str]] = []

    def lines(self) -> Iterator[bytes]:
        """Canonical lines, each with its line feed, in the order of their times."""
        for group in range(GROUPS):
            yield self._open_epoch(group)
        # Each group is elsewhere in the day, so that neighbours differ as those of a ward do.
        shifts = [group * len(self._said) // GROUPS for group in range(GROUPS)]
        step = 0
        for pass_number in range(self._passes):
            first_ms = self._start_ms + pass_number * layout.MS_PER_DAY // self._passes
            for place, timed in enumerate(self._said):
                time_text = format_time_ms(first_ms + timed.offset_ms // self._passes)
                for group, shift in enumerate(shifts):
                    step = (step * 1_103_515_245 + 12_345) & 0x7FFF_FFFF
                    said = self._said[(place + shift) % len(self._said)]
                    yield self._line(said, group, pass_number, time_text, step >> 16)

    def _open_epoch(self, group: int) -> bytes:
        device = _device_of(EDGE_DEVICE, _GROUP_NAMES[group])
        name = f"{self.tenant_id}\n{group}".encode()
        chain_id = hashlib.sha256(name).hexdigest()[:16]
        at = format_time_ms(self._start_ms)
        # A key that anyone can make: these events prove nothing but speed.
        key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"benchmark\n" + name).digest())
        payload = signing.chain_start_payload(
            key,
            tenant_id=self.tenant_id,
            hospital_id=self._hospital,
            device_id=device,
            chain_id=chain_id,
            event_time=at,
            sequence_number=0,
            reason="benchmark",
        )
        said = {
            "deviceId": device,
            "eventType": "chain_start",
            "eventVersion": 1,
            "eventTime": at,
            "sequenceNumber": 0,
            "payload": payload,
        }
        completed = complete_event(
            said,
            tenant_id=self.tenant_id,
            hospital_id=self._hospital,
            chain_id=chain_id,
            prev_hash=layout.ZERO_HASH,
            criticality=registry().criticality("chain_start", 1),
        )
        self._chains.append((chain_id, completed.event_hash.hex()))
        self._heads[device] = completed.event_hash.hex(), 1
        return completed.canonical + b"\n"

    def _line(self, said: _Template, group: int, turn: int, at: str, step: int) -> bytes:
        device = said.devices[group]
        chain_id, chain_start = self._chains[group]
        prev_hash, sequence = self._heads.get(device) or (chain_start, 0)
        payload = said.pieces[0]
        for number, piece in zip(said.moving, said.pieces[1:], strict=True):
            payload += _moved(number, step) + piece
            step += 1
        payload = payload.replace("\0", f"{_GROUP_NAMES[group]}{turn}")
        checksum = hashlib.sha256(payload.encode()).hexdigest()
        event_id = derive_event_id(self.tenant_id, device, at, sequence, checksum)
        line = (
            f'{{"chainId":"{chain_id}","checksum":"{checksum}","criticality":"{said.criticality}",'
            f'"deviceId":"{device}","eventId":"{event_id}","eventTime":"{at}",'
            f'"eventType":"{said.event_type}","eventVersion":{said.event_version},'
            f'"hospitalId":"{self._hospital}","payload":{payload},"prevHash":"{prev_hash}",'
            f'"schemaRef":"{said.event_type}/{said.event_version}","sequenceNumber":{sequence},'
            f'"tenantId":"{self.tenant_id}"}}'
        ).encode()
        self._heads[device] = hashlib.sha256(line).hexdigest(), sequence + 1
        return line + b"\n"


def tenant_of_most_devices() -> str:
    """Whose events stand alone where a benchmark is of one tenant: the most devices of any."""
    return max(tenant_ids(), key=lambda t: len({said.devices[0] for said in _templates(t)[1]}))


def bodies(events: int, tenant_id: str | None = None) -> Iterator[Body]:
    """Bodies of 500 events (the last of a tenant fewer), the tenants in turn, `events` in all.

    With a tenant, all of them are its own.
    """
    tenants = tenant_ids() if tenant_id is None else (tenant_id,)
    said = {tenant: _templates(tenant) for tenant in tenants}
    passes = -(-events // (GROUPS * sum(len(templates) for _, templates in said.values())))
    sources = [_bodies_of(_Tenant(tenant, *own, passes)) for tenant, own in said.items()]
    left = events
    while sources and left > 0:
        for source in list(sources):
            body = next(source, None)
            if body is None:
                sources.remove(source)
                continue
            if body.events > left:
                ndjson = b"".join(body.ndjson.splitlines(keepends=True)[:left])
                body = Body(body.tenant_id, ndjson, left)
            left -= body.events
            if body.events:
                yield body


def _bodies_of(tenant: _Tenant) -> Iterator[Body]:
    lines = tenant.lines()
    while chunk := list(islice(lines, MAX_BATCH_EVENTS)):
        yield Body(tenant.tenant_id, b"".join(chunk), len(chunk))


def real_bodies() -> Iterator[Body]:
    """The excerpt's own day as an edge would send it: what the generated rows are held to."""
    for tenant_id in tenant_ids():
        lines = list(_completed(tenant_id))
        for at in range(0, len(lines), MAX_BATCH_EVENTS):
            chunk = lines[at : at + MAX_BATCH_EVENTS]
            yield Body(tenant_id, b"".join(line + b"\n" for line in chunk), len(chunk))


def _completed(tenant_id: str) -> Iterator[bytes]:
    """Canonical events of the tenant's own day, one chain."""
    start_ms = layout.day_start_ms(DAY)
    heads: dict[str, tuple[str, int]] = {}
    for event in device_events(tenant_id):
        if event.cause:
            continue
        prev_hash, number = heads.get(event.device_id, (layout.ZERO_HASH, 0))
        done = complete_event(
            {
                "deviceId": event.device_id,
                "eventType": event.event_type,
                "eventVersion": event.event_version,
                "eventTime": format_time_ms(start_ms + event.event_offset_ms),
                "sequenceNumber": number,
                "payload": event.payload,
            },
            tenant_id=tenant_id,
            hospital_id=event.hospital_id,
            chain_id=hashlib.sha256(tenant_id.encode()).hexdigest()[:16],
            prev_hash=prev_hash,
            criticality=registry().criticality(event.event_type, event.event_version),
        )
        heads[event.device_id] = done.event_hash.hex(), number + 1
        yield done.canonical


def zstd_ratio(some: Iterable[Body]) -> float:
    """Bytes before ÷ bytes after zstd-3, each body on its own."""
    plain = packed = 0
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
    for body in some:
        plain += len(body.ndjson)
        packed += len(compressor.compress(body.ndjson))
    return plain / packed


# ---------------------------------------------------------------------------------------- cache


class RowCache:
    """Bodies on disk, compressed one by one as an edge sends them."""

    def __init__(self, folder: Path) -> None:
        self._bodies = folder / "bodies.bin"
        index = json.loads((folder / "index.json").read_bytes())
        self.events: int = index["events"]
        self._entries: list[tuple[str, int, int]] = [tuple(e) for e in index["bodies"]]

    def compressed(self) -> Iterator[tuple[str, bytes, int]]:
        """(tenant id, zstd body, events) in order."""
        with self._bodies.open("rb") as opened:
            for tenant_id, size, events in self._entries:
                yield tenant_id, opened.read(size), events

    def bodies(self) -> Iterator[Body]:
        """The same, decompressed."""
        decompressor = zstandard.ZstdDecompressor()
        for tenant_id, data, events in self.compressed():
            yield Body(tenant_id, decompressor.decompress(data), events)


def cache_folder(events: int, tenant_id: str | None = None) -> Path:
    """Where so many events (of one tenant) are kept: under the user's cache."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"rows-v{FORMAT}-{_excerpt_digest()}-{events}"
    if tenant_id is not None:
        name += f"-{tenant_id}"
    return root / "audit-platform" / "benchmarks" / name


def _excerpt_digest() -> str:
    digest = hashlib.sha256()
    for file in sorted(EXCERPT.glob("*.parquet")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def cached(events: int, folder: Path | None = None, tenant_id: str | None = None) -> RowCache:
    """The cache of so many events (of one tenant); made first when it is not there, whole."""
    place = folder or cache_folder(events, tenant_id)
    if not (place / "index.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        entries = []
        with (place / "bodies.bin").open("wb") as opened:
            for body in bodies(events, tenant_id):
                data = compressor.compress(body.ndjson)
                opened.write(data)
                entries.append((body.tenant_id, len(data), body.events))
        draft = place / "index.new"
        draft.write_text(json.dumps({"events": events, "bodies": entries}))
        draft.replace(place / "index.json")
    return RowCache(place)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: `python -m benchmarks.rows --events N [--out DIR]`."""
    parser = argparse.ArgumentParser(description="Make rows for benchmarks.")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, help="default: below the user's cache")
    given = parser.parse_args(arguments)
    began = time.process_time()
    cache = cached(given.events, given.out)
    took = time.process_time() - began
    devices: set[tuple[str, bytes]] = set()
    for body in cache.bodies():
        found = re.findall(rb'"deviceId":"([^"]*)","eventId"', body.ndjson)
        devices.update((body.tenant_id, device) for device in found)
    print(f"events            {cache.events:>12,}")
    print(f"devices           {len(devices):>12,}")
    print(f"making, us/event  {took / cache.events * 1e6:>12.1f}  (0 when the cache was there)")
    print(f"zstd-3 ratio      {zstd_ratio(cache.bodies()):>12.3f}")
    print(f"of the real rows  {zstd_ratio(real_bodies()):>12.3f}")


if __name__ == "__main__":
    main()
