"""Which tenant-days are not as they should be: closed and not sealed, or red.

Belongs here: that list. Does not: sealing or repairing any (`turns.py`, `rearchive.py`), judging
bytes (`judgement.py`: an incident is what it found). Source: issue "failed-partition inventory".
"""

from __future__ import annotations

from dataclasses import dataclass

from audit_platform.operations.closing import closed_days
from audit_platform.operations.incidents import incidents
from audit_platform.operations.manifests import sealed_days
from audit_platform.operations.turns import NOTHING, next_day
from audit_platform.ports import Platform, Tenant
from audit_platform.record import layout


@dataclass(frozen=True, slots=True)
class Failed:
    """A tenant-day that somebody has to look at, and why."""

    tenant_id: str
    day: str
    why: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """What was looked at: every closed day of every tenant that was there."""

    tenants: int
    days: int
    failed: tuple[Failed, ...]


def inventory(platform: Platform) -> Inventory:
    """Hold closed days against manifests, and list open incidents. Reads names and manifests.

    Raises `StoreUnavailable`, `MetadataUnavailable`, `KeysUnavailable`.
    """
    closed = closed_days(platform)
    failed: list[Failed] = []
    days = 0
    tenants = platform.metadata.tenants()
    known = {t.tenant_id for t in tenants}
    for tenant in tenants:
        seen, missing = _unsealed(platform, tenant, closed) if closed else (0, [])
        days += seen
        failed += [
            Failed(tenant.tenant_id, d, "closed, and has no sound manifest") for d in missing
        ]
    for tenant_id in sorted(known | {layout.PLATFORM_TENANT}):
        failed += [
            Failed(tenant_id, f.incident.day, f"incident {f.incident.incident_id} is open")
            for f in incidents(platform, tenant_id)
            if f.is_open
        ]
    return Inventory(len(tenants), days, tuple(sorted(failed, key=lambda f: (f.day, f.tenant_id))))


def _unsealed(platform: Platform, tenant: Tenant, closed: list[str]) -> tuple[int, list[str]]:
    """(how many closed days the tenant has, those without a sound manifest)."""
    sealed = sealed_days(platform, tenant.tenant_id)
    first = min(sealed) if sealed else next_day(platform, tenant, NOTHING, closed[0])
    wanted = [day for day in closed if day >= first]
    return len(wanted), [day for day in wanted if day not in sealed]
