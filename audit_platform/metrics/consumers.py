"""What the consumers of the log tell: archive-writer and search-indexer.

Belongs here: one value for each metric. Does not: the form (`form.py`), the list (`__init__.py`).
Source: design section 8 (names).
"""

from __future__ import annotations

from typing import Final

from audit_platform.metrics.form import Kind, Metric

ARCHIVE_ROWS: Final = Metric(
    "audit_archive_rows_total",
    Kind.COUNTER,
    ("topic",),
    "Rows in objects that a range record of this process names.",
)
ARCHIVE_RANGES: Final = Metric(
    "audit_archive_ranges_total",
    Kind.COUNTER,
    ("topic", "outcome"),
    "Ranges finished: `claimed` by this process, or `adopted` from the one that was first.",
)
ARCHIVE_OBJECT_BYTES: Final = Metric(
    "audit_archive_object_bytes_total",
    Kind.COUNTER,
    ("topic",),
    "Bytes of the objects stored for ranges.",
)
ARCHIVE_UNDECODABLE: Final = Metric(
    "audit_archive_undecodable_total",
    Kind.COUNTER,
    ("topic",),
    "Log records or lines that were archived as raw bytes because they did not decode.",
)
ARCHIVE_STOPPED: Final = Metric(
    "audit_archive_stopped_partitions",
    Kind.GAUGE,
    ("topic",),
    "Partitions that stand still because the log is not the one that was recorded.",
)
ARCHIVE_WAITING: Final = Metric(
    "audit_archive_waiting",
    Kind.GAUGE,
    ("reason",),
    "1 while archive-writer stands still because the `store` or the `log` does not do its part.",
)
GENERATION_BROKEN: Final = Metric(
    "audit_log_generation_broken",
    Kind.GAUGE,
    ("topic", "partition", "reason"),
    "1 for a partition whose log is not the one that its log generation means: `topic` or "
    "`partitions` are others, `digest` of a record differs, the `tail` is lost, `retention` took "
    "records that were not archived, the generation is `closed`, or a range `record` is bad.",
)
LAG_RECORDS: Final = Metric(
    "kafka_consumergroup_lag",
    Kind.GAUGE,
    ("group", "topic", "partition"),
    "Log records of a partition that the group has not taken yet: no range record covers them, or "
    "they are not in HOT.",
)
LAG_EVENTS: Final = Metric(
    "kafka_consumergroup_lag_events",
    Kind.GAUGE,
    ("group", "topic", "partition"),
    "The same in events (a record holds up to 500).",
)
LAG_SECONDS: Final = Metric(
    "kafka_consumergroup_lag_seconds",
    Kind.GAUGE,
    ("group", "topic", "partition"),
    "Age of the oldest log record that the group has not taken; 0 at the end of the partition.",
)
INDEXER_EVENTS: Final = Metric(
    "audit_indexer_events_total",
    Kind.COUNTER,
    ("outcome",),
    "Events from the log: `new` in HOT, or `known` there already.",
)
INDEXER_DEFENSE: Final = Metric(
    "consumer_envelope_defense_failures_total",
    Kind.COUNTER,
    ("reason",),
    "What the log holds and is no event, so not indexed: a whole `record` whose headers or lines "
    "are not as stated, a line of another `tenant`, a `line` that does not decode; or an event "
    "that the search index `refused` for good.",
)
INDEXER_SKIPPED: Final = Metric(
    "audit_indexer_skipped_records_total",
    Kind.COUNTER,
    ("partition",),
    "Log records that retention deleted before they were indexed: run rebuild-hot.",
)
