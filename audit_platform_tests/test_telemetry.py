"""Metrics by one list, the page that is made of it, and logs that a machine can read."""

from __future__ import annotations

import importlib
import io
import json
import logging
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from audit_platform import metrics
from audit_platform.metrics import METRICS, metrics_page
from audit_platform.metrics.clients import LOG_ERRORS
from audit_platform.metrics.consumers import LAG_RECORDS
from audit_platform.metrics.form import Kind, Metric
from audit_platform.metrics.ingest import (
    INGEST_ACCEPTED,
    INGEST_APPEND_SECONDS,
    INGEST_INFLIGHT_BODIES,
    INGEST_REFUSED,
    INGEST_SKEW_SECONDS,
)
from audit_platform.metrics.query import QUERY_SECONDS
from audit_platform.telemetry import Telemetry, log_as_json

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


def samples(shown: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, by name and labels, as Prometheus's own parser reads the text."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(shown.text().decode())
        for sample in family.samples
    }


def test_the_page_of_the_metrics_is_made_from_the_list() -> None:
    assert PAGE.read_text() == metrics_page()


def test_the_list_holds_every_metric_of_every_module_once() -> None:
    declared = [
        value
        for module in pkgutil.iter_modules(metrics.__path__)
        for value in vars(importlib.import_module(f"{metrics.__name__}.{module.name}")).values()
        if isinstance(value, Metric)
    ]
    assert sorted(m.name for m in declared) == sorted(m.name for m in METRICS)
    assert len({m.name for m in METRICS}) == len(METRICS)


#: Beginnings of the names that the mission gives.
MISSION_NAMES = (
    "consumer_envelope_defense_failures_total",
    "device_last_seen",
    "edge_clock_offset_seconds",
    "edge_connected",
    "ingestion_",
    "kafka_consumergroup_lag",
    "opensearch_",
)


def test_names_say_their_kind_and_unit() -> None:
    for m in METRICS:
        assert m.name.endswith("_total") == (m.kind is Kind.COUNTER)
        assert m.name.startswith(("audit_", *MISSION_NAMES))
        assert (m.kind is Kind.HISTOGRAM) == bool(m.buckets)
        assert list(m.buckets) == sorted(set(m.buckets))
        assert m.meaning.endswith(".")


def test_all_metrics_can_be_shown_together_and_prometheus_reads_them() -> None:
    shown = Telemetry(METRICS)
    shown.count(INGEST_ACCEPTED, 3)
    shown.count(INGEST_REFUSED, slug="bad_json")
    shown.set(LAG_RECORDS, 7, group="g", topic="t", partition="1")
    read = samples(shown)
    assert read["audit_ingest_accepted_events_total", ()] == 3
    assert read["ingestion_validation_failures_total", (("slug", "bad_json"),)] == 1
    labels = (("group", "g"), ("partition", "1"), ("topic", "t"))
    assert read["kafka_consumergroup_lag", labels] == 7
    assert read["process_resident_memory_bytes", ()] > 0


def test_a_metric_without_labels_shows_zero_from_the_start() -> None:
    read = samples(Telemetry([INGEST_ACCEPTED, INGEST_INFLIGHT_BODIES]))
    assert read["audit_ingest_accepted_events_total", ()] == 0
    assert read["audit_ingest_inflight_bodies", ()] == 0


def test_a_metric_that_was_not_named_is_an_error() -> None:
    shown = Telemetry([INGEST_ACCEPTED])
    with pytest.raises(KeyError):
        shown.count(INGEST_REFUSED, slug="x")
    with pytest.raises(KeyError):
        shown.set(INGEST_INFLIGHT_BODIES, 1)
    with pytest.raises(KeyError):
        shown.observe(INGEST_SKEW_SECONDS, np.array([1.0]))
    with pytest.raises(KeyError):
        shown.observe_one(INGEST_SKEW_SECONDS, 1.0)


@given(st.lists(st.lists(st.floats(-1e6, 1e6)), max_size=4))
def test_a_histogram_counts_batches_as_if_each_value_came_alone(batches: list[list[float]]) -> None:
    shown, alone = Telemetry([INGEST_SKEW_SECONDS]), Telemetry([INGEST_SKEW_SECONDS])
    for batch in batches:
        shown.observe(INGEST_SKEW_SECONDS, np.array(batch))
        alone.observe_one(INGEST_SKEW_SECONDS, sum(batch))
    values = [value for batch in batches for value in batch]
    for read, wanted in ((samples(shown), values), (samples(alone), list(map(sum, batches)))):
        for bound in INGEST_SKEW_SECONDS.buckets:
            label = (("le", str(float(bound))),)
            at_or_below = sum(value <= bound for value in wanted)
            assert read["audit_ingest_skew_seconds_bucket", label] == at_or_below
        assert read["audit_ingest_skew_seconds_bucket", (("le", "+Inf"),)] == len(wanted)


def test_a_histogram_with_labels_has_one_series_for_each_and_none_before() -> None:
    shown = Telemetry([QUERY_SECONDS])
    assert not [name for name, _ in samples(shown) if name.startswith(QUERY_SECONDS.name)]
    shown.observe_one(QUERY_SECONDS, 0.3, route="a", tier="hot")
    shown.observe(QUERY_SECONDS, np.array([0.001, 99.0]), route="a", tier="hot")
    shown.observe_one(QUERY_SECONDS, 0.3, route="a", tier="cold")
    read = samples(shown)
    hot, cold = (("route", "a"), ("tier", "hot")), (("route", "a"), ("tier", "cold"))
    assert read[f"{QUERY_SECONDS.name}_count", hot] == 3
    assert read[f"{QUERY_SECONDS.name}_count", cold] == 1
    assert read[f"{QUERY_SECONDS.name}_sum", hot] == pytest.approx(99.301)
    assert read[f"{QUERY_SECONDS.name}_bucket", (("le", "0.25"), *hot)] == 1
    assert read[f"{QUERY_SECONDS.name}_bucket", (("le", "0.5"), *hot)] == 2
    assert read[f"{QUERY_SECONDS.name}_bucket", (("le", "+Inf"), *hot)] == 3
    with pytest.raises(ValueError, match="labels"):
        shown.observe_one(QUERY_SECONDS, 0.3, route="a")


def test_a_followed_counter_shows_what_its_reader_says_at_each_scrape() -> None:
    shown = Telemetry([])
    counted: dict[str, float] = {}
    shown.follow(LOG_ERRORS, lambda: counted)
    assert not [name for name, _ in samples(shown) if name.startswith(LOG_ERRORS.name)]
    counted["_AUTHENTICATION"] = 3
    assert samples(shown)[LOG_ERRORS.name, (("error", "_AUTHENTICATION"),)] == 3
    counted["_AUTHENTICATION"] = 4
    assert samples(shown)[LOG_ERRORS.name, (("error", "_AUTHENTICATION"),)] == 4


def test_a_histogram_of_durations_has_sum_and_count() -> None:
    shown = Telemetry([INGEST_APPEND_SECONDS])
    shown.observe(INGEST_APPEND_SECONDS, np.array([0.001, 0.5]))
    shown.observe_one(INGEST_APPEND_SECONDS, 100)
    read = samples(shown)
    assert read["audit_ingest_append_seconds_count", ()] == 3
    assert read["audit_ingest_append_seconds_sum", ()] == pytest.approx(100.501)


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.usefixtures("root_logger")
def test_each_log_record_is_one_json_line_with_what_was_given() -> None:
    stream = io.StringIO()
    log_as_json("ingest-gateway", stream)
    logger = logging.getLogger("audit_platform.somewhere")
    logger.info("took %d\nevents", 3, extra={"batch_id": "ab", "odd": {1}})
    logger.debug("not shown")
    try:
        int("wrong")
    except ValueError:
        logger.exception("failed")
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "info",
        "service": "ingest-gateway",
        "logger": "audit_platform.somewhere",
        "message": "took 3\nevents",
        "batch_id": "ab",
        "odd": "{1}",
    }
    assert second["level"] == "error"
    assert "ValueError: invalid literal" in second["exception"]
