"""`seal_day`: what a run makes, shows and refuses; one signed manifest whatever happens."""

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from dagster._core.execution.plan import active

from audit_platform.defs.partitions import TenantDay
from audit_platform.killpoints import Killpoint
from audit_platform.operations.manifests import SEALED_LOCK_MS, named_objects, read_history
from audit_platform.record import layout
from audit_platform_tests.defs.conftest import Orchestra, evaluations, materializations
from audit_platform_tests.world import DAY, World, sealed_day

NEXT = layout.next_day(DAY)
KEY = f"{DAY}|north"


class Hurry:
    """Stands in for `time` in Dagster's executor: a sleep moves the time on and returns at once."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def time(self) -> float:
        return time.time() + self.skipped

    def sleep(self, seconds: float) -> None:
        self.skipped += seconds


def landed_day(world: World, tenant_id: str = "north") -> None:
    """A closed day with 31 events in landing."""
    edge = world.edge(tenant_id)
    start = edge.start(world.clock.now_ms())
    world.clock.advance(3 * 3_600_000)
    world.ingest(tenant_id, [start, *edge.heartbeats(3, 10, world.clock.now_ms())])
    world.archive()
    world.close()


def leaves(world: World, keys: Iterable[str]) -> list[tuple[bytes, datetime]]:
    """(eventHash, ingestionTime) of every row of these objects, sorted: what a leaf is made of."""
    found: list[tuple[bytes, datetime]] = []
    for key in keys:
        rows = pq.read_table(
            world.objects_folder / key, columns=["event_hash", "ingestion_time"], partitioning=None
        )
        found += zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True)
    return sorted(found)


def landed_leaves(world: World) -> list[tuple[bytes, datetime]]:
    """The same of everything that landed for the day."""
    prefix = layout.range_objects_prefix(layout.LANDING, "north", DAY)
    return leaves(world, (v.key for v in world.platform.objects.versions(prefix)))


def sealed_leaves(world: World) -> list[tuple[bytes, datetime]]:
    """The same of the day's one manifest."""
    history = read_history(world.platform, "north")
    assert [(m.number, m.day) for m in history.manifests] == [(1, DAY)]
    return leaves(world, (p.object.key for p in history.manifests[0].parts))


def test_a_run_seals_signs_and_reads_the_day_back(orchestra: Orchestra) -> None:
    landed_day(orchestra.world)
    result = orchestra.run("seal_day")
    assert result.success
    manifest = read_history(orchestra.world.platform, "north").counting[DAY]
    assert manifest.rows == 31
    assert {name: e.passed for name, e in evaluations(result).items()} == {
        ("chain_unbroken", KEY): True,
        ("manifest_signed_by_known_key", KEY): True,
        ("nothing_missing", KEY): True,
    }


def test_materializations_show_counts_heads_durations_and_hours(orchestra: Orchestra) -> None:
    landed_day(orchestra.world)
    shown = materializations(orchestra.run("seal_day"))
    manifest = read_history(orchestra.world.platform, "north").counting[DAY]
    landing = shown["landing_coverage", KEY]
    assert landing["dagster/row_count"].value == 31
    assert landing["objects"].value == 2  # one a partition of the log
    day = shown["cold_day", KEY]
    assert day["dagster/row_count"].value == 31
    assert day["merkle_root"].value == manifest.root
    size = manifest.parts[0].object.size
    assert (day["bytes"].value, day["objects"].value) == (size, 1)
    assert day["bytes_per_event"].value == pytest.approx(size / 31, abs=0.1)
    seconds = day["seal_seconds"].value
    assert isinstance(seconds, float)
    assert seconds > 0
    signed = shown["cold_manifest", KEY]
    assert signed["trusted_head"].value == f"north:1:{manifest.sha256}"
    plot = str(day["events_per_hour"].value)
    assert ": 0 0 0 31 0 " in plot
    svg = base64.b64decode(plot.rsplit("base64,", 1)[1].rstrip(")")).decode()
    assert "<title>03:00 31</title>" in svg


def test_an_empty_day_gets_a_manifest_and_green_checks_that_say_it_is_empty(
    orchestra: Orchestra,
) -> None:
    orchestra.world.edge("north")
    orchestra.world.close()
    result = orchestra.run("seal_day")
    assert result.success
    assert read_history(orchestra.world.platform, "north").counting[DAY].rows == 0
    for evaluation in evaluations(result).values():
        assert evaluation.passed
        assert "an empty day" in str(evaluation.description)


def test_one_run_seals_a_rectangle_of_tenants_and_days_in_day_order(orchestra: Orchestra) -> None:
    world = orchestra.world
    for tenant in ("north", "south"):
        edge = world.edge(tenant)
        start = edge.start(world.clock.now_ms())
        world.ingest(tenant, [start, *edge.heartbeats(2, 3, world.clock.now_ms())])
    world.archive()
    world.close()
    world.close(NEXT)
    orchestra.know("north", "south")
    first, last = TenantDay(DAY, "north"), TenantDay(NEXT, "south")
    result = orchestra.run_range("seal_day", first, last)
    assert result.success
    partitions = {f"{d}|{t}" for d in (DAY, NEXT) for t in ("north", "south")}
    assert {p for _, p in materializations(result)} == partitions
    checked = evaluations(result)
    assert {p for _, p in checked} == partitions
    assert len(checked) == 3 * 4
    assert all(e.passed for e in checked.values())
    for tenant in ("north", "south"):
        days = [m.day for m in read_history(world.platform, tenant).manifests]
        assert days == [DAY, NEXT]
    shown = materializations(result)
    rows = {p: shown["cold_day", p]["dagster/row_count"].value for p in partitions}
    assert rows[f"{DAY}|south"] == 7
    assert rows[f"{NEXT}|south"] == 0


def test_a_day_that_ranges_do_not_reach_fails_with_its_holes_and_is_not_sealed(
    orchestra: Orchestra,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(active, "time", Hurry())
    world = orchestra.world
    edge = world.edge("north")
    world.ingest("north", [edge.start(world.clock.now_ms())])
    world.close()
    result = orchestra.run("seal_day")
    assert not result.success
    failed = [e for e in result.all_events if e.is_step_failure]
    assert [e.step_key for e in failed] == ["landing_coverage"]
    failure = failed[0].step_failure_data.user_failure_data
    assert failure is not None
    assert "of events is 1 offsets short (not archived yet)" in str(failure.description)
    assert "holes" in failure.metadata
    retried = [e for e in result.all_events if e.is_step_up_for_retry]
    assert len(retried) == 2  # the archive-writer may still come
    assert read_history(world.platform, "north").manifests == ()


def test_what_waiting_cannot_mend_is_not_retried(orchestra: Orchestra) -> None:
    landed_day(orchestra.world)
    stored = next(orchestra.world.platform.objects.versions("landing/v1/tenant=north/"))
    (orchestra.world.objects_folder / stored.key).write_bytes(b"other bytes")
    result = orchestra.run("seal_day")
    failed = [e for e in result.all_events if e.is_step_failure]
    assert [e.step_key for e in failed] == ["seal"]
    assert "is not what its range record says" in str(failed[0].step_failure_data.error)
    assert not [e for e in result.all_events if e.is_step_up_for_retry]


# ------------------------------------------------------------------------------ other processes

#: What a run worker does, in a process of its own; waits for a line before it begins.
WORKER = """
import sys
import dagster as dg
from audit_platform.definitions import defs

with dg.DagsterInstance.ephemeral() as instance:
    instance.add_dynamic_partitions("tenant", ["north"])
    job = defs.resolve_job_def("seal_day")
    print("ready", flush=True)
    sys.stdin.readline()
    result = job.execute_in_process(instance=instance, partition_key=sys.argv[1])
    sys.exit(0 if result.success else 1)
"""


def worker(world: World, kill_at: str = "") -> "subprocess.Popen[str]":
    """Start a run worker on this world's folder."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AUDIT_")}
    environment |= {"AUDIT_HOME": str(world.folder), "AUDIT_PARTITIONS": "2"}
    if kill_at:
        environment["AUDIT_KILL_AT"] = kill_at
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WORKER, KEY],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parent,
    )


def finish(*workers: "subprocess.Popen[str]") -> list[int]:
    """Wait until all stand ready, let them begin at once, and wait for their ends."""
    for process in workers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in workers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in workers:
        process.communicate(timeout=120)
    return [process.returncode for process in workers]


@pytest.mark.parametrize(
    "point", [Killpoint.PART_PUT, Killpoint.MANIFEST_CLAIMED, Killpoint.LOCK_LENGTHENED]
)
def test_a_seal_that_dies_half_way_and_runs_again_gives_one_signed_manifest(
    orchestra: Orchestra, point: Killpoint
) -> None:
    world = orchestra.world
    landed_day(world)
    assert finish(worker(world, kill_at=point)) == [-signal.SIGKILL]
    before = read_history(world.platform, "north").manifests
    assert len(before) == (0 if point is Killpoint.PART_PUT else 1)
    assert orchestra.run("seal_day").success
    after = read_history(world.platform, "north").manifests
    assert before in ((), after)
    assert sealed_leaves(world) == landed_leaves(world)
    until = layout.day_end_ms(DAY) + SEALED_LOCK_MS
    for named in named_objects(after[0]):
        stored = world.platform.objects.head(named.key, named.version_id)
        assert stored.retain_until_ms >= until


def test_two_seals_of_one_day_at_once_give_one_signed_manifest_with_the_same_leaves(
    orchestra: Orchestra,
) -> None:
    world = orchestra.world
    landed_day(world)
    assert finish(worker(world), worker(world)) == [0, 0]
    assert len(sealed_leaves(world)) == 31
    assert sealed_leaves(world) == landed_leaves(world)
    assert world.verify("north").findings == []


def test_a_sealed_day_that_runs_again_is_adopted_and_says_so(orchestra: Orchestra) -> None:
    sealed_day(orchestra.world)
    shown = materializations(orchestra.run("seal_day"))
    assert shown["cold_day", KEY]["sealed_before"].value is True
    assert len(read_history(orchestra.world.platform, "north").manifests) == 1
