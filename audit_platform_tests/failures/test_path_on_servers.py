"""The whole path on the real servers: Kafka, S3 with object lock, OpenSearch, PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform_tests.failures.installation import (
    DAY,
    TENANT,
    Installation,
    installation,
)
from audit_platform_tests.failures.on_servers import servers_of_a_test

#: An hour of the excerpt.
TO_MS = 3_600_000


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Installation]:
    """A new installation on the run's servers."""
    with servers_of_a_test() as servers, installation(tmp_path, servers) as started:
        yield started


def test_what_devices_say_is_sealed_and_found_on_the_real_servers(made: Installation) -> None:
    for name in ("ingest-gateway", "edge-gateway", "archive-writer", "search-indexer"):
        made.launch(name)
    for name in ("ingest-gateway", "edge-gateway", "archive-writer", "search-indexer"):
        made.wait_until_healthy(name)
    devices = made.start_devices(TO_MS)
    assert devices.wait(timeout=60) == 0
    made.wait_for_the_edge()
    made.wait_for_the_index()
    for name in ("edge-gateway", "ingest-gateway", "search-indexer"):
        made.stop(name)
    judged = made.finish_and_judge()
    assert judged.report.exit_code == 0
    assert judged.receipts["clean"]
    assert judged.receipts["lost"] == 0
    sealed = made.sealed_hashes()
    assert len(sealed) == judged.sealed.rows > 0
    with made.platform(after_day=True) as opened:
        assert opened.objects.lock == "enforced"
        (index,) = (i for i in opened.hot.indexes(TENANT) if i.is_read)
        hashes = opened.hot.hashes(TENANT, DAY, index.generation)
    assert {bytes(h) for h in hashes} == sealed
