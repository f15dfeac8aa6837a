"""What query-api tells.

Belongs here: one value for each metric. Does not: the form (`form.py`), the list (`__init__.py`).
Source: design section 8 (names).
"""

from __future__ import annotations

from typing import Final

from audit_platform.metrics.form import Kind, Metric

QUERY_RESPONSES: Final = Metric(
    "audit_query_responses_total",
    Kind.COUNTER,
    ("route", "status", "slug"),
    "Answers of query-api by route and HTTP status; the slug of the problem, empty without one.",
)
QUERY_SECONDS: Final = Metric(
    "audit_query_seconds",
    Kind.HISTOGRAM,
    ("route", "tier"),
    "Time of one query, without its record; `tier` is where it was answered from.",
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
QUERY_RUNNING: Final = Metric(
    "audit_query_running",
    Kind.GAUGE,
    (),
    "Queries whose threads run now, cancelled ones that have not ended included.",
)
QUERY_CANCELLED: Final = Metric(
    "audit_query_cancelled_total",
    Kind.COUNTER,
    ("reason",),
    "Queries stopped before their end: over their `budget`, or because of `client_gone`.",
)
QUERY_REFUSED: Final = Metric(
    "audit_query_refused_total",
    Kind.COUNTER,
    ("reason",),
    "Queries not begun: `cooling_down`, `too_many_queries`, `overloaded`.",
)
QUERY_STALE_KEYS: Final = Metric(
    "audit_query_stale_credentials_total",
    Kind.COUNTER,
    (),
    "Requests let in by a last-known-good credential while the metadata store did not answer.",
)
BREAK_GLASS_USED: Final = Metric(
    "audit_break_glass_requests_total",
    Kind.COUNTER,
    (),
    "Requests let in by a break-glass key. Any is an incident that somebody must know of.",
)
READS_RECORDED: Final = Metric(
    "audit_reads_recorded_total",
    Kind.COUNTER,
    ("event_type",),
    "Reads and refusals that are durable as events of the tenant `platform`.",
)
READS_NOT_RECORDED: Final = Metric(
    "audit_reads_not_recorded_total",
    Kind.COUNTER,
    ("event_type",),
    "Reads (not answered, therefore) and refusals that could not be made durable.",
)
REFUSALS_SUPPRESSED: Final = Metric(
    "audit_refusals_suppressed_total",
    Kind.COUNTER,
    (),
    "Refusals without an event of their own, because one caller had too many in a minute.",
)
READS_RECORD_SECONDS: Final = Metric(
    "audit_reads_record_seconds",
    Kind.HISTOGRAM,
    (),
    "Time that an answer waited until its read was durable.",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
