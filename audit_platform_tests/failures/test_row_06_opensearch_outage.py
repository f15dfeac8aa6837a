"""Row 6: all OpenSearch nodes are killed: COLD answers and says so, HOT catches up by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform_tests.failures.hot_nodes import (
    NODES,
    assert_three_nodes,
    wait_for_green,
)
from audit_platform_tests.failures.installation import wait_for
from audit_platform_tests.failures.lab import ALERT_SECONDS, LOOK_SECONDS, Lab, Servers
from audit_platform_tests.failures.questions import DEGRADED
from audit_platform_tests.failures.results import Trial
from audit_platform_tests.failures.stores import ARCHIVED_ROWS

pytestmark = [pytest.mark.full_stack, pytest.mark.timeout(900)]

ALERT = "OpenSearchUnreachable"
INDEXERS = ("search-indexer", "search-indexer-2")

#: The mission's time to recover HOT by a restart: an hour.
OBJECTIVE_SECONDS = 3600


def test_row_06_without_opensearch_cold_answers_and_says_so_and_hot_catches_up_by_itself(
    servers: Servers, results: Path, lab: Lab
) -> None:
    trial = Trial(results, "6", "all OpenSearch nodes killed", ALERT, OBJECTIVE_SECONDS)
    assert_three_nodes(servers)
    investigator = lab.investigator
    lab.steady()
    assert investigator.search(tier="hot").status == 200
    since = servers.now()
    trial.broken()
    for name in NODES:
        servers.kill(name)
    servers.wait_for_alert(ALERT, "firing", since)
    trial.fired()
    answer = investigator.search()
    assert (answer.status, answer.tier, answer.is_degraded) == (200, "cold", True)
    assert len(answer.body["rows"]) == 10
    refused = investigator.search(tier="hot")
    assert refused.status == 503
    assert int(refused.headers["retry-after"]) >= 1
    wait_for("the indexers to wait", lambda: all(map(lab.waits_for, INDEXERS)))
    # Events and the archive go on.
    archived = servers.metric(ARCHIVED_ROWS)
    assert lab.progress(5.0) > 0
    servers.wait_for_metric(f"{ARCHIVED_ROWS} > {archived}")
    trial.saw(f"{DEGRADED}; HOT alone: 503 with Retry-After")
    trial.ended()
    servers.start()
    wait_for_green(servers)
    wait_for("a search in HOT", lambda: investigator.search(tier="hot").status == 200)
    trial.recovered()
    servers.wait_for_alert(ALERT, "resolved", since)
    trial.cleared()
    wait_for(
        "the indexers to go on",
        lambda: not any(map(lab.waits_for, INDEXERS)),
        ALERT_SECONDS,
        every=LOOK_SECONDS,
    )
    assert not investigator.search().is_degraded
    lab.ended_well(trial)
