"""The control plane's own repairs: metadata lost is entered again from the bucket.

Belongs here: the job with what it shows. Does not: the work (`operations/rebuild_metadata.py`).
Source: issue "rebuild_metadata"; recovery objective of metadata.
"""

from typing import Final

import dagster as dg

from audit_platform.defs.metadata import explained
from audit_platform.defs.partitions import TENANT, new_tenants
from audit_platform.defs.pools import REPAIR
from audit_platform.defs.record_action import record_action
from audit_platform.operations.rebuild_metadata import rebuild_metadata
from audit_platform.ports import Platform
from audit_platform.record.layout import PLATFORM_TENANT

REBUILD_METADATA: Final = "rebuild_metadata"


@dg.op(name="rebuild_tenants", description="Tenants, edge keys and partitions out of the bucket.")
def rebuild_tenants(
    context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.Output[None]:
    """Shows what came back; a bucket without a tenant fails: nothing was read."""
    with explained():
        rebuilt = rebuild_metadata(platform)
        if not rebuilt:
            raise dg.Failure(
                "the bucket names no tenant: is it the right one?", allow_retries=False
            )
        fresh = new_tenants(context.instance, platform)
        if fresh:
            context.instance.add_dynamic_partitions(TENANT, fresh)
        record_action(context, platform, "metadata rebuild", PLATFORM_TENANT, str(len(rebuilt)))
    rows = [
        dg.TableRecord(
            {
                "tenant": r.tenant_id,
                "was known": r.was_known,
                "sealed days": r.days,
                "days with landing": r.landed,
                "edge keys": r.edge_keys,
            }
        )
        for r in rebuilt
    ]
    return dg.Output(None, metadata={"tenants": dg.MetadataValue.table(rows)})


@dg.job(
    name=REBUILD_METADATA,
    tags=REPAIR,
    description=(
        "Enter tenants, edge keys and partitions again after the metadata database was lost. "
        "Credentials, devices and suspensions have to be entered by hand."
    ),
    executor_def=dg.in_process_executor,
)
def rebuild_metadata_job() -> None:
    """One step."""
    rebuild_tenants()


defs = dg.Definitions(jobs=[rebuild_metadata_job])
