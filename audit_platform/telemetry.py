"""What the services tell about themselves: metrics of one process, logs as JSON lines.

Belongs here: moving and showing metrics, the form of a log line. Does not: the metrics
(`metrics/`), alert rules, HTTP, process tuning (`processes.py`).
Source: design section 8 (names); Prometheus text format 0.0.4.
"""

from __future__ import annotations

import json
import logging
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
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
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from audit_platform.metrics.form import Kind, Metric

#: Content type of `Telemetry.text`.
METRICS_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

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


class _ReadCounter(Collector):
    """A counter with one label whose values somebody else counts; read at each scrape."""

    def __init__(self, metric: Metric, read: Callable[[], Mapping[str, float]]) -> None:
        self._metric = metric
        self._read = read

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            self._metric.name, self._metric.meaning, labels=self._metric.labels
        )
        for label, value in self._read().items():
            family.add_metric([label], value)
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

    def follow(self, metric: Metric, read: Callable[[], Mapping[str, float]]) -> None:
        """Show a counter with one label as `read` gives it at each scrape: label -> value.

        It is none of the metrics that the process was made with. `read` is called from any thread.
        """
        self._registry.register(_ReadCounter(metric, read))

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
