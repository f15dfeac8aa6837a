"""Repair of a sealed day: parts whose bytes are not what was signed are made again, and proved.

A part is repaired from the nearest that proves its leaves: another stored version with the signed
bytes, else the day's landing, out of which the very rows are sorted again: the Merkle root must be
the one that was signed. The manifest that then supersedes the old one holds the same leaves under
the same root; nothing else may change. Belongs here: that repair. Does not: finding the damage
(`verify.py`), ordinary revisions (`seal.py`), what cannot be proved any more (`incidents.py`).
Source: design section 5 (repair); the mission's row 27; game day "Corrupt a Parquet file".
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.errors import ObjectNotFound, RecordMalformed, SealRefused
from audit_platform.operations import gather, held, late, manifests
from audit_platform.operations.claims import claim
from audit_platform.operations.coverage import DayObject
from audit_platform.operations.parts import Progress, put_data
from audit_platform.operations.seal import MAX_CLAIMS
from audit_platform.ports import Objects, Platform
from audit_platform.record import layout, sealed
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform.record.manifest import Manifest, NamedObject, Part, previous_hash

_READ_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RepairedPart:
    """One part: the object that is damaged, the one that counts now, and what it was made from."""

    old_key: str
    new_key: str
    source: str


@dataclass(frozen=True, slots=True)
class Rearchived:
    """A day after its repair. `repaired` is empty when every part was what was signed."""

    tenant_id: str
    day: str
    manifest_number: int
    revision: int
    root: str
    parts: int
    bytes_read: int
    repaired: tuple[RepairedPart, ...]


def rearchive_day(
    platform: Platform,
    tenant_id: str,
    day: str,
    progress: Progress = lambda _what, _rows: None,
) -> Rearchived:
    """Read every part of a sealed day; make those again that are not what was signed.

    Safe to repeat, twice at once, and to kill: until the superseding manifest is claimed nothing
    counts. Durable on return. Raises `SealRefused` when the day has no sound manifest, or when
    nothing proves a part's leaves any more (nothing was changed then); `StoreUnavailable`.
    """
    for _ in range(MAX_CLAIMS):
        history = manifests.read_history(platform, tenant_id)
        standing = history.counting.get(day)
        if standing is None:
            raise SealRefused(f"{tenant_id} {day} is not sealed", remedy="seal it first")
        damaged = [n for n, p in enumerate(standing.parts) if not _is_whole(platform, p.object)]
        if not damaged:
            manifests.lengthen_locks(platform.objects, standing)
            return _result(standing, ())
        repaired, parts = [], list(standing.parts)
        for number in damaged:
            progress(f"part {number}", 0)
            parts[number], source = _repair(platform, history, standing, number)
            names = (standing.parts[number].object.key, parts[number].object.key)
            repaired.append(RepairedPart(*names, source))
        manifest = _superseding(platform, history, standing, parts)
        key = layout.manifest_key(tenant_id, manifest.number)
        won = claim(platform.objects, key, manifest.raw, platform.clock.now_ms())
        if won.data == manifest.raw:
            manifests.lengthen_locks(platform.objects, manifest)
            return _result(manifest, tuple(repaired))
        # Somebody else has this number: read it, look again.
    raise SealRefused(
        f"{tenant_id} {day}: lost the manifest number {MAX_CLAIMS} times",
        remedy="see which other sealer is running, then try again",
    )


def _result(manifest: Manifest, repaired: tuple[RepairedPart, ...]) -> Rearchived:
    return Rearchived(
        tenant_id=manifest.tenant_id,
        day=manifest.day,
        manifest_number=manifest.number,
        revision=manifest.revision,
        root=manifest.root,
        parts=len(manifest.parts),
        bytes_read=sum(p.object.size for p in manifest.parts),
        repaired=repaired,
    )


def _superseding(
    platform: Platform, history: manifests.History, standing: Manifest, parts: Sequence[Part]
) -> Manifest:
    """The same day, leaf by leaf, under the objects that hold it now."""
    newest = history.newest
    return manifests.sign(
        platform.keys,
        replace(
            standing,
            number=(newest.number if newest else 0) + 1,
            previous=previous_hash(newest),
            revision=standing.revision + 1,
            sealed_ms=platform.clock.now_ms(),
            software=f"audit-platform {version('audit-platform')}",
            lock=platform.objects.lock,
            parts=tuple(parts),
            key_id="",
            signature="",
            raw=b"",
        ),
    )


def _is_whole(platform: Platform, named: NamedObject) -> bool:
    """Are these the bytes that were signed? Every byte is read."""
    try:
        return _sha256(platform.objects, named.key, named.version_id) == named.sha256
    except ObjectNotFound:
        return False


def _sha256(objects: Objects, key: str, version_id: str) -> str:
    digest = hashlib.sha256()
    with objects.open(key, version_id) as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


# ----------------------------------------------------------------------------------------- repair


def _repair(
    platform: Platform, history: manifests.History, standing: Manifest, number: int
) -> tuple[Part, str]:
    """The part under a name of its own: who copies a bucket copies one version of a name."""
    part, source = standing.parts[number], "another stored version"
    data = _other_version(platform.objects, part)
    if data is None:
        data, source = _from_landing(platform, history, standing, part), "landing"
    digest = hashlib.sha256(data).hexdigest()
    fresh = number + standing.revision * len(standing.parts)
    key = layout.part_key(standing.tenant_id, standing.day, fresh, digest)
    stored = put_data(platform, key, data, digest)
    named = NamedObject(key, stored.version_id, digest, len(data), part.object.rows)
    if not _is_whole(platform, named):
        raise SealRefused(
            f"{key} does not read back as it was written", remedy="check the store, then try again"
        )
    return replace(part, object=named), source


def _other_version(objects: Objects, part: Part) -> bytes | None:
    """The signed bytes out of another version under the part's name, if there is one."""
    key = part.object.key
    for stored in objects.versions(key):
        if stored.key != key or stored.is_delete_marker or stored.size != part.object.size:
            continue
        try:
            data = objects.get(key, stored.version_id)
        except (ObjectNotFound, RecordMalformed):
            continue  # its bytes are gone, or the store itself finds them changed: the damage
        if hashlib.sha256(data).hexdigest() == part.object.sha256:
            return data
    return None


def _from_landing(
    platform: Platform, history: manifests.History, standing: Manifest, part: Part
) -> bytes:
    """Sort the part's rows out of landing again. Their root must be the one that was signed."""
    writer = sealed.PartWriter()
    try:
        with tempfile.TemporaryDirectory(prefix="audit-rearchive-") as folder:
            for rows in _rows(platform, history, standing, part, Path(folder)):
                writer.write(rows)
    except ObjectNotFound as e:
        raise _unproved(standing, part, e.reason) from e
    if not writer.rows:
        raise _unproved(standing, part, "landing holds no row of it any more")
    data, facts = writer.close()
    if facts.root.hex() != part.root or facts.rows != part.object.rows:
        why = f"landing gives {facts.rows} rows of {part.object.rows}, with another Merkle root"
        raise _unproved(standing, part, why)
    return data


def _rows(
    platform: Platform,
    history: manifests.History,
    standing: Manifest,
    part: Part,
    folder: Path,
) -> Iterator[pa.RecordBatch]:
    """The part's rows as the first seal saw them: what other days held before is left out."""
    objects = platform.objects
    landing = list(_landing(platform, history, standing))
    before = [
        m
        for m in history.manifests
        if m.day != standing.day and m.number < _first_number(history, standing)
    ]
    others = held.HeldRows(objects, before)
    seen = gather.Gathered()
    sources = gather.Sources([], landing)
    for rows in gather.sorted_rows(objects, sources, standing.tenant_id, folder, seen):
        mask = pc.and_(
            pc.greater_equal(rows["device_id"], part.first_device),
            pc.less_equal(rows["device_id"], part.last_device),
        )
        own = rows.filter(mask)
        again = others.mask(own)
        fresh = own.filter(pa.array(~again)) if again.any() else own
        if len(fresh):
            yield fresh


def _first_number(history: manifests.History, standing: Manifest) -> int:
    return min(m.number for m in history.manifests if m.day == standing.day)


def _landing(
    platform: Platform, history: manifests.History, standing: Manifest
) -> Iterator[DayObject]:
    """What range records name of the day, up to the offsets that its manifests cover."""
    ends: dict[late.Place, int] = {}
    for manifest in history.manifests:
        if manifest.day == standing.day:
            for place, end in late.ends_of_manifest(manifest).items():
                ends[place] = max(end, ends.get(place, 0))
    found = late.landed_beyond(
        platform.objects, standing.tenant_id, standing.day, EVENTS_TOPIC, since={}
    )
    for o in sorted(found, key=lambda o: (o.generation, o.partition, o.first_offset)):
        end = ends.get((o.topic, o.generation, o.partition), 0)
        if o.first_offset < end:
            yield replace(o, end_offset=min(o.end_offset, end))


def _unproved(standing: Manifest, part: Part, why: str) -> SealRefused:
    return SealRefused(
        f"{standing.tenant_id} {standing.day}: {part.object.key} cannot be made again: {why}",
        remedy="restore the object from a copy, or have the gap accepted by a named person",
    )
