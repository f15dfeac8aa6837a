"""Jobs: verbs over partitions, for sensors, schedules and people.

Belongs here: which assets and checks a job runs. Does not: when (`sensors.py`, `schedules.py`).
Steps run in the run's own process (`build.py`). Source: design section 8 (jobs are verbs).
"""

from typing import Final

import dagster as dg

from audit_platform.defs.checks import verification
from audit_platform.defs.cold import COLD_DAY, COLD_MANIFEST, LANDING_COVERAGE
from audit_platform.defs.partitions import TENANT_DAYS
from audit_platform.defs.pools import CHECK, SEALING

seal_day: Final = dg.define_asset_job(
    "seal_day",
    # Not every check of these assets: those of all tenants' days would turn one tenant's run red.
    selection=dg.AssetSelection.assets(LANDING_COVERAGE, COLD_DAY, COLD_MANIFEST).without_checks()
    | dg.AssetSelection.checks(verification),
    tags=SEALING,
    description="Seal a tenant's closed day, sign its manifest, and read it all back.",
)

verify_day: Final = dg.define_asset_job(
    "verify_day",
    selection=dg.AssetSelection.checks(verification),
    # A job of checks alone takes no partitions from assets; without them nobody could choose a day.
    config=dg.PartitionedConfig(
        partitions_def=TENANT_DAYS, run_config_for_partition_key_fn=lambda _key: {}
    ),
    tags=CHECK,
    description="Read a sealed day again and judge it. Nothing is written.",
)

defs = dg.Definitions(jobs=[seal_day, verify_day])
