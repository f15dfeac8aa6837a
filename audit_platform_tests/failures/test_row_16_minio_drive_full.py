"""Row 16: one MinIO drive of six is full: no object fits, the log keeps all."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform.adapters.s3.objects import S3Objects
from audit_platform.errors import StoreUnavailable
from audit_platform_tests.failures.installation import wait_for
from audit_platform_tests.failures.lab import ALERT_SECONDS, LOOK_SECONDS, Lab, Servers
from audit_platform_tests.failures.results import Trial
from audit_platform_tests.failures.stores import DRIVES_ONLINE, WRITERS, assert_six_drives
from audit_platform_tests.stores import fresh_bucket

pytestmark = [pytest.mark.full_stack, pytest.mark.timeout(900)]

ALERT = "MinioDriveFull"
FREE = 'minio_node_drive_free_bytes{server="minio-6"}'

#: A row group of a large day is as large.
LARGE = bytes(12 * 1024 * 1024)


def put(store: S3Objects, name: str, data: bytes) -> bool:
    """Whether the store takes it; a store that is full says 507, and nothing else is expected."""
    try:
        store.put(f"landing/v1/{name}", data, retain_until_ms=0, if_absent=False)
    except StoreUnavailable as e:
        if "507" not in e.reason:
            raise
        return False
    return True


def test_row_16_a_full_drive_stops_the_archive_and_costs_no_event(
    servers: Servers, results: Path, lab: Lab
) -> None:
    trial = Trial(results, "16", "one MinIO drive of six full", ALERT)
    assert_six_drives(servers)
    address = servers.place.address("minio-1")
    store = S3Objects(fresh_bucket(servers.place, address, in_policy=False))
    lab.steady()
    assert put(store, "before", LARGE)
    since = servers.now()
    trial.broken()
    servers.fill("minio-6")
    try:
        servers.wait_for_metric(f"{FREE} < 1e7")
        servers.wait_for_alert(ALERT, "firing", since)
        trial.fired()
        # No other sign: all drives count as online.
        assert servers.metric(DRIVES_ONLINE) == 6
        wait_for("507", lambda: not put(store, "during", LARGE), ALERT_SECONDS, every=LOOK_SECONDS)
        # Nothing at all fits on that drive: the writers wait, the log keeps what comes.
        wait_for("a writer to wait", lambda: any(map(lab.waits_for, WRITERS)))
        assert lab.progress(5.0) > 0
        trial.saw("507; events went on, the log kept them")
    finally:
        trial.ended()
        servers.empty("minio-6")
    wait_for("large objects", lambda: put(store, "after", LARGE), ALERT_SECONDS, every=LOOK_SECONDS)
    wait_for("the writers to go on", lambda: not any(map(lab.waits_for, WRITERS)))
    trial.recovered()
    servers.wait_for_alert(ALERT, "resolved", since)
    trial.cleared()
    lab.ended_well(trial)
    store.close()
