"""HOT under Dagster: an index for each tenant-day, rebuilt by a job, missed by a sensor.

`hot_index` comes to be by the search-indexer, not here; the job makes it anew from the record and
says so. Belongs here: the asset's words, the job with its launchpad, the check, the sensor. Does
not: the work (`operations/rebuild_hot.py`, `hot_check.py`), attempts (`attempts.py`).
Source: failures 13 and 14; game day "Delete HOT index for tenant X"; recovery objective of HOT.
"""

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import dagster as dg
from pydantic import Field

from audit_platform.defs.attempts import INCIDENT_TAG, TENANT_TAG, Wanted, next_attempt
from audit_platform.defs.cold import COLD_MANIFEST, OWNERS, RETRY
from audit_platform.defs.metadata import ROW_COUNT, Metadata, explained
from audit_platform.defs.partitions import (
    GROUP,
    TENANT,
    TENANT_DAYS,
    TenantDay,
    new_tenants,
    targets,
)
from audit_platform.defs.pools import CHECK, REPAIR
from audit_platform.defs.record_action import record_action
from audit_platform.errors import AuditPlatformError, Recoverable
from audit_platform.operations.hot_check import (
    INDEX_DAYS,
    HotCheck,
    HotFault,
    HotFaultKind,
    check_hot,
    hot_faults,
)
from audit_platform.operations.hot_watch import LOOK_SECONDS as LOOK_SECONDS_AT_MOST
from audit_platform.operations.hot_watch import in_turn, kept_reader
from audit_platform.operations.rebuild_hot import RebuildResult, rebuild_hot
from audit_platform.ports import Platform
from audit_platform.record import layout

HOT_INDEX: Final = GROUP.name("hot_index")
HOLDS_THE_DAY: Final = "hot_holds_exactly_the_day"
REBUILD_HOT: Final = "rebuild_hot"
HOT_REPAIR: Final = "hot_repair"

#: Recovery objective of HOT (the mission): back within an hour of a restart.
OBJECTIVE_SECONDS: Final = 3600

#: How often the sensor looks. It reads names and manifests; an hour's objective leaves room.
LOOK_SECONDS: Final = 30

MAX_HOURS: Final = INDEX_DAYS * 24

#: An index is filled as events come; a month without a proved rebuild asks for a drill.
MONTHLY: Final = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=31))

index_spec: Final = dg.AssetSpec(
    HOT_INDEX,
    deps=[COLD_MANIFEST],
    partitions_def=TENANT_DAYS,
    group_name="hot",
    kinds={"search"},
    owners=OWNERS,
    freshness_policy=MONTHLY,
    description=(
        "The search index of a tenant's day. The search-indexer fills it as events come; "
        "`rebuild_hot` makes it anew from COLD, landing and the log."
    ),
)


class HotDays(dg.Config):
    """Which days. The defaults fit an incident: the last 24 hours of one tenant."""

    tenant: str = Field(description="The tenant whose search is wrong or empty.")
    hours: int = Field(
        default=24, ge=1, le=MAX_HOURS, description="So many hours back from now, in whole days."
    )
    days: list[str] = Field(
        default_factory=list, description="These UTC days instead (YYYY-MM-DD), in any order."
    )

    def wanted(self, now_ms: int) -> list[str]:
        """The days, in order."""
        if self.days:
            return sorted(set(self.days))
        first = layout.day_of(now_ms - self.hours * 3_600_000)
        days = [first]
        while days[-1] < layout.day_of(now_ms):
            days.append(layout.next_day(days[-1]))
        return days


class RebuildHot(HotDays):
    """What to rebuild."""


@dg.op(
    name="rebuild",
    out=dg.Out(dg.Nothing),
    retry_policy=RETRY,
    description="Each day into a new index, proved, then read instead of the old one.",
)
def rebuild(
    context: dg.OpExecutionContext, config: RebuildHot, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output[None]]:
    """Days that a run of the same incident has rebuilt are skipped, and named."""
    GROUP.require(config.tenant)
    with explained():
        platform.metadata.tenant(config.tenant)
        fresh = new_tenants(context.instance, platform)
    if fresh:
        context.instance.add_dynamic_partitions(TENANT, fresh)
    days = config.wanted(platform.clock.now_ms())
    done = done_before(context, REBUILD_HOT, config.tenant)
    skipped = [day for day in days if day in done]
    if skipped:
        context.log.info("rebuilt by an earlier run of this incident: %s", ", ".join(skipped))
    for day in days:
        if day not in done:
            yield from _rebuild_day(context, platform, config.tenant, day)
    with explained():
        record_action(context, platform, "hot rebuild", config.tenant, ", ".join(days)[:128])
    yield dg.Output(None)


def _rebuild_day(
    context: dg.OpExecutionContext, platform: Platform, tenant_id: str, day: str
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    begun = time.monotonic()
    with explained():
        result = rebuild_hot(
            platform,
            tenant_id,
            day,
            progress=lambda rows: context.log.info("%s: %d rows filled", day, rows),
        )
    yield from shown(context, platform, result, _metadata(result, time.monotonic() - begun))


def shown(
    context: dg.OpExecutionContext, platform: Platform, result: RebuildResult, metadata: Metadata
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """A day that was brought back: what it is now, read from the bytes. Raises `dg.Failure`.

    Where parts were passed over the bytes are not read here: a run that goes on after a death would
    read all that it was to save. `verify_hot` reads them.
    """
    day = result.day
    if not result.complete:
        raise dg.Failure(
            f"{day}: the new index is read, but not all that the record names could be",
            metadata={
                "problems": dg.MetadataValue.md("\n".join(f"- {p}" for p in result.problems))
            },
            allow_retries=False,
        )
    key = TenantDay(day, result.tenant_id).key
    yield dg.AssetMaterialization(HOT_INDEX, partition=key, metadata=metadata)
    if result.skipped:
        names = ", ".join(result.skipped)
        context.log.info("%s: filled by an earlier run, not read again: %s", day, names)
        return
    with explained():
        checked = check_hot(platform, result.tenant_id, day)
    yield _evaluation(key, checked)
    if not checked.passed:
        raise dg.Failure(f"{day}: {_words(checked)}", allow_retries=False)


def done_before(context: dg.OpExecutionContext, job: str, tenant_id: str) -> set[str]:
    """Days that runs of the same job and incident have brought back already."""
    incident = context.run.tags.get(INCIDENT_TAG)
    if incident is None:
        return set()
    same = {INCIDENT_TAG: incident, TENANT_TAG: tenant_id}
    done: set[str] = set()
    for run in context.instance.get_runs(dg.RunsFilter(job_name=job, tags=same)):
        for entry in context.instance.all_logs(
            run.run_id, dg.DagsterEventType.ASSET_MATERIALIZATION
        ):
            shown = entry.asset_materialization
            if shown is not None and isinstance(shown.partition, str):
                done.add(shown.partition.partition("|")[0])
    return done


def _metadata(result: RebuildResult, seconds: float) -> Metadata:
    return rebuilt_metadata(result) | {
        "rebuild_seconds": dg.MetadataValue.float(round(seconds, 3)),
        "objective_seconds": dg.MetadataValue.int(OBJECTIVE_SECONDS),
    }


def rebuilt_metadata(result: RebuildResult) -> Metadata:
    """A new index, and what the old one was like."""
    return {
        ROW_COUNT: dg.MetadataValue.int(result.documents),
        "generation": dg.MetadataValue.int(result.generation),
        "documents": dg.MetadataValue.int(result.documents),
        "manifest": dg.MetadataValue.int(result.manifest),
        "rows_from_cold": dg.MetadataValue.int(result.from_cold),
        "rows_from_landing": dg.MetadataValue.int(result.from_landing),
        "rows_from_log": dg.MetadataValue.int(result.from_log),
        "old_index_lacked": dg.MetadataValue.int(result.lacking),
        "old_index_had_besides": dg.MetadataValue.int(result.foreign),
        "parts_skipped": dg.MetadataValue.json(list(result.skipped)),
    }


def _evaluation(key: str, checked: HotCheck) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(HOT_INDEX),
        check_name=HOLDS_THE_DAY,
        passed=checked.passed,
        description=f"{key}: {_words(checked)}",
        metadata={
            "events_read": dg.MetadataValue.int(checked.expected),
            "documents": dg.MetadataValue.int(checked.documents),
            "lacking": dg.MetadataValue.int(checked.lacking),
            "foreign": dg.MetadataValue.int(checked.foreign),
        },
        partition=key,
    )


def _words(checked: HotCheck) -> str:
    if checked.generation == 0:
        return "no index is read for this day"
    if checked.passed:
        return f"{checked.expected} archived events, all of them indexed"
    first = f"; {checked.problems[0]}" if checked.problems else ""
    return f"{checked.lacking} events are lacking, {checked.foreign} are foreign{first}"


@dg.job(
    name=REBUILD_HOT,
    tags=REPAIR,
    description=(
        "Make a tenant's search index anew from the record. Runs beside all services; searches "
        "read the old index until the new one is proved. May be stopped and started at any time."
    ),
    executor_def=dg.in_process_executor,
)
def rebuild_hot_job() -> None:
    """One step."""
    rebuild()


@dg.multi_asset_check(
    name="hot_verification",
    specs=[
        dg.AssetCheckSpec(
            HOLDS_THE_DAY,
            asset=HOT_INDEX,
            description="Every archived event of the day is in its index, and nothing else is.",
            partitions_def=TENANT_DAYS,
        )
    ],
    retry_policy=RETRY,
)
def hot_verification(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.AssetCheckEvaluation | dg.Output[None]]:
    """Reads every archived event of each tenant-day again. A day without an index fails."""
    for target in targets(context):
        with explained():
            checked = check_hot(platform, target.tenant_id, target.day)
        yield _evaluation(target.key, checked)
    yield dg.Output(None, output_name=f"{HOT_INDEX}_{HOLDS_THE_DAY}")


verify_hot: Final = dg.define_asset_job(
    "verify_hot",
    selection=dg.AssetSelection.checks(hot_verification),
    config=dg.PartitionedConfig(
        partitions_def=TENANT_DAYS, run_config_for_partition_key_fn=lambda _key: {}
    ),
    tags=CHECK,
    description="Hold a day's search index against COLD and landing, event by event.",
)


@dg.sensor(
    name=HOT_REPAIR,
    # By name: given the job, Dagster copies the sensor, and warns of an argument of its own.
    job_name=REBUILD_HOT,
    minimum_interval_seconds=LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Has an index rebuilt that is missing, damaged or short of what the record names.",
)
def hot_repair(
    context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
) -> dg.SensorResult:
    """One tick. A shortage must stand for two ticks: the indexer may just be on its way."""
    reader = kept_reader(platform)
    before, after = _seen(context.cursor)
    now = dict(before)
    begun = time.monotonic()
    requests: list[dg.RunRequest] = []
    waits: list[str] = []
    tenants = in_turn([t.tenant_id for t in GROUP.tenants(platform)], after)
    for number, tenant_id in enumerate(tenants):
        if number and time.monotonic() - begun > LOOK_SECONDS_AT_MOST:
            waits.append(f"{number} of {len(tenants)} tenants were looked at; going on from there")
            break
        after = tenant_id
        for key in [k for k in now if k.endswith(f"|{tenant_id}")]:
            del now[key]
        try:
            faults = hot_faults(platform, reader, tenant_id)
        except Recoverable:
            raise  # a store or HOT is away: the tick fails, the next one comes soon
        except AuditPlatformError as e:
            waits.append(f"{tenant_id}: {e}")
            continue
        for fault in faults:
            key = f"{fault.day}|{tenant_id}"
            now[key] = [fault.generation, fault.documents]
            asked = _asked(context.instance, fault, stood=before.get(key) == now[key])
            if isinstance(asked, dg.RunRequest):
                requests.append(asked)
            elif asked:
                waits.append(asked)
    words = "; ".join(waits) or "every index holds what the record names"
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else words,
        cursor=json.dumps({"seen": now, "after": after}),
    )


def _asked(instance: dg.DagsterInstance, fault: HotFault, *, stood: bool) -> dg.RunRequest | str:
    """The run that mends a fault, or why none is asked for; "" where nothing is wrong."""
    key = TenantDay(fault.day, fault.tenant_id).key
    rebuilt = list(_rebuilt(instance, key))
    if fault.kind is HotFaultKind.SHORT:
        if (fault.generation, fault.documents) in rebuilt:
            return ""  # a proved rebuild found just these: the others are copies
        if not stood:
            return f"{key}: {fault.documents} of {fault.known} rows are indexed; looking again"
    tags = {TENANT_TAG: fault.tenant_id, INCIDENT_TAG: f"{HOT_INDEX}:{key}:{len(rebuilt) + 1}"}
    asked = next_attempt(
        instance,
        Wanted(
            job=REBUILD_HOT,
            label=str(key),
            incident=str(len(rebuilt) + 1),
            cause=f"{HOT_REPAIR}: index {fault.kind}",
            tags=tags,
            run_config={
                "ops": {"rebuild": {"config": {"tenant": fault.tenant_id, "days": [fault.day]}}}
            },
        ),
    )
    return asked if isinstance(asked, dg.RunRequest) else asked.words


def _rebuilt(instance: dg.DagsterInstance, key: str) -> Iterator[tuple[int, int]]:
    """(generation, documents) of each rebuild of a day, as its materialization says."""
    asset = dg.AssetKey(HOT_INDEX)
    filtered = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[key])
    for record in instance.fetch_materializations(filtered, limit=1000).records:
        shown = record.asset_materialization
        if shown is not None:
            yield (
                int(str(shown.metadata["generation"].value)),
                int(str(shown.metadata["documents"].value)),
            )


def _seen(cursor: str | None) -> tuple[dict[str, list[int]], str]:
    """(faults of the last looks, the tenant that the last one ended with).

    The cursor is only a hint: one that does not read is as good as none.
    """
    try:
        read = json.loads(cursor or "{}")
        return dict(read["seen"]), str(read["after"])
    except (ValueError, KeyError, TypeError):
        return {}, ""


defs = dg.Definitions(
    assets=[index_spec],
    asset_checks=[hot_verification],
    jobs=[rebuild_hot_job, verify_hot],
    sensors=[hot_repair],
)
