"""Locks and legal holds: the canary that is attacked, days that are held, holds that are lifted.

Belongs here: the jobs with their launchpads, the check, the schedules. Does not: the rules
(`operations/lock_probe.py`, `legal_hold.py`).
Source: issue "`probe_lock`"; "legal hold (apply; lift by two people)".
"""

from typing import Final

import dagster as dg
from pydantic import Field

from audit_platform.defs.cold import COLD_DAY, RETRY
from audit_platform.defs.metadata import MAX_LISTED, explained
from audit_platform.defs.pools import CHECK, REPAIR
from audit_platform.defs.record_action import record_action
from audit_platform.defs.schedules import RUN_BY_ITSELF
from audit_platform.operations.legal_hold import approve_lift, ask_lift, hold_day, keep_holds
from audit_platform.operations.lock_probe import LockProbe, probe_lock
from audit_platform.ports import Platform

LOCK_HOLDS: Final = "the_lock_refuses_whoever_asks"


@dg.asset_check(
    asset=COLD_DAY,
    name=LOCK_HOLDS,
    description="A locked canary cannot be deleted, shortened or replaced, and reads back whole.",
    retry_policy=RETRY,
)
def lock_holds(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.AssetCheckResult:
    """An attempt that succeeds is an error. A lock that only we keep passes, with a warning."""
    with explained():
        probe = probe_lock(platform)
    warns = probe.held and not probe.enforced
    if warns:
        context.log.warning(_words(probe))
    return dg.AssetCheckResult(
        passed=probe.held,
        severity=dg.AssetCheckSeverity.WARN if warns else dg.AssetCheckSeverity.ERROR,
        description=_words(probe),
        metadata={
            "lock": dg.MetadataValue.text(probe.lock),
            "canary": dg.MetadataValue.text(probe.key),
            "attempts": dg.MetadataValue.json({a.what: a.detail for a in probe.attempts}),
        },
    )


def _words(probe: LockProbe) -> str:
    broken = [a.what for a in probe.attempts if not a.held]
    if broken:
        return f"the lock does not hold: {', '.join(broken)}"
    if not probe.enforced:
        return "refused by our own code only: this store's lock is advisory, a root user need not"
    return f"{len(probe.attempts)} attempts, each refused or read back whole"


class HoldDay(dg.Config):
    """Who puts which day under legal hold, and why. Signed, and kept for ever."""

    tenant: str = Field(description="The tenant.")
    day: str = Field(description="The UTC day (YYYY-MM-DD).")
    person: str = Field(description="Who decides: a pseudonym that your register knows.")
    reason: str = Field(description="Whose order, its file number; 20 characters or more.")


@dg.op(name="hold", retry_policy=RETRY, description="Sets a hold on each object of a sealed day.")
def hold(
    context: dg.OpExecutionContext, config: HoldDay, platform: dg.ResourceParam[Platform]
) -> dg.Output[None]:
    """On record first, then set. A day that is held already is set again, on what came since."""
    with explained():
        record_action(context, platform, "hold set", config.tenant, config.day)
        done = hold_day(platform, config.tenant, config.day, config.person, config.reason)
    return dg.Output(
        None,
        metadata={
            "hold": dg.MetadataValue.int(done.record.number),
            "by": dg.MetadataValue.text(done.record.person),
            "objects": dg.MetadataValue.int(done.objects),
        },
    )


@dg.op(name="ask_lift", retry_policy=RETRY, description="Asks for a hold to be lifted; lifts none.")
def ask_lift_of(
    context: dg.OpExecutionContext, config: HoldDay, platform: dg.ResourceParam[Platform]
) -> dg.Output[None]:
    """The first of two people. Who asked first counts, and is shown."""
    with explained():
        record_action(context, platform, "hold lift asked", config.tenant, config.day)
        asked = ask_lift(platform, config.tenant, config.day, config.person, config.reason)
    return dg.Output(None, metadata={"asked by": dg.MetadataValue.text(asked.person)})


@dg.op(name="lift", retry_policy=RETRY, description="Lifts a hold that somebody else asked for.")
def lift(
    context: dg.OpExecutionContext, config: HoldDay, platform: dg.ResourceParam[Platform]
) -> dg.Output[None]:
    """The second of two people. Refused, and nothing lifted, for the one who asked."""
    with explained():
        record_action(context, platform, "hold lift", config.tenant, config.day)
        done = approve_lift(platform, config.tenant, config.day, config.person, config.reason)
    return dg.Output(
        None,
        metadata={
            "by": dg.MetadataValue.text(done.record.person),
            "objects": dg.MetadataValue.int(done.objects),
        },
    )


@dg.op(name="keep", retry_policy=RETRY, description="Puts each standing hold on what is there now.")
def keep(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.Output[None]:
    """Objects of later revisions get the hold as well; locks that end soon are lengthened."""
    with explained():
        kept = keep_holds(platform)
    context.log.info("%d days are under legal hold", len(kept))
    rows = [dg.TableRecord({"tenant": t, "day": d, "objects": n}) for t, d, n in kept[:MAX_LISTED]]
    schema = dg.TableSchema(
        [dg.TableColumn("tenant"), dg.TableColumn("day"), dg.TableColumn("objects", "int")]
    )
    return dg.Output(None, metadata={"held": dg.MetadataValue.table(rows, schema=schema)})


@dg.job(
    name="hold_day",
    tags=REPAIR,
    description="Put a tenant's sealed day under legal hold; one person decides.",
    executor_def=dg.in_process_executor,
)
def hold_day_job() -> None:
    """One step."""
    hold()


@dg.job(
    name="ask_lift_hold",
    tags=REPAIR,
    description="Ask for a legal hold to be lifted; another person has to run `lift_hold`.",
    executor_def=dg.in_process_executor,
)
def ask_lift_hold_job() -> None:
    """One step."""
    ask_lift_of()


@dg.job(
    name="lift_hold",
    tags=REPAIR,
    description="Lift a legal hold that another person asked to be lifted.",
    executor_def=dg.in_process_executor,
)
def lift_hold_job() -> None:
    """One step."""
    lift()


@dg.job(
    name="keep_holds",
    tags=REPAIR,
    description="Put every standing legal hold on what its day holds now. May be stopped any time.",
    executor_def=dg.in_process_executor,
)
def keep_holds_job() -> None:
    """One step."""
    keep()


probe_lock_job: Final = dg.define_asset_job(
    "probe_lock",
    selection=dg.AssetSelection.checks(lock_holds),
    tags=CHECK,
    description="Attack a canary with a one-day lock; every attempt has to be refused.",
)

probe_lock_daily: Final = dg.ScheduleDefinition(
    name="probe_lock_daily",
    job=probe_lock_job,
    cron_schedule="30 5 * * *",
    execution_timezone="UTC",
    default_status=RUN_BY_ITSELF,
    description="A lock that stopped holding is known within a day.",
)
holds_nightly: Final = dg.ScheduleDefinition(
    name="holds_nightly",
    job=keep_holds_job,
    cron_schedule="0 4 * * *",
    execution_timezone="UTC",
    default_status=RUN_BY_ITSELF,
    description="Before landing's upkeep.",
)

defs = dg.Definitions(
    asset_checks=[lock_holds],
    jobs=[hold_day_job, ask_lift_hold_job, lift_hold_job, keep_holds_job, probe_lock_job],
    schedules=[probe_lock_daily, holds_nightly],
)
