"""Schedules: what happens by the clock. Every tenant's last day is read again, COLD and HOT.

A schedule runs by itself only in the profiles that are named here. Belongs here: when, and for
whom. Does not: the verification (`checks.py`, `hot.py`). Source: design section 8.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import dagster as dg

from audit_platform.defs.attempts import CAUSE_TAG
from audit_platform.defs.hot import verify_hot
from audit_platform.defs.jobs import verify_day
from audit_platform.defs.partitions import GROUP, SETTINGS, TENANT, TenantDay, new_tenants
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
VERIFY_HOT_YESTERDAY: Final = "verify_hot_yesterday"


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
    yesterday = _yesterday(platform)
    own = GROUP.tenants(platform)
    there = [t.tenant_id for t in own if layout.day_of(t.created_ms) <= yesterday]
    yield from _runs(context, platform, VERIFY_YESTERDAY, there)
    if not there:
        yield dg.SkipReason(f"no tenant was there on {yesterday}")


@dg.schedule(
    name=VERIFY_HOT_YESTERDAY,
    job=verify_hot,
    cron_schedule="45 2 * * *",
    execution_timezone="UTC",
    default_status=RUN_BY_ITSELF,
    description="Holds yesterday's index of every tenant against the record, event by event.",
)
def verify_hot_yesterday(
    context: dg.ScheduleEvaluationContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run for each index that is read. One that is missing is `hot_repair`'s to find."""
    yesterday = _yesterday(platform)
    read = [
        i.tenant_id
        for i in platform.hot.indexes()
        if i.is_read and i.day == yesterday and GROUP.has(i.tenant_id)
    ]
    yield from _runs(context, platform, VERIFY_HOT_YESTERDAY, read)
    if not read:
        yield dg.SkipReason(f"no index of {yesterday} is read")


def _yesterday(platform: Platform) -> str:
    return layout.next_day(layout.day_of(platform.clock.now_ms()), -1)


def _runs(
    context: dg.ScheduleEvaluationContext, platform: Platform, cause: str, tenants: Iterable[str]
) -> Iterator[dg.RunRequest]:
    fresh = new_tenants(context.instance, platform)
    if fresh:
        context.instance.add_dynamic_partitions(TENANT, fresh)
    tick = context.scheduled_execution_time.isoformat()
    for tenant_id in tenants:
        key = TenantDay(_yesterday(platform), tenant_id).key
        yield dg.RunRequest(run_key=f"{key}:{tick}", partition_key=key, tags={CAUSE_TAG: cause})


defs = dg.Definitions(schedules=[verify_yesterday, verify_hot_yesterday])
