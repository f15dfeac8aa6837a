"""Consumers of the log in failure tests: who holds which partitions, and whether any is behind.

Belongs here: what several rows share. Does not: any test.
"""

from __future__ import annotations

from typing import Final

from audit_platform.record.layout import ARCHIVE_GROUP, EVENTS_TOPIC, INDEXER_GROUP
from audit_platform_tests.failures.lab import Lab, Servers

GROUP_OF: Final = {"archive-writer": ARCHIVE_GROUP, "search-indexer": INDEXER_GROUP}

#: No group is further behind than this when all goes on, as the exporter sees it.
LEVEL_SECONDS: Final = 10


def held(lab: Lab, instance: str) -> set[str]:
    """Partitions of events that an instance tells a lag of."""
    service = instance.removesuffix("-2")
    start = f'kafka_consumergroup_lag{{group="{GROUP_OF[service]}"'
    lines = [line for line in lab.metrics(instance) if line.startswith(start)]
    return {p for p in ("0", "1") for line in lines if _is_of(line, p)}


def _is_of(line: str, partition: str) -> bool:
    return f'topic="{EVENTS_TOPIC}"' in line and f'partition="{partition}"' in line


def is_level(servers: Servers, *groups: str) -> bool:
    """Whether none of these groups is behind."""
    names = "|".join(groups)
    selected = f'kafka_consumergroup_lag_seconds{{job="exporter", group=~"{names}"}}'
    worst = servers.metric(f"max({selected})")
    return worst is not None and worst < LEVEL_SECONDS
