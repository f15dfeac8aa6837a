"""Holes, lost objects and lateness show in a count that reads no row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.operations.archive_state import archive_state
from audit_platform.ports import NewRecord
from audit_platform.record import layout
from audit_platform_tests.world import DAY, World, open_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Two ranges of one partition, one of them with a log record that nobody can decode."""
    with open_world(tmp_path, partitions=1) as opened:
        edge = opened.edge("north")
        now = opened.clock.now_ms()
        opened.ingest("north", [edge.start(now), *edge.heartbeats(3, 4, now)])
        opened.archive()
        raw = NewRecord(0, b"not a line\n", {"v": "1", "tenant": "north", "count": "3"})
        opened.platform.log.append(layout.EVENTS_TOPIC, [raw])
        opened.refuse("north", [b"{}"])
        opened.ingest("north", edge.heartbeats(3, 1, now))
        opened.archive()
        yield opened


def test_what_is_archived_is_counted_from_small_records(world: World) -> None:
    state = archive_state(world.platform)
    assert state.findings == []
    assert state.events == 13 + 3 + 3 + 1
    assert (state.pending, state.lag_seconds) == (0, 0.0)
    assert state.ranges == 3
    assert state.objects >= 3


def test_what_waits_is_told_with_its_age(world: World) -> None:
    edge = world.edge("north", 1)
    world.ingest("north", [edge.start(world.clock.now_ms())])
    world.clock.advance(601_000)
    state = archive_state(world.platform)
    assert (state.pending, state.lag_seconds) == (1, 601.0)
    assert state.findings == []


def test_an_object_that_is_gone_is_a_finding(world: World) -> None:
    folder = world.objects_folder / f"landing/v1/tenant=north/day={DAY}"
    gone = min(folder.iterdir())
    version = world.platform.objects.oldest(f"landing/v1/tenant=north/day={DAY}/{gone.name}")
    assert version is not None
    world.clock.advance(40 * layout.MS_PER_DAY)
    world.platform.objects.delete(version.key, version.version_id)
    (finding,) = archive_state(world.platform).findings
    assert finding == f"{version.key}: not in the store"


def test_a_range_that_is_gone_leaves_a_hole(world: World) -> None:
    edge = world.edge("north", 1)
    world.ingest("north", [edge.start(world.clock.now_ms())])
    world.archive()
    prefix = layout.range_records_prefix("landing/v1", 1, 0)
    records = list(world.platform.objects.versions(prefix))
    world.clock.advance(800 * layout.MS_PER_DAY)
    world.platform.objects.delete(records[1].key, records[1].version_id)
    findings = archive_state(world.platform).findings
    assert any("a range starts at" in f for f in findings)


def test_an_empty_log_has_nothing_to_count(tmp_path: Path) -> None:
    with open_world(tmp_path, partitions=1) as world:
        world.archive()
        state = archive_state(world.platform)
        assert (state.ranges, state.events, state.pending) == (0, 0, 0)
