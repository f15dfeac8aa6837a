"""What a seal takes: everything of a tenant's day at first, then what came since the last manifest.

Belongs here: from closings, range records and the manifest that stands to the inputs of the next.
Does not: which rows are late (`late.py`), reading them (`gather.py`), the manifest (`seal.py`).
Source: design section 5 (closing a day, revision).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audit_platform.operations import late
from audit_platform.operations.coverage import DayInputs, coverage, inputs_of
from audit_platform.ports import Platform
from audit_platform.record.manifest import InputRange, Manifest
from audit_platform.record.ranges import Closing


@dataclass(frozen=True, slots=True)
class Plan:
    """What a manifest is to be made of. `standing`: the one that it replaces, whose parts it keeps.

    `ranges`: the offsets that were looked at, also where they held nothing of this tenant.
    """

    standing: Manifest | None
    inputs: DayInputs
    ranges: tuple[InputRange, ...]


def plan_of(platform: Platform, tenant_id: str, day: str, standing: Manifest | None) -> Plan | None:
    """The inputs of a day's next manifest; None when nothing came since the one that stands.

    Raises `SealRefused` for a day that is not closed or not covered, `RecordMalformed`,
    `StoreUnavailable`.
    """
    further = late.further_closings(platform, day)
    if standing is None:
        return _first(platform, tenant_id, day, further)
    return _revision(platform, standing, further)


def _first(platform: Platform, tenant_id: str, day: str, further: Sequence[Closing]) -> Plan:
    """The first manifest of a day: everything up to the newest closing."""
    covered = coverage(platform, day)
    base = inputs_of(platform, covered, tenant_id)
    since = late.ends_of(covered.closing)
    more = late.late_inputs(platform.objects, tenant_id, day, since, further)
    inputs = DayInputs(
        tenant_id,
        day,
        landing=base.landing + more.landing,
        quarantine=base.quarantine + more.quarantine,
        absent=base.absent + more.absent,
    )
    first: dict[late.Place, int] = {}
    for r in covered.ranges:
        place = (r.topic, r.generation, r.partition)
        first[place] = min(r.first_offset, first.get(place, r.first_offset))
    return Plan(None, inputs, _input_ranges(first, [covered.closing, *further][-1], more))


def _revision(platform: Platform, standing: Manifest, further: Sequence[Closing]) -> Plan | None:
    """What came after a manifest was made; None when nothing did."""
    since = late.ends_of_manifest(standing)
    tenant_id, day = standing.tenant_id, standing.day
    more = late.late_inputs(platform.objects, tenant_id, day, since, further)
    if not (more.landing or more.quarantine or more.absent):
        return None
    first = {(i.topic, i.generation, i.partition): i.first_offset for i in standing.inputs}
    return Plan(standing, more, _input_ranges(first, further[-1], more))


def _input_ranges(
    first: dict[late.Place, int], closing: Closing, more: DayInputs
) -> tuple[InputRange, ...]:
    for o in (*more.landing, *more.quarantine):
        first.setdefault((o.topic, o.generation, o.partition), o.first_offset)
    return tuple(
        InputRange(*place, first.get(place, end), end)
        for place, end in late.ends_of(closing).items()
    )
