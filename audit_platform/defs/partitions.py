"""Partitions: tenant (added as tenants appear) by UTC day. A key reads `2026-01-15|north`.

Belongs here: the partitions, the way from a run to its tenant-days, and the one place where
Dagster's notices about parts of it that are not final are answered. Does not: which day is due
(`operations/`). Source: design section 5; Dagster: multi-dimensional partitions.
"""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

import dagster as dg

from audit_platform.adapters.clock import SYSTEM, parse_clock
from audit_platform.defs.groups import TenantGroup
from audit_platform.ports import Platform
from audit_platform.record import layout
from audit_platform.settings import Settings

# One run for many partitions pays the imports once, and `backfill_policy` is the only way to say
# so; beta means that its form may change, and the version is pinned.
warnings.filterwarnings("ignore", r"Parameter `backfill_policy`", dg.BetaWarning)
# Without its own partitions a check shows only its last result: a green tenant would hide a red
# one. Preview means that its form may change, and the version is pinned.
warnings.filterwarnings("ignore", r"Specifying a partitions_def on an Asset", dg.PreviewWarning)
# Dagster copies a sensor over jobs, and warns of an argument that it hands over itself, empty.
warnings.filterwarnings("ignore", r"Parameter `owners` of initializer `SensorDef", dg.BetaWarning)

#: Read once, when the definitions load: the first day and the clock shape the partitions.
SETTINGS: Final = Settings.from_environment(os.environ)

#: The tenants of this code location.
GROUP: Final = TenantGroup.parse(SETTINGS.tenant_group)

#: The dimensions of a key, and the set of tenants that one of them counts through.
TENANT_DIMENSION: Final = "tenant"
TENANT: Final = GROUP.name("tenant")
DAY: Final = "day"

#: A scaled clock runs ahead of the real one that Dagster counts days by; it gets a year more.
SCALED_DAYS_AHEAD: Final = 366


def days_ahead(settings: Settings, today: date) -> int:
    """Days after yesterday (by the real clock) that a partition is needed for."""
    if settings.clock == SYSTEM:
        return 0
    shown = date.fromisoformat(layout.day_of(parse_clock(settings.clock).now_ms()))
    return max(0, (shown - today).days) + SCALED_DAYS_AHEAD


def tenant_days(settings: Settings) -> dg.MultiPartitionsDefinition:
    """The partitions of every asset and check here."""
    ahead = days_ahead(settings, datetime.now(UTC).date())
    return dg.MultiPartitionsDefinition(
        {
            TENANT_DIMENSION: dg.DynamicPartitionsDefinition(name=TENANT),
            DAY: dg.DailyPartitionsDefinition(settings.first_day, end_offset=ahead),
        }
    )


TENANT_DAYS: Final = tenant_days(SETTINGS)


@dataclass(frozen=True, slots=True, order=True)
class TenantDay:
    """One partition. They sort by day: a tenant's days are sealed in their order."""

    day: str
    tenant_id: str

    @property
    def key(self) -> dg.MultiPartitionKey:
        """The partition's key."""
        return dg.MultiPartitionKey({DAY: self.day, TENANT_DIMENSION: self.tenant_id})


def targets(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> list[TenantDay]:
    """The tenant-days of a run, in day order: one, or the rectangle of a range."""
    # Listing a range counts through all days and tenants; one key needs no list.
    keys = [context.partition_key] if context.has_partition_key else context.partition_keys
    return sorted(_target(key) for key in keys)


def _target(key: str) -> TenantDay:
    assert isinstance(key, dg.MultiPartitionKey)
    dimensions: Mapping[str, str] = key.keys_by_dimension
    return TenantDay(dimensions[DAY], dimensions[TENANT_DIMENSION])


def new_tenants(instance: dg.DagsterInstance, platform: Platform) -> list[str]:
    """Tenants of this location that have no partition yet."""
    known = set(instance.get_dynamic_partitions(TENANT))
    return [t.tenant_id for t in GROUP.tenants(platform) if t.tenant_id not in known]
