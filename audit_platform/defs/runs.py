"""Runs that failed, and runs that nobody executes any more.

Belongs here: the two sensors. Does not: runs that their own sensor asks for again (`attempts.py`).
Source: issue "a sensor that finds runs without heartbeat and starts a new run with the parent's
id"; "run failure".
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)

from audit_platform.defs.attempts import (
    ATTEMPT_TAG,
    CAUSE_TAG,
    INCIDENT_TAG,
    MAX_ATTEMPTS,
    TENANT_TAG,
    abandoned,
)
from audit_platform.defs.sensors import CLOSING_TAG
from audit_platform.errors import Recoverable
from audit_platform.operations.own_events import OwnEvent, OwnSource
from audit_platform.ports import Platform
from audit_platform.record.layout import PLATFORM_TENANT

Job = dg.JobDefinition | UnresolvedAssetJobDefinition

RUN_FAILED: Final = "run_failed"
LOST_RUNS: Final = "lost_runs"
LOOK_SECONDS: Final = 60

#: Dagster's own names: a run that follows another one, and the first of all.
PARENT_TAG: Final = "dagster/parent_run_id"
ROOT_TAG: Final = "dagster/root_run_id"
PARTITION_TAG: Final = "dagster/partition"

#: Dagster's own words for why a run failed; without one its process was found dead.
REASON_TAG: Final = "dagster/failure_reason"
PROCESS_REASONS: Final = frozenset(
    {"UNEXPECTED_TERMINATION", "RUN_WORKER_RESTART", "START_TIMEOUT"}
)

#: Runs that failed longer ago are for a person: somebody may have seen them and left them.
LOST_SECONDS: Final = 3600

#: Where a person reads on, in the repository.
RUNBOOKS: Final = "deploy/runbooks/README.md"


@dg.run_failure_sensor(
    name=RUN_FAILED,
    minimum_interval_seconds=LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Puts every failed run on record, and says where to read on.",
    metadata={"runbook": dg.MetadataValue.path(RUNBOOKS)},
)
def run_failed(context: dg.RunFailureSensorContext, platform: dg.ResourceParam[Platform]) -> None:
    """The run keeps its own log; the record keeps that it failed, whatever becomes of Dagster."""
    run = context.dagster_run
    context.log.error(
        "run %s of %s failed: %s; runbook: %s, heading %s",
        run.run_id, run.job_name, context.failure_event.message, RUNBOOKS, run.job_name,
    )  # fmt: skip
    payload = {
        "action": "run failed",
        "actor": f"run-{run.run_id[:8]}",
        "tenant": run.tags.get(TENANT_TAG, PLATFORM_TENANT),
        "subject": run.job_name[:128],
    }
    try:
        OwnSource(platform, "dagster").append([OwnEvent("operator_action", payload)])
    except Recoverable as e:
        # A log that is away fails runs as well; the sensor must live to tell of the next one.
        context.log.error("not on record: %s", e)  # noqa: TRY400 - the words say it all


def lost_runs_of(jobs: Sequence[Job]) -> dg.SensorDefinition:
    """The sensor over these jobs: a sensor may only ask for runs of jobs that it was given."""
    return dg.SensorDefinition(
        name=LOST_RUNS,
        jobs=jobs,
        evaluation_fn=look_for_lost_runs,
        minimum_interval_seconds=LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts a run anew whose process is gone: its child, with its configuration.",
    )


def look_for_lost_runs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One tick. What a killed run had proved is adopted by the next: every job is idempotent.

    Runs of an incident or a closing are asked for again by the sensors that asked first.
    """
    requests: list[dg.RunRequest] = []
    waits: list[str] = []
    for run in _lost(context):
        context.log.error("run %s of %s has lost its process", run.run_id, run.job_name)
        if INCIDENT_TAG in run.tags or CLOSING_TAG in run.tags:
            waits.append(f"{run.run_id}: its own sensor asks again")
            continue
        attempt = int(run.tags.get(ATTEMPT_TAG, "1")) + 1
        if attempt > MAX_ATTEMPTS:
            waits.append(f"{run.run_id}: gave up after {MAX_ATTEMPTS} runs of {run.job_name}")
            context.log.error(waits[-1])
            continue
        requests.append(_again(run, attempt))
    words = "; ".join(waits) or "every run that is under way has its process"
    return dg.SensorResult(run_requests=requests, skip_reason=None if requests else words)


def _lost(context: dg.SensorEvaluationContext) -> Iterator[dg.DagsterRun]:
    """Runs that ended with their process, not by a step, and that nobody has started again.

    The code server tells of its own workers' deaths; of its own, nobody does.
    """
    instance = context.instance
    under_way = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING]
    for record in instance.get_run_records(dg.RunsFilter(statuses=under_way)):
        if not _is_elsewhere(context, record.dagster_run):
            abandoned(instance, record)
    since = datetime.now(UTC) - timedelta(seconds=LOST_SECONDS)
    failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
    for run in instance.get_runs(failed):
        if _is_elsewhere(context, run):
            continue
        if REASON_TAG in run.tags and run.tags[REASON_TAG] not in PROCESS_REASONS:
            continue
        if not instance.get_runs(dg.RunsFilter(tags={PARENT_TAG: run.run_id}), limit=1):
            yield run


def _is_elsewhere(context: dg.SensorEvaluationContext, run: dg.DagsterRun) -> bool:
    """Whether another code location has the run: its code server may live on."""
    here, origin = context.code_location_origin, run.remote_job_origin
    if here is None or origin is None:
        return False
    return origin.repository_origin.code_location_origin.location_name != here.location_name


def _again(run: dg.DagsterRun, attempt: int) -> dg.RunRequest:
    kept = {k: v for k, v in run.tags.items() if not k.startswith(("dagster/", ".dagster/"))}
    return dg.RunRequest(
        run_key=f"lost:{run.run_id}",
        job_name=run.job_name,
        run_config=dict(run.run_config),
        partition_key=run.tags.get(PARTITION_TAG),
        asset_selection=sorted(run.asset_selection) if run.asset_selection else None,
        tags={
            **kept,
            PARENT_TAG: run.run_id,
            ROOT_TAG: run.root_run_id or run.run_id,
            ATTEMPT_TAG: str(attempt),
            CAUSE_TAG: LOST_RUNS,
        },
    )


defs = dg.Definitions(sensors=[run_failed])
