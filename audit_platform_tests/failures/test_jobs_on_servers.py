"""Each job of Dagster runs green on the real servers, launched by GraphQL as the UI would.

The data went the whole path: devices, edge, ingest, Kafka, S3 with object lock, OpenSearch. What is
red on purpose is told by the same way, so that a job that reads nothing could not be green.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from audit_platform.operations.closing import close_day
from audit_platform.operations.dlq.records import State, case_of
from audit_platform.operations.incidents import incidents
from audit_platform.operations.manifests import read_history
from audit_platform.operations.query.reader import Reader
from audit_platform.record.decision import CHUNK_LINES
from audit_platform_tests import attackers
from audit_platform_tests.clocks import ManualClock
from audit_platform_tests.failures.control_plane import ControlPlane, control_plane
from audit_platform_tests.failures.installation import (
    DAY,
    GRACE_SECONDS,
    TENANT,
    Installation,
    installation,
)
from audit_platform_tests.failures.on_servers import servers_of_a_test
from audit_platform_tests.operations.dlq import desk
from audit_platform_tests.servers import run_place
from audit_platform_tests.world import World

#: The first ten minutes of the excerpt
TO_MS = 600_000

SERVICES = ("ingest-gateway", "edge-gateway", "archive-writer", "search-indexer")

REASON = "file 17 of the district court, received on Monday"

TENANT_DAY = {"day": DAY, "tenant": TENANT}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Installation]:
    """An installation with two tenants' day in the log, in landing and in HOT; nothing runs."""
    with servers_of_a_test() as servers, installation(tmp_path, servers, now_ms()) as started:
        yield started


def now_ms() -> int:
    """Real time: all services start at the same moment of the day."""
    return int(time.time() * 1000)


def whole_path(made: Installation) -> str:
    """A tenant's events by the whole path, another one's refused lines; an approved proposal."""
    for name in SERVICES:
        made.launch(name)
    for name in SERVICES:
        made.wait_until_healthy(name)
    assert made.start_devices(TO_MS).wait(timeout=180) == 0
    made.wait_for_the_edge()
    with made.platform() as opened:
        clock = ManualClock(opened.clock.now_ms())
        world = World(made.folder, opened, clock, made.settings())
        dlq = desk.Dlq.open(world)
        dlq.refuse(2 * CHUNK_LINES)
        made.wait_for_the_archive()
        made.wait_for_the_index()
        proposal = dlq.approved()
    for name in SERVICES:
        made.stop(name)
    with made.platform(after_day=True) as opened:
        close_day(opened, DAY, GRACE_SECONDS * 1000)
    return proposal


def op(name: str, **config: Any) -> dict[str, Any]:
    """The configuration of a job's one op."""
    return {"ops": {name: {"config": config}}}


def green(plane: ControlPlane, jobs: Mapping[str, str]) -> None:
    """Wait until runs (job -> id) have ended; each must have succeeded."""
    ended = dict(zip(jobs, plane.wait_for_end(*jobs.values()), strict=True))
    red = {job: plane.why(jobs[job]) for job, status in ended.items() if status != "SUCCESS"}
    assert not red, red


def flip_a_part(made: Installation) -> None:
    """One bit in the file that the store keeps of a sealed part: the platform is not told."""
    place, _ = run_place()
    with made.platform(after_day=True) as opened:
        part = read_history(opened, TENANT).counting[DAY].parts[0].object
    data = place.folder("versitygw") / "data" / made.servers["AUDIT_S3_BUCKET"] / part.key
    assert data.stat().st_size == part.size
    attackers.flip(data, part.size // 2)


@pytest.mark.full_stack
@pytest.mark.timeout(1500)
def test_each_job_runs_green_by_graphql_on_the_real_servers(made: Installation) -> None:
    proposal = whole_path(made)
    with control_plane(made) as plane:
        plane.stop_sensors()
        plane.start("daemon")
        seen = _seal_and_verify(plane)
        seen |= _read_and_repair(plane, proposal)
        seen |= _second_steps(plane)
        seen |= _damaged(plane, made)
        known = set(_jobs(plane))
    assert seen == known


def _jobs(plane: ControlPlane) -> list[str]:
    said = plane.ask(
        """query($selector: RepositorySelector!) {
          repositoryOrError(repositorySelector: $selector) {
            ... on Repository { jobs { name } } } }""",
        selector={
            "repositoryLocationName": "audit-platform",
            "repositoryName": "__repository__",
        },
    )
    names = [j["name"] for j in said["repositoryOrError"]["jobs"]]
    return [name for name in names if name != "__ASSET_JOB"]


def _seal_and_verify(plane: ControlPlane) -> set[str]:
    other = {"day": DAY, "tenant": desk.TENANT}
    know(plane, TENANT, desk.TENANT)
    sealed = plane.launch("seal_day", partition=TENANT_DAY)
    also = plane.launch("seal_day", partition=other)
    # Before any run is on record: nobody archives what Dagster says of itself here.
    counted = plane.launch("count_archive")
    runs = {"seal_day": sealed, "seal_day of the other": also, "count_archive": counted}
    green(plane, runs)
    assert plane.metadata(sealed, "cold_manifest")["number"] == 1
    return {"seal_day", "count_archive"}


def know(plane: ControlPlane, *tenants: str) -> None:
    """Add tenants to the partitions, as a person would."""
    for tenant in tenants:
        said = plane.ask(
            """mutation($repository: RepositorySelector!, $name: String!, $key: String!) {
              addDynamicPartition(
                repositorySelector: $repository, partitionsDefName: $name, partitionKey: $key
              ) { __typename } }""",
            repository={
                "repositoryLocationName": "audit-platform",
                "repositoryName": "__repository__",
            },
            name="tenant",
            key=tenant,
        )
        assert said["addDynamicPartition"]["__typename"] == "AddDynamicPartitionSuccess"


def _read_and_repair(plane: ControlPlane, proposal: str) -> set[str]:
    days = {"tenant": TENANT, "days": [DAY]}
    runs = {
        "verify_day": plane.launch("verify_day", partition=TENANT_DAY),
        "rebuild_hot": plane.launch("rebuild_hot", op("rebuild", **days)),
        "replay_dlq": plane.launch(
            "replay_dlq",
            op("replay_letters", tenant=desk.TENANT, proposal=proposal, events_per_second=100_000),
        ),
        "probe_lock": plane.launch("probe_lock"),
        "hold_day": plane.launch(
            "hold_day", op("hold", tenant=TENANT, day=DAY, person="auditor-1", reason=REASON)
        ),
        "inventory": plane.launch("inventory"),
        "rebuild_metadata": plane.launch("rebuild_metadata"),
    }
    green(plane, runs)
    assert plane.metadata(runs["rebuild_hot"], "hot_index")["documents"] > 0
    assert plane.outputs(runs["replay_dlq"])["chunks_done_now"] == 2
    with plane.made.platform(after_day=True) as opened:
        case = case_of(Reader(opened), desk.TENANT, proposal)
        assert case.state is State.REPLAYED
    return set(runs)


def _second_steps(plane: ControlPlane) -> set[str]:
    days = {"tenant": TENANT, "days": [DAY]}
    lift = {"tenant": TENANT, "day": DAY, "reason": REASON}
    first = {
        "verify_hot": plane.launch("verify_hot", partition=TENANT_DAY),
        "snapshot_hot": plane.launch("snapshot_hot"),
        "keep_holds": plane.launch("keep_holds"),
        "ask_lift_hold": plane.launch("ask_lift_hold", op("ask_lift", person="auditor-1", **lift)),
        "verify_rolling": plane.launch("verify_rolling"),
        "reconcile": plane.launch("reconcile"),
    }
    green(plane, first)
    assert plane.metadata(first["snapshot_hot"], "hot_snapshot")["indexes"] > 0
    second = {
        "restore_hot": plane.launch("restore_hot", op("restore", **days)),
        "restore_drill": plane.launch("restore_drill"),
        "lift_hold": plane.launch("lift_hold", op("lift", person="auditor-2", **lift)),
        "hot_life": plane.launch("hot_life"),
        "landing_upkeep": plane.launch("landing_upkeep"),
    }
    green(plane, second)
    assert plane.metadata(second["restore_hot"], "hot_index")["snapshot"].startswith("hot-")
    return {*first, *second}


def _damaged(plane: ControlPlane, made: Installation) -> set[str]:
    flip_a_part(made)
    assert plane.wait_for_end(plane.launch("verify_day", partition=TENANT_DAY)) == ["FAILURE"]
    again = plane.launch("rearchive_day", op("rearchive", tenant=TENANT, day=DAY))
    green(plane, {"rearchive_day": again})
    assert plane.metadata(again, "cold_manifest")["revision"] == 2
    flip_a_part(made)
    assert plane.wait_for_end(plane.launch("verify_day", partition=TENANT_DAY)) == ["FAILURE"]
    with made.platform(after_day=True) as opened:
        (found,) = [i for i in incidents(opened, TENANT) if i.is_open]
    accepted = plane.launch(
        "accept_gap",
        op(
            "accept",
            tenant=TENANT,
            day=DAY,
            incident=found.incident.incident_id,
            person="auditor-7",
            reason=REASON,
        ),
    )
    green(plane, {"accept_gap": accepted})
    return {"rearchive_day", "accept_gap"}
