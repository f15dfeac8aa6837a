"""Is every event that landed for a tenant's day sealed? Answered as sets, from the bytes.

Counts cancel out, so hashes are compared: each eventHash in the day's landing rows must stand in
the day's parts or in those of an earlier manifest; each listed refused link in quarantine.
Belongs here: that comparison for one day. Does not: log positions (`reconcile.py`).
Source: design section 6.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from audit_platform.operations import held, manifests
from audit_platform.operations.coverage import DayObject, coverage, inputs_of
from audit_platform.ports import Objects, Platform
from audit_platform.record import sealed as sealed_form
from audit_platform.record.columns import EVENT_SCHEMA, hashes_of
from audit_platform.record.manifest import Manifest
from audit_platform.record.parquet import read_columns

_Set = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Completeness:
    """`landed` and `sealed` are counts of different events; `missing` and `unexplained` name some.

    `missing`: landed and in no manifest; `unexplained`: sealed for this day, never landed for it.
    """

    objects: int
    landed: int
    sealed: int
    held_before: int
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

    Raises as `coverage`. Landing that has expired is not this check's to judge: it raises
    `SealRefused` for objects that are named and absent by way of the coverage.
    """
    history = manifests.read_history(platform, tenant_id)
    manifest = history.counting.get(day)
    if manifest is None:
        return None
    inputs = inputs_of(platform, coverage(platform, day), tenant_id)
    landed = _landed(platform.objects, inputs.landing)
    sealed = _sealed(platform.objects, manifest)
    lacking = np.setdiff1d(landed, sealed)
    before = _held(platform.objects, inputs.landing, lacking, history, manifest)
    missing = np.setdiff1d(lacking, before)
    unexplained = np.setdiff1d(sealed, landed)
    return Completeness(
        objects=len(inputs.landing) + len(manifest.parts),
        landed=len(landed),
        sealed=len(sealed),
        held_before=len(before),
        missing=_names(missing),
        unexplained=_names(unexplained),
        missing_count=len(missing),
        unexplained_count=len(unexplained),
    )


def _landed(objects: Objects, inputs: Iterable[DayObject]) -> _Set:
    found = []
    for o in inputs:
        with objects.open(o.object.key, o.object.version_id) as file:
            table = read_columns(file, ["log_offset", "event_hash"])
        rows = table.filter(
            pc.and_(pc.less(table["log_offset"], o.end_offset), pc.is_valid(table["event_hash"]))
        )
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
    objects: Objects,
    inputs: Iterable[DayObject],
    lacking: _Set,
    history: manifests.History,
    manifest: Manifest,
) -> _Set:
    """Those of `lacking` that a manifest with a lower number holds: duplicates across days."""
    if not len(lacking):
        return lacking
    earlier = held.HeldRows(objects, [m for m in history.manifests if m.number < manifest.number])
    found = []
    for o in inputs:
        with objects.open(o.object.key, o.object.version_id) as file:
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
