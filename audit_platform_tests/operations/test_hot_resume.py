"""A rebuild that was killed goes on: parts that are filled are proved, and not read again."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.operations import gather
from audit_platform.operations.hot_filling import Tally, as_set
from audit_platform.operations.manifests import read_history
from audit_platform.operations.rebuild_hot import RebuildResult, rebuild_hot
from audit_platform.record import sealed
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.hot_rows import Event, batch
from audit_platform_tests.world import DAY, World, open_world

PARTS = 10


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A sealed day of ten parts, a device in each; its index is there."""
    monkeypatch.setattr(sealed, "MAX_ROWS_PER_PART", 1)
    monkeypatch.setattr(gather, "BUCKET_ROWS", 1)
    with open_world(tmp_path) as opened:
        edge = opened.edge("north")
        start = edge.start(START_MS)
        opened.ingest("north", [start, *edge.heartbeats(PARTS - 1, 30, START_MS)])
        opened.index()
        opened.archive()
        opened.close()
        opened.seal("north")
        yield opened


class Died(Exception):
    """Stands for a SIGKILL at that point."""


def keys(world: World) -> list[str]:
    """The day's parts."""
    return [p.object.key for p in read_history(world.platform, "north").counting[DAY].parts]


def opened(world: World, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts, from now on, the bytes of each part that is opened."""
    read: Counter[str] = Counter()
    real = world.platform.objects.open

    def counting(key: str, version_id: str) -> Any:
        if "/part-" in key:
            read[key] += world.platform.objects.head(key, version_id).size
        return real(key, version_id)

    monkeypatch.setattr(world.platform.objects, "open", counting)
    return read


def die_after(world: World, parts: int) -> None:
    """A rebuild that dies when so many parts are filled and noted, and some of the next one is."""
    real = world.platform.hot.fill
    calls = itertools.count(1)

    def dies(*given: Any) -> int:
        new = real(*given)
        if next(calls) > parts:
            raise Died
        return new

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(world.platform.hot, "fill", dies)
        with pytest.raises(Died):
            rebuild_hot(world.platform, "north", DAY)


def rebuilt(world: World) -> RebuildResult:
    result = rebuild_hot(world.platform, "north", DAY)
    assert result.complete
    return result


def held(world: World) -> list[bytes]:
    (only,) = (i for i in world.platform.hot.indexes("north") if i.day == DAY)
    assert only.is_read
    return [bytes(h) for h in world.platform.hot.hashes("north", DAY, only.generation)]


def left(world: World) -> int:
    """The generation that a dead rebuild left."""
    (one,) = (i for i in world.platform.hot.indexes("north") if i.is_write and not i.is_read)
    return one.generation


def test_killed_at_four_fifths_the_next_run_reads_less_than_a_third_and_says_what_it_skipped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = held(world)
    assert len(keys(world)) == PARTS
    whole = opened(world, monkeypatch)
    die_after(world, 8)
    again = opened(world, monkeypatch)
    result = rebuilt(world)
    assert result.skipped == tuple(keys(world)[:8])
    assert sorted(again) == sorted(keys(world)[8:])
    total = sum(p.object.size for p in read_history(world.platform, "north").counting[DAY].parts)
    assert 0 < sum(again.values()) < 0.3 * total
    assert sum(whole.values()) > 0.8 * total
    assert held(world) == before


def test_killed_twice_the_third_run_skips_what_both_have_filled(world: World) -> None:
    before = held(world)
    die_after(world, 4)
    die_after(world, 4)
    # The second finds the part in which the first died full, and dies four parts later.
    assert rebuilt(world).skipped == tuple(keys(world)[:9])
    assert held(world) == before


def test_an_event_of_a_skipped_part_that_is_lost_has_all_of_it_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = held(world)
    die_after(world, 8)
    generation = left(world)
    some = world.platform.hot.hashes("north", DAY, generation)
    world.platform.hot.remove("north", DAY, generation, [bytes(some[0])])
    read = opened(world, monkeypatch)
    result = rebuilt(world)
    assert result.skipped == ()
    assert sorted(read) == sorted(keys(world))
    assert held(world) == before


def test_a_foreign_event_in_a_skipped_part_is_removed(world: World) -> None:
    before = held(world)
    die_after(world, 8)
    polluted = Event(event_time=START_MS, ingestion_time=START_MS)
    world.platform.hot.fill("north", DAY, left(world), batch([polluted]))
    result = rebuilt(world)
    assert (result.skipped, result.removed) == ((), 1)
    assert held(world) == before


def test_a_lost_event_in_place_of_a_foreign_one_is_noticed_though_the_number_is_right(
    world: World,
) -> None:
    before = held(world)
    die_after(world, 8)
    generation = left(world)
    hot = world.platform.hot
    hot.remove("north", DAY, generation, [bytes(hot.hashes("north", DAY, generation)[0])])
    polluted = Event(event_time=START_MS, ingestion_time=START_MS)
    hot.fill("north", DAY, generation, batch([polluted]))
    assert rebuilt(world).removed == 1
    assert held(world) == before


def test_what_the_indexer_writes_since_does_not_undo_the_skipping(world: World) -> None:
    die_after(world, 8)
    edge = world.edge("north", seed=1)
    world.ingest("north", [edge.start(START_MS)], at_ms=START_MS)
    world.index()
    result = rebuilt(world)
    assert len(result.skipped) == 8
    assert len(held(world)) == 1 + 9 * 30 + 1


@pytest.mark.parametrize("text", ["", "what", "1", "1 2 3 4", "1 2 3 4 5 6"])
def test_a_note_that_says_something_else_is_none(text: str) -> None:
    assert Tally.of_note(text) is None


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=20), st.integers(0, 20))
def test_a_tally_is_the_same_in_any_order_and_cut_and_differs_when_one_differs(
    hashes: list[bytes], cut: int
) -> None:
    def tally(some: list[bytes]) -> Tally:
        return Tally.of(as_set(np.frombuffer(b"".join(some), np.uint8).reshape(-1, 32)))

    whole = tally(hashes)
    assert tally(hashes[cut:]) + tally(hashes[:cut]) == whole
    assert Tally.of_note(whole.to_note()) == whole
    sums = [
        sum(int.from_bytes(h[n : n + 8], "big") for h in hashes) % 2**64 for n in (0, 8, 16, 24)
    ]
    assert whole == Tally(len(hashes), tuple(sums))
    assert tally([*hashes, bytes(32)]) != whole
