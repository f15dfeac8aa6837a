"""Rows 21, 22 and 23: metadata, rate limits and sign-in are gone: each alert fires and clears.

What gateways and query-api do meanwhile is tested row by row (`test_row_21_…`, `22`, `23`); here
events come in all the time, one installation for the three outages, one after the other.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform_tests.failures.lab import Lab, Servers
from audit_platform_tests.failures.results import Trial

pytestmark = [pytest.mark.full_stack, pytest.mark.timeout(900)]

#: Row, server, alert, and the mission's time to recover in seconds (none for Redis and OIDC).
OUTAGES = (
    ("21", "postgres", "PostgresDown", 1800),
    ("22", "redis", "RedisDown", None),
    ("23", "oidc", "OidcDown", None),
)


def test_rows_21_22_23_events_go_on_through_each_outage_and_its_alert_fires_and_clears(
    servers: Servers, results: Path, lab: Lab
) -> None:
    trials = []
    lab.steady()
    for row, name, alert, objective in OUTAGES:
        trial = Trial(results, row, f"{name} killed", alert, objective)
        trials.append(trial)
        assert servers.running(name)[name] == "up"
        since = servers.now()
        trial.broken()
        servers.kill(name)
        assert servers.running(name)[name] == "dead"
        servers.wait_for_alert(alert, "firing", since)
        trial.fired()
        waited = lab.seconds_until_it_goes_on()
        trial.saw(f"ingest went on (2 s of events took {waited:.0f} s)")
        trial.ended()
        servers.start(name)
        trial.recovered()
        servers.wait_for_alert(alert, "resolved", since)
        trial.cleared()
    lab.ended_well(*trials)
