"""What the exporter tells of Dagster: heartbeats, queue, failures, ticks, freshness.

Belongs here: how one answer becomes metrics. Does not: asking (`adapters/dagster/`), when
(`exporter_probe.py`), alerts (`deploy/stack/rules/dagster.yml`).
Source: issue "Dagster's own health as metrics and alerts".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from audit_platform.metrics.dagster import (
    DAGSTER_FAILED_RUNS,
    DAGSTER_HEARTBEAT_AGE,
    DAGSTER_QUEUE_AGE,
    DAGSTER_QUEUED,
    DAGSTER_STALE,
    DAGSTER_TICK_FAILED,
)
from audit_platform.metrics.form import Metric
from audit_platform.ports import DagsterState
from audit_platform.telemetry import Telemetry


class DagsterHealth:
    """Dagster's state as metrics. What is not told any more (a job without failures) becomes 0."""

    def __init__(self, ask: Callable[[], DagsterState], telemetry: Telemetry) -> None:
        self._ask = ask
        self._telemetry = telemetry
        self._shown: dict[str, set[str]] = {}

    def tell(self) -> None:
        """Raises what `ask` raises; what was told before stays then."""
        found = self._ask()
        self._telemetry.set(DAGSTER_QUEUED, found.queued)
        self._telemetry.set(DAGSTER_QUEUE_AGE, found.queue_age_seconds)
        self._each(DAGSTER_HEARTBEAT_AGE, found.heartbeat_ages)
        self._each(DAGSTER_FAILED_RUNS, found.failed)
        self._each(DAGSTER_TICK_FAILED, found.ticks_failed)
        self._each(DAGSTER_STALE, found.stale)

    def _each(self, metric: Metric, values: Mapping[str, float]) -> None:
        (label,) = metric.labels
        shown = self._shown.setdefault(metric.name, set())
        shown.update(values)
        for name in shown:
            self._telemetry.set(metric, values.get(name, 0), **{label: name})
