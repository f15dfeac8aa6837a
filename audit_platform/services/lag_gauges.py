"""How far a consumer group is behind, partition by partition, as metrics tell it.

Belongs here: the three figures of a place, forgetting them. Does not: finding them out
(`archive_partition.py`, `search_indexer_partition.py`, `exporter_lag.py`).
"""

from __future__ import annotations

from typing import Final

from audit_platform.metrics.consumers import LAG_EVENTS, LAG_RECORDS, LAG_SECONDS
from audit_platform.telemetry import Telemetry

LAG_METRICS: Final = (LAG_RECORDS, LAG_EVENTS, LAG_SECONDS)


def tell_lag(
    telemetry: Telemetry, group: str, place: tuple[str, int], lag: tuple[float, float, float]
) -> None:
    """Set what a group lacks of a (topic, partition): log records, events, seconds."""
    labels = {"group": group, "topic": place[0], "partition": str(place[1])}
    for metric, value in zip(LAG_METRICS, lag, strict=True):
        telemetry.set(metric, value, **labels)


def forget_lag(telemetry: Telemetry) -> None:
    """A partition is the next owner's to tell: our last word of it would stand for ever."""
    for metric in LAG_METRICS:
        telemetry.clear(metric)
