"""Row 8: the object store is gone: the log keeps what comes, edges do not notice, all is archived.

Half of MinIO's nodes are killed: four drives of six are needed for a write as for a read.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform_tests.failures.installation import wait_for
from audit_platform_tests.failures.lab import ALERT_SECONDS, LOOK_SECONDS, Lab, Servers
from audit_platform_tests.failures.results import Trial
from audit_platform_tests.failures.stores import (
    ARCHIVED_ROWS,
    DRIVES_ONLINE,
    LAG_EVENTS,
    WRITERS,
    WRITERS_MEMORY,
    assert_six_drives,
    wait_for_all_drives,
)

pytestmark = [pytest.mark.full_stack, pytest.mark.timeout(900)]

ALERT = "MinioWriteQuorumLost"
KILLED = ("minio-4", "minio-5", "minio-6")

#: The mission's time to recover COLD.
OBJECTIVE_SECONDS = 15 * 60

#: What a service may have, whatever is gone.
MEMORY_BYTES = 400 * 1024 * 1024


def test_row_08_without_its_store_the_log_keeps_all_edges_go_on_and_cold_says_so(
    servers: Servers, results: Path, lab: Lab
) -> None:
    trial = Trial(results, "8", "three MinIO nodes of six killed", ALERT, OBJECTIVE_SECONDS)
    assert_six_drives(servers)
    investigator = lab.investigator
    lab.steady()
    before = investigator.search(tier="cold")
    assert (before.status, before.tier) == (200, "cold")
    since = servers.now()
    trial.broken()
    for name in KILLED:
        servers.kill(name)
    servers.wait_for_metric(f"{DRIVES_ONLINE} <= 3")
    servers.wait_for_alert(ALERT, "firing", since)
    trial.fired()
    # The writers wait and say for what; they hold their offsets back and hold no more memory.
    wait_for("a writer to wait for the store", lambda: any(map(lab.waits_for, WRITERS)))
    archived, lag = servers.metric(ARCHIVED_ROWS), servers.metric(LAG_EVENTS)
    assert archived is not None
    assert lag is not None
    assert lab.progress(5.0) > 0, "the edge does not notice"
    servers.wait_for_metric(f"{LAG_EVENTS} > {lag}")
    assert servers.metric(ARCHIVED_ROWS) == archived
    memory = servers.metric(WRITERS_MEMORY)
    assert memory is not None
    assert memory < MEMORY_BYTES
    # Nor is anything spooled for longer: ingest takes all of it.
    lab.seconds_until_it_goes_on()
    wait_for("the edge to be level", lab.is_edge_level, ALERT_SECONDS, every=LOOK_SECONDS)
    # Who asks COLD is told; who lets us choose gets HOT (lists of objects still work).
    refused = investigator.search(tier="cold")
    assert refused.status == 503
    assert refused.body["type"].endswith(":store_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    found = investigator.search()
    assert (found.status, found.tier) == (200, "hot")
    trial.saw("COLD 503 with Retry-After; HOT answered")
    trial.saw("the edge went on, the log kept it")
    trial.ended()
    servers.start()
    wait_for_all_drives(servers)
    servers.wait_for_metric(f"{ARCHIVED_ROWS} > {archived}")
    trial.recovered()
    servers.wait_for_alert(ALERT, "resolved", since)
    trial.cleared()
    wait_for(
        "COLD",
        lambda: investigator.search(tier="cold").status == 200,
        ALERT_SECONDS,
        every=LOOK_SECONDS,
    )
    lab.ended_well(trial)
