"""Sensors: what makes runs start. `day_closing` closes days and has each tenant's next one sealed.

Days for which something came later are closed again and sealed again.
Belongs here: whom to ask for which run, words for the tick. Does not: which day is due, next or
late (`operations/closing.py`, `turns.py`, `late_turns.py`), how often (`attempts.py`), the work
(`cold.py`). Source: design section 5 (closing a day).
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Final

import dagster as dg

from audit_platform.defs.attempts import DAY_TAG, TENANT_TAG, Wanted, next_attempt
from audit_platform.defs.jobs import seal_day
from audit_platform.defs.metadata import closing_digest, hole_text
from audit_platform.defs.partitions import GROUP, SETTINGS, TENANT, TenantDay, new_tenants
from audit_platform.errors import AuditPlatformError, Recoverable
from audit_platform.operations.closing import close_day, closed_days, due_days
from audit_platform.operations.coverage import Coverage, coverage
from audit_platform.operations.late_turns import Known, add_due, look_for_late_days
from audit_platform.operations.turns import NOTHING, Budget, Sealed, next_day, sealed_until
from audit_platform.ports import Platform, Tenant

CLOSING_TAG: Final = "audit/closing"

DAY_CLOSING: Final = "day_closing"

#: Manifests that a tick reads of those that its cursor does not know: 73,000 of a lost cursor come
#: in a few dozen ticks, of which each ends long before Dagster gives it up (60 s).
MANIFESTS_AT_ONCE: Final = 2_000


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
    budget: Budget = field(default_factory=lambda: Budget(MANIFESTS_AT_ONCE))

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
    tenants = GROUP.tenants(platform)
    if not platform.metadata.tenants():
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
    if tick.budget.left <= 0:
        tick.wait("the history is long and this sensor knows little of it: reading on")
    elif closed:
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
    asked = {request.tags[TENANT_TAG] for request in tick.requests}
    for due in turns.due:
        # Runs of one tenant take manifest numbers one after the other; a second one would wait.
        if due.tenant_id not in asked:
            asked.add(due.tenant_id)
            _request(tick, TenantDay(due.day, due.tenant_id), closing_digest(due.closing))


def _next_of(tick: _Tick, tenant: Tenant, hint: Sealed, closed: list[str]) -> None:
    """Request a tenant's next day, or say what it waits for. One tenant's trouble is its own."""
    name = tenant.tenant_id
    try:
        sealed = sealed_until(tick.platform.objects, name, hint, tick.budget)
        tick.sealed[name] = sealed
        if tick.budget.left <= 0:
            return  # perhaps not all of it was read
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
    asked = next_attempt(
        tick.context.instance,
        Wanted(
            job=seal_day.name,
            label=str(target.key),
            incident=closing,
            cause=DAY_CLOSING,
            tags={TENANT_TAG: target.tenant_id, DAY_TAG: target.day, CLOSING_TAG: closing},
            partition_key=target.key,
        ),
    )
    if isinstance(asked, dg.RunRequest):
        tick.requests.append(asked)
        return
    if asked.gave_up:
        tick.context.log.error(asked.words)
    tick.wait(asked.words)


defs = dg.Definitions(sensors=[day_closing])
