"""Integrity under Dagster: what a verification found is repaired by a job, or accepted by a person.

The checks open incidents (`checks.py`); the sensor has each one's day made again; a person accepts
what nothing proves any more. Belongs here: the jobs with their launchpads, the sensor. Does not:
the repair (`operations/rearchive.py`), incidents (`operations/incidents.py`).
Source: the mission's rows 27 and 28; game day "Corrupt a Parquet file".
"""

import time
from collections.abc import Iterator
from typing import Final

import dagster as dg
from pydantic import Field

from audit_platform.defs.attempts import DAY_TAG, INCIDENT_TAG, TENANT_TAG, Wanted, next_attempt
from audit_platform.defs.cold import COLD_MANIFEST, RETRY
from audit_platform.defs.metadata import ROW_COUNT, explained
from audit_platform.defs.partitions import GROUP, TenantDay
from audit_platform.defs.pools import REPAIR
from audit_platform.defs.record_action import record_action
from audit_platform.errors import SealRefused
from audit_platform.operations.incidents import (
    OpenIncident,
    accept_gap,
    end_by_repair,
    incidents,
    open_incident,
)
from audit_platform.operations.judgement import judge_day
from audit_platform.operations.rearchive import Rearchived, rearchive_day
from audit_platform.ports import Platform
from audit_platform.record.layout import PLATFORM_TENANT

REARCHIVE_DAY: Final = "rearchive_day"
ACCEPT_GAP: Final = "accept_gap"
INTEGRITY_REPAIR: Final = "integrity_repair"

#: How often the sensor lists incidents. Verification runs nightly; a repair may wait half a minute.
LOOK_SECONDS: Final = 30


class Rearchive(dg.Config):
    """Which sealed day to make whole again."""

    tenant: str = Field(description="The tenant.")
    day: str = Field(description="The UTC day (YYYY-MM-DD) whose checks are red.")


@dg.op(
    name="rearchive",
    out=dg.Out(dg.Nothing),
    retry_policy=RETRY,
    description="Parts that are not what was signed are made again, proved, and superseded.",
)
def rearchive(
    context: dg.OpExecutionContext, config: Rearchive, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.AssetMaterialization | dg.Output[None]]:
    """Reads every part of the day. The day is judged again; open incidents end when it is green."""
    begun = time.monotonic()
    GROUP.require(config.tenant)
    with explained():
        done = rearchive_day(platform, config.tenant, config.day)
        record_action(context, platform, "day rearchive", config.tenant, config.day)
        judged = judge_day(platform, config.tenant, config.day)
        open_incident(platform, judged)
    key = TenantDay(config.day, config.tenant).key
    yield _materialization(key, done, time.monotonic() - begun)
    red = [a for a in judged.answers if not a.passed]
    if red:
        raise dg.Failure(
            f"{key}: every part is what was signed, and still: {red[0].summary}",
            metadata={"checks": dg.MetadataValue.json([a.name for a in red])},
            allow_retries=False,
        )
    with explained():
        for found in incidents(platform, config.tenant, config.day):
            if found.is_open:
                actor = f"run-{context.run_id[:8]}"
                end_by_repair(platform, found.incident, done.manifest_number, actor)
                context.log.info("incident %s has ended", found.incident.incident_id)
    yield dg.Output(None)


def _materialization(key: str, done: Rearchived, seconds: float) -> dg.AssetMaterialization:
    parts = [{"damaged": r.old_key, "now": r.new_key, "from": r.source} for r in done.repaired]
    return dg.AssetMaterialization(
        COLD_MANIFEST,
        partition=key,
        description=f"{len(parts)} of {done.parts} parts were made again",
        metadata={
            "number": dg.MetadataValue.int(done.manifest_number),
            "revision": dg.MetadataValue.int(done.revision),
            "merkle_root": dg.MetadataValue.text(done.root),
            "repaired_parts": dg.MetadataValue.json(parts),
            "bytes": dg.MetadataValue.int(done.bytes_read),
            ROW_COUNT: dg.MetadataValue.int(len(parts)),
            "rearchive_seconds": dg.MetadataValue.float(round(seconds, 3)),
        },
    )


@dg.job(
    name=REARCHIVE_DAY,
    tags=REPAIR,
    description=(
        "Make a sealed day whole again from what proves its leaves. Refused, and nothing changed, "
        "where nothing proves them any more. May be stopped and started at any time."
    ),
    executor_def=dg.in_process_executor,
)
def rearchive_job() -> None:
    """One step."""
    rearchive()


class AcceptGap(dg.Config):
    """Who accepts which gap, and why. Signed, and kept for ever."""

    tenant: str = Field(description="The tenant.")
    day: str = Field(description="The UTC day.")
    incident: str = Field(description="The incident's id: 16 hex digits.")
    person: str = Field(description="Who decides: a pseudonym that your register knows.")
    reason: str = Field(description="What was tried, what is missing; 20 characters or more.")


@dg.op(name="accept", description="End an incident that cannot be repaired, by a named decision.")
def accept(
    context: dg.OpExecutionContext, config: AcceptGap, platform: dg.ResourceParam[Platform]
) -> None:
    """Fails for an incident that is not there or has ended. The day's bytes stay as they are."""
    with explained():
        for found in incidents(platform, config.tenant, config.day):
            if found.incident.incident_id == config.incident and found.is_open:
                record_action(context, platform, "gap accept", config.tenant, config.incident)
                accept_gap(platform, found.incident, config.person, config.reason)
                return
        raise SealRefused(
            f"{config.tenant} {config.day} has no open incident {config.incident}",
            remedy="its id stands in the log of the check that is red",
        )


@dg.job(
    name=ACCEPT_GAP,
    tags=REPAIR,
    description="A named person accepts that a day cannot be made whole; it stays flagged.",
    executor_def=dg.in_process_executor,
)
def accept_gap_job() -> None:
    """One step."""
    accept()


@dg.sensor(
    name=INTEGRITY_REPAIR,
    # By name: given the job, Dagster copies the sensor, and warns of an argument of its own.
    job_name=REARCHIVE_DAY,
    minimum_interval_seconds=LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Has the day of each open incident made again, until it is green or gives up.",
)
def integrity_repair(
    context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
) -> dg.SensorResult:
    """One tick. Incidents are in the store: a Dagster that lost its storage finds them again."""
    requests: list[dg.RunRequest] = []
    waits: list[str] = []
    own = [PLATFORM_TENANT] if GROUP.has(PLATFORM_TENANT) else []
    for tenant_id in dict.fromkeys([*own, *(t.tenant_id for t in GROUP.tenants(platform))]):
        for found in incidents(platform, tenant_id):
            if not found.is_open:
                continue
            asked = next_attempt(context.instance, _wanted(found))
            if isinstance(asked, dg.RunRequest):
                requests.append(asked)
                continue
            if asked.gave_up:
                context.log.error(asked.words)
            waits.append(asked.words)
    words = "; ".join(waits) or "no incident is open"
    return dg.SensorResult(run_requests=requests, skip_reason=None if requests else words)


def _wanted(found: OpenIncident) -> Wanted:
    incident = found.incident
    config = {"tenant": incident.tenant_id, "day": incident.day}
    return Wanted(
        job=REARCHIVE_DAY,
        label=str(TenantDay(incident.day, incident.tenant_id).key),
        incident=incident.incident_id,
        cause=INTEGRITY_REPAIR,
        tags={
            TENANT_TAG: incident.tenant_id,
            DAY_TAG: incident.day,
            INCIDENT_TAG: incident.incident_id,
        },
        run_config={"ops": {"rearchive": {"config": config}}},
    )


defs = dg.Definitions(jobs=[rearchive_job, accept_gap_job], sensors=[integrity_repair])
