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
    "Log records between the end of the last range record and the end of the partition.",
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
    "Age of the oldest record that no range record covers; 0 at the end of the partition.",
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

METRICS: Final[tuple[Metric, ...]] = (
    INGEST_ACCEPTED,
    INGEST_REFUSED,
    INGEST_RESPONSES,
    INGEST_BODY_BYTES,
    INGEST_CHECK_SECONDS,
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
    UNACCOUNTED_EVENTS,
    LOST_EVENTS,
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
    """A histogram that takes a whole batch of values at the price of one sort."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._bounds = np.array(metric.buckets)
        self._counts = [0] * (len(metric.buckets) + 1)
        self._sum = 0.0
        self._lock = Lock()

    def observe(self, values: npt.NDArray[np.floating[Any]]) -> None:
        ordered = np.sort(values)
        # Cumulative from the start: how many values are at or below each bound.
        below = np.searchsorted(ordered, self._bounds, side="right").tolist()
        with self._lock:
            for n, count in enumerate([*below, len(ordered)]):
                self._counts[n] += count
            self._sum += float(ordered.sum())

    def observe_one(self, value: float) -> None:
        first = bisect_left(self._metric.buckets, value)
        with self._lock:
            for n in range(first, len(self._counts)):
                self._counts[n] += 1
            self._sum += value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        bounds = [*(str(float(b)) for b in self._metric.buckets), "+Inf"]
        with self._lock:
            buckets = list(zip(bounds, map(float, self._counts), strict=True))
            total = self._sum
        family = HistogramMetricFamily(self._metric.name, self._metric.meaning)
        family.add_metric([], buckets, total)
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

    def observe(self, metric: Metric, values: npt.NDArray[np.floating[Any]]) -> None:
        """Put a batch of values into a histogram."""
        self._histograms[metric.name].observe(values)

    def observe_one(self, metric: Metric, value: float) -> None:
        """Put one value into a histogram."""
        self._histograms[metric.name].observe_one(value)

    def text(self) -> bytes:
        """All metrics in Prometheus text format; send it as `METRICS_CONTENT_TYPE`."""
        return generate_latest(self._registry)


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
