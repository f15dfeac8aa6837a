"""Row 5: one OpenSearch node of three is killed: searches and indexing go on, green by itself."""

from __future__ import annotations

import secrets
from contextlib import closing
from pathlib import Path

import pytest

from audit_platform.adapters.opensearch.hot import OpenSearchHot
from audit_platform.errors import HotUnavailable
from audit_platform_tests.adapters.opensearch_servers import wiped
from audit_platform_tests.failures.hot_nodes import (
    ask,
    assert_three_nodes,
    health,
    wait_for_green,
)
from audit_platform_tests.failures.installation import wait_for
from audit_platform_tests.failures.lab import Lab, Servers
from audit_platform_tests.failures.results import Trial
from audit_platform_tests.hot_rows import DAY, Event, batch

pytestmark = [pytest.mark.full_stack, pytest.mark.timeout(900)]

ALERT = "OpenSearchNodeDown"

#: The mission's time to recover HOT by a restart: an hour.
OBJECTIVE_SECONDS = 3600

INDEXED = "sum(audit_indexer_events_total)"


def test_row_05_a_killed_search_node_costs_no_event_and_its_alert_fires_and_clears(
    servers: Servers, results: Path, lab: Lab
) -> None:
    trial = Trial(results, "5", "one OpenSearch node of three killed", ALERT, OBJECTIVE_SECONDS)
    assert_three_nodes(servers)
    investigator = lab.investigator
    lab.steady()
    assert investigator.search(tier="hot").status == 200
    since = servers.now()
    trial.broken()
    servers.kill("opensearch-3")
    wait_for("two nodes", lambda: health(servers)[0] == 2)
    # The copies move to the two that are left, while events go on and searches are answered.
    wait_for("green again", lambda: health(servers) == (2, "green"))
    servers.wait_for_alert(ALERT, "firing", since)
    trial.fired()
    indexed = servers.metric(INDEXED)
    assert lab.progress(5.0) > 0
    servers.wait_for_metric(f"{INDEXED} > {indexed}")
    answer = investigator.search(tier="hot")
    assert (answer.status, answer.tier, answer.is_degraded) == (200, "hot", False)
    trial.saw("searches answered by HOT, all copies on two nodes")
    trial.ended()
    servers.start()
    wait_for_green(servers)
    trial.recovered()
    servers.wait_for_alert(ALERT, "resolved", since)
    trial.cleared()
    lab.ended_well(trial)


def test_row_05_the_first_events_of_a_day_outlive_the_node_that_had_their_primary(
    servers: Servers,
) -> None:
    assert_three_nodes(servers)
    url, prefix = servers.settings["AUDIT_OPENSEARCH"], f"t{secrets.token_hex(6)}"
    with wiped(prefix, url=url), closing(OpenSearchHot(url, prefix)) as hot:

        def held() -> int:
            try:
                return len(hot.hashes("north", DAY, 1))
            except HotUnavailable:
                return 0

        # The index is made for these events: nothing has had time to copy anything.
        assert hot.create("north", DAY, batch([Event(sequence_number=n) for n in range(50)])) == 50
        shards = ask(servers, "opensearch-1", f"/_cat/shards/{prefix}.*?format=json")
        primary = next(s["node"] for s in shards if s["prirep"] == "p")
        servers.kill(primary)
        try:
            wait_for("the events, from the copy", lambda: held() == 50)
        finally:
            servers.start()
            wait_for_green(servers)
