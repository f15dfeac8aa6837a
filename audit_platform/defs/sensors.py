"""Sensors: what makes runs start. `day_closing` closes days and has each tenant's next one sealed.

Days for which something came later are closed again and sealed again.
Belongs here: whom to ask for which run, attempts, words for the tick. Does not: which day is due,
next or late (`operations/closing.py`, `turns.py`, `late_turns.py`), the work (`cold.py`).
Source: design section 5 (closing a day); Dagster: a `run_key` is taken once, for good.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Final

import dagster as dg

from audit_platform.defs.jobs import seal_day
from audit_platform.defs.metadata import closing_digest, hole_text
from audit_platform.defs.partitions import SETTINGS, TENANT, TenantDay, new_tenants
from audit_platform.errors import AuditPlatformError, Recoverable
from audit_platform.operations.closing import close_day, closed_days, due_days
from audit_platform.operations.coverage import Coverage, coverage
from audit_platform.operations.late_turns import Known, add_due, look_for_late_days
from audit_platform.operations.turns import NOTHING, Sealed, next_day, sealed_until
from audit_platform.ports import Platform, Tenant

#: Runs of one tenant-day before a person has to look. A store that was away for a few minutes is
#: back by then; what fails five times fails for a reason.
MAX_ATTEMPTS: Final = 5

#: Wait after the first failure; twice as long after each further one (1, 2, 4, 8 minutes).
RETRY_SECONDS: Final = 60.0

#: When this process began. The default launcher cannot say whether a run lives, and a run whose
#: code server died stays "started" for ever; one that began before us has lost its code server.
PROCESS_STARTED: Final = time.time()

CLOSING_TAG: Final = "audit/closing"
ATTEMPT_TAG: Final = "audit/attempt"
CAUSE_TAG: Final = "audit/cause"

DAY_CLOSING: Final = "day_closing"


@dataclass(slots=True)
class _Tick:
    """What a tick found. Coverage of a day is walked once for all tenants."""

    context: dg.SensorEvaluationContext
    platform: Platform
    requests: list[dg.RunRequest] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    sealed: dict[str, Sealed] = field(default_factory=dict)
    known: Known = field(default_factory=Known)
    covered: dict[str, Coverage] = field(default_factory=dict)

    def wait(self, reason: str) -> None:
        if reason not in self.waits:
            self.waits.append(reason)


@dg.sensor(
    name=DAY_CLOSING,
    job=seal_day,
    minimum_interval_seconds=SETTINGS.closing_seconds,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Closes each day after its grace, then has each tenant's next day sealed.",
)
def day_closing(
    context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
) -> dg.SensorResult:
    """One tick. Safe at any time and twice at once: closings and manifests are claimed once."""
    tenants = platform.metadata.tenants()
    if not tenants:
        return dg.SensorResult(skip_reason="no tenant yet: audit-platform tenant add NAME")
    fresh = new_tenants(context.instance, platform)
    grace_ms = int(SETTINGS.grace_seconds * 1000)
    for day in due_days(platform, grace_ms, SETTINGS.first_day):
        closing = close_day(platform, day, grace_ms)
        context.log.info("%s is closed: %s", day, closing_digest(closing))
    sealed, known = _hints(context.cursor)
    tick = _Tick(context, platform, known=known)
    closed = closed_days(platform)
    if not closed:
        tick.wait("no day is over yet")
    for tenant in tenants if closed else []:
        _next_of(tick, tenant, sealed.get(tenant.tenant_id, NOTHING), closed)
    if closed:
        _late(tick, grace_ms)
    words = "; ".join(tick.waits)
    if not (words or tick.requests):
        words = "every closed day of every tenant is sealed"
    if words:
        context.log.info(words)
    partitions = [dg.DynamicPartitionsDefinition(name=TENANT).build_add_request(fresh)]
    return dg.SensorResult(
        run_requests=tick.requests,
        skip_reason=None if tick.requests else words,
        dynamic_partitions_requests=partitions if fresh else [],
        cursor=json.dumps(
            {
                "sealed": {t: asdict(s) for t, s in tick.sealed.items()},
                "late": asdict(tick.known),
            }
        ),
    )


def _hints(cursor: str | None) -> tuple[dict[str, Sealed], Known]:
    """The cursor is only a hint: one that does not read is as good as none."""
    try:
        read = json.loads(cursor or "{}")
        sealed = {t: Sealed(**s) for t, s in read["sealed"].items()}
        return sealed, Known(**read["late"])
    except (ValueError, TypeError, AttributeError, KeyError):
        return {}, Known()


def _late(tick: _Tick, grace_ms: int) -> None:
    """Have days sealed again for which rows came later."""
    try:
        turns = look_for_late_days(tick.platform, tick.known, grace_ms)
        add_due(turns, tick.platform, tick.sealed)
    except Recoverable:
        raise
    except AuditPlatformError as e:
        tick.context.log.error("late rows: %s", e)  # noqa: TRY400 - the words say it all
        tick.wait(f"late rows could not be looked for: {e}")
        return
    tick.known = turns.known
    for day, tenant_id in sorted(turns.unclosed):
        # No closing will ever come: a gateway's clock was wrong by days. Landing keeps the rows.
        tick.context.log.error("%s: rows for %s, which was never closed", tenant_id, day)
    for hole in turns.holes:
        tick.wait(f"looking for late rows: {hole_text(hole)}")
    asked = {request.tags["audit/tenant"] for request in tick.requests}
    for due in turns.due:
        # Runs of one tenant take manifest numbers one after the other; a second one would wait.
        if due.tenant_id not in asked:
            asked.add(due.tenant_id)
            _request(tick, TenantDay(due.day, due.tenant_id), closing_digest(due.closing))


def _next_of(tick: _Tick, tenant: Tenant, hint: Sealed, closed: list[str]) -> None:
    """Request a tenant's next day, or say what it waits for. One tenant's trouble is its own."""
    name = tenant.tenant_id
    try:
        sealed = sealed_until(tick.platform.objects, name, hint)
        tick.sealed[name] = sealed
        day = next_day(tick.platform, tenant, sealed, closed[0])
        if day > closed[-1]:
            return
        if day not in closed:
            tick.wait(f"{name}: {day} was never closed, the first closed day is {closed[0]}")
            return
        if day not in tick.covered:
            tick.covered[day] = coverage(tick.platform, day)
        found = tick.covered[day]
        if found.missing:
            holes = ", ".join(map(hole_text, found.missing))
            tick.wait(f"{day}: waiting for ranges, {holes}")
            return
        _request(tick, TenantDay(day, name), closing_digest(found.closing))
    except Recoverable:
        raise  # the store is away: the tick fails, the next one comes soon
    except AuditPlatformError as e:
        tick.context.log.error("%s: %s", name, e)  # noqa: TRY400 - the words say it all
        tick.wait(f"{name}: {e}")


def _request(tick: _Tick, target: TenantDay, closing: str) -> None:
    """Ask for one run, unless one is under way, has just failed, or too many have."""
    tags = {"audit/tenant": target.tenant_id, "audit/day": target.day, CLOSING_TAG: closing}
    instance = tick.context.instance
    runs = instance.get_run_records(dg.RunsFilter(job_name=seal_day.name, tags=tags))
    for record in runs:
        if not record.dagster_run.is_finished and not _abandoned(instance, record):
            tick.wait(f"{target.key}: run {record.dagster_run.run_id} is under way")
            return
    tried = len(runs)
    if tried >= MAX_ATTEMPTS:
        words = f"{target.key}: gave up after {tried} runs; mend the cause, then run seal_day"
        tick.context.log.error(words)
        tick.wait(words)
        return
    if tried:
        last = max(r.end_time or r.update_timestamp.timestamp() for r in runs)
        rest = last + RETRY_SECONDS * 2 ** (tried - 1) - time.time()
        if rest > 0:
            tick.wait(f"{target.key}: run {tried} failed, trying again in {rest:.0f} s")
            return
    attempt = str(tried + 1)
    tick.requests.append(
        dg.RunRequest(
            run_key=f"{target.key}:{closing}:{attempt}",
            partition_key=target.key,
            tags={**tags, ATTEMPT_TAG: attempt, CAUSE_TAG: DAY_CLOSING},
        )
    )


def _abandoned(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    """Has the run lost its code server? Then it is marked failed. Sealing twice would be safe."""
    run = record.dagster_run
    begun = record.start_time or record.create_timestamp.timestamp()
    started = run.status in {dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED}
    if instance.run_launcher.supports_check_run_worker_health or not started:
        return False
    if begun >= PROCESS_STARTED:
        return False
    instance.report_run_failed(run, "Its code server is gone; the sensor starts another run.")
    return True


defs = dg.Definitions(sensors=[day_closing])
