"""What is laid over a small record hides nothing from readers, and is a finding of every check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit_platform.adapters.directory import DirectorySource
from audit_platform.operations.coverage import coverage, range_records
from audit_platform.operations.reconcile import reconcile
from audit_platform.operations.verify import trusted_keys
from audit_platform.record import fsck
from audit_platform.record.layout import (
    EVENTS_TOPIC,
    LANDING,
    RangeAddress,
    closing_key,
    generation_key,
)
from audit_platform.record.report import Entry
from audit_platform_tests.world import DAY, World, open_world, sealed_day

TENANT = "north"
RANGE = RangeAddress(LANDING, 1, 0, 0).record_key
Lay = Callable[[World, str], None]


def delete_marker(world: World, key: str) -> None:
    world.platform.objects.delete(key)


def other_bytes(world: World, key: str) -> None:
    world.platform.objects.put(key, b"{}", retain_until_ms=0, if_absent=False)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path / "home") as opened:
        yield opened


def hidden(entries: list[Entry]) -> list[str]:
    return [e.key for e in entries if e.verdict == "hidden" and not e.note]


def checked(world: World) -> list[Entry]:
    """Findings of a check of the whole folder, as an auditor runs it."""
    source = DirectorySource(world.objects_folder)
    return list(fsck.check(source, trusted_keys(world.platform)).findings)


def test_a_sound_record_has_nothing_hidden(world: World) -> None:
    sealed_day(world)
    assert checked(world) == []
    assert world.verify(TENANT).findings == []


@pytest.mark.parametrize("lay", [delete_marker, other_bytes])
@pytest.mark.parametrize("key", [RANGE, generation_key(1), closing_key(DAY)])
def test_readers_use_the_oldest_version_and_checks_name_what_lies_over_it(
    world: World, key: str, lay: Lay
) -> None:
    sealed_day(world)
    before = list(range_records(world.platform.objects, EVENTS_TOPIC, 1, 0))
    assert before
    lay(world, key)
    assert list(range_records(world.platform.objects, EVENTS_TOPIC, 1, 0)) == before
    assert coverage(world.platform, DAY).complete
    assert reconcile(world.platform).ok
    assert hidden(list(world.verify(TENANT).findings)) == [key]
    assert hidden(checked(world)) == [key]


@pytest.mark.parametrize("lay", [delete_marker, other_bytes])
def test_a_range_record_that_something_lies_over_is_sealed_as_it_was(
    world: World, lay: Lay
) -> None:
    edge = world.edge(TENANT)
    start = edge.start(world.clock.now_ms())
    world.ingest(TENANT, [start, *edge.heartbeats(3, 2, world.clock.now_ms())])
    world.archive()
    lay(world, RANGE)
    world.ingest(TENANT, edge.heartbeats(3, 2, world.clock.now_ms()))
    world.archive()
    world.close()
    assert world.seal(TENANT).rows == 13
    assert hidden(list(world.verify(TENANT).findings)) == [RANGE]
