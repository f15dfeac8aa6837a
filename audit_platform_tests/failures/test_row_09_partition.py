"""Row 9: the network between services and all servers is cut: nothing is lost, nothing doubled."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform_tests.failures.hot_nodes import NODES as SEARCH_NODES
from audit_platform_tests.failures.hot_nodes import assert_three_nodes
from audit_platform_tests.failures.installation import wait_for
from audit_platform_tests.failures.lab import ALERT_SECONDS, LOOK_SECONDS, Lab, Servers
from audit_platform_tests.failures.results import Trial
from audit_platform_tests.failures.stores import assert_six_drives

pytestmark = [pytest.mark.full_stack, pytest.mark.timeout(900)]

ALERT = "StoreUnavailable"

#: The mission's time to recover ingest.
OBJECTIVE_SECONDS = 300

CUT = ("kafka-1", "kafka-2", "kafka-3", *SEARCH_NODES, "minio-1")
CONSUMERS = ("archive-writer", "archive-writer-2", "search-indexer", "search-indexer-2")


def test_row_09_a_partition_between_services_and_servers_loses_and_doubles_nothing(
    servers: Servers, results: Path, lab: Lab
) -> None:
    trial = Trial(results, "9", "services cut from log, store and HOT", ALERT, OBJECTIVE_SECONDS)
    assert_six_drives(servers)
    assert_three_nodes(servers)
    lab.steady()
    since = servers.now()
    trial.broken()
    for name in CUT:
        servers.proxy.cut(name)
    try:
        assert servers.proxy.cuts() == sorted(CUT)
        servers.wait_for_alert(ALERT, "firing", since)
        trial.fired()
        taken = lab.ingested()
        assert lab.progress(5.0) > 0, "the edge takes events and spools them"
        assert lab.ingested() == taken
        trial.saw("the edge took events and spooled them; ingest acknowledged none")
    finally:
        trial.ended()
        for name in CUT:
            servers.proxy.heal(name)
    lab.seconds_until_it_goes_on()
    trial.recovered()
    servers.wait_for_alert(ALERT, "resolved", since)
    trial.cleared()
    wait_for(
        "the consumers to go on",
        lambda: not any(map(lab.waits_for, CONSUMERS)),
        ALERT_SECONDS,
        every=LOOK_SECONDS,
    )
    lab.ended_well(trial)
