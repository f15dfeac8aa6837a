"""Metadata lost: what the bucket alone can tell about tenants and edges is entered again.

Every object names its tenant, every manifest the edge keys whose records it holds. Belongs here:
reading those and entering them. Does not: credentials, devices, suspensions (not in the bucket as
such: an operator enters them again, the record of the tenant `platform` says what stood).
Source: design section 5; issue "rebuild_metadata"; recovery objective of metadata.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from audit_platform.operations.manifests import read_valid
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import listed_days
from audit_platform.ports import Objects, Platform
from audit_platform.record import layout

_FIRST_DAY, _LAST_DAY = "0001-01-02", "9999-12-31"


@dataclass(frozen=True, slots=True)
class RebuiltTenant:
    """One tenant as the bucket knows it.

    `days` have a manifest; `landed` days have landing or quarantine objects. `edge_keys` were
    entered out of manifests; an edge that has no sealed day yet has to be entered by hand.
    """

    tenant_id: str
    was_known: bool
    created_ms: int
    days: int
    landed: int
    edge_keys: int


def rebuild_metadata(platform: Platform) -> list[RebuiltTenant]:
    """Enter every tenant of the bucket and the edge keys of its manifests, in order.

    Idempotent; what metadata still has is kept. Reads names and manifests, no event. Raises
    `StoreUnavailable`, `MetadataUnavailable`, `KeysUnavailable`.
    """
    known = {t.tenant_id for t in platform.metadata.tenants()}
    return [_rebuild(platform, tenant_id, known) for tenant_id in tenants_in(platform.objects)]


def tenants_in(objects: Objects) -> list[str]:
    """Tenants that have an object in COLD, landing or quarantine, by id. Few names are listed."""
    found: set[str] = set()
    for prefix in (layout.COLD, layout.LANDING, layout.QUARANTINE):
        found.update(_below(objects, prefix))
    return sorted(found)


def _below(objects: Objects, prefix: str) -> Iterator[str]:
    stem = f"{prefix}/tenant="
    after = stem
    while True:
        version = next(objects.versions(f"{prefix}/", after_key=after), None)
        if version is None or not version.key.startswith(stem):
            return
        tenant_id = version.key.removeprefix(stem).partition("/")[0]
        if layout.TENANT_PATTERN.fullmatch(tenant_id):
            yield tenant_id
        after = f"{stem}{tenant_id}0"  # "0" is the character after "/"


def _rebuild(platform: Platform, tenant_id: str, known: set[str]) -> RebuiltTenant:
    days: set[str] = set()
    edge_keys: set[str] = set()
    for manifest in read_valid(platform, tenant_id):
        days.add(manifest.day)
        edge_keys.update(manifest.edge_keys.values())
    reader = Reader(platform)
    landed = {
        day
        for prefix in (layout.LANDING, layout.QUARANTINE)
        for day in listed_days(reader, prefix, tenant_id, _FIRST_DAY, _LAST_DAY)
    }
    first = min(days | landed, default="")
    created_ms = layout.day_start_ms(first) if first else platform.clock.now_ms()
    platform.metadata.add_tenant(tenant_id, created_ms)
    for public in sorted(edge_keys):
        platform.metadata.add_edge_key(tenant_id, bytes.fromhex(public), created_ms)
    return RebuiltTenant(
        tenant_id=tenant_id,
        was_known=tenant_id in known,
        created_ms=created_ms,
        days=len(days),
        landed=len(landed),
        edge_keys=len(edge_keys),
    )
