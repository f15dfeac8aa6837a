"""Row 14: a broker's disk is lost: it is formatted again as the same one, and copies all it had."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform_tests.failures.kafka_faults import IN_SYNC, wait_until_whole
from audit_platform_tests.failures.lab import Lab, Servers
from audit_platform_tests.failures.results import Trial

pytestmark = [pytest.mark.full_stack, pytest.mark.timeout(900)]

ALERT = "KafkaBrokerDown"


def test_row_14_a_broker_that_lost_its_disk_copies_all_from_the_others(
    servers: Servers, results: Path, lab: Lab
) -> None:
    trial = Trial(results, "14", "a broker's disk lost", ALERT, objective=300)
    wait_until_whole(servers)
    lab.steady()
    topic = f"{lab.made.servers['AUDIT_KAFKA_PREFIX']}{EVENTS_TOPIC}"
    folder = servers.place.folder("kafka-3")
    assert len(list(folder.glob(f"data/{topic}-*"))) == 2
    since = servers.now()
    trial.broken()
    servers.kill("kafka-3")
    servers.lose_data("kafka-3")
    assert list(folder.iterdir()) == []
    servers.wait_for_alert(ALERT, "firing", since)
    trial.fired()
    waited = lab.seconds_until_it_goes_on()
    trial.saw(f"ingest went on (2 s of events took {waited:.0f} s)")
    trial.ended()
    servers.start()
    servers.wait_for_metric(IN_SYNC)
    trial.recovered()
    assert len(list(folder.glob(f"data/{topic}-*/*.log"))) == 2
    servers.wait_for_alert(ALERT, "resolved", since)
    trial.cleared()
    lab.ended_well(trial)
