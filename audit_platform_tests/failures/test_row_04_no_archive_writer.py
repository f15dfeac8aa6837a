"""Row 4: every archive-writer is gone: the lag is told by who outlives them, and COLD says its gap.

The rule is the production one with smaller figures: 60,000 events or 300 s of lag for 5 minutes
would take a test as long.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform_tests.failures.installation import wait_for
from audit_platform_tests.failures.kafka_faults import wait_until_whole
from audit_platform_tests.failures.lab import ALERT_SECONDS, LOOK_SECONDS, Lab, Servers, scaled
from audit_platform_tests.failures.results import Trial

pytestmark = [pytest.mark.full_stack, pytest.mark.timeout(900)]

ALERT = "ConsumerGroupLag"
SCALE = {
    'job="exporter"': 'job="exporter", group="archive-writer"',  # others may be slow meanwhile
    "60000": "4000",
    "> 300": "> 15",
    "for: 5m": "for: 2s",
}
WRITERS = ("archive-writer", "archive-writer-2")


def test_row_04_without_archive_writers_the_lag_fires_and_cold_tells_its_gap_until_they_are_back(
    servers: Servers, results: Path, lab: Lab
) -> None:
    trial = Trial(results, "4", "every archive-writer killed -9", ALERT, objective=900)
    with scaled(servers, ALERT, SCALE):
        wait_until_whole(servers)
        lab.steady()
        since = servers.now()
        trial.broken()
        for name in WRITERS:
            lab.made.kill(name)
        servers.wait_for_alert(ALERT, "firing", since)
        trial.fired()
        waited = lab.seconds_until_it_goes_on()
        trial.saw(f"ingest went on (2 s of events took {waited:.0f} s)")
        (gap,) = gaps(lab)
        trial.saw(f"COLD: {gap!r}")
        trial.ended()
        for name in WRITERS:
            lab.made.launch(name)
        servers.wait_for_alert(ALERT, "resolved", since)
        trial.cleared()
        with lab.paused():
            wait_for(
                "COLD to have no gap", lambda: gaps(lab) == [], ALERT_SECONDS, every=LOOK_SECONDS
            )
        trial.recovered()
    lab.ended_well(trial)


def gaps(lab: Lab) -> list[str]:
    """What COLD says of events that it does not hold yet."""
    found = lab.investigator.search(tier="cold").missing
    return [said for said in found if "not archived yet" in said]
