"""Sorted rows of a day become parts in the store, each under its content's name.

Belongs here: cutting by device, putting a part, adopting the same bytes put before. Does not: which
rows (`gather.py`, `held.py`), the part's form (`record/sealed.py`), the manifest (`seal.py`).
Source: design section 5 (sealed day, locks).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Final

import pyarrow as pa

from audit_platform.errors import ObjectExists
from audit_platform.killpoints import Killpoint, reach
from audit_platform.operations.claims import lock_until
from audit_platform.ports import Objects, ObjectVersion, Platform
from audit_platform.record import layout, sealed
from audit_platform.record.manifest import NamedObject, Part

#: Data is locked this long at first, and to its day + 2 years once a manifest names it.
DATA_LOCK_MS: Final = 35 * layout.MS_PER_DAY

#: Told as the work goes on: what was done, and rows so far.
Progress = Callable[[str, int], None]


def put_parts(
    platform: Platform,
    tenant_id: str,
    day: str,
    rows: Iterator[pa.RecordBatch],
    progress: Progress,
) -> tuple[list[Part], list[str]]:
    """Cut by device into parts and put each; a part never shares a device with another.

    Each batch holds whole devices. Returns the parts, and the keys of those that an earlier sealer
    had put. Raises `StoreUnavailable`.
    """
    parts: list[Part] = []
    skipped: list[str] = []
    done = 0
    writer = sealed.PartWriter()

    def put() -> None:
        nonlocal done, writer
        part, was_there = _put(platform, tenant_id, day, writer, len(parts))
        parts.append(part)
        if was_there:
            skipped.append(part.object.key)
        done += writer.rows
        progress("sealed", done)
        writer = sealed.PartWriter()

    for batch in rows:
        # A batch holds whole devices, so its start is always a place to cut.
        if writer.rows and len(batch) > sealed.MAX_ROWS_PER_PART - writer.rows:
            put()
        writer.write(batch)
    if writer.rows:
        put()
    return parts, skipped


def _put(
    platform: Platform, tenant_id: str, day: str, writer: sealed.PartWriter, number: int
) -> tuple[Part, bool]:
    data, facts = writer.close()
    digest = hashlib.sha256(data).hexdigest()
    key = layout.part_key(tenant_id, day, number, digest)
    stored = _adopted(platform, key, digest)
    was_there = stored is not None
    if stored is None:
        stored = put_data(platform, key, data, digest)
        reach(Killpoint.PART_PUT)
    part = Part(
        object=NamedObject(key, stored.version_id, digest, len(data), facts.rows),
        root=facts.root.hex(),
        row_group_roots=tuple(r.hex() for r in facts.row_group_roots),
        first_device=facts.first_device,
        last_device=facts.last_device,
    )
    return part, was_there


def _adopted(platform: Platform, key: str, sha256: str) -> ObjectVersion | None:
    """The same bytes put before, their lock as long as a new one's; None where they are not."""
    objects: Objects = platform.objects
    standing = objects.oldest(key)
    if standing is None or standing.sha256 != sha256:
        return None
    until = lock_until(platform.clock.now_ms(), DATA_LOCK_MS)
    if standing.retain_until_ms < until:
        return objects.extend(key, standing.version_id, until)
    return standing


def put_data(platform: Platform, key: str, data: bytes, sha256: str) -> ObjectVersion:
    """Store a data object under its content's name, or adopt the same bytes stored before."""
    until = lock_until(platform.clock.now_ms(), DATA_LOCK_MS)
    objects: Objects = platform.objects
    try:
        return objects.put(key, data, retain_until_ms=until, if_absent=True)
    except ObjectExists:
        standing = _adopted(platform, key, sha256)
        if standing is not None:
            return standing
    # The name promises other bytes than stand there: ours go beside them, named by version.
    return objects.put(key, data, retain_until_ms=until, if_absent=False)
