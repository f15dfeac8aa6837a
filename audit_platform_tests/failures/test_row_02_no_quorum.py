"""Row 2: two brokers of three are gone: nothing is acknowledged, the edge spools, all arrives.

And where the document and the machine differ: with two controllers gone producing goes on.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform_tests.failures.installation import wait_for
from audit_platform_tests.failures.kafka_faults import IN_SYNC, wait_until_whole
from audit_platform_tests.failures.lab import ALERT_SECONDS, LOOK_SECONDS, Lab, Servers
from audit_platform_tests.failures.results import Trial

pytestmark = [pytest.mark.full_stack, pytest.mark.timeout(900)]

#: The mission's objective for a cluster of Kafka.
CLUSTER_SECONDS = 1800


def test_row_02_with_two_brokers_gone_ingest_refuses_the_edge_spools_and_all_arrives(
    servers: Servers, results: Path, lab: Lab
) -> None:
    alert = "KafkaUnderMinIsr"
    fault = "two brokers of three: one frozen, one killed"
    trial = Trial(results, "2", fault, alert, objective=CLUSTER_SECONDS)
    wait_until_whole(servers)
    lab.steady()
    since = servers.now()
    trial.broken()
    servers.freeze("kafka-2")
    servers.kill("kafka-3")
    states = servers.running()
    assert (states["kafka-2"], states["kafka-3"]) == ("frozen", "dead")
    answer = lab.post(b'{"said": "while the log takes nothing"}\n')
    assert answer.status == 503
    assert "log_unavailable" in answer.data.decode()
    assert int(answer.headers["retry-after"]) >= 1
    trial.saw(f"ingest: 503 `log_unavailable`, Retry-After {answer.headers['retry-after']}")
    blocked = lab.ingested()
    servers.wait_for_alert(alert, "firing", since)
    trial.fired()
    # Devices notice nothing: their edge keeps what ingest does not take.
    assert lab.progress(3.0) > 0
    assert lab.ingested() == blocked
    spooled = lab.made.edge_status()["uplink"]["backlogEvents"]
    assert spooled > 0
    trial.saw(f"the edge spooled {spooled} events")
    trial.ended()
    servers.thaw("kafka-2")
    servers.start()
    lab.seconds_until_it_goes_on()
    wait_for(
        "the edge to have sent its spool", lab.is_edge_level, ALERT_SECONDS, every=LOOK_SECONDS
    )
    trial.recovered()
    servers.wait_for_alert(alert, "resolved", since)
    trial.cleared()
    servers.wait_for_metric(IN_SYNC)
    lab.ended_well(trial)


def test_row_02_with_two_controllers_gone_events_go_on_and_the_alert_tells(
    servers: Servers, results: Path, lab: Lab
) -> None:
    alert = "KafkaControllerQuorumUnavailable"
    trial = Trial(results, "2", "two controllers of three killed", alert, objective=CLUSTER_SECONDS)
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
    lab.ended_well(trial)
