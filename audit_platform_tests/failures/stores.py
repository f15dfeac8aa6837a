"""MinIO's six nodes in failure tests: what their metrics say, and the shape before a fault.

Belongs here: expressions and waits that several rows share. Does not: any test.
"""

from __future__ import annotations

from typing import Final

from audit_platform_tests.failures.lab import Servers

#: Drives that the erasure set has now, as the nodes that answer see it. 7 s behind.
DRIVES_ONLINE: Final = "min(minio_cluster_health_erasure_set_online_drives)"

#: Rows that archive-writers have named in range records, since the Prometheus of the run began.
ARCHIVED_ROWS: Final = "sum(audit_archive_rows_total)"

#: Events of the log that no range record covers yet.
LAG_EVENTS: Final = 'sum(kafka_consumergroup_lag_events{group="archive-writer"})'

#: The larger of the two archive-writers, in bytes.
WRITERS_MEMORY: Final = 'max(process_resident_memory_bytes{job="archive-writer"})'

WRITERS: Final = ("archive-writer", "archive-writer-2")

NODES: Final = tuple(f"minio-{n}" for n in range(1, 7))


def assert_six_drives(servers: Servers) -> None:
    """The shape: six nodes that answer, six drives, four of them needed for a write."""
    running = servers.running()
    assert [running[name] for name in NODES] == ["up"] * 6
    assert servers.metric("max(minio_cluster_drive_total)") == 6
    assert servers.metric("max(minio_cluster_health_erasure_set_write_quorum)") == 4
    wait_for_all_drives(servers)


def wait_for_all_drives(servers: Servers) -> None:
    """Wait until every node says that all drives are there."""
    servers.wait_for_metric(f"{DRIVES_ONLINE} == 6")
