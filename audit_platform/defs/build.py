"""All definitions, from one function with overrides.

Add a module of `defs/` to the merge. Explicit merge, not folder discovery: that fails from an
installed wheel. Not here: any definition. Loading does no I/O beyond reading the environment.
"""

import dagster as dg

from audit_platform.defs import (
    checks,
    cold,
    control,
    hot,
    integrity,
    jobs,
    landing,
    schedules,
    sensors,
)
from audit_platform.defs.partitions import SETTINGS
from audit_platform.defs.resources import PlatformResource
from audit_platform.ports import Platform


def build_definitions(*, platform: Platform | None = None) -> dg.Definitions:
    """Everything that Dagster runs; `platform` stands in for the one that the settings name."""
    return dg.Definitions.merge(
        cold.defs,
        checks.defs,
        jobs.defs,
        sensors.defs,
        schedules.defs,
        hot.defs,
        integrity.defs,
        control.defs,
        landing.defs,
        dg.Definitions(
            resources={"platform": platform or PlatformResource(profile=SETTINGS.profile)},
            # A process for each step would pay seconds of imports for each.
            executor=dg.in_process_executor,
        ),
    )
