"""What ingest-gateway tells.

Belongs here: one value for each metric. Does not: the form (`form.py`), the list (`__init__.py`).
Source: design section 8 (names).
"""

from __future__ import annotations

from typing import Final

from audit_platform.metrics.form import Kind, Metric

INGEST_ACCEPTED: Final = Metric(
    "audit_ingest_accepted_events_total",
    Kind.COUNTER,
    (),
    "Events that the log made durable and a 202 acknowledged.",
)
INGEST_REFUSED: Final = Metric(
    "ingestion_validation_failures_total",
    Kind.COUNTER,
    ("slug",),
    "Events refused into the dead-letter topic, by reason.",
)
INGEST_RESPONSES: Final = Metric(
    "audit_ingest_responses_total",
    Kind.COUNTER,
    ("status", "slug"),
    "Answers to POST /v1/events by HTTP status; the slug of the problem, empty for 202.",
)
INGEST_BODY_BYTES: Final = Metric(
    "audit_ingest_body_bytes_total",
    Kind.COUNTER,
    ("form",),
    "Bytes of acknowledged bodies: `wire` as sent, `plain` after decompression.",
)
INGEST_CHECK_SECONDS: Final = Metric(
    "audit_ingest_check_seconds",
    Kind.HISTOGRAM,
    (),
    "Time to decompress, check and group one body.",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
INGEST_FULL_CHECKS: Final = Metric(
    "audit_ingest_full_checks_total",
    Kind.COUNTER,
    (),
    "Payloads judged by their full JSON Schema, because no typed decoder was sure of them.",
)
INGEST_APPEND_SECONDS: Final = Metric(
    "audit_ingest_append_seconds",
    Kind.HISTOGRAM,
    (),
    "Time until the log made one body's records durable.",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
INGEST_SKEW_SECONDS: Final = Metric(
    "audit_ingest_skew_seconds",
    Kind.HISTOGRAM,
    (),
    "Device's eventTime minus ingestionTime of accepted events. Negative: the event is late.",
    (-259_200, -86_400, -3600, -600, -60, -10, -1, 0, 1, 10, 60, 600, 3600, 86_400),
)
INGEST_INFLIGHT_BODIES: Final = Metric(
    "audit_ingest_inflight_bodies",
    Kind.GAUGE,
    (),
    "Bodies that are being received or handled now.",
)
INGEST_INFLIGHT_BYTES: Final = Metric(
    "audit_ingest_inflight_bytes",
    Kind.GAUGE,
    (),
    "Bytes of bodies that are held in memory now, as received.",
)
INGEST_STALE_KEYS: Final = Metric(
    "audit_ingest_stale_credentials_total",
    Kind.COUNTER,
    (),
    "Bodies let in by a last-known-good credential while the metadata store did not answer.",
)
INGEST_LOCAL_LIMITS: Final = Metric(
    "audit_ingest_local_limits",
    Kind.GAUGE,
    (),
    "1 while this gateway goes by its own, stricter rate limits: the shared ones do not answer.",
)
