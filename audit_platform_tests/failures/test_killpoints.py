"""Death at every named step boundary, in the real processes, by SIGKILL; then nothing is lost.

The list comes from the code. kill -9 leaves un-fsynced pages alive: what a power cut takes is
tested with the file layer (`adapters/test_power_cut_*.py`).
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.killpoints import Killpoint
from audit_platform_tests.failures.installation import DAY, TENANT, Installation, installation

#: The excerpt's first hours: a few bodies, some refused events among them.
TO_MS = 2 * 3_600_000

GATEWAY = [Killpoint.RECEIVED, Killpoint.APPENDED, Killpoint.FSYNCED, Killpoint.ACKNOWLEDGED]
WRITER = [
    Killpoint.OBJECT_PUT,
    Killpoint.LOCK_READ_BACK,
    Killpoint.RANGE_RECORDED,
    Killpoint.OFFSET_COMMITTED,
]
SEALING = [Killpoint.PART_PUT, Killpoint.MANIFEST_CLAIMED, Killpoint.LOCK_LENGTHENED]

KILLED = -signal.SIGKILL


def test_every_killpoint_of_the_code_is_tested_here() -> None:
    assert sorted([*GATEWAY, *WRITER, Killpoint.DAY_CLOSED, *SEALING]) == sorted(Killpoint)


def _feed(made: Installation) -> None:
    feeder = made.start_feeder(TO_MS)
    assert feeder.wait(timeout=120) == 0
    made.running.pop("feeder")


@pytest.mark.parametrize("point", GATEWAY)
def test_the_gateway_dies_and_nothing_acknowledged_is_lost(
    point: Killpoint, tmp_path: Path
) -> None:
    with installation(tmp_path) as made:
        made.start("archive-writer")
        made.start("ingest-gateway", kill_at=f"{point}:2")
        feeder = made.start_feeder(TO_MS)
        assert made.died("ingest-gateway") == KILLED
        made.start("ingest-gateway")
        assert feeder.wait(timeout=120) == 0
        made.running.pop("feeder")
        made.stop("ingest-gateway")
        result = made.finish_and_judge()
        assert result.sealed.rows > 500
        # What died after the append was sent again: it is there twice and counts once.
        again = point in {Killpoint.FSYNCED, Killpoint.ACKNOWLEDGED, Killpoint.APPENDED}
        assert (result.sealed.duplicates > 0) is again


@pytest.mark.parametrize("point", WRITER)
def test_the_writer_dies_and_nothing_acknowledged_is_lost(point: Killpoint, tmp_path: Path) -> None:
    with installation(tmp_path) as made:
        made.start("archive-writer", kill_at=f"{point}:1")
        made.start("ingest-gateway")
        _feed(made)
        assert made.died("archive-writer") == KILLED
        made.start("archive-writer")
        made.stop("ingest-gateway")
        result = made.finish_and_judge()
        assert result.sealed.rows > 500
        assert result.sealed.duplicates == 0


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an installation whose day was fed and archived; its services are stopped."""
    folder = tmp_path_factory.mktemp("archived") / "installation"
    with installation(folder) as made:
        made.start("archive-writer")
        made.start("ingest-gateway")
        _feed(made)
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
