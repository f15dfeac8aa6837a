"""Every sealed object is hashed again in time, within a budget, and what is red is an incident."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.operations import rolling
from audit_platform.operations.incidents import incidents
from audit_platform.operations.manifests import read_history
from audit_platform.operations.rolling import WITHIN_DAYS, due, verify_rolling
from audit_platform.record import layout
from audit_platform_tests import attackers
from audit_platform_tests.world import DAY, Edge, World, open_world

BUDGET = 1 << 30


def add_day(world: World, edge: Edge, day: str) -> None:
    """Events on a day, sealed."""
    world.clock.ms = max(world.clock.ms, layout.day_start_ms(day))
    now = world.clock.now_ms()
    lines = [] if edge.chain_id else [edge.start(now)]
    world.ingest("north", [*lines, *edge.heartbeats(2, 3, now)])
    world.archive()
    world.close(day)
    world.seal("north", day)


DAYS = [layout.next_day(DAY, n) for n in range(3)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Three sealed days."""
    with open_world(tmp_path / "home", partitions=1) as opened:
        edge = opened.edge("north")
        for day in DAYS:
            add_day(opened, edge, day)
        yield opened


def pass_days(world: World, days: float) -> None:
    world.clock.advance(int(days * layout.MS_PER_DAY))


def size_of(world: World, day: str) -> int:
    manifest = read_history(world.platform, "north").counting[day]
    return len(manifest.raw) + sum(p.object.size for p in manifest.parts)


def test_a_night_reads_what_was_read_longest_ago_and_each_day_comes_in_turn(world: World) -> None:
    read = []
    for _ in DAYS:
        pass_days(world, 1)
        (today,) = due(world.platform, BUDGET).tonight
        read.append(today.day)
        done = verify_rolling(world.platform, BUDGET, sample=0)
        assert (done.days, done.objects, done.bytes) == (1, 2, size_of(world, today.day))
        assert not done.problems
        assert done.met
    assert read == DAYS
    pass_days(world, 1)
    assert due(world.platform, BUDGET).tonight[0].day == DAYS[0]


def test_what_was_read_is_known_without_anything_but_the_store(world: World) -> None:
    verify_rolling(world.platform, BUDGET, sample=0)
    (record,) = world.platform.objects.versions("verified/v1/")
    assert record.retain_until_ms > world.clock.now_ms()
    before = rolling.verified_before(world.platform)
    assert list(before) == [("north", DAYS[0], 1)]


def test_a_record_that_is_not_signed_by_us_spares_no_day(world: World) -> None:
    verify_rolling(world.platform, BUDGET, sample=0)
    (record,) = world.platform.objects.versions("verified/v1/")
    attackers.flip(world.objects_folder / record.key, 20)
    assert rolling.verified_before(world.platform) == {}


def test_after_75_days_a_night_reads_all_that_is_old_within_its_budget(world: World) -> None:
    pass_days(world, rolling.AIM_DAYS + 1)
    assert [d.day for d in due(world.platform, BUDGET).tonight] == DAYS
    two = size_of(world, DAYS[0]) + size_of(world, DAYS[1])
    assert [d.day for d in due(world.platform, two).tonight] == DAYS[:2]


def test_a_budget_that_cannot_keep_the_90_days_is_told(world: World) -> None:
    done = verify_rolling(world.platform, 1, sample=0)
    assert done.days == 1  # the first is read whatever its size
    assert done.needed_bytes > 1
    assert not done.met


def test_an_object_that_was_not_read_for_90_days_is_told(world: World) -> None:
    pass_days(world, WITHIN_DAYS + 1)
    done = verify_rolling(world.platform, size_of(world, DAYS[0]), sample=0)
    assert done.days == 1
    assert done.oldest_days > WITHIN_DAYS
    assert not done.met
    assert verify_rolling(world.platform, BUDGET, sample=0).met


@pytest.mark.parametrize("what", ["bit", "gone"])
def test_an_object_that_changed_is_an_incident(world: World, what: str) -> None:
    (part,) = read_history(world.platform, "north").counting[DAYS[0]].parts
    file = world.objects_folder / part.object.key
    if what == "bit":
        attackers.flip(file, 100)
    else:
        file.unlink()
    done = verify_rolling(world.platform, BUDGET, sample=0)
    assert any(part.object.key in text for text in done.problems)
    (found,) = incidents(world.platform, "north", DAYS[0])
    assert done.incidents == [found.incident.incident_id]


def test_a_manifest_that_does_not_hold_is_told_and_hides_no_other_day(world: World) -> None:
    key = layout.manifest_key("north", 2)
    attackers.flip(world.objects_folder / key, 100)
    done = verify_rolling(world.platform, BUDGET, sample=0)
    assert any(key in text for text in done.problems)
    assert done.days == 1


def test_chains_of_a_sample_are_derived_again(world: World) -> None:
    done = verify_rolling(world.platform, BUDGET, sample=1)
    assert done.rederived == [f"north {DAYS[0]}"]


def test_a_run_that_is_killed_goes_on_behind_its_last_chunk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rolling, "CHUNK_BYTES", 1)
    pass_days(world, rolling.AIM_DAYS + 1)
    seen: list[str] = []

    def dies(text: str) -> None:
        seen.append(text)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify_rolling(world.platform, BUDGET, 0, dies)
    again = verify_rolling(world.platform, BUDGET, sample=0)
    assert again.days == 2  # the first day's chunk stood
    chunks = [v.key for v in world.platform.objects.versions("verified/v1/")]
    night = layout.day_of(world.clock.now_ms())
    assert chunks == [layout.verified_key(night, n) for n in range(3)]


def test_nothing_sealed_reads_nothing(tmp_path: Path) -> None:
    with open_world(tmp_path, partitions=1) as world:
        assert verify_rolling(world.platform, BUDGET, sample=1).objects == 0
