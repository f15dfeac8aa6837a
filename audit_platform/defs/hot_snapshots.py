"""Snapshots of HOT under Dagster: taken every six hours, practised every week, used by a job.

Belongs here: the asset `hot_snapshot` with its check, the jobs with their launchpads, schedules,
the sensor that misses a snapshot. Does not: the work (`operations/hot_snapshots.py`).
Source: failures 14 and 17; recovery objective of HOT out of a snapshot: four hours.
"""

import random
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import dagster as dg

from audit_platform.defs.attempts import INCIDENT_TAG, Wanted, next_attempt
from audit_platform.defs.cold import OWNERS, RETRY
from audit_platform.defs.hot import (
    HOT_INDEX,
    LOOK_SECONDS,
    HotDays,
    done_before,
    rebuilt_metadata,
    shown,
)
from audit_platform.defs.metadata import MAX_LISTED, ROW_COUNT, explained
from audit_platform.defs.partitions import GROUP, TENANT, TenantDay, new_tenants
from audit_platform.defs.pools import CHECK, REPAIR
from audit_platform.defs.record_action import record_action
from audit_platform.defs.schedules import RUN_BY_ITSELF
from audit_platform.operations.hot_snapshots import (
    STALE_MS,
    Drilled,
    Freshness,
    drill,
    freshness,
    restore_hot,
    take_snapshot,
)
from audit_platform.ports import Platform
from audit_platform.record.layout import PLATFORM_TENANT

HOT_SNAPSHOT: Final = GROUP.name("hot_snapshot")
IS_FRESH: Final = "snapshot_is_fresh"
SNAPSHOT_HOT: Final = "snapshot_hot"
RESTORE_HOT: Final = "restore_hot"
RESTORE_DRILL: Final = "restore_drill"
SNAPSHOT_STALE: Final = "snapshot_stale"

#: Recovery objective out of a snapshot: from the loss until the day is searched again.
OBJECTIVE_SECONDS: Final = 4 * 3600

#: From the loss until a run is asked for, at worst: `hot_repair` looks twice before it believes.
NOTICING_SECONDS: Final = 2 * LOOK_SECONDS

#: How often the sensor lists snapshots; they are taken every six hours.
WATCH_SECONDS: Final = 300

snapshot_spec: Final = dg.AssetSpec(
    HOT_SNAPSHOT,
    deps=[HOT_INDEX],
    group_name="hot",
    kinds={"search"},
    owners=OWNERS,
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(milliseconds=STALE_MS)),
    description="Copies of every search index that is read, of the last days, apart from HOT.",
)


# ----------------------------------------------------------------------------------------- taking


@dg.op(
    name="snapshot",
    out=dg.Out(dg.Nothing),
    retry_policy=RETRY,
    description="Every index that is read; then the oldest snapshots go.",
)
def snapshot(
    context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output[None]]:
    """A damaged index is left out and named; `hot_repair` mends it."""
    begun = time.monotonic()
    with explained():
        taken = take_snapshot(platform)
        found = freshness(platform)
        record_action(context, platform, "hot snapshot", PLATFORM_TENANT, taken.snapshot.name)
    for index in taken.left_out:
        context.log.warning("%s is damaged: not in the snapshot", "|".join(map(str, index)))
    yield dg.AssetMaterialization(
        HOT_SNAPSHOT,
        metadata={
            ROW_COUNT: dg.MetadataValue.int(taken.documents),
            "name": dg.MetadataValue.text(taken.snapshot.name),
            "indexes": dg.MetadataValue.int(len(taken.snapshot.indexes)),
            "left_out": dg.MetadataValue.json(["|".join(map(str, i)) for i in taken.left_out]),
            "pruned": dg.MetadataValue.json(list(taken.pruned)),
            "snapshot_seconds": dg.MetadataValue.float(round(time.monotonic() - begun, 3)),
        },
    )
    yield _evaluation(found)
    yield dg.Output(None)


@dg.job(
    name=SNAPSHOT_HOT,
    tags=CHECK,
    description=(
        "Copy every search index that is read, then let the oldest copies go. Runs beside all "
        "services. May be stopped and started at any time."
    ),
    executor_def=dg.in_process_executor,
)
def snapshot_hot_job() -> None:
    """One step."""
    snapshot()


snapshot_six_hourly: Final = dg.ScheduleDefinition(
    name="snapshot_six_hourly",
    job=snapshot_hot_job,
    cron_schedule="20 */6 * * *",
    execution_timezone="UTC",
    default_status=RUN_BY_ITSELF,
    description="Apart from the hour, when everything else starts.",
)


# -------------------------------------------------------------------------------------- freshness


def _words(found: Freshness) -> str:
    if not found.indexes_read:
        return "no index is read: there is nothing to snapshot"
    if not found.snapshot:
        return f"{found.indexes_read} indexes are read and no snapshot has any"
    hours = found.age_ms / 3_600_000
    return f"the newest, {found.snapshot}, is {hours:.1f} h old (stale at {STALE_MS // 3_600_000})"


def _evaluation(found: Freshness) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(HOT_SNAPSHOT),
        check_name=IS_FRESH,
        passed=found.is_fresh,
        description=_words(found),
        metadata={
            "age_seconds": dg.MetadataValue.int(found.age_ms // 1000),
            "indexes_read": dg.MetadataValue.int(found.indexes_read),
        },
    )


@dg.asset_check(
    asset=HOT_SNAPSHOT,
    name=IS_FRESH,
    description="The newest snapshot of HOT is whole and less than twelve hours old.",
)
def snapshot_is_fresh(platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    """Asks the repository, not Dagster's own memory of runs."""
    with explained():
        found = freshness(platform)
    said = _evaluation(found)
    return dg.AssetCheckResult(
        passed=said.passed, description=said.description, metadata=said.metadata
    )


@dg.sensor(
    name=SNAPSHOT_STALE,
    # By name: given the job, Dagster copies the sensor, and warns of an argument of its own.
    job_name=SNAPSHOT_HOT,
    minimum_interval_seconds=WATCH_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Turns the check of snapshots red when they stop coming, and has one taken.",
)
def snapshot_stale(
    context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
) -> dg.SensorResult:
    """One tick. The check is told when the answer changes, not at every look."""
    if platform.snapshots is None:
        return dg.SensorResult(skip_reason="HOT has no place for snapshots")
    found = freshness(platform)
    state = "fresh" if found.is_fresh else f"stale since {found.snapshot}"
    told = [] if context.cursor == state else [_evaluation(found)]
    if found.is_fresh:
        return dg.SensorResult(skip_reason=_words(found), cursor=state, asset_events=told)
    asked = next_attempt(
        context.instance,
        Wanted(
            job=SNAPSHOT_HOT,
            label=HOT_SNAPSHOT,
            incident=found.snapshot or "none",
            cause=SNAPSHOT_STALE,
            tags={INCIDENT_TAG: f"{HOT_SNAPSHOT}:{found.snapshot or 'none'}"},
        ),
    )
    if isinstance(asked, dg.RunRequest):
        return dg.SensorResult(run_requests=[asked], cursor=state, asset_events=told)
    return dg.SensorResult(skip_reason=asked.words, cursor=state, asset_events=told)


# -------------------------------------------------------------------------------------- restoring


class RestoreHot(HotDays):
    """What to bring back out of snapshots."""


@dg.op(
    name="restore",
    out=dg.Out(dg.Nothing),
    retry_policy=RETRY,
    description="Each day out of the newest snapshot that has it, caught up, proved, then read.",
)
def restore(
    context: dg.OpExecutionContext, config: RestoreHot, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output[None]]:
    """A day that no snapshot brings back is rebuilt from the record; the log says so."""
    GROUP.require(config.tenant)
    with explained():
        platform.metadata.tenant(config.tenant)
        fresh = new_tenants(context.instance, platform)
    if fresh:
        context.instance.add_dynamic_partitions(TENANT, fresh)
    days = config.wanted(platform.clock.now_ms())
    done = done_before(context, RESTORE_HOT, config.tenant)
    for day in days:
        if day in done:
            context.log.info("%s: restored by an earlier run of this incident", day)
            continue
        yield from _restore_day(context, platform, config.tenant, day)
    with explained():
        record_action(context, platform, "hot restore", config.tenant, ", ".join(days)[:128])
    yield dg.Output(None)


def _restore_day(
    context: dg.OpExecutionContext, platform: Platform, tenant_id: str, day: str
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    begun = time.monotonic()
    with explained():
        restored = restore_hot(
            platform,
            tenant_id,
            day,
            progress=lambda rows: context.log.info("%s: %d rows held against it", day, rows),
        )
    for why in restored.tried:
        context.log.warning("%s: %s", day, why)
    if not restored.snapshot:
        context.log.warning("%s: rebuilt from the record instead", day)
    metadata = rebuilt_metadata(restored.result) | {
        "snapshot": dg.MetadataValue.text(restored.snapshot or "none: rebuilt from the record"),
        "restore_seconds": dg.MetadataValue.float(round(time.monotonic() - begun, 3)),
        "objective_seconds": dg.MetadataValue.int(OBJECTIVE_SECONDS),
    }
    yield from shown(context, platform, restored.result, metadata)


@dg.job(
    name=RESTORE_HOT,
    tags=REPAIR,
    description=(
        "Bring a tenant's search index back out of a snapshot. Runs beside all services; searches "
        "read the old index until the new one is proved. May be stopped and started at any time."
    ),
    executor_def=dg.in_process_executor,
)
def restore_hot_job() -> None:
    """One step."""
    restore()


# ------------------------------------------------------------------------------------------ drill


@dg.op(
    name="practise",
    out=dg.Out(dg.Nothing),
    retry_policy=RETRY,
    description="A random tenant's day out of the newest snapshot, proved, and thrown away.",
)
def practise(
    context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.AssetObservation | dg.Output[None]]:
    """Fails where nothing was read, something is wrong, or it took longer than the objective."""
    begun = time.monotonic()
    with explained():
        drilled = drill(platform, random.SystemRandom().choice)
        seconds = time.monotonic() - begun + NOTICING_SECONDS
        tenant_id, day, _ = drilled.index
        record_action(context, platform, "hot drill", tenant_id, f"{day} {drilled.snapshot}")
    yield _observation(drilled, seconds)
    if not drilled.passed:
        raise dg.Failure(
            f"{TenantDay(day, tenant_id).key} out of {drilled.snapshot} is not what the record has",
            metadata={"problems": dg.MetadataValue.json(list(drilled.problems[:MAX_LISTED]))},
            allow_retries=False,
        )
    if seconds > OBJECTIVE_SECONDS:
        raise dg.Failure(
            f"it took {seconds / 60:.0f} minutes, of {OBJECTIVE_SECONDS // 60}", allow_retries=False
        )
    yield dg.Output(None)


def _observation(drilled: Drilled, seconds: float) -> dg.AssetObservation:
    tenant_id, day, _ = drilled.index
    return dg.AssetObservation(
        HOT_SNAPSHOT,
        description=f"drill: {TenantDay(day, tenant_id).key} out of {drilled.snapshot}",
        metadata={
            "tenant": dg.MetadataValue.text(tenant_id),
            "day": dg.MetadataValue.text(day),
            "snapshot": dg.MetadataValue.text(drilled.snapshot),
            "documents": dg.MetadataValue.int(drilled.documents),
            "added_since": dg.MetadataValue.int(drilled.added),
            "removed": dg.MetadataValue.int(drilled.removed),
            "rows_read": dg.MetadataValue.int(drilled.read),
            "noticing_minutes": dg.MetadataValue.float(NOTICING_SECONDS / 60),
            "restore_minutes": dg.MetadataValue.float(round(seconds / 60, 2)),
            "objective_minutes": dg.MetadataValue.int(OBJECTIVE_SECONDS // 60),
        },
    )


@dg.job(
    name=RESTORE_DRILL,
    tags=CHECK,
    description=(
        "Practise: restore a random tenant's day beside the one that is read, prove it, throw it "
        "away. Nobody's search changes. May be stopped and started at any time."
    ),
    executor_def=dg.in_process_executor,
)
def restore_drill_job() -> None:
    """One step."""
    practise()


drill_weekly: Final = dg.ScheduleDefinition(
    name="drill_weekly",
    job=restore_drill_job,
    cron_schedule="0 8 * * 2",
    execution_timezone="UTC",
    default_status=RUN_BY_ITSELF,
    description="On a working morning: somebody is there when it fails.",
)

defs = dg.Definitions(
    assets=[snapshot_spec],
    asset_checks=[snapshot_is_fresh],
    jobs=[snapshot_hot_job, restore_drill_job],
    schedules=[snapshot_six_hourly, drill_weekly],
    sensors=[snapshot_stale],
)

#: In every location: what it brings back are that one's partitions.
restore_defs = dg.Definitions(jobs=[restore_hot_job])
