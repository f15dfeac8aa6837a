"""The nightly upkeep of landing: locked while it is needed, gone when every event is sealed.

Belongs here: the job, its schedule, what it shows. Does not: the rules
(`operations/landing_life.py`). Source: design section 5 (locks; landing expires).
"""

from typing import Final

import dagster as dg

from audit_platform.defs.cold import RETRY
from audit_platform.defs.metadata import MAX_LISTED, explained
from audit_platform.defs.pools import REPAIR
from audit_platform.defs.record_action import record_action
from audit_platform.defs.schedules import RUN_BY_ITSELF
from audit_platform.errors import AuditPlatformError, Recoverable
from audit_platform.operations.landing_life import expirable_days, expire_landing, keep_landing
from audit_platform.ports import Platform
from audit_platform.record.layout import PLATFORM_TENANT

LANDING_UPKEEP: Final = "landing_upkeep"


@dg.op(
    name="upkeep",
    retry_policy=RETRY,
    description="Lengthens locks of days that are not done, then lets proved landing go.",
)
def upkeep(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.Output[None]:
    """Every tenant. A day that is refused is shown, and holds up no other."""
    rows: list[dg.TableRecord] = []
    with explained():
        tenants = dict.fromkeys(
            [*(t.tenant_id for t in platform.metadata.tenants()), PLATFORM_TENANT]
        )
        for tenant_id in tenants:
            kept = keep_landing(platform, tenant_id)
            rows += [_row(tenant_id, k.day, "kept", k.lengthened, k.reason) for k in kept]
            days = expirable_days(platform, tenant_id)
            rows += [_expired(context, platform, tenant_id, day) for day in days]
    rows.sort(key=lambda r: r.data["what"] != "refused")  # what a person must see stands first
    refused = [r for r in rows if r.data["what"] == "refused"]
    context.log.info("%d days looked at, %d refused", len(rows), len(refused))
    return dg.Output(
        None,
        metadata={
            "days": dg.MetadataValue.table(rows[:MAX_LISTED], schema=_SCHEMA),
            "refused": dg.MetadataValue.int(len(refused)),
        },
    )


_SCHEMA: Final = dg.TableSchema(
    [
        dg.TableColumn("tenant"),
        dg.TableColumn("day"),
        dg.TableColumn("what"),
        dg.TableColumn("objects", "int"),
        dg.TableColumn("why"),
    ]
)


def _row(tenant_id: str, day: str, what: str, objects: int, why: str) -> dg.TableRecord:
    return dg.TableRecord(
        {"tenant": tenant_id, "day": day, "what": what, "objects": objects, "why": why}
    )


def _expired(
    context: dg.OpExecutionContext, platform: Platform, tenant_id: str, day: str
) -> dg.TableRecord:
    try:
        done = expire_landing(platform, tenant_id, day)
    except Recoverable:
        raise
    except AuditPlatformError as e:
        return _row(tenant_id, day, "refused", 0, str(e))
    if done.objects:
        record_action(context, platform, "landing expire", tenant_id, day)
    return _row(tenant_id, day, "expired", done.objects, f"{done.events} events, each is sealed")


@dg.job(
    name=LANDING_UPKEEP,
    tags=REPAIR,
    description=(
        "Keep landing locked for days that are not sealed or not sound; delete it where every "
        "event of it is a sealed row. May be stopped and started at any time."
    ),
    executor_def=dg.in_process_executor,
)
def landing_upkeep_job() -> None:
    """One step."""
    upkeep()


landing_nightly: Final = dg.ScheduleDefinition(
    name="landing_nightly",
    job=landing_upkeep_job,
    cron_schedule="15 4 * * *",
    execution_timezone="UTC",
    default_status=RUN_BY_ITSELF,
    description="After the night's verification.",
)

defs = dg.Definitions(jobs=[landing_upkeep_job], schedules=[landing_nightly])
