"""The life of landing behind its seal: kept locked while it is needed, deleted when it is proved.

Landing is what a sealed day is repaired from, for 35 days; a day that is not sealed, or whose check
is red, keeps its landing locked for as long as that is so. It expires only when every eventHash in
it is a sealed row of some day, read from the bytes. Belongs here: those two rules. Does not: locks
of sealed objects (`manifests.py`), what is compared (`completeness.py`).
Source: design section 5 (locks; landing expires).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from audit_platform.errors import SealRefused
from audit_platform.operations.claims import lock_until
from audit_platform.operations.completeness import completeness
from audit_platform.operations.coverage import versions_of_day
from audit_platform.operations.incidents import incidents
from audit_platform.operations.manifests import named_objects, sealed_days, valid_of_day
from audit_platform.operations.parts import DATA_LOCK_MS
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import listed_days
from audit_platform.ports import ObjectVersion, Platform
from audit_platform.record import layout

#: A lock that ends within this time is lengthened: a week of broken nights loses nothing.
MARGIN_MS: Final = 7 * layout.MS_PER_DAY


@dataclass(frozen=True, slots=True)
class Kept:
    """A day whose landing stays locked, and why; so many objects were lengthened."""

    day: str
    reason: str
    lengthened: int


@dataclass(frozen=True, slots=True)
class Expired:
    """What was deleted of a day's landing: every event in it is sealed. `kept` are still locked."""

    day: str
    events: int
    objects: int
    bytes: int
    kept: int


def keep_landing(platform: Platform, tenant_id: str) -> list[Kept]:
    """Lengthen locks of landing whose day is unsealed, or has an open incident. Idempotent.

    Lists names of days that are four weeks old and older. Raises `StoreUnavailable`.
    """
    now_ms = platform.clock.now_ms()
    sealed = sealed_days(platform, tenant_id)
    kept = []
    for day in _days(platform, tenant_id, layout.day_of(now_ms - DATA_LOCK_MS + MARGIN_MS)):
        reason = _needed(platform, tenant_id, day, is_sealed=day in sealed)
        if not reason:
            continue
        lengthened = 0
        for prefix in (layout.LANDING, layout.QUARANTINE):
            for version in versions_of_day(platform.objects, prefix, tenant_id, day):
                if version.retain_until_ms < now_ms + MARGIN_MS:
                    until = lock_until(now_ms, DATA_LOCK_MS)
                    platform.objects.extend(version.key, version.version_id, until)
                    lengthened += 1
        kept.append(Kept(day, reason, lengthened))
    return kept


def _needed(platform: Platform, tenant_id: str, day: str, *, is_sealed: bool) -> str:
    if not is_sealed:
        return "the day is not sealed"
    if any(found.is_open for found in incidents(platform, tenant_id, day)):
        return "an incident of the day is open"
    return ""


def expirable_days(platform: Platform, tenant_id: str) -> list[str]:
    """Days whose landing may be asked to expire: over by 35 days, with landing left."""
    return list(_days(platform, tenant_id, _last_expired(platform)))


def _last_expired(platform: Platform) -> str:
    return layout.next_day(layout.day_of(platform.clock.now_ms() - DATA_LOCK_MS), -1)


def _days(platform: Platform, tenant_id: str, last: str) -> Iterator[str]:
    return listed_days(Reader(platform), layout.LANDING, tenant_id, "0001-01-02", last)


def expire_landing(platform: Platform, tenant_id: str, day: str) -> Expired:
    """Delete a day's landing once each of its events is a sealed row, read from the bytes.

    What a manifest names (undecodable rows) and what is still locked stays. Safe to repeat and to
    kill. Raises `SealRefused`, and deletes nothing, for a day that is too young, not sealed, has an
    open incident, or holds an event that is not sealed; `StoreUnavailable`.
    """
    if day > _last_expired(platform):
        raise SealRefused(f"{day} is not over by 35 days", remedy="let it stay")
    manifest = valid_of_day(platform, tenant_id, day)
    reason = _needed(platform, tenant_id, day, is_sealed=manifest is not None)
    if reason or manifest is None:
        raise SealRefused(f"{tenant_id} {day}: {reason}", remedy="keep_landing keeps it locked")
    found = completeness(platform, tenant_id, day)
    if found is None or not found.proved or found.waiting:
        raise SealRefused(
            f"{tenant_id} {day}: not every event that landed is sealed",
            remedy="seal the revision that waits, then look at `nothing_missing`",
        )
    named = {(o.key, o.version_id) for o in named_objects(manifest)}
    gone = [v for v in _unlocked(platform, tenant_id, day) if (v.key, v.version_id) not in named]
    for version in gone:
        platform.objects.delete(version.key, version.version_id)
    kept = len(versions_of_day(platform.objects, layout.LANDING, tenant_id, day))
    return Expired(day, found.landed, len(gone), sum(v.size for v in gone), kept)


def _unlocked(platform: Platform, tenant_id: str, day: str) -> list[ObjectVersion]:
    now_ms = platform.clock.now_ms()
    listed = versions_of_day(platform.objects, layout.LANDING, tenant_id, day)
    return [v for v in listed if v.retain_until_ms <= now_ms and not v.legal_hold]
