"""Rebuilding HOT: the same set from COLD, landing and the log, whatever was lost meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pytest

from audit_platform.errors import HotUnavailable
from audit_platform.operations import hot_filling as module
from audit_platform.operations.hot_source import rebuildable
from audit_platform.operations.rebuild_hot import RebuildResult, rebuild_hot
from audit_platform.ports import EventQuery, NewRecord
from audit_platform.record import sealed as sealed_form
from audit_platform.record.columns import hash_column
from audit_platform.record.layout import (
    EVENTS_TOPIC,
    MS_PER_DAY,
    day_end_ms,
    day_of,
    day_start_ms,
    next_day,
)
from audit_platform.services.search_indexer import METRICS, SearchIndexer
from audit_platform.telemetry import Telemetry
from audit_platform.wiring import open_platform
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.hot_rows import Event, batch
from audit_platform_tests.world import DAY, Edge, World, open_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A new installation."""
    with open_world(tmp_path) as opened:
        yield opened


def index(world: World) -> None:
    """Index everything that is in the log."""
    indexer = SearchIndexer(world.platform, Telemetry(METRICS), member="indexer-1")
    while indexer.step():
        pass
    indexer.leave()


def held(world: World, tenant_id: str = "north") -> dict[str, list[bytes]]:
    """Day -> hashes that are read."""
    hot = world.platform.hot
    return {
        i.day: [bytes(h) for h in hot.hashes(tenant_id, i.day, i.generation)]
        for i in hot.indexes(tenant_id)
        if i.is_read
    }


def rebuilt(world: World, tenant_id: str = "north", day: str = DAY) -> RebuildResult:
    result = rebuild_hot(world.platform, tenant_id, day)
    assert result.complete, result
    return result


def indexed(world: World, *, devices: int = 4, each: int = 6) -> Edge:
    """A tenant's day, ingested and indexed."""
    edge = world.edge("north")
    start = edge.start(world.clock.now_ms())
    world.ingest("north", [start, *edge.heartbeats(devices, each, world.clock.now_ms())])
    index(world)
    return edge


def sealed(world: World) -> Edge:
    edge = indexed(world)
    world.archive()
    world.close()
    world.seal("north")
    return edge


def lose_hot(world: World) -> None:
    shutil.rmtree(world.settings.hot_folder)


def without_log(world: World) -> World:
    """The same installation with its log deleted, opened anew."""
    world.platform.close()
    shutil.rmtree(world.settings.log_folder)
    return replace(world, platform=open_platform(world.settings, clock=world.clock))


def test_a_deleted_hot_comes_back_from_the_log_alone(world: World) -> None:
    indexed(world)
    before = held(world)
    lose_hot(world)
    result = rebuilt(world)
    assert held(world) == before
    assert (result.from_cold, result.from_landing, result.from_log) == (0, 0, 25)
    assert result.documents == 25


def test_a_deleted_hot_comes_back_from_landing_and_log(world: World) -> None:
    edge = indexed(world)
    world.archive()
    world.ingest("north", edge.heartbeats(2, 3, world.clock.now_ms()))
    index(world)
    before = held(world)
    lose_hot(world)
    result = rebuilt(world)
    assert held(world) == before
    assert (result.from_cold, result.from_landing, result.from_log) == (0, 25, 6)


def test_a_deleted_hot_comes_back_from_landing_with_the_log_deleted(world: World) -> None:
    indexed(world)
    world.archive()
    before = held(world)
    lose_hot(world)
    again = without_log(world)
    result = rebuilt(again)
    assert held(again) == before
    assert (result.from_landing, result.from_log) == (25, 0)
    again.platform.close()


def test_a_sealed_day_comes_back_from_cold_with_log_and_landing_deleted(world: World) -> None:
    sealed(world)
    before = held(world)
    lose_hot(world)
    again = without_log(world)
    for folder in world.objects_folder.rglob("tenant=north"):
        if "landing" in folder.parts:
            shutil.rmtree(folder)
    result = rebuilt(again)
    assert held(again) == before
    assert (result.from_cold, result.from_landing, result.from_log) == (25, 0, 0)
    assert result.manifest == 1
    again.platform.close()


def test_a_rebuilt_index_answers_with_the_very_rows(world: World) -> None:
    sealed(world)
    query = EventQuery("north", START_MS - MS_PER_DAY, START_MS + MS_PER_DAY, limit=1000)
    before = world.platform.hot.search(query, is_cancelled=lambda: False)
    result = rebuilt(world)
    assert result.generation == 2
    assert world.platform.hot.search(query, is_cancelled=lambda: False).equals(before)
    (only,) = world.platform.hot.indexes()
    assert (only.is_read, only.is_write, only.documents) == (True, True, 25)


def test_entries_that_nothing_explains_are_gone(world: World) -> None:
    sealed(world)
    before = held(world)
    polluted = Event(event_time=START_MS, ingestion_time=START_MS)
    world.platform.hot.create("north", DAY, batch([polluted]))
    (first,) = before[DAY][:1]
    world.platform.hot.remove("north", DAY, 1, [first])
    result = rebuilt(world)
    assert (result.foreign, result.lacking) == (1, 1)
    assert held(world) == before


def test_a_copy_of_an_earlier_sealed_day_goes_once_its_own_day_is_sealed(world: World) -> None:
    edge = world.edge("north")
    first = [edge.start(world.clock.now_ms()), *edge.heartbeats(1, 3, world.clock.now_ms())]
    world.ingest("north", first)
    world.archive()
    world.close()
    world.seal("north")
    tomorrow = next_day(DAY)
    world.clock.ms = day_start_ms(tomorrow) + MS_PER_DAY // 2
    fresh = edge.heartbeats(1, 1, world.clock.now_ms())
    world.ingest("north", [*first[-2:], *fresh])
    index(world)
    assert len(held(world)[tomorrow]) == 3
    assert rebuilt(world, day=tomorrow).documents == 3
    world.archive()
    world.close(tomorrow)
    world.seal("north", tomorrow)
    result = rebuilt(world, day=tomorrow)
    assert (result.documents, result.foreign) == (1, 2)
    assert result.manifest == 2
    # The same copies come once more, after the seal: what a manifest holds is no late event.
    world.ingest("north", first[-2:], at_ms=day_end_ms(tomorrow) - 1)
    index(world)
    assert len(held(world)[tomorrow]) == 3
    assert rebuilt(world, day=tomorrow).documents == 1


def test_an_event_that_came_after_its_day_was_sealed_stays_found(world: World) -> None:
    edge = sealed(world)
    late = edge.heartbeats(1, 2, START_MS)
    world.ingest("north", late, at_ms=day_end_ms(DAY) - 1)
    index(world)
    before = held(world)
    assert len(before[DAY]) == 27
    assert rebuilt(world).from_log == 2
    assert held(world) == before
    world.archive()
    result = rebuilt(world)
    assert (result.from_cold, result.from_landing, result.from_log) == (25, 2, 0)
    assert held(world) == before


def test_what_the_indexer_writes_meanwhile_is_kept_and_what_nobody_explains_is_removed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = indexed(world)
    real = world.platform.hot.fill
    polluted = Event(event_time=START_MS, ingestion_time=START_MS)

    def fill(tenant_id: str, day: str, generation: int, rows: pa.RecordBatch) -> int:
        world.ingest("north", edge.heartbeats(1, 2, START_MS))
        index(world)
        world.platform.hot.create("north", DAY, batch([polluted]))
        return real(tenant_id, day, generation, rows)

    monkeypatch.setattr(world.platform.hot, "fill", fill)
    result = rebuilt(world)
    assert result.removed == 1
    found = held(world)[DAY]
    assert len(found) == 27
    assert polluted.event_hash not in found


class Died(Exception):
    """Stands for a SIGKILL at that point; `failures/test_killpoints.py` has the real ones."""


@pytest.mark.parametrize("nth", range(6))
def test_a_rebuild_that_dies_leaves_the_old_index_read_and_the_next_goes_on(
    nth: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(world)
    before = held(world)
    hot = world.platform.hot
    calls = 0
    with monkeypatch.context() as patched:
        for name in ("new_index", "move_write", "fill", "hashes", "move_read", "delete_index"):
            real = getattr(hot, name)

            def dies(*given: object, real: object = real) -> object:
                nonlocal calls
                calls += 1
                done = real(*given)  # type: ignore[operator] # a method of the port
                if calls > nth:
                    raise Died
                return done

            patched.setattr(hot, name, dies)
        with pytest.raises(Died):
            rebuild_hot(world.platform, "north", DAY)
        assert calls == nth + 1
    assert held(world) == before
    rebuilt(world)
    assert held(world) == before
    (only,) = hot.indexes()
    assert only.is_read
    assert only.is_write


def test_an_index_that_loses_what_was_filled_is_never_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(world)
    monkeypatch.setattr(world.platform.hot, "fill", lambda *_: 0)
    with pytest.raises(HotUnavailable, match="not in the index"):
        rebuild_hot(world.platform, "north", DAY)
    assert [i.generation for i in world.platform.hot.indexes() if i.is_read] == [1]


def test_a_damaged_index_is_mended(world: World) -> None:
    indexed(world)
    before = held(world)
    world.platform.close()
    (damaged,) = world.settings.hot_folder.glob("*.db")
    damaged.write_bytes(bytes(damaged.stat().st_size))
    again = replace(world, platform=open_platform(world.settings, clock=world.clock))
    with pytest.raises(HotUnavailable):
        held(again)
    result = rebuilt(again)
    assert (result.lacking, result.foreign) == (-1, -1)
    assert held(again) == before
    again.platform.close()


def test_what_cannot_be_read_is_named_and_the_rest_is_filled(world: World) -> None:
    sealed(world)
    files = [p for p in world.objects_folder.rglob("*") if p.is_file() and "part-0-" in str(p)]
    body = max(files, key=lambda p: p.stat().st_size)
    body.write_bytes(b"PAR1" + bytes(body.stat().st_size - 4))
    lose_hot(world)
    result = rebuild_hot(world.platform, "north", DAY)
    assert not result.complete
    assert "part-0" in result.problems[0]


def test_rows_that_do_not_rebuild_their_event_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed(world)
    real = sealed_form.full_rows

    def changed(file: BinaryIO) -> Iterator[pa.RecordBatch]:
        for rows in real(file):
            prev_hash = rows.schema.get_field_index("prev_hash")
            others = hash_column(np.ones((1, 32), np.uint8))
            first = rows.slice(0, 1).set_column(prev_hash, rows.schema.field(prev_hash), others)
            yield pa.concat_batches([first, rows.slice(1)])

    monkeypatch.setattr(sealed_form, "full_rows", changed)
    result = rebuild_hot(world.platform, "north", DAY)
    assert result.refused == 1
    assert result.documents == 24
    assert not result.complete


def test_rows_are_filled_in_order_of_their_ingestion_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SORTED_ROWS", 7)
    rows = [Event(sequence_number=n, ingestion_time=START_MS + (n * 7) % 20) for n in range(20)]
    cut = [batch(rows[n : n + 3]) for n in range(0, 20, 3)]
    sorted_ones = list(module._sorted(cut))
    assert sum(b.num_rows for b in sorted_ones) == 20
    for some in sorted_ones:
        times = some["ingestion_time"].cast(pa.int64()).to_pylist()
        assert times == sorted(times)


def test_everything_that_can_be_rebuilt_is_listed(world: World) -> None:
    sealed(world)
    world.clock.ms += MS_PER_DAY
    south = world.edge("south")
    world.ingest("south", [south.start(world.clock.now_ms())])
    lose_hot(world)
    south_day = day_of(world.clock.now_ms())
    assert rebuildable(world.platform) == [("north", DAY), ("south", south_day)]
    assert rebuildable(world.platform, "north") == [("north", DAY)]
    assert rebuildable(world.platform, "nobody") == []


def test_a_malformed_record_in_the_log_is_not_rebuilt_either(world: World) -> None:
    indexed(world)
    headers = {"v": "1", "tenant": "north", "count": "1"}
    world.platform.log.append(EVENTS_TOPIC, [NewRecord(0, b"no event\n", headers)])
    assert rebuilt(world).documents == 25
    world.archive()
    assert rebuilt(world).documents == 25
