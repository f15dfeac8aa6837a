"""What the services tell about themselves: metrics from one typed list, logs as JSON lines.

Add a metric to `METRICS` with its kind, labels and meaning (`docs/metrics.md` is made from the
list, and a test holds it equal). Not here: alert rules, HTTP, process tuning (`processes.py`).
Source: design section 8 (names); Prometheus text format 0.0.4.
"""

from __future__ import annotations

import json
import logging
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from threading import Lock
from typing import Any, Final, TextIO

import numpy as np
import numpy.typing as npt
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

#: Content type of `Telemetry.text`.
METRICS_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# ----------------------------------------------------------------------------------------- list


class Kind(StrEnum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `buckets` are the upper bounds of a histogram (without infinity)."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()


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
    "are not as stated, a line of another `tenant`, a `line` that does not decode.",
)
INDEXER_SKIPPED: Final = Metric(
    "audit_indexer_skipped_records_total",
    Kind.COUNTER,
    ("partition",),
    "Log records that retention deleted before they were indexed: run rebuild-hot.",
)
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

METRICS: Final[tuple[Metric, ...]] = (
    INGEST_ACCEPTED,
    INGEST_REFUSED,
    INGEST_RESPONSES,
    INGEST_BODY_BYTES,
    INGEST_CHECK_SECONDS,
    INGEST_FULL_CHECKS,
    INGEST_APPEND_SECONDS,
    INGEST_SKEW_SECONDS,
    INGEST_INFLIGHT_BODIES,
    INGEST_INFLIGHT_BYTES,
    INGEST_STALE_KEYS,
    ARCHIVE_ROWS,
    ARCHIVE_RANGES,
    ARCHIVE_OBJECT_BYTES,
    ARCHIVE_UNDECODABLE,
    ARCHIVE_STOPPED,
    LAG_RECORDS,
    LAG_EVENTS,
    LAG_SECONDS,
    QUERY_RESPONSES,
    QUERY_SECONDS,
    QUERY_RUNNING,
    QUERY_CANCELLED,
    QUERY_REFUSED,
    QUERY_STALE_KEYS,
    READS_RECORDED,
    READS_NOT_RECORDED,
    REFUSALS_SUPPRESSED,
    READS_RECORD_SECONDS,
    INDEXER_EVENTS,
    INDEXER_DEFENSE,
    INDEXER_SKIPPED,
    UNACCOUNTED_EVENTS,
    LOST_EVENTS,
    EDGE_CONNECTED,
    EDGE_DEVICE_LAST_SEEN,
    EDGE_EVENTS,
    EDGE_LOST,
    EDGE_CLOCK_OFFSET,
    EDGE_SPOOL_BYTES,
    EDGE_SPOOL_HOURS,
    EDGE_SPOOL_OLDEST,
    EDGE_SPOOL_SET_ASIDE,
    EDGE_SPOOL_COMMITS,
    EDGE_SPOOL_COMMITTED,
    EDGE_SPOOL_FSYNC,
    EDGE_REPLAY_PROGRESS,
    EDGE_BACKLOG,
    EDGE_QUARANTINE_FILES,
    EDGE_RESPONSES,
    EDGE_UPLINK_ANSWERS,
    EDGE_UPLINK_EVENTS,
)


def metrics_page() -> str:
    """`docs/metrics.md`: the table of all metrics as Markdown."""
    rows = [
        "# Metrics",
        "",
        "Each service shows those that it moves on `GET /metrics`, beside the usual `process_…`.",
        "",
        "| name | kind | labels | meaning |",
        "|---|---|---|---|",
    ]
    for m in METRICS:
        labels = ", ".join(f"`{label}`" for label in m.labels)
        rows.append(f"| `{m.name}` | {m.kind} | {labels} | {m.meaning} |")
    return "\n".join([*rows, "", "Made from `audit_platform/telemetry.py`.", ""])


# -------------------------------------------------------------------------------------- metrics


class _BatchHistogram(Collector):
    """A histogram that takes a whole batch of values at the price of one sort.

    Without labels it shows from the start; with labels, each series once it has a value.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._bounds = np.array(metric.buckets)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self._lock = Lock()
        if not metric.labels:
            self._add((), [0] * (len(metric.buckets) + 1), 0.0)

    def observe(self, labels: tuple[str, ...], values: npt.NDArray[np.floating[Any]]) -> None:
        ordered = np.sort(values)
        # Cumulative from the start: how many values are at or below each bound.
        below = np.searchsorted(ordered, self._bounds, side="right").tolist()
        with self._lock:
            self._add(labels, [*below, len(ordered)], float(ordered.sum()))

    def observe_one(self, labels: tuple[str, ...], value: float) -> None:
        first = bisect_left(self._metric.buckets, value)
        size = len(self._metric.buckets) + 1
        with self._lock:
            self._add(labels, [0] * first + [1] * (size - first), value)

    def _add(self, labels: tuple[str, ...], counts: list[int], total: float) -> None:
        before = self._counts.get(labels)
        self._counts[labels] = (
            counts if before is None else [a + b for a, b in zip(before, counts, strict=True)]
        )
        self._sums[labels] = self._sums.get(labels, 0.0) + total

    def collect(self) -> Iterator[HistogramMetricFamily]:
        bounds = [*(str(float(b)) for b in self._metric.buckets), "+Inf"]
        family = HistogramMetricFamily(
            self._metric.name, self._metric.meaning, labels=self._metric.labels
        )
        with self._lock:
            for labels, counts in self._counts.items():
                buckets = list(zip(bounds, map(float, counts), strict=True))
                family.add_metric(labels, buckets, self._sums[labels])
        yield family


class Telemetry:
    """The metrics of one process. Safe to use from several threads.

    Takes the metrics that the process moves; each shows 0 from the start where it has no labels.
    A metric that was not named raises `KeyError`: a silent one would be worse.
    """

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, _BatchHistogram] = {}
        for m in metrics:
            if m.kind is Kind.COUNTER:
                self._counters[m.name] = Counter(
                    m.name, m.meaning, m.labels, registry=self._registry
                )
            elif m.kind is Kind.GAUGE:
                self._gauges[m.name] = Gauge(m.name, m.meaning, m.labels, registry=self._registry)
            else:
                self._histograms[m.name] = _BatchHistogram(m)
                self._registry.register(self._histograms[m.name])

    def count(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        counter = self._counters[metric.name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge."""
        gauge = self._gauges[metric.name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def clear(self, metric: Metric) -> None:
        """Forget all values of a gauge that has labels: those that are not set again are gone."""
        self._gauges[metric.name].clear()

    def observe(self, metric: Metric, values: npt.NDArray[np.floating[Any]], **labels: str) -> None:
        """Put a batch of values into a histogram."""
        self._histograms[metric.name].observe(_in_order(metric, labels), values)

    def observe_one(self, metric: Metric, value: float, **labels: str) -> None:
        """Put one value into a histogram."""
        self._histograms[metric.name].observe_one(_in_order(metric, labels), value)

    def text(self) -> bytes:
        """All metrics in Prometheus text format; send it as `METRICS_CONTENT_TYPE`."""
        return generate_latest(self._registry)


def _in_order(metric: Metric, labels: dict[str, str]) -> tuple[str, ...]:
    if labels.keys() != set(metric.labels):
        raise ValueError(f"{metric.name} has the labels {metric.labels}, not {sorted(labels)}")
    return tuple(labels[name] for name in metric.labels)


# ----------------------------------------------------------------------------------------- logs

_STANDARD_ATTRIBUTES: Final = frozenset(
    logging.LogRecord("", 0, "", 0, "", None, None).__dict__
) | {"message", "asctime", "taskName"}


class _JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        extra = record.__dict__.items()
        line |= {key: value for key, value in extra if key not in _STANDARD_ATTRIBUTES}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_as_json(service: str, stream: TextIO = sys.stderr) -> None:
    """Send every log record of this process as one JSON line to `stream`, from level INFO up.

    Fields: `time` (real time, UTC), `level`, `service`, `logger`, `message`, what the call gave as
    `extra`, and `exception` with the traceback. Replaces earlier handlers of the root logger.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonFormatter(service))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
