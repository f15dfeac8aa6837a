"""Snapshots of HOT: a day comes back whole, whatever came, was sealed or was lost since."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit_platform.errors import HotUnavailable, SettingInvalid
from audit_platform.operations import hot_snapshots as module
from audit_platform.operations.hot_check import check_hot
from audit_platform.operations.hot_snapshots import (
    STALE_MS,
    Restored,
    drill,
    freshness,
    newest,
    restore_hot,
    take_snapshot,
    taken_ms,
)
from audit_platform.ports import IndexName, Platform
from audit_platform.record.layout import MS_PER_DAY
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.hot_rows import Event, batch
from audit_platform_tests.world import DAY, Edge, World, open_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A new installation."""
    with open_world(tmp_path) as opened:
        yield opened


def index(world: World, edge: Edge, lines: list[bytes]) -> None:
    world.ingest(edge.tenant_id, lines)
    world.index()


def begun(world: World) -> Edge:
    """A tenant with 25 events of the day, indexed and archived."""
    edge = world.edge("north")
    index(world, edge, [edge.start(START_MS), *edge.heartbeats(4, 6, START_MS)])
    world.archive()
    return edge


def held(world: World) -> list[bytes]:
    """Hashes of the one index of the day; it is read and written."""
    (only,) = (i for i in world.platform.hot.indexes("north") if i.day == DAY)
    assert only.is_read
    assert only.is_write
    return [bytes(h) for h in world.platform.hot.hashes("north", DAY, only.generation)]


def drop(world: World) -> None:
    for found in world.platform.hot.indexes("north"):
        world.platform.hot.delete_index("north", found.day, found.generation)


def restored(world: World) -> Restored:
    done = restore_hot(world.platform, "north", DAY)
    assert done.result.complete
    return done


def first(indexes: list[IndexName]) -> IndexName:
    return indexes[0]


def test_a_day_comes_back_with_what_came_after_the_snapshot(world: World) -> None:
    edge = begun(world)
    taken = take_snapshot(world.platform)
    assert (taken.documents, taken.left_out, taken.pruned) == (25, (), ())
    index(world, edge, edge.heartbeats(2, 3, START_MS))  # in the log alone
    before = held(world)
    drop(world)
    done = restored(world)
    assert done.snapshot == taken.snapshot.name
    assert done.tried == ()
    assert held(world) == before
    assert (len(before), done.result.documents) == (31, 31)
    assert check_hot(world.platform, "north", DAY).passed


def test_a_day_that_was_sealed_since_comes_back_as_its_manifest_says(world: World) -> None:
    edge = begun(world)
    polluted = Event(event_time=START_MS, ingestion_time=START_MS)
    world.platform.hot.create("north", DAY, batch([polluted]))
    take_snapshot(world.platform)
    index(world, edge, edge.heartbeats(2, 3, START_MS))
    world.archive()
    world.close()
    world.seal("north")
    done = restored(world)
    assert (done.result.manifest, done.result.removed) == (1, 1)
    assert (done.result.from_cold, done.result.from_landing) == (31, 0)
    assert len(held(world)) == 31
    assert check_hot(world.platform, "north", DAY).passed


def test_what_a_snapshot_has_is_not_indexed_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = begun(world)
    take_snapshot(world.platform)
    index(world, edge, edge.heartbeats(2, 3, START_MS))
    filled = []
    real = world.platform.hot.fill

    def fill(tenant: str, day: str, generation: int, rows: object) -> int:
        new = real(tenant, day, generation, rows)
        filled.append(new)
        return new

    monkeypatch.setattr(world.platform.hot, "fill", fill)
    restored(world)
    assert sum(filled) == 6


def test_a_snapshot_that_is_damaged_is_named_and_the_one_before_is_used(world: World) -> None:
    begun(world)
    older = take_snapshot(world.platform).snapshot.name
    world.clock.ms += MS_PER_DAY // 4
    newer = take_snapshot(world.platform).snapshot.name
    (copy,) = (world.settings.hot_snapshots_folder / newer).glob("*.db")
    copy.unlink()  # a hard link may lead to the older one's bytes
    copy.write_bytes(b"no database" * 1000)
    before = held(world)
    done = restored(world)
    assert done.snapshot == older
    (why,) = done.tried
    assert why.startswith(f"{newer}: ")
    assert held(world) == before


def test_a_day_that_no_snapshot_has_is_rebuilt_and_the_result_says_so(world: World) -> None:
    begun(world)
    before = held(world)
    done = restored(world)
    assert (done.snapshot, done.tried) == ("", ("no snapshot has the day",))
    assert held(world) == before


class Died(Exception):
    """Stands for a SIGKILL at that point."""


@pytest.mark.parametrize("name", ["note", "move_write", "fill", "hashes", "move_read"])
def test_a_restore_that_dies_leaves_the_old_index_read_and_the_next_goes_on(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = begun(world)
    taken = take_snapshot(world.platform)
    index(world, edge, edge.heartbeats(2, 3, START_MS))
    before = held(world)
    real = getattr(world.platform.hot, name)

    def dies(*given: object) -> object:
        real(*given)
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(world.platform.hot, name, dies)
        with pytest.raises(Died):
            restore_hot(world.platform, "north", DAY)
    read = [i for i in world.platform.hot.indexes("north") if i.is_read]
    assert [i.documents for i in read] == [31]
    done = restored(world)
    assert done.snapshot == taken.snapshot.name
    assert held(world) == before


def test_the_oldest_snapshots_go_and_strangers_stay(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(world)
    monkeypatch.setattr(module, "KEEP", 2)
    place = module.repository(world.platform)
    place.take("mine", [IndexName("north", DAY, 1)])
    names = []
    for _ in range(4):
        names.append(take_snapshot(world.platform).snapshot.name)
        world.clock.ms += MS_PER_DAY // 4
    assert [s.name for s in place.snapshots()] == [*names[-2:], "mine"]
    found = newest(world.platform)
    assert found is not None
    assert (found.name, taken_ms(found)) == (names[-1], world.clock.ms - MS_PER_DAY // 4)


def test_an_index_that_did_not_change_is_not_copied_again(world: World) -> None:
    begun(world)
    for file in world.settings.hot_folder.iterdir():
        os.utime(file, (1_000_000_000, 1_000_000_000))  # changed long ago
    names = []
    for _ in range(2):
        names.append(take_snapshot(world.platform).snapshot.name)
        world.clock.ms += 1000
    folders = [world.settings.hot_snapshots_folder / name for name in names]
    inodes = {file.stat().st_ino for folder in folders for file in folder.glob("*.db")}
    assert len(inodes) == 1


def test_a_damaged_index_is_left_out_of_a_snapshot_and_named(world: World) -> None:
    begun(world)
    south = world.edge("south")
    index(world, south, [south.start(START_MS)])
    for file in world.settings.hot_folder.glob("hot.north.*.db*"):
        file.write_bytes(bytes(4096))
    taken = take_snapshot(world.platform)
    assert taken.left_out == (IndexName("north", DAY, 1),)
    assert taken.snapshot.indexes == (IndexName("south", DAY, 1),)


def test_freshness_is_told_by_the_newest_whole_snapshot(world: World) -> None:
    assert freshness(world.platform).is_fresh  # nothing is read: nothing to snapshot
    begun(world)
    assert not freshness(world.platform).is_fresh
    name = take_snapshot(world.platform).snapshot.name
    world.clock.ms += STALE_MS - 1000
    assert freshness(world.platform).is_fresh
    world.clock.ms += 1000
    found = freshness(world.platform)
    assert (found.is_fresh, found.snapshot, found.age_ms >= STALE_MS) == (False, name, True)
    next((world.settings.hot_snapshots_folder / name).glob("*.db")).unlink()
    assert freshness(world.platform).snapshot == ""


def test_a_drill_proves_a_day_out_of_the_snapshot_and_leaves_nothing(world: World) -> None:
    edge = begun(world)
    take_snapshot(world.platform)
    index(world, edge, edge.heartbeats(2, 3, START_MS))
    world.archive()
    world.close()
    world.seal("north")
    before = world.platform.hot.indexes()
    done = drill(world.platform, first)
    assert done.passed
    assert (done.documents, done.added, done.removed, done.read) == (31, 6, 0, 31)
    assert world.platform.hot.indexes() == before


def test_a_drill_finds_a_part_that_cannot_be_read(world: World) -> None:
    begun(world)
    world.close()
    world.seal("north")
    take_snapshot(world.platform)
    (part,) = (world.objects_folder / "cold").rglob("part-*.parquet")
    part.write_bytes(b"PAR1" + bytes(part.stat().st_size - 4))
    done = drill(world.platform, first)
    assert not done.passed
    assert "part-0" in done.problems[0]


def test_what_a_drill_that_died_left_is_swept_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(world)
    take_snapshot(world.platform)

    def dies(*_: object, **__: object) -> None:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(module, "fill_and_prove", dies)
        patched.setattr(world.platform.hot, "delete_index", lambda *_: None)
        with pytest.raises(Died):
            drill(world.platform, first)
    assert len(world.platform.hot.indexes()) == 2
    assert drill(world.platform, first).passed
    assert len(world.platform.hot.indexes()) == 1


@pytest.mark.parametrize("work", [take_snapshot, newest, lambda p: drill(p, first)])
def test_without_a_place_or_a_snapshot_each_job_says_what_to_do(
    work: Callable[[Platform], object], world: World
) -> None:
    from dataclasses import replace  # noqa: PLC0415 - used here alone

    with pytest.raises(SettingInvalid, match="AUDIT_OPENSEARCH_SNAPSHOTS"):
        work(replace(world.platform, snapshots=None))


def test_nothing_to_snapshot_and_nothing_to_restore_from_are_failures(world: World) -> None:
    with pytest.raises(HotUnavailable, match="no index to snapshot"):
        take_snapshot(world.platform)
    with pytest.raises(HotUnavailable, match="no snapshot to restore from"):
        drill(world.platform, first)
