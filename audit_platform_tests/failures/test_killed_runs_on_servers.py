"""`seal_day`, `rebuild_hot` and `replay_dlq` killed at four fifths, on the real servers.

Once their worker dies alone, and once the code server dies with it. Nobody asks again by hand: the
sensor `lost_runs` finds what has lost its process. What each process reads is counted at the port
of the object store (`metered_definitions.py`), and written down before it dies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from audit_platform.operations.closing import close_day
from audit_platform.operations.manifests import read_history
from audit_platform.record import layout
from audit_platform.record.decision import CHUNK_LINES
from audit_platform_tests.clocks import ManualClock
from audit_platform_tests.failures import metered_definitions as metered
from audit_platform_tests.failures.control_plane import (
    RUN_SECONDS,
    UP_SECONDS,
    ControlPlane,
    Run,
    control_plane,
)
from audit_platform_tests.failures.installation import (
    DAY,
    GRACE_SECONDS,
    Installation,
    installation,
    wait_for,
)
from audit_platform_tests.failures.on_servers import servers_of_a_test
from audit_platform_tests.failures.test_jobs_on_servers import know, op
from audit_platform_tests.operations.dlq import desk
from audit_platform_tests.world import World

#: Devices of a tenant's day, and the rows of each: a part holds one device.
DEVICES = 10
EACH = 300

#: What the next run may read of what a whole run reads.
SHARE = 0.3

SERVICES = ("archive-writer", "search-indexer")

#: Two tenants with the same day: one dies with its worker, one with the code server too.
TENANTS = ("north", "south")


@dataclass
class Site:
    """An installation with days to be sealed, rebuilt and replayed."""

    made: Installation
    meter: Path
    plane: ControlPlane
    proposals: list[str]

    def read_by(self, run_id: str, wanted: Callable[[str], bool], step: str = "") -> int:
        """Bytes of keys that a run has read, in one of its steps or in all."""
        pid, begun = self.plane.worker_of(run_id), self.plane.steps_of(run_id)
        total = 0
        for line in self.meter.read_text().splitlines():
            at, process, size, key = line.split(" ", 3)
            if int(process) != pid or not wanted(key):
                continue
            under_way = [name for since, name in begun if since <= float(at)]
            if not step or under_way[-1:] == [step]:
                total += int(size)
        return total


def prepared(made: Installation) -> list[str]:
    """Days in the log, in landing and in HOT; the day closed; two approved proposals."""
    with made.platform() as opened:
        world = World(made.folder, opened, ManualClock(opened.clock.now_ms()), made.settings())
        for tenant in TENANTS:
            edge, now = world.edge(tenant), opened.clock.now_ms()
            world.ingest(tenant, [edge.start(now), *edge.heartbeats(DEVICES, EACH, now)])
        dlq = desk.Dlq.open(world)
        dlq.refuse(5 * CHUNK_LINES)
        for name in SERVICES:
            made.start(name)
        made.wait_for_the_archive()
        made.wait_for_the_index()
        for name in SERVICES:
            made.stop(name)
        proposals = [dlq.approved()]
    with made.platform(after_day=True) as opened:
        close_day(opened, DAY, GRACE_SECONDS * 1000)
    return proposals


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Dagster runs, with the sensor that finds lost runs and no other."""
    meter = tmp_path / "meter"
    with (
        servers_of_a_test() as servers,
        installation(tmp_path / "made", servers, int(time.time() * 1000)) as made,
    ):
        proposals = prepared(made)
        with control_plane(
            made,
            definitions="audit_platform_tests.failures.metered_definitions",
            **{metered.FILE_VARIABLE: str(meter), metered.ROWS_VARIABLE: str(EACH)},
        ) as plane:
            plane.stop_sensors([n for n in plane.sensors() if n != "lost_runs"])
            plane.start("daemon")
            know(plane, *TENANTS)
            yield Site(made, meter, plane, proposals)


def dies(
    site: Site, launch: Callable[[], str], *, with_code: bool, **death: str
) -> tuple[str, Run]:
    """A run that dies; with it the code server, or not. The run that follows, ended."""
    plane = site.plane
    plane.restart_code(**death)
    found: list[str] = []

    def is_launched() -> bool:
        # The webserver's own connection to the code server comes back after a while.
        with suppress(AssertionError):
            found.append(launch())
        return bool(found)

    wait_for("the webserver to reach the code server", is_launched, UP_SECONDS)
    (run_id,) = found
    wait_for("the run to begin", lambda: plane.run(run_id).status != "QUEUED", RUN_SECONDS)
    wait_for("the run to work", lambda: plane.run(run_id).status != "STARTING", RUN_SECONDS)
    if with_code:
        plane.kill("code")
    pid = plane.worker_of(run_id)
    wait_for("the worker to die", lambda: not Path(f"/proc/{pid}").exists(), RUN_SECONDS)
    if with_code:
        assert plane.run(run_id).status == "STARTED"  # nobody is left to say that it died
        plane.restart_code()
    child = plane.child_of(run_id)
    assert plane.run(run_id).status == "FAILURE"
    assert plane.wait_for_end(child.run_id) == ["SUCCESS"], plane.why(child.run_id)
    assert child.tags["audit/cause"] == "lost_runs"
    return run_id, plane.run(child.run_id)


def rows(key: str) -> bool:
    """A tenant's landing, or a part of its sealed day: not records that all tenants share."""
    return "/tenant=" in key and key.endswith(".parquet")


def landing(key: str) -> bool:
    """A tenant's landing."""
    return rows(key) and key.startswith(layout.LANDING)


@pytest.mark.full_stack
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("with_code", [False, True], ids=["worker", "worker and code server"])
def test_runs_that_are_killed_at_four_fifths_are_finished_by_the_next(
    site: Site, *, with_code: bool
) -> None:
    sealing(site, with_code=with_code)
    rebuilding(site, with_code=with_code)
    replaying(site, with_code=with_code)


def sealing(site: Site, *, with_code: bool) -> None:
    """Dies when eight of ten parts are put.

    The verification that follows in the same run reads all that is sealed, as it must.
    """
    plane, target = site.plane, {"day": DAY, "tenant": TENANTS[0]}
    dead, child = dies(
        site,
        lambda: plane.launch("seal_day", partition=target),
        with_code=with_code,
        AUDIT_KILL_AT="part_put:8",
    )
    before = site.read_by(dead, rows, "seal")
    after = site.read_by(child.run_id, rows, "seal")
    assert site.read_by(child.run_id, landing, "seal") == 0
    assert after < SHARE * before
    shown = plane.metadata(child.run_id, "cold_day")
    assert shown["landing_skipped"] is True
    assert str(shown["parts_skipped"]).count("/part-") == 8
    with site.made.platform(after_day=True) as opened:
        manifest = read_history(opened, TENANTS[0]).counting[DAY]
    assert manifest.rows == DEVICES * EACH + 1
    print(f"seal_day: {before} bytes before, {after} after")  # noqa: T201 - the figure that the docs tell


def rebuilding(site: Site, *, with_code: bool) -> None:
    """Dies when it begins with the ninth of ten parts."""
    plane = site.plane
    dead, child = dies(
        site,
        lambda: plane.launch("rebuild_hot", op("rebuild", tenant=TENANTS[0], days=[DAY])),
        with_code=with_code,
        **{metered.DEATH_VARIABLE: "9"},
    )
    before, after = site.read_by(dead, rows), site.read_by(child.run_id, rows)
    assert 0 < after < SHARE * (before + after)
    shown = plane.metadata(child.run_id, "hot_index")
    assert str(shown["parts_skipped"]).count("/part-") == 8
    assert shown["documents"] == DEVICES * EACH + 1
    print(f"rebuild_hot: {before} bytes before, {after} after")  # noqa: T201 - as above


def replaying(site: Site, *, with_code: bool) -> None:
    """Dies when four of five chunks are written down."""
    plane = site.plane
    config = op(
        "replay_letters",
        tenant=desk.TENANT,
        proposal=site.proposals[0],
        events_per_second=100_000,
    )
    dead, child = dies(
        site,
        lambda: plane.launch("replay_dlq", config),
        with_code=with_code,
        AUDIT_KILL_AT="dlq_replayed:4",
    )
    before, after = site.read_by(dead, rows), site.read_by(child.run_id, rows)
    shown = plane.outputs(child.run_id)
    assert (shown["chunks_done_before"], shown["chunks_done_now"]) == (4, 1)
    assert 0 < after < SHARE * (before + after)
    print(f"replay_dlq: {before} bytes before, {after} after")  # noqa: T201 - as above
