"""Step 14 of a check: does each revision of a day keep what the manifest before it held?

Belongs here: the manifests of one day among themselves. Does not: the newest one's own bytes
(`daycheck.py`), numbers and revision numbers (`fsck.py`), the comparison of leaves (`leaves.py`).
Source: design section 5 (a revision is refused if a leaf of the old one is missing).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.errors import AuditPlatformError
from audit_platform.record.daycheck import DayCheck, Source
from audit_platform.record.leaves import kept, leaves_of
from audit_platform.record.links import EventLink
from audit_platform.record.manifest import Manifest, NamedObject
from audit_platform.record.parquet import row_groups_of
from audit_platform.record.report import Report, Step

#: (key, version id) of objects.
Named = set[tuple[str, str]]


def replaced_parts(revisions: Sequence[Manifest]) -> Named:
    """Parts of older revisions that a newer one names in another version or under another name.

    Their Merkle root is the same, so the newer object holds the very same leaves: a repair. What
    became of the old object's bytes concerns nobody any more.
    """
    found: Named = set()
    for older, newer in pairwise(revisions):
        held = {p.root: (p.object.key, p.object.version_id) for p in newer.parts}
        for part in older.parts:
            place = (part.object.key, part.object.version_id)
            if held.get(part.root, place) != place:
                found.add(place)
    return found


def check_revisions(source: Source, report: Report, revisions: Sequence[Manifest]) -> None:
    """Compare the valid manifests of one day, oldest first; the last one was read before.

    Objects of replaced manifests are read once each, but for those that a repair put another in
    the place of. Bad bytes are findings, never an exception.
    """
    read = _named(revisions[-1])
    repaired = replaced_parts(revisions)
    for older, newer in pairwise(revisions):
        day = DayCheck(source, report, older)
        there = True
        for o in _objects(older):
            place = (o.key, o.version_id)
            if place in repaired and place not in read:
                text = f"revision {older.revision} named it; a repair has put the same leaves anew"
                day.add(Step.REVISIONS, text, note=True, key=o.key)
            elif place not in read:
                there = day.object(o) and there
        read |= _named(older)
        if there:
            _leaves(day, source, newer)
        _refused(day, source, newer)


def _objects(manifest: Manifest) -> list[NamedObject]:
    parts = [p.object for p in manifest.parts]
    return [*parts, *manifest.quarantine, *manifest.undecodable]


def _named(manifest: Manifest) -> Named:
    return {(o.key, o.version_id) for o in _objects(manifest)}


def _leaves(day: DayCheck, source: Source, newer: Manifest) -> None:
    """Part for part by their roots; leaf by leaf where a part is not the same."""
    older = day.manifest
    same = {p.root for p in older.parts} & {p.root for p in newer.parts}
    others = [p for p in older.parts if p.root not in same]
    try:
        found = kept(
            partial(leaves_of, source.open, others),
            partial(leaves_of, source.open, [p for p in newer.parts if p.root not in same]),
        )
    except (AuditPlatformError, pa.ArrowException, OSError, ValueError, KeyError) as e:
        day.add(Step.REVISIONS, f"revision {newer.revision} cannot be compared: {e}")
        return
    leaves = found.old + sum(p.object.rows for p in older.parts if p.root in same)
    if leaves != older.rows:
        text = f"revision {older.revision} has {leaves} leaves, its manifest says {older.rows}"
        day.add(Step.REVISIONS, text)
    if found.missing:
        text = (
            f"revision {newer.revision} lacks {found.missing} of the {found.old} leaves of revision"
            f" {older.revision}; the first is of event {found.first_missing}"
        )
        day.add(Step.REVISIONS, text)


def _refused(day: DayCheck, source: Source, newer: Manifest) -> None:
    """Quarantine and undecodable objects stay named; refused links stay, or are accepted rows."""
    older = day.manifest
    named = _named(newer)
    for o in (*older.quarantine, *older.undecodable):
        if (o.key, o.version_id) not in named:
            text = f"revision {newer.revision} does not name an object of revision {older.revision}"
            day.add(Step.REVISIONS, text, key=o.key)
    listed = {q.link.event_hash for q in newer.links}
    for link in (q.link for q in older.links if q.link.event_hash not in listed):
        if not _is_row(source, newer, link):
            day.add(
                Step.REVISIONS,
                f"revision {newer.revision} lacks a refused link of revision {older.revision}",
                device_id=link.device_id,
                chain_id=link.chain_id,
                sequence=link.sequence_number,
            )


def _is_row(source: Source, manifest: Manifest, link: EventLink) -> bool:
    wanted = pa.scalar(bytes.fromhex(link.event_hash), pa.binary(32))
    for part in manifest.parts:
        if not part.first_device <= link.device_id <= part.last_device:
            continue
        try:
            with source.open(part.object.key, part.object.version_id) as file:
                rows = row_groups_of(file, link.device_id, ["device_id", "event_hash"])
                if any(pc.any(pc.equal(r["event_hash"], wanted)).as_py() for r in rows):
                    return True
        except (AuditPlatformError, pa.ArrowException, OSError, ValueError, KeyError):
            continue  # step 6 or 7 has named it
    return False
