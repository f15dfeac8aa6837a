"""What no server and no service says of itself: the exporter's findings.

Belongs here: one value for each metric. Does not: the form (`form.py`), the list (`__init__.py`).
Source: design section 8 (names).
"""

from __future__ import annotations

from typing import Final

from audit_platform.metrics.form import Kind, Metric

UNACCOUNTED_EVENTS: Final = Metric(
    "audit_unaccounted_events",
    Kind.GAUGE,
    (),
    "Events that the log's headers count and no object, range or counted duplicate explains.",
)
LOST_EVENTS: Final = Metric(
    "audit_lost_events",
    Kind.GAUGE,
    (),
    "Events known to be lost. A figure of its own, never subtracted from the unaccounted.",
)
PROBE_OK: Final = Metric(
    "audit_probe_ok",
    Kind.GAUGE,
    ("probe",),
    "1 while the exporter's probe gets what it asks for, 0 since it did not or takes too long.",
)
PROBE_ERRORS: Final = Metric(
    "audit_probe_errors_total",
    Kind.COUNTER,
    ("probe",),
    "Times that a probe failed or took too long. What it found before stays shown.",
)
PROBE_SECONDS: Final = Metric(
    "audit_probe_seconds", Kind.GAUGE, ("probe",), "How long the probe took last."
)
PROBE_SUCCESS: Final = Metric(
    "audit_probe_success_seconds",
    Kind.GAUGE,
    ("probe",),
    "When the probe last got what it asks for (at first: when the exporter began): seconds since "
    "1970, real time.",
)
PROBE_PATIENCE: Final = Metric(
    "audit_probe_patience_seconds",
    Kind.GAUGE,
    ("probe",),
    "What the probe finds is out of date when it is older than this.",
)
LOG_WRITE_TROUBLE: Final = Metric(
    "audit_log_write_trouble",
    Kind.GAUGE,
    ("error",),
    "1 while the log refuses the exporter's own record, by the log's name of the reason; then 0.",
)
HOT_STATUS: Final = Metric(
    "opensearch_cluster_status",
    Kind.GAUGE,
    ("status",),
    "1 for what the search cluster is now, else 0: `green`, `yellow`, `red`, `unreachable`.",
)
HOT_NODES: Final = Metric(
    "opensearch_cluster_nodes", Kind.GAUGE, (), "Nodes of the search cluster that hold shards."
)
HOT_BLOCKED: Final = Metric(
    "opensearch_blocked_indexes",
    Kind.GAUGE,
    (),
    "Indexes that take no documents because of a block, as of the flood stage of a full disk.",
)
HOT_DISK_FREE: Final = Metric(
    "opensearch_disk_free_ratio",
    Kind.GAUGE,
    ("node",),
    "Free part of the disk of each node of the search cluster, as it was told last: 0 to 1.",
)
OBJECT_LOCK_BROKEN: Final = Metric(
    "audit_object_lock_broken",
    Kind.GAUGE,
    (),
    "1 when the exporter's locked object could be deleted, or its lock did not read back.",
)
OPEN_INCIDENTS: Final = Metric(
    "audit_open_incidents",
    Kind.GAUGE,
    ("tenant",),
    "Incidents of sealed days that nobody has ended. A tenant that never had one has no series.",
)
