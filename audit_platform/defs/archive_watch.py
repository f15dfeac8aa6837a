"""Is nothing lost, is the archive in time, is every day sealed: looked at by the clock.

Every five minutes small records are counted, by the sensor itself: a run would cost a process each
time. Every night every row's position is compared, and closed days are held against manifests.
Belongs here: the checks, jobs, schedules, the sensor. Does not: the comparisons (`operations/`).
Source: issue "`reconcile` every 5 min and exactly each night"; "archive lag"; "failed-partition
inventory (nightly)".
"""

from collections.abc import Iterator
from typing import Final

import dagster as dg

from audit_platform.defs.cold import COLD_MANIFEST, LANDING_COVERAGE, RETRY
from audit_platform.defs.metadata import MAX_LISTED, explained
from audit_platform.defs.pools import CHECK
from audit_platform.defs.schedules import RUN_BY_ITSELF
from audit_platform.operations.archive_state import MAX_LAG_SECONDS, ArchiveState, archive_state
from audit_platform.operations.inventory import Inventory, inventory
from audit_platform.operations.reconcile import Reconciliation, reconcile
from audit_platform.ports import Platform

NOTHING_LOST: Final = "nothing_acknowledged_is_lost"
RANGES_FOLLOW: Final = "ranges_follow_on_each_other"
IN_TIME: Final = "archive_keeps_up"
ALL_SEALED: Final = "every_closed_day_is_sealed_and_sound"

ARCHIVE_WATCH: Final = "archive_watch"
LOOK_SECONDS: Final = 300

COUNTING_SPECS: Final = [
    dg.AssetCheckSpec(
        RANGES_FOLLOW,
        asset=LANDING_COVERAGE,
        description="The last ranges leave nothing out, count as their headers, and are there.",
    ),
    dg.AssetCheckSpec(
        IN_TIME,
        asset=LANDING_COVERAGE,
        description=f"No log record waits longer than {MAX_LAG_SECONDS} s for the archive.",
    ),
]


def _counting(state: ArchiveState) -> Iterator[dg.AssetCheckEvaluation]:
    shown = {
        "ranges_read": dg.MetadataValue.int(state.ranges),
        "objects_asked_for": dg.MetadataValue.int(state.objects),
        "events": dg.MetadataValue.int(state.events),
        "pending_log_records": dg.MetadataValue.int(state.pending),
        "lag_seconds": dg.MetadataValue.float(state.lag_seconds),
        "findings": dg.MetadataValue.json(state.findings[:MAX_LISTED]),
    }
    words = f"{state.events} events in the last {state.ranges} ranges"
    if state.findings:
        words = f"{len(state.findings)} findings, first: {state.findings[0]}"
    elif not state.ranges:
        words = "zero ranges were read: nothing is archived"
    late = state.lag_seconds > MAX_LAG_SECONDS
    for name, passed, text in (
        (RANGES_FOLLOW, bool(state.ranges) and not state.findings, words),
        (
            IN_TIME,
            not late,
            f"{state.pending} log records wait, the oldest for {state.lag_seconds:.0f} s",
        ),
    ):
        yield dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(LANDING_COVERAGE),
            check_name=name,
            passed=passed,
            description=text,
            metadata=shown,
            # An installation that never had an event has no range; that is no fault.
            severity=dg.AssetCheckSeverity.ERROR
            if state.findings or late
            else dg.AssetCheckSeverity.WARN,
        )


@dg.multi_asset_check(name="archive_counting", specs=COUNTING_SPECS, retry_policy=RETRY)
def counting(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.AssetCheckEvaluation | dg.Output[None]]:
    """What the sensor does every five minutes, once, as a run."""
    with explained():
        state = archive_state(platform)
    for finding in state.findings:
        context.log.error(finding)
    yield from _counting(state)
    for spec in COUNTING_SPECS:
        yield dg.Output(None, output_name=spec.get_python_identifier())


@dg.sensor(
    name=ARCHIVE_WATCH,
    minimum_interval_seconds=LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Counts the last ranges, and how far the archive is behind the log.",
)
def archive_watch(
    context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
) -> dg.SensorResult:
    """One tick: two check results, no run. A store that is away fails the tick."""
    state = archive_state(platform)
    evaluations = list(_counting(state))
    for evaluation in evaluations:
        if not evaluation.passed:
            context.log.error("%s: %s", evaluation.check_name, evaluation.description)
    words = "; ".join(e.description or "" for e in evaluations)
    return dg.SensorResult(asset_events=evaluations, skip_reason=words)


@dg.asset_check(
    asset=LANDING_COVERAGE,
    name=NOTHING_LOST,
    description="Each event of the log is in the objects once, by its position, or waits.",
    blocking=True,
    retry_policy=RETRY,
)
def nothing_lost(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.AssetCheckResult:
    """Reads the whole log that is held and the positions of every row. No row read is red."""
    with explained():
        found = reconcile(platform)
    for finding in found.findings[:MAX_LISTED]:
        context.log.error(finding)
    return dg.AssetCheckResult(
        passed=found.ok and bool(found.rows),
        description=_reconciled(found),
        metadata={
            "events": dg.MetadataValue.int(found.events),
            "archived": dg.MetadataValue.int(found.archived),
            "undecodable": dg.MetadataValue.int(found.undecodable),
            "pending": dg.MetadataValue.int(found.pending),
            "lost": dg.MetadataValue.int(found.lost),
            "doubled": dg.MetadataValue.int(found.doubled),
            "unaccounted": dg.MetadataValue.int(found.unaccounted),
            "objects_read": dg.MetadataValue.int(found.objects),
            "rows_read": dg.MetadataValue.int(found.rows),
            "findings": dg.MetadataValue.json(found.findings[:MAX_LISTED]),
        },
    )


def _reconciled(found: Reconciliation) -> str:
    if not found.rows:
        return "zero rows were read: nothing is archived, so nothing was compared"
    if found.ok:
        return f"{found.events} events of the log, {found.archived} archived, none is lost"
    return (
        f"{found.unaccounted} events are nowhere, {found.lost} are lost, {found.doubled} double; "
        f"{len(found.findings)} findings"
    )


@dg.asset_check(
    asset=COLD_MANIFEST,
    name=ALL_SEALED,
    description="Every closed day of every tenant has its manifest, and no incident is open.",
    blocking=True,
    retry_policy=RETRY,
)
def all_sealed(platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    """The inventory of failed partitions. No day looked at is red."""
    with explained():
        found = inventory(platform)
    return dg.AssetCheckResult(
        passed=bool(found.days) and not found.failed,
        description=_inventory(found),
        metadata={
            "tenants": dg.MetadataValue.int(found.tenants),
            "days": dg.MetadataValue.int(found.days),
            "failed": dg.MetadataValue.int(len(found.failed)),
            "first_failed": dg.MetadataValue.table(
                [
                    dg.TableRecord({"tenant": f.tenant_id, "day": f.day, "why": f.why})
                    for f in found.failed[:MAX_LISTED]
                ],
                schema=dg.TableSchema(
                    [dg.TableColumn("tenant"), dg.TableColumn("day"), dg.TableColumn("why")]
                ),
            ),
        },
    )


def _inventory(found: Inventory) -> str:
    if not found.days:
        return "zero days were looked at: no day is closed, or no tenant is there"
    return f"{found.days} days of {found.tenants} tenants, {len(found.failed)} failed"


count_archive: Final = dg.define_asset_job(
    "count_archive",
    selection=dg.AssetSelection.checks(counting),
    tags=CHECK,
    description="Count the last ranges of each partition now; the sensor does it by itself.",
)
reconcile_job: Final = dg.define_asset_job(
    "reconcile",
    selection=dg.AssetSelection.checks(nothing_lost),
    tags=CHECK,
    description="Compare the whole log with every archived row, position by position. Reads only.",
)
inventory_job: Final = dg.define_asset_job(
    "inventory",
    selection=dg.AssetSelection.checks(all_sealed),
    tags=CHECK,
    description="List tenant-days that are closed and not sealed, or red. Reads only.",
)

reconcile_nightly: Final = dg.ScheduleDefinition(
    name="reconcile_nightly",
    job=reconcile_job,
    cron_schedule="15 1 * * *",
    execution_timezone="UTC",
    default_status=RUN_BY_ITSELF,
    description="The exact comparison, before the night's verification.",
)
inventory_nightly: Final = dg.ScheduleDefinition(
    name="inventory_nightly",
    job=inventory_job,
    cron_schedule="0 6 * * *",
    execution_timezone="UTC",
    default_status=RUN_BY_ITSELF,
    description="What the night left undone, before people come.",
)

defs = dg.Definitions(
    asset_checks=[counting, nothing_lost, all_sealed],
    jobs=[count_archive, reconcile_job, inventory_job],
    schedules=[reconcile_nightly, inventory_nightly],
    sensors=[archive_watch],
)
