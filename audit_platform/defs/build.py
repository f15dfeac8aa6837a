"""All definitions, from one function with overrides.

Add a module of `defs/` to the merge. Explicit merge, not folder discovery: that fails from an
installed wheel. Not here: any definition. Loading does no I/O beyond reading the environment.
"""

import dagster as dg

from audit_platform.defs import (
    archive_watch,
    checks,
    cold,
    control,
    dlq,
    hot,
    hot_life,
    hot_snapshots,
    integrity,
    jobs,
    landing,
    locks,
    rolling,
    runs,
    schedules,
    sensors,
)
from audit_platform.defs.partitions import GROUP, SETTINGS
from audit_platform.defs.resources import PlatformResource
from audit_platform.ports import Platform


def build_definitions(*, platform: Platform | None = None) -> dg.Definitions:
    """Everything that Dagster runs; `platform` stands in for the one that the settings name."""
    of_tenants = [
        cold.defs,
        checks.defs,
        jobs.defs,
        sensors.defs,
        schedules.defs,
        hot.defs,
        hot_snapshots.restore_defs,
        integrity.defs,
        runs.defs,
    ]
    of_the_house = [
        hot_snapshots.defs,
        hot_life.defs,
        control.defs,
        dlq.defs,
        landing.defs,
        rolling.defs,
        archive_watch.defs,
        locks.defs,
    ]
    every = dg.Definitions.merge(*of_tenants, *(of_the_house if GROUP.has_the_house else ()))
    return dg.Definitions.merge(
        every,
        dg.Definitions(
            sensors=[runs.lost_runs_of(list(every.jobs or ()))],
            resources={"platform": platform or PlatformResource(profile=SETTINGS.profile)},
            # A process for each step would pay seconds of imports for each.
            executor=dg.in_process_executor,
        ),
    )
