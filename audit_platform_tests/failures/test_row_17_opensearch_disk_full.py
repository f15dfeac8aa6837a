"""Row 17: OpenSearch's disks pass the flood stage: indexing waits, nothing is lost, it heals."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audit_platform_tests.failures.hot_nodes import (
    NODES,
    ask,
    assert_three_nodes,
    wait_for_green,
)
from audit_platform_tests.failures.installation import wait_for
from audit_platform_tests.failures.lab import ALERT_SECONDS, LOOK_SECONDS, Lab, Servers
from audit_platform_tests.failures.results import Trial
from audit_platform_tests.failures.stores import ARCHIVED_ROWS

pytestmark = [pytest.mark.full_stack, pytest.mark.timeout(900)]

ALERT = "OpenSearchReadOnly"
INDEXERS = ("search-indexer", "search-indexer-2")

#: The mission's time to recover HOT by a restart: an hour.
OBJECTIVE_SECONDS = 3600

#: Above the flood stage (95 %), and room for what is written until it is noticed.
USED = 0.97


@contextmanager
def ballast(folder: Path) -> Iterator[None]:
    """A file that leaves little of the volume."""
    assert folder.is_mount()
    found = os.statvfs(folder)
    used = (found.f_blocks - found.f_bavail) * found.f_frsize
    file = folder / "ballast"
    with file.open("wb") as opened:
        size = int(USED * found.f_blocks * found.f_frsize) - used
        os.posix_fallocate(opened.fileno(), 0, size)
    try:
        yield
    finally:
        file.unlink()


def blocked(servers: Servers, prefix: str) -> bool:
    """Whether an index of ours takes no documents."""
    found = ask(servers, NODES[0], f"/{prefix}.*/_settings?flat_settings=true") or {}
    name = "index.blocks.read_only_allow_delete"
    return any(one["settings"].get(name) == "true" for one in found.values())


def test_row_17_a_flood_stage_holds_indexing_back_and_heals_by_itself(
    servers: Servers, results: Path, lab: Lab
) -> None:
    trial = Trial(results, "17", "OpenSearch's disks 97 % full", ALERT, OBJECTIVE_SECONDS)
    assert_three_nodes(servers)
    investigator = lab.investigator
    prefix = lab.made.settings().opensearch_prefix
    lab.steady()
    since = servers.now()
    trial.broken()
    first, second, third = (servers.place.folder(name) for name in NODES)
    with ballast(first), ballast(second), ballast(third):
        wait_for(
            "the flood stage", lambda: blocked(servers, prefix), ALERT_SECONDS, every=LOOK_SECONDS
        )
        servers.wait_for_alert(ALERT, "firing", since)
        trial.fired()
        wait_for("the indexers to wait", lambda: any(map(lab.waits_for, INDEXERS)))
        # Events and the archive go on; what is in HOT is found, what waits is found in COLD.
        archived = servers.metric(ARCHIVED_ROWS)
        assert lab.progress(5.0) > 0
        servers.wait_for_metric(f"{ARCHIVED_ROWS} > {archived}")
        assert investigator.search(tier="hot").status == 200
        assert investigator.search().tier == "cold"
        trial.saw("HOT read-only, searches that need more from COLD")
        trial.ended()
    wait_for(
        "the block to go", lambda: not blocked(servers, prefix), ALERT_SECONDS, every=LOOK_SECONDS
    )
    wait_for(
        "the indexers to go on",
        lambda: not any(map(lab.waits_for, INDEXERS)),
        ALERT_SECONDS,
        every=LOOK_SECONDS,
    )
    trial.recovered()
    servers.wait_for_alert(ALERT, "resolved", since)
    trial.cleared()
    wait_for_green(servers)
    lab.ended_well(trial)
