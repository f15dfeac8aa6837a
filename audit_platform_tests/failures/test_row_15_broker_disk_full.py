"""Row 15: a broker's disk is full: it stops, the others go on, it comes back once there is room."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform.stack import state
from audit_platform_tests.failures.installation import wait_for
from audit_platform_tests.failures.kafka_faults import IN_SYNC, wait_until_whole
from audit_platform_tests.failures.lab import ALERT_SECONDS, LOOK_SECONDS, Lab, Servers
from audit_platform_tests.failures.results import Trial

pytestmark = [pytest.mark.full_stack, pytest.mark.timeout(900)]

ALERT = "KafkaBrokerDown"

#: What Kafka says of it: why, and what it does when its only log folder has failed.
WORDS = ("No space left on device", "Shutdown broker because all log dirs")

#: It says much more on its way out.
LOG_BYTES = 1 << 18


def test_row_15_a_broker_with_a_full_disk_stops_alone_and_comes_back_with_room(
    servers: Servers, results: Path, lab: Lab
) -> None:
    trial = Trial(results, "15", "a broker's disk full", ALERT, objective=300)
    wait_until_whole(servers)
    lab.steady()
    since = servers.now()
    trial.broken()
    servers.fill("kafka-3")
    wait_for(
        "the broker to give up",
        lambda: servers.running("kafka-3")["kafka-3"] == "dead",
        ALERT_SECONDS,
        every=LOOK_SECONDS,
    )
    said = state.tail(servers.place.home, "kafka-3", LOG_BYTES)
    assert all(words in said for words in WORDS), said
    waited = lab.seconds_until_it_goes_on()
    trial.saw(f"the broker ended; ingest went on (2 s of events took {waited:.0f} s)")
    servers.wait_for_alert(ALERT, "firing", since)
    trial.fired()
    trial.ended()
    servers.empty("kafka-3")
    servers.start()
    servers.wait_for_metric(IN_SYNC)
    trial.recovered()
    servers.wait_for_alert(ALERT, "resolved", since)
    trial.cleared()
    lab.ended_well(trial)
