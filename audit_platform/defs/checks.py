"""Asset checks: sentences about a sealed day, answered by reading its bytes again.

One step answers all three, so the bytes are read once. Each has the partitions of its asset, so
every tenant-day keeps its own result. Belongs here: the checks' names and how answers become
Dagster's events. Does not: the answers (`operations/judgement.py`).
Source: issue of the walking skeleton, step 3; Dagster: asset checks.
"""

from collections.abc import Iterator
from typing import Final

import dagster as dg

from audit_platform.defs.cold import COLD_DAY, COLD_MANIFEST, RETRY
from audit_platform.defs.metadata import answer_metadata, explained, read_metadata
from audit_platform.defs.partitions import TENANT_DAYS, targets
from audit_platform.operations.incidents import open_incident
from audit_platform.operations.judgement import (
    CHAIN_UNBROKEN,
    MANIFEST_SIGNED,
    NOTHING_MISSING,
    judge_day,
)
from audit_platform.ports import Platform

#: Blocking turns the run red as well: a failed check under a green run is too quiet.
SPECS: Final = [
    dg.AssetCheckSpec(
        CHAIN_UNBROKEN,
        asset=COLD_DAY,
        description="Every row has its hash, its place in the Merkle tree and its chain.",
        blocking=True,
        partitions_def=TENANT_DAYS,
    ),
    dg.AssetCheckSpec(
        MANIFEST_SIGNED,
        asset=COLD_MANIFEST,
        description="Manifests follow on each other, are signed by our key, name what is there.",
        blocking=True,
        partitions_def=TENANT_DAYS,
    ),
    dg.AssetCheckSpec(
        NOTHING_MISSING,
        asset=COLD_DAY,
        description="Every event that landed for the day is sealed, and nothing else is.",
        blocking=True,
        partitions_def=TENANT_DAYS,
    ),
]

_SPEC_OF: Final = {spec.name: spec for spec in SPECS}


@dg.multi_asset_check(name="verification", specs=SPECS, retry_policy=RETRY)
def verification(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.AssetObservation | dg.AssetCheckEvaluation | dg.Output[None]]:
    """Reads every object of each tenant-day. A day without a manifest fails.

    What is wrong with a sealed day becomes an incident, which `integrity_repair` takes up.
    """
    for target in targets(context):
        with explained():
            checked = judge_day(platform, target.tenant_id, target.day)
            incident = open_incident(platform, checked)
        if incident is not None:
            context.log.error("%s: incident %s is open", target.key, incident.incident_id)
        yield dg.AssetObservation(COLD_DAY, partition=target.key, metadata=read_metadata(checked))
        for answer in checked.answers:
            # Not AssetCheckResult: of a run with several partitions it keeps only one.
            yield dg.AssetCheckEvaluation(
                asset_key=_SPEC_OF[answer.name].asset_key,
                check_name=answer.name,
                passed=answer.passed,
                description=f"{target.key}: {answer.summary}",
                metadata=answer_metadata(answer, checked),
                blocking=True,
                partition=target.key,
            )
    for spec in SPECS:
        yield dg.Output(None, output_name=spec.get_python_identifier())


defs = dg.Definitions(asset_checks=[verification])
