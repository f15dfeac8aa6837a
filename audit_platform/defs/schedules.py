"""Schedules: what happens by the clock. `verify_yesterday` reads every tenant's last day again.

A schedule runs by itself only in the profiles that are named here. Belongs here: when, and for
whom. Does not: the verification (`checks.py`). Source: design section 8.
"""

from collections.abc import Iterator
from typing import Final

import dagster as dg

from audit_platform.defs.attempts import CAUSE_TAG
from audit_platform.defs.jobs import verify_day
from audit_platform.defs.partitions import SETTINGS, TENANT, TenantDay, new_tenants
from audit_platform.ports import Platform
from audit_platform.record import layout

#: Profiles in which the nightly verification runs without being switched on by hand.
VERIFIED_NIGHTLY: Final = frozenset({"embedded"})

VERIFY_YESTERDAY: Final = "verify_yesterday"


@dg.schedule(
    name=VERIFY_YESTERDAY,
    job=verify_day,
    cron_schedule="30 2 * * *",
    execution_timezone="UTC",
    default_status=(
        dg.DefaultScheduleStatus.RUNNING
        if SETTINGS.profile in VERIFIED_NIGHTLY
        else dg.DefaultScheduleStatus.STOPPED
    ),
    description="Reads yesterday of every tenant again; a day that was never sealed fails.",
)
def verify_yesterday(
    context: dg.ScheduleEvaluationContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run for each tenant that was there yesterday, so that one red day hides no other."""
    yesterday = layout.next_day(layout.day_of(platform.clock.now_ms()), -1)
    fresh = new_tenants(context.instance, platform)
    if fresh:
        context.instance.add_dynamic_partitions(TENANT, fresh)
    asked = False
    for tenant in platform.metadata.tenants():
        if layout.day_of(tenant.created_ms) > yesterday:
            continue
        asked = True
        key = TenantDay(yesterday, tenant.tenant_id).key
        tick = context.scheduled_execution_time.isoformat()
        yield dg.RunRequest(
            run_key=f"{key}:{tick}", partition_key=key, tags={CAUSE_TAG: VERIFY_YESTERDAY}
        )
    if not asked:
        yield dg.SkipReason(f"no tenant was there on {yesterday}")


defs = dg.Definitions(schedules=[verify_yesterday])
