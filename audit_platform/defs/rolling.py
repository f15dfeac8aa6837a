"""Nightly rolling verification: sealed objects are read again within 90 days.

Belongs here: the checks, the job with its launchpad, the schedule. Does not: which days are due and
what is read (`operations/rolling.py`). Source: issue "budget in bytes per night; alert when it
cannot be met".
"""

import time
from collections.abc import Iterator
from typing import Final

import dagster as dg
from pydantic import Field

from audit_platform.defs.cold import COLD_DAY, RETRY
from audit_platform.defs.metadata import MAX_LISTED, Metadata, explained
from audit_platform.defs.partitions import SETTINGS
from audit_platform.defs.pools import CHECK
from audit_platform.defs.schedules import RUN_BY_ITSELF
from audit_platform.operations.closing import closed_days
from audit_platform.operations.rolling import WITHIN_DAYS, Rolled, verify_rolling
from audit_platform.ports import Platform

AS_SIGNED: Final = "sealed_objects_are_as_signed"
IN_TIME: Final = "read_again_within_90_days"


class RollingNight(dg.Config):
    """How much of the sealed record to read. The defaults are a night's."""

    budget_bytes: int = Field(
        default=SETTINGS.verify_bytes, ge=1, description="At most so many bytes (but for one day)."
    )
    sample_days: int = Field(
        default=1, ge=0, description="So many of the days are judged row by row, chains and all."
    )


@dg.multi_asset_check(
    name="rolling_verification",
    specs=[
        dg.AssetCheckSpec(
            AS_SIGNED,
            asset=COLD_DAY,
            description="Every sealed object that was read tonight has the bytes that were signed.",
        ),
        dg.AssetCheckSpec(
            IN_TIME,
            asset=COLD_DAY,
            description=f"No sealed object was read last more than {WITHIN_DAYS} days ago.",
        ),
    ],
    retry_policy=RETRY,
)
def rolling_verification(
    context: dg.AssetCheckExecutionContext,
    config: RollingNight,
    platform: dg.ResourceParam[Platform],
) -> Iterator[dg.AssetCheckResult]:
    """Reads the days that were read longest ago. What is red is an incident and is repaired."""
    begun = time.monotonic()
    with explained():
        done = verify_rolling(platform, config.budget_bytes, config.sample_days, context.log.info)
        is_new = not closed_days(platform)
    shown = _metadata(done, config.budget_bytes, time.monotonic() - begun)
    for incident in done.incidents:
        context.log.error("incident %s is open", incident)
    words = f"{done.objects} objects of {done.days} days, {done.bytes} bytes"
    if not done.objects:
        words = "zero objects were read: nothing is sealed"
    elif done.problems:
        words = f"{words}; {len(done.problems)} findings, first: {done.problems[0]}"
    # Before the first day is over nothing can be sealed: a warning, and still no green check.
    severity = dg.AssetCheckSeverity.WARN if is_new else dg.AssetCheckSeverity.ERROR
    yield dg.AssetCheckResult(
        asset_key=COLD_DAY,
        check_name=AS_SIGNED,
        passed=bool(done.objects) and not done.problems,
        severity=severity,
        description=words,
        metadata=shown,
    )
    yield dg.AssetCheckResult(
        asset_key=COLD_DAY,
        check_name=IN_TIME,
        passed=bool(done.objects) and done.met,
        severity=severity,
        description=_promise(done, config.budget_bytes),
        metadata=shown,
    )


def _promise(done: Rolled, budget_bytes: int) -> str:
    if not done.objects:
        return "zero objects were read: nothing is sealed"
    oldest = f"the oldest was read {done.oldest_days} days ago"
    if done.needed_bytes > budget_bytes:
        return (
            f"{budget_bytes} bytes a night are too few: {done.needed_bytes} are needed; {oldest}; "
            "raise AUDIT_VERIFY_BYTES"
        )
    return oldest


def _metadata(done: Rolled, budget_bytes: int, seconds: float) -> Metadata:
    shown: Metadata = {
        "objects_read": dg.MetadataValue.int(done.objects),
        "days_read": dg.MetadataValue.int(done.days),
        "bytes": dg.MetadataValue.int(done.bytes),
        "bytes_sealed_in_all": dg.MetadataValue.int(done.total_bytes),
        "bytes_a_night_needed": dg.MetadataValue.int(done.needed_bytes),
        "budget_bytes": dg.MetadataValue.int(budget_bytes),
        "oldest_days": dg.MetadataValue.float(done.oldest_days),
        "derived_again": dg.MetadataValue.json(done.rederived[:MAX_LISTED]),
        "verify_seconds": dg.MetadataValue.float(round(seconds, 3)),
    }
    if done.problems:
        shown["first_findings"] = dg.MetadataValue.json(done.problems[:MAX_LISTED])
    return shown


verify_rolling_job: Final = dg.define_asset_job(
    "verify_rolling",
    selection=dg.AssetSelection.checks(rolling_verification),
    tags=CHECK,
    description=(
        "Read sealed objects again, those that were read longest ago first. Nothing sealed is "
        "written; may be stopped and started at any time."
    ),
)

rolling_nightly: Final = dg.ScheduleDefinition(
    name="rolling_nightly",
    job=verify_rolling_job,
    cron_schedule="0 3 * * *",
    execution_timezone="UTC",
    default_status=RUN_BY_ITSELF,
    description="After yesterday's verification, before landing's upkeep.",
)

defs = dg.Definitions(
    asset_checks=[rolling_verification], jobs=[verify_rolling_job], schedules=[rolling_nightly]
)
