"""Assets of the archive tier: what landed, the sealed day, its signed manifest.

Bodies are thin: each calls `operations/` for every tenant-day of the run and shows the result. Add
an asset when something durable comes to be. Not here: checks (`checks.py`), jobs (`jobs.py`).
Source: design section 5 (COLD), section 8 (assets are named `{tier}_{thing}`).
"""

import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Final

import dagster as dg

from audit_platform.defs.metadata import (
    coverage_metadata,
    day_metadata,
    explained,
    manifest_metadata,
    require_coverage,
)
from audit_platform.defs.partitions import GROUP, TENANT_DAYS, targets
from audit_platform.operations.coverage import coverage, inputs_of
from audit_platform.operations.hours import events_per_hour
from audit_platform.operations.manifests import valid_of_day
from audit_platform.operations.plan import plan_of
from audit_platform.operations.seal import seal_day
from audit_platform.ports import Platform

OWNERS: Final = ["team:audit-platform"]

#: Every day is closed within minutes of its end; a day and a half without a seal is a failure.
DAILY: Final = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(hours=36), warn_window=timedelta(hours=26)
)

#: For a store or an archive-writer that is away for a moment. What stays wrong is not retried.
RETRY: Final = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)

LANDING_COVERAGE: Final = GROUP.name("landing_coverage")
COLD_DAY: Final = GROUP.name("cold_day")
COLD_MANIFEST: Final = GROUP.name("cold_manifest")


@dg.asset(
    name=LANDING_COVERAGE,
    description="Range records reach the ends that the day's closing names, without a hole.",
    partitions_def=TENANT_DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="landing",
    kinds={"parquet"},
    owners=OWNERS,
    freshness_policy=DAILY,
    retry_policy=RETRY,
)
def landing_coverage(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
) -> None:
    """Fails, with the holes named, where the archive-writer has not (or not wholly) arrived.

    Of a sealed day it shows what a revision takes in.
    """
    for target in targets(context):
        with explained():
            found = coverage(platform, target.day)
            require_coverage(found, None)
            standing = valid_of_day(platform, target.tenant_id, target.day)
            plan = plan_of(platform, target.tenant_id, target.day, standing)
            if plan is not None:
                require_coverage(found, plan.inputs)
            # A sealed day does not need its landing any more: it may have expired.
            inputs = plan.inputs if plan else inputs_of(platform, found, target.tenant_id)
        context.add_asset_metadata(coverage_metadata(found, inputs), partition_key=target.key)


@dg.multi_asset(
    name="seal",
    specs=[
        dg.AssetSpec(
            COLD_DAY,
            deps=[LANDING_COVERAGE],
            description="The day's events, each once, sorted and proved, in locked parts.",
            group_name="cold",
            kinds={"parquet"},
            owners=OWNERS,
            freshness_policy=DAILY,
        ),
        dg.AssetSpec(
            COLD_MANIFEST,
            deps=[COLD_DAY],
            description="The signed statement of what the day holds; also for an empty day.",
            group_name="cold",
            kinds={"json"},
            owners=OWNERS,
            freshness_policy=DAILY,
        ),
    ],
    partitions_def=TENANT_DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    can_subset=False,
    retry_policy=RETRY,
)
def seal(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.MaterializeResult[None]]:
    """Parts and manifest come from one operation: parts that no manifest names mean nothing."""
    for target in targets(context):
        start = time.monotonic()
        with explained():
            progress = partial(context.log.info, "%s %s: %s %d rows", target.tenant_id, target.day)
            result = seal_day(platform, target.tenant_id, target.day, progress)
            seconds = time.monotonic() - start
            if result.landing_skipped:
                context.log.info("%s: landing was read by an earlier run", target.key)
            if result.skipped:
                names = ", ".join(result.skipped)
                context.log.info("%s: put by an earlier run, not again: %s", target.key, names)
            hours = events_per_hour(platform, result.manifest_key)
        shown = {
            COLD_DAY: day_metadata(result, seconds, hours),
            COLD_MANIFEST: manifest_metadata(result),
        }
        for asset, metadata in shown.items():
            context.add_asset_metadata(metadata, asset_key=asset, partition_key=target.key)
    yield dg.MaterializeResult(asset_key=COLD_DAY)
    yield dg.MaterializeResult(asset_key=COLD_MANIFEST)


defs = dg.Definitions(assets=[landing_coverage, seal])
