"""Is every event that landed for a tenant's day sealed? Answered as sets, from the bytes.

Counts cancel out, so hashes are compared: each eventHash in the landing rows that the day's newest
manifest was made from must stand in its parts or in those of an earlier manifest. What came later
waits for a revision and is counted. Belongs here: that comparison for one day. Does not: log
positions (`reconcile.py`), refused links (`record/quarantinecheck.py`).
Source: design section 6.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from audit_platform.errors import SealRefused
from audit_platform.operations import held, late
from audit_platform.operations.coverage import DayObject, coverage, inputs_of
from audit_platform.operations.manifests import read_valid, valid_of_day
from audit_platform.operations.parts import DATA_LOCK_MS
from audit_platform.ports import Objects, Platform
from audit_platform.record import sealed as sealed_form
from audit_platform.record.columns import EVENT_SCHEMA, hashes_of
from audit_platform.record.layout import EVENTS_TOPIC, day_end_ms
from audit_platform.record.manifest import Manifest
from audit_platform.record.parquet import read_columns

_Set = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Completeness:
    """`landed` and `sealed` are counts of different events; `missing` and `unexplained` name some.

    `missing`: landed and in no manifest; `unexplained`: sealed for this day, never landed for it.
    `waiting`: rows (events and dead letters) that came after the newest manifest of the day.
    `expired`: landing objects that are gone after their lock; what they held is not compared.
    """

    objects: int
    landed: int
    sealed: int
    held_before: int
    waiting: int
    expired: int
    missing: tuple[str, ...]
    unexplained: tuple[str, ...]
    missing_count: int
    unexplained_count: int

    @property
    def proved(self) -> bool:
        """Something was read where something had to be, and nothing is missing."""
        return not self.missing_count and not self.unexplained_count


#: Hashes named in a result; the rest is counted.
_NAMED = 10


def completeness(platform: Platform, tenant_id: str, day: str) -> Completeness | None:
    """Compare a sealed day with its landing. None when the day has no manifest.

    Landing that has expired (its lock is over) is not compared; sealed rows explain themselves
    then. Raises as `coverage`; `SealRefused` for a landing object that is gone before its time.
    """
    manifest = valid_of_day(platform, tenant_id, day)
    if manifest is None:
        return None
    inputs, expired = _inputs(platform, manifest)
    landed = _landed(platform.objects, inputs)
    sealed = _sealed(platform.objects, manifest)
    lacking = np.setdiff1d(landed, sealed)
    before = _held(platform, inputs, lacking, manifest)
    missing = np.setdiff1d(lacking, before)
    unexplained = sealed[:0] if expired else np.setdiff1d(sealed, landed)
    return Completeness(
        objects=len(inputs) + len(manifest.parts),
        landed=len(landed),
        sealed=len(sealed),
        held_before=len(before),
        waiting=late.waiting_rows(platform, tenant_id, day, late.ends_of_manifest(manifest)),
        expired=expired,
        missing=_names(missing),
        unexplained=_names(unexplained),
        missing_count=len(missing),
        unexplained_count=len(unexplained),
    )


def _inputs(platform: Platform, manifest: Manifest) -> tuple[list[DayObject], int]:
    """(landing objects that the manifest was made from, how many of them have expired)."""
    tenant_id, day = manifest.tenant_id, manifest.day
    covered = coverage(platform, day)
    base = inputs_of(platform, covered, tenant_id)
    ends = late.ends_of_manifest(manifest)
    taken_in = [
        c
        for c in late.further_closings(platform, day)
        if all(end <= late.end_at(ends, place) for place, end in late.ends_of(c).items())
    ]
    since = late.ends_of(covered.closing)
    more = late.late_inputs(platform.objects, tenant_id, day, since, taken_in)
    absent = {o for o in (*base.absent, *more.absent) if o.topic == EVENTS_TOPIC}
    may_be_gone = platform.clock.now_ms() >= day_end_ms(day) + DATA_LOCK_MS
    if absent and not may_be_gone:
        gone = min(o.object.key for o in absent)
        raise SealRefused(
            f"{gone} is named by a range record and is not in the store",
            remedy="repair the range from the log (7 days), or from what holds the same bytes",
        )
    return [o for o in (*base.landing, *more.landing) if o not in absent], len(absent)


def _landed(objects: Objects, inputs: Iterable[DayObject]) -> _Set:
    found = []
    for o in inputs:
        with objects.open(o.object.key, o.object.version_id) as file:
            table = o.counting(read_columns(file, ["log_offset", "event_hash"]))
        rows = table.filter(pc.is_valid(table["event_hash"]))
        found += [_set(hashes_of(chunk)) for chunk in rows["event_hash"].chunks]
    return _union(found)


def _sealed(objects: Objects, manifest: Manifest) -> _Set:
    found = []
    for part in manifest.parts:
        with objects.open(part.object.key, part.object.version_id) as file:
            table = read_columns(file, ["event_hash"])
        found += [_set(hashes_of(chunk)) for chunk in table["event_hash"].chunks]
    return _union(found)


def _held(
    platform: Platform,
    inputs: Iterable[DayObject],
    lacking: _Set,
    manifest: Manifest,
) -> _Set:
    """Those of `lacking` that a manifest with a lower number holds: duplicates across days."""
    if not len(lacking):
        return lacking
    # Not those that this manifest replaces: it must hold their rows itself.
    others = [
        m
        for m in read_valid(platform, manifest.tenant_id)
        if m.number < manifest.number and m.day != manifest.day
    ]
    earlier = held.HeldRows(platform.objects, others)
    found = []
    for o in inputs:
        with platform.objects.open(o.object.key, o.object.version_id) as file:
            table = read_columns(file, EVENT_SCHEMA.names)
        for batch in table.filter(pc.is_valid(table["event_hash"])).to_batches():
            wanted = np.isin(_set(hashes_of(batch["event_hash"])), lacking)
            rows = batch.filter(wanted)
            rows = rows.take(sealed_form.sort_order(rows))
            found.append(_set(hashes_of(rows["event_hash"]))[earlier.mask(rows)])
    return _union(found)


def _set(hashes: npt.NDArray[np.uint8]) -> _Set:
    return np.ascontiguousarray(hashes).view("V32").ravel()


def _union(found: list[_Set]) -> _Set:
    return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype="V32")


def _names(found: _Set) -> tuple[str, ...]:
    return tuple(bytes(h).hex() for h in found[:_NAMED])
