"""Row 1: one Kafka broker of three is killed: nothing is lost, the alert fires and clears."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from audit_platform_tests.failures.kafka_faults import IN_SYNC, wait_until_whole
from audit_platform_tests.failures.lab import Lab, Servers
from audit_platform_tests.failures.results import Trial

pytestmark = [pytest.mark.full_stack, pytest.mark.timeout(900)]

ALERT = "KafkaBrokerDown"

#: The mission's own figure: fires and clears within three minutes.
WITHIN_SECONDS = 180


def test_row_01_a_killed_broker_costs_nothing_and_its_alert_fires_and_clears(
    servers: Servers, results: Path, lab: Lab
) -> None:
    trial = Trial(results, "1", "one broker of three killed", ALERT, objective=300)
    wait_until_whole(servers)
    lab.steady()
    since, begun = servers.now(), time.monotonic()
    trial.broken()
    servers.kill("kafka-2")
    assert servers.running()["kafka-2"] != "up"
    waited = lab.seconds_until_it_goes_on()
    trial.saw(f"ingest went on, after {waited:.0f} s at most")
    servers.wait_for_alert(ALERT, "firing", since)
    trial.fired()
    trial.ended()
    servers.start()
    servers.wait_for_metric(IN_SYNC)
    trial.recovered()
    servers.wait_for_alert(ALERT, "resolved", since)
    trial.cleared()
    assert time.monotonic() - begun < WITHIN_SECONDS
    lab.ended_well(trial)
