"""Row 2, where the document and the machine differ: with two controllers gone producing goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform_tests.failures.kafka_faults import wait_until_whole
from audit_platform_tests.failures.lab import Servers, under_load
from audit_platform_tests.failures.results import Trial

pytestmark = [pytest.mark.full_stack, pytest.mark.timeout(900)]

#: The mission's objective for a cluster of Kafka.
CLUSTER_SECONDS = 1800


def test_row_02_with_two_controllers_gone_events_go_on_and_the_alert_tells(
    servers: Servers, results: Path, tmp_path: Path
) -> None:
    alert = "KafkaControllerQuorumUnavailable"
    trial = Trial(results, "2", "two controllers of three killed", alert, objective=CLUSTER_SECONDS)
    with under_load(servers, tmp_path, "minio-1") as lab:
        wait_until_whole(servers)
        lab.steady()
        since = servers.now()
        trial.broken()
        for name in ("kafka-controller-1", "kafka-controller-2"):
            servers.kill(name)
        states = servers.running()
        assert {states[f"kafka-controller-{n}"] for n in (1, 2)} == {"dead"}
        servers.wait_for_alert(alert, "firing", since)
        trial.fired()
        waited = lab.seconds_until_it_goes_on()
        trial.saw(f"ingest went on all the time (2 s of events took {waited:.0f} s)")
        trial.ended()
        servers.start()
        servers.wait_for_metric("sum(kafka_controller_kafkacontroller_activecontrollercount) == 1")
        trial.recovered()
        servers.wait_for_alert(alert, "resolved", since)
        trial.cleared()
        lab.steady()
        trial.judged(lab.finish())
