"""How Dagster is, as the exporter finds it.

Belongs here: one value for each metric. Does not: the form (`form.py`), the list (`__init__.py`).
Source: issue "Dagster's own health (daemon heartbeat, queue age, failed runs, freshness)".
"""

from __future__ import annotations

from typing import Final

from audit_platform.metrics.form import Kind, Metric

DAGSTER_HEARTBEAT_AGE: Final = Metric(
    "audit_dagster_heartbeat_age_seconds",
    Kind.GAUGE,
    ("daemon",),
    "How long ago each daemon of Dagster that is needed said that it lives.",
)
DAGSTER_QUEUED: Final = Metric(
    "audit_dagster_queued_runs", Kind.GAUGE, (), "Runs that wait in Dagster's queue."
)
DAGSTER_QUEUE_AGE: Final = Metric(
    "audit_dagster_queue_age_seconds",
    Kind.GAUGE,
    (),
    "How long the oldest run in Dagster's queue has waited; 0 when none waits.",
)
DAGSTER_FAILED_RUNS: Final = Metric(
    "audit_dagster_failed_runs",
    Kind.GAUGE,
    ("run_of",),
    "Runs of each job that failed within the last hour. A job that never failed has no series.",
)
DAGSTER_TICK_FAILED: Final = Metric(
    "audit_dagster_tick_failed",
    Kind.GAUGE,
    ("name",),
    "1 when the last tick of a sensor or schedule that is switched on failed, else 0.",
)
DAGSTER_STALE: Final = Metric(
    "audit_dagster_asset_stale",
    Kind.GAUGE,
    ("asset",),
    "1 when an asset has not come for longer than its freshness policy allows, else 0.",
)
