"""Row 3 on the real servers: one archive-writer of two and one search-indexer die by SIGKILL."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform_tests.failures.consumers import GROUP_OF, held, is_level
from audit_platform_tests.failures.installation import wait_for
from audit_platform_tests.failures.kafka_faults import wait_until_whole
from audit_platform_tests.failures.lab import ALERT_SECONDS, LOOK_SECONDS, Lab, Servers
from audit_platform_tests.failures.results import Trial

pytestmark = [pytest.mark.full_stack, pytest.mark.timeout(900)]

ALERT = "ConsumerInstanceDown"


def test_row_03_partitions_of_killed_instances_pass_on_and_nothing_is_lost(
    servers: Servers, results: Path, lab: Lab
) -> None:
    fault = "one archive-writer of two and one search-indexer of two killed -9"
    trial = Trial(results, "3", fault, ALERT, objective=300)
    wait_until_whole(servers)
    wait_for("two instances of each to share", lambda: all(is_shared(lab, n) for n in GROUP_OF))
    lab.steady()
    since = servers.now()
    trial.broken()
    for name in GROUP_OF:
        lab.made.kill(name)
    servers.wait_for_alert(ALERT, "firing", since)
    trial.fired()
    # Nobody starts them again yet: what follows is the others' work.
    wait_for(
        "the others to hold every partition",
        lambda: all(held(lab, f"{name}-2") == {"0", "1"} for name in GROUP_OF),
        ALERT_SECONDS,
        every=LOOK_SECONDS,
    )
    wait_for(
        "the lag to be gone",
        lambda: is_level(servers, *GROUP_OF.values()),
        ALERT_SECONDS,
        every=LOOK_SECONDS,
    )
    trial.saw("the other instances took their partitions over; the lag rose and fell")
    trial.ended()
    for name in GROUP_OF:
        lab.made.start(name)
    trial.recovered()
    servers.wait_for_alert(ALERT, "resolved", since)
    trial.cleared()
    lab.ended_well(trial)


def is_shared(lab: Lab, service: str) -> bool:
    """Whether two instances have a partition each."""
    return all(held(lab, name) for name in (service, f"{service}-2"))
