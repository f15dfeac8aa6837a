"""Death at every named step boundary, in the real processes, by SIGKILL; then nothing is lost.

The list comes from the code. kill -9 leaves un-fsynced pages alive: what a power cut takes is
tested with the file layer (`adapters/test_power_cut_*.py`).
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import urllib3

from audit_platform.killpoints import Killpoint
from audit_platform.ports import Role
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform_tests.failures.installation import (
    DAY,
    TENANT,
    Installation,
    Judgement,
    installation,
)
from audit_platform_tests.failures.test_killpoints_dlq import REPLAYING
from audit_platform_tests.failures.test_killpoints_hot import INDEXER, REBUILD
from audit_platform_tests.failures.test_log_generation import OPENING

#: The excerpt's first hours: a few bodies, some refused events among them.
TO_MS = 2 * 3_600_000

EDGE = [Killpoint.SPOOLED]
GATEWAY = [Killpoint.RECEIVED, Killpoint.APPENDED, Killpoint.FSYNCED, Killpoint.ACKNOWLEDGED]
WRITER = [
    Killpoint.OBJECT_PUT,
    Killpoint.LOCK_READ_BACK,
    Killpoint.RANGE_RECORDED,
    Killpoint.OFFSET_COMMITTED,
]
QUERY = [Killpoint.READ_RECORDED]
SEALING = [Killpoint.PART_PUT, Killpoint.MANIFEST_CLAIMED, Killpoint.LOCK_LENGTHENED]

KILLED = -signal.SIGKILL


def test_every_killpoint_of_the_code_is_tested_here() -> None:
    here = [*EDGE, *GATEWAY, *WRITER, *QUERY, Killpoint.DAY_CLOSED, *SEALING]
    opening = {point for point, _ in OPENING}
    assert sorted([*here, *INDEXER, *REBUILD, *REPLAYING, *opening]) == sorted(Killpoint)


def _say(made: Installation) -> None:
    """Have the devices say all; return when the platform has archived it."""
    devices = made.start_devices(TO_MS)
    assert devices.wait(timeout=120) == 0
    made.running.pop("devices")
    made.wait_for_the_edge()


def _survive(folder: Path, service: str, kill_at: str) -> Judgement:
    """Have one service die while the devices speak, start it again, and judge what is sealed."""
    with installation(folder) as made:
        for name in ("archive-writer", "ingest-gateway", "edge-gateway"):
            made.start(name, kill_at=kill_at if name == service else "")
        devices = made.start_devices(TO_MS)
        assert made.died(service) == KILLED
        made.start(service)
        assert devices.wait(timeout=120) == 0
        made.running.pop("devices")
        made.wait_for_the_edge()
        made.stop("edge-gateway")
        made.stop("ingest-gateway")
        return made.finish_and_judge()


@pytest.mark.parametrize("point", EDGE)
def test_the_edge_dies_and_nothing_it_took_is_lost(point: Killpoint, tmp_path: Path) -> None:
    result = _survive(tmp_path, "edge-gateway", f"{point}:2")
    assert result.sealed.rows > 500


@pytest.mark.parametrize("point", GATEWAY)
def test_the_gateway_dies_and_nothing_acknowledged_is_lost(
    point: Killpoint, tmp_path: Path
) -> None:
    result = _survive(tmp_path, "ingest-gateway", f"{point}:2")
    assert result.sealed.rows > 500
    # What died after the append was sent again: it is there twice and counts once.
    again = point in {Killpoint.FSYNCED, Killpoint.ACKNOWLEDGED, Killpoint.APPENDED}
    assert (result.sealed.duplicates > 0) is again


@pytest.mark.parametrize("point", WRITER)
def test_the_writer_dies_and_nothing_acknowledged_is_lost(point: Killpoint, tmp_path: Path) -> None:
    result = _survive(tmp_path, "archive-writer", f"{point}:1")
    assert result.sealed.rows > 500
    assert result.sealed.duplicates == 0


@pytest.mark.parametrize("point", QUERY)
def test_query_api_dies_and_what_was_shown_is_on_record(point: Killpoint, tmp_path: Path) -> None:
    with installation(tmp_path) as made:
        with made.platform() as opened:
            _, secret = opened.metadata.add_api_key(TENANT, Role.AUDITOR, 1)
        url = f"http://127.0.0.1:{made.ports['query-api']}/v1/tenants/{TENANT}/events"
        headers = {"authorization": f"Bearer {secret}"}
        made.start("query-api", kill_at=f"{point}:2")
        shown = [urllib3.request("GET", url, headers=headers, retries=False)]
        with pytest.raises(urllib3.exceptions.HTTPError):
            urllib3.request("GET", url, headers=headers, retries=False)
        assert made.died("query-api") == KILLED
        made.start("query-api")
        shown.append(urllib3.request("GET", url, headers=headers, retries=False))
        assert [answer.status for answer in shown] == [200, 200]
        made.stop("query-api")
        with made.platform() as opened:
            said = [
                orjson.loads(line)
                for partition in range(opened.log.describe(EVENTS_TOPIC).partitions)
                for record in opened.log.read(EVENTS_TOPIC, partition, 0, 1 << 20)
                for line in record.value.splitlines()
            ]
        reads = [e["payload"]["requestId"] for e in said if e["eventType"] == "record_read"]
        # Both that were shown, and the one that was about to be; each process its own epoch.
        assert {answer.headers["x-request-id"] for answer in shown} < set(reads)
        assert len(reads) == 3
        assert len({e["chainId"] for e in said}) == 2


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an installation whose day was fed and archived; its services are stopped."""
    folder = tmp_path_factory.mktemp("archived") / "installation"
    with installation(folder) as made:
        made.start("archive-writer")
        made.start("ingest-gateway")
        made.start("edge-gateway")
        _say(made)
        made.stop("edge-gateway")
        made.stop("ingest-gateway")
        made.wait_for_the_archive()
        made.stop("archive-writer")
        yield folder


@pytest.mark.parametrize("point", [Killpoint.DAY_CLOSED, *SEALING])
def test_closing_or_sealing_dies_and_the_next_makes_one_manifest_with_the_same_leaves(
    point: Killpoint, archived: Path, tmp_path: Path
) -> None:
    made = Installation.of(Path(shutil.copytree(archived, tmp_path / "installation")))
    fatal = {"AUDIT_KILL_AT": point.value}
    if point is Killpoint.DAY_CLOSED:
        made.cli("close-day", DAY, after_day=True, expect=[KILLED], **fatal)
    else:
        made.cli("close-day", DAY, after_day=True)
        made.cli("seal", TENANT, DAY, after_day=True, expect=[KILLED], **fatal)
    result = made.seal_and_judge()
    assert result.sealed.rows > 500
    assert result.report.rows == result.sealed.rows
    manifests = list((made.folder / "home/objects/cold/v1").rglob("manifests/*.json"))
    assert len(manifests) == 1
