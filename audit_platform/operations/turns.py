"""Whose turn it is: the next day of each tenant that has no manifest yet.

First manifests take their numbers in day order, so a tenant has exactly one next day. Belongs here:
finding it without reading a tenant's whole history each time. Does not: closing days, whether they
are covered, sealing. Source: design section 5 (manifest: one per tenant and day, in day order).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from audit_platform.operations.claims import read_claim
from audit_platform.operations.seal import first_day
from audit_platform.ports import Objects, Platform, Tenant
from audit_platform.record import layout
from audit_platform.record.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Sealed:
    """How far a tenant is sealed: its newest manifest's number and hash, its last day.

    Zero and empty before the first manifest.
    """

    number: int
    sha256: str
    last_day: str


NOTHING: Final = Sealed(0, "", "")


@dataclass(slots=True)
class Budget:
    """How many manifests may still be read, by all who share it."""

    left: int


def sealed_until(
    objects: Objects, tenant_id: str, hint: Sealed = NOTHING, budget: Budget | None = None
) -> Sealed:
    """How far a tenant is sealed now; reads only manifests after `hint` where the hint holds.

    With a `budget` it may end early, with nothing left of it: then what it gives is a hint for the
    next time, not an answer. A hint from another store is noticed (the manifest it names is
    not there, or is another) and not used. Signatures are not judged: the seal does that. Raises
    `RecordMalformed`, `StoreUnavailable`.
    """
    found = hint if _holds(objects, tenant_id, hint) else NOTHING
    while budget is None or budget.left > 0:
        key = layout.manifest_key(tenant_id, found.number + 1)
        record = read_claim(objects, key)
        if record is None:
            return found
        manifest = Manifest.from_bytes(key, record.data)
        # A revision of an older day has a higher number too.
        found = Sealed(found.number + 1, manifest.sha256, max(found.last_day, manifest.day))
        if budget is not None:
            budget.left -= 1
    return found


def _holds(objects: Objects, tenant_id: str, hint: Sealed) -> bool:
    if not hint.number:
        return True
    stored = objects.oldest(layout.manifest_key(tenant_id, hint.number))
    return stored is not None and stored.sha256 == hint.sha256


def standing_of(
    objects: Objects, tenant_id: str, day: str, newest: int
) -> tuple[Manifest | None, set[str]]:
    """(a day's newest manifest, the days of all manifests after it), read from `newest` backward.

    None after reading the whole history: the day has no manifest. Raises as `sealed_until`.
    """
    later: set[str] = set()
    for number in range(newest, 0, -1):
        key = layout.manifest_key(tenant_id, number)
        record = read_claim(objects, key)
        if record is None:
            continue
        manifest = Manifest.from_bytes(key, record.data)
        if manifest.day == day:
            return manifest, later
        later.add(manifest.day)
    return None, later


def next_day(platform: Platform, tenant: Tenant, sealed: Sealed, first_closed: str) -> str:
    """The day of a tenant that is sealed next, whether or not it is closed yet.

    A tenant without a manifest begins with the first closed day on which it was there, or with its
    first data where that is earlier. Raises `StoreUnavailable`.
    """
    if sealed.last_day:
        return layout.next_day(sealed.last_day)
    begin = max(layout.day_of(tenant.created_ms), first_closed)
    return min(begin, first_day(platform, tenant.tenant_id) or begin)
