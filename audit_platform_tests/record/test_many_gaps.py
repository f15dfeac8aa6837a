"""A device that skips every second sequence: its manifest stays small, its gaps are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.operations.late import close_again
from audit_platform.operations.manifests import read_history
from audit_platform.record import layout
from audit_platform.record.report import Step
from audit_platform.record.spans import MAX_LISTED_GAPS
from audit_platform_tests.world import DAY, World, open_world

TENANT = "north"
GAPS = 2 * MAX_LISTED_GAPS
NEXT = layout.next_day(DAY)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as opened:
        yield opened


@pytest.fixture
def missing(world: World) -> list[bytes]:
    """The day of a device of which every second event was sealed; the others."""
    edge = world.edge(TENANT)
    start = edge.start(world.clock.now_ms())
    lines = edge.heartbeats(1, 2 * GAPS + 1, world.clock.now_ms())
    world.ingest(TENANT, [start, *lines[::2]])
    world.archive()
    world.close()
    world.seal(TENANT)
    return lines[1::2]


def test_the_manifest_lists_the_first_gaps_and_counts_the_others(
    world: World, missing: list[bytes]
) -> None:
    manifest = read_history(world.platform, TENANT).counting[DAY]
    (span,) = [c for c in manifest.chains if c.device_id == "pump-000"]
    assert len(missing) == GAPS
    assert (len(span.gaps), span.unlisted_gaps) == (MAX_LISTED_GAPS, GAPS - MAX_LISTED_GAPS)
    assert manifest.verdicts == {"gap": GAPS}
    assert len(manifest.raw) < 300 * MAX_LISTED_GAPS


@pytest.mark.usefixtures("missing")
def test_a_check_tells_that_there_are_more_gaps_than_are_listed(world: World) -> None:
    found = world.verify(TENANT).findings
    assert {e.step for e in found} == {Step.LINKS}
    assert {e.verdict for e in found[:-1]} == {"gap"}
    assert f"{MAX_LISTED_GAPS + 1} such chain verdicts in all" in found[-1].message
    assert f"{GAPS - MAX_LISTED_GAPS} more gaps between sequences" in found[0].message


def test_what_was_missing_and_comes_a_day_later_is_no_fork(
    world: World, missing: list[bytes]
) -> None:
    world.ingest(TENANT, missing)
    world.archive()
    world.close(NEXT)
    world.seal(TENANT, NEXT)
    for day in (DAY, NEXT):
        assert {e.verdict for e in world.verify(TENANT, day).findings} <= {"gap"}


def test_a_revision_that_fills_every_gap_is_clean(world: World, missing: list[bytes]) -> None:
    world.ingest(TENANT, missing, at_ms=layout.day_end_ms(DAY) - 1)
    world.archive()
    close_again(world.platform, DAY)
    assert world.seal(TENANT).verdicts == {}
    assert world.verify(TENANT).findings == []
