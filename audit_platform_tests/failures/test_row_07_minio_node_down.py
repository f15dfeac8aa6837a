"""Row 7: one MinIO node of six is killed: nothing stops, the alert comes and goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform_tests.failures.lab import Lab, Servers
from audit_platform_tests.failures.results import Trial
from audit_platform_tests.failures.stores import (
    ARCHIVED_ROWS,
    DRIVES_ONLINE,
    assert_six_drives,
    wait_for_all_drives,
)

pytestmark = [pytest.mark.full_stack, pytest.mark.timeout(900)]

ALERT = "MinioDrivesOffline"


def test_row_07_a_killed_minio_node_stops_nothing_and_its_alert_fires_and_clears(
    servers: Servers, results: Path, lab: Lab
) -> None:
    trial = Trial(results, "7", "one MinIO node of six killed", ALERT)
    assert_six_drives(servers)
    lab.steady()
    since = servers.now()
    trial.broken()
    servers.kill("minio-4")
    assert servers.running()["minio-4"] == "dead"
    servers.wait_for_metric(f"{DRIVES_ONLINE} == 5")
    servers.wait_for_alert(ALERT, "firing", since)
    trial.fired()
    archived = servers.metric(ARCHIVED_ROWS)
    assert archived is not None
    assert lab.progress(5.0) > 0, "with five of six nodes events go on"
    # What comes while the node is gone is archived, too.
    servers.wait_for_metric(f"{ARCHIVED_ROWS} > {archived}")
    trial.saw("nothing: events and archive went on")
    trial.ended()
    servers.start()
    wait_for_all_drives(servers)
    trial.recovered()
    servers.wait_for_alert(ALERT, "resolved", since)
    trial.cleared()
    lab.ended_well(trial)
