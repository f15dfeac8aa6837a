"""What an edge-gateway tells.

Belongs here: one value for each metric. Does not: the form (`form.py`), the list (`__init__.py`).
Source: design section 8 (names).
"""

from __future__ import annotations

from typing import Final

from audit_platform.metrics.form import Kind, Metric

EDGE_UPLINK_ANSWERS: Final = Metric(
    "audit_edge_uplink_answers_total",
    Kind.COUNTER,
    ("outcome",),
    "Attempts of the uplink: `acknowledged`, `set_aside`, or what failed (`later`, `denied`, "
    "`strange`, `too_large`, `unreadable`).",
)
EDGE_UPLINK_EVENTS: Final = Metric(
    "audit_edge_uplink_events_total",
    Kind.COUNTER,
    ("lane",),
    "Events that ingest acknowledged to this edge, by the way they took: `live` or `replay`.",
)
EDGE_CONNECTED: Final = Metric(
    "edge_connected",
    Kind.GAUGE,
    ("site",),
    "1 while the edge's uplink gets answers from ingest-gateway, else 0.",
)
EDGE_DEVICE_LAST_SEEN: Final = Metric(
    "device_last_seen",
    Kind.GAUGE,
    ("device",),
    "When an edge last heard of a device: seconds since 1970 by the edge's clock. At most 10,000 "
    "devices: those not heard of for longest.",
)
EDGE_EVENTS: Final = Metric(
    "audit_edge_events_total",
    Kind.COUNTER,
    ("outcome",),
    "Events that devices sent to this edge: `accepted`, `already_taken`, `conflict` (two events "
    "with one sequence number), `refused` (no event could be made of it).",
)
EDGE_LOST: Final = Metric(
    "audit_edge_lost_events_total",
    Kind.COUNTER,
    (),
    "Events that a full spool dropped, each declared by a signed `loss` event.",
)
EDGE_CLOCK_OFFSET: Final = Metric(
    "edge_clock_offset_seconds",
    Kind.GAUGE,
    (),
    "How far the platform's clock is ahead of the edge's; beyond 300 the edge stops stamping.",
)
EDGE_SPOOL_BYTES: Final = Metric(
    "audit_edge_spool_bytes", Kind.GAUGE, (), "Bytes that the edge's spool holds on its disk."
)
EDGE_SPOOL_HOURS: Final = Metric(
    "audit_edge_spool_hours", Kind.GAUGE, (), "Age of the oldest entry of the spool, in hours."
)
EDGE_SPOOL_OLDEST: Final = Metric(
    "audit_edge_spool_oldest_seconds",
    Kind.GAUGE,
    (),
    "When the oldest entry of the spool was written: seconds since 1970; 0 when it is empty.",
)
EDGE_SPOOL_SET_ASIDE: Final = Metric(
    "audit_edge_spool_set_aside_files",
    Kind.GAUGE,
    (),
    "Segments of the spool that could not be read, kept for people.",
)
EDGE_SPOOL_COMMITS: Final = Metric(
    "audit_edge_spool_commits",
    Kind.GAUGE,
    (),
    "Commits (one fsync each) of the spool since it was opened.",
)
EDGE_SPOOL_COMMITTED: Final = Metric(
    "audit_edge_spool_committed_entries",
    Kind.GAUGE,
    (),
    "Entries that those commits made durable; the ratio is how well requests share an fsync.",
)
EDGE_SPOOL_FSYNC: Final = Metric(
    "audit_edge_spool_fsync_seconds", Kind.GAUGE, (), "Time that those commits spent in fsync."
)
EDGE_REPLAY_PROGRESS: Final = Metric(
    "audit_edge_replay_progress_ratio",
    Kind.GAUGE,
    (),
    "How much of the backlog that the uplink found was sent since: 0 to 1; 1 when there is none.",
)
EDGE_BACKLOG: Final = Metric(
    "audit_edge_backlog_events", Kind.GAUGE, (), "Spooled events that were not sent yet."
)
EDGE_QUARANTINE_FILES: Final = Metric(
    "audit_edge_quarantine_files",
    Kind.GAUGE,
    (),
    "Files with bytes of devices that no event could be made of.",
)
EDGE_RESPONSES: Final = Metric(
    "audit_edge_responses_total",
    Kind.COUNTER,
    ("status", "slug"),
    "Answers of the edge to POST /v1/events by HTTP status; the slug of the problem, or empty.",
)
