"""Committing one range: store its objects, read their locks back, claim the range record.

Every step may be repeated, by this process or another one, any time: names hold digests, and only
the claimed record says what counts.
Belongs here: the order of the steps and what is adopted. Does not: making the objects
(`archive_range.py`), when to commit (`archive_writer.py`). Source: design sections 2 and 5.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from audit_platform.errors import (
    GenerationMismatch,
    LogTrouble,
    ObjectExists,
    StoreUnavailable,
)
from audit_platform.killpoints import Killpoint, reach
from audit_platform.operations.claims import claim, lock_until
from audit_platform.operations.log_check import REMEDY
from audit_platform.ports import Clock, Objects, ObjectVersion
from audit_platform.record.layout import MS_PER_DAY
from audit_platform.record.ranges import RangeObject, RangeRecord
from audit_platform.services.archive_range import BuiltObject, BuiltRange

#: Data objects are locked for 35 days and lengthened from there (design section 5, locks).
DATA_LOCK_MS: Final = 35 * MS_PER_DAY

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Committed:
    """The range record that counts, and whether it is the one that was offered."""

    record: RangeRecord
    ours: bool


def commit_range(objects: Objects, clock: Clock, built: BuiltRange) -> Committed:
    """Commit a range; returns the record that counts for its first offset, ours or the winner's.

    Raises `StoreUnavailable`: orphans may be stored and the claim may stand; call again with the
    same range. Raises `GenerationMismatch` when the winner read other log records than we did.
    """
    now_ms = clock.now_ms()
    until_ms = lock_until(now_ms, DATA_LOCK_MS)
    stored = [_store(objects, o, until_ms) for o in built.objects]
    reach(Killpoint.OBJECT_PUT)
    for o, version in zip(built.objects, stored, strict=True):
        _read_lock_back(objects, o, version, until_ms)
    reach(Killpoint.LOCK_READ_BACK)
    offered = RangeRecord(
        topic=built.topic,
        generation=built.address.generation,
        partition=built.address.partition,
        first_offset=built.address.first_offset,
        end_offset=built.end_offset,
        records=built.records,
        objects=tuple(
            RangeObject(
                o.key, v.version_id, o.sha256, len(o.data), o.tenant_id, o.day, o.rows, o.events
            )
            for o, v in zip(built.objects, stored, strict=True)
        ),
        events=built.events,
        undecodable=built.undecodable,
        written_ms=now_ms,
        first_ms=built.first_ms,
        last_ms=built.last_ms,
    )
    won = claim(objects, built.address.record_key, offered.to_bytes(), now_ms)
    reach(Killpoint.RANGE_RECORDED)
    if won.ours:
        return Committed(offered, ours=True)
    winner = RangeRecord.from_bytes(won.key, won.data)
    _refuse_another_log(built, winner, won.key)
    return Committed(winner, ours=False)


def _store(objects: Objects, built: BuiltObject, until_ms: int) -> ObjectVersion:
    try:
        return objects.put(built.key, built.data, retain_until_ms=until_ms, if_absent=True)
    except ObjectExists:
        found = [v for v in objects.versions(built.key) if v.key == built.key]
    bodies = [v for v in found if not v.is_delete_marker]
    same = next((v for v in bodies if v.sha256 == built.sha256), None)
    if same is None or bodies[0] is not same:
        # The name holds the digest, so another body under it was not put there by us.
        _log.error(
            "finding: another body under the name of a landing object; ours is named by version",
            extra={"key": built.key, "sha256": built.sha256},
        )
    if same is None:
        return objects.put(built.key, built.data, retain_until_ms=until_ms, if_absent=False)
    if same.retain_until_ms < until_ms:
        return objects.extend(same.key, same.version_id, until_ms)
    return same


def _read_lock_back(
    objects: Objects, built: BuiltObject, version: ObjectVersion, until_ms: int
) -> None:
    found = objects.head(version.key, version.version_id)
    if found.sha256 != built.sha256 or found.retain_until_ms < until_ms:
        raise StoreUnavailable(
            f"{version.key} was stored, but its lock or digest reads back otherwise",
            remedy="check that the bucket has versions and object lock, and that disks are good",
        )


def _refuse_another_log(built: BuiltRange, winner: RangeRecord, key: str) -> None:
    theirs = {r.offset: r.digest for r in winner.records}
    for record in built.records:
        if theirs.get(record.offset, record.digest) != record.digest:
            raise GenerationMismatch(
                f"{key} was claimed from another log: the digest at {record.offset} differs",
                remedy=REMEDY,
                trouble=LogTrouble.DIGEST,
            )
