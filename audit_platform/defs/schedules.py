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

#: Profiles in which schedules run without being switched on by hand: each that there is.
BY_ITSELF: Final = frozenset({"embedded", "stack"})

#: A schedule's status when nobody has switched it.
RUN_BY_ITSELF: Final = (
    dg.DefaultScheduleStatus.RUNNING
    if SETTINGS.profile in BY_ITSELF
    else dg.DefaultScheduleStatus.STOPPED
)

VERIFY_YESTERDAY: Final = "verify_yesterday"


@dg.schedule(
    name=VERIFY_YESTERDAY,
    job=verify_day,
    cron_schedule="30 2 * * *",
    execution_timezone="UTC",
    default_status=RUN_BY_ITSELF,
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
