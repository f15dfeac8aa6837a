"""What an answer says of itself: what was searched, up to when, what is missing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Never, cast

import pytest

from audit_platform.errors import HotUnavailable, StoreUnavailable
from audit_platform.operations.query.event import event_by_id
from audit_platform.operations.query.model import Standing, Tier, TimelineQuery
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.search import search
from audit_platform.operations.query.timeline import timeline
from audit_platform.ports import EventQuery, Objects
from audit_platform.record import layout
from audit_platform_tests.operations.query.story import (
    DAYS,
    TENANT,
    at,
    counting,
    index,
    open_world_again,
    tell,
)
from audit_platform_tests.world import World, open_world

QUERY = EventQuery(TENANT, at(0, 0), at(2, 23), limit=1000)


def cold(world: World, query: EventQuery = QUERY) -> tuple[int, list[str], str]:
    found = search(Reader(world.platform), query, tier=Tier.COLD)
    told = found.completeness
    assert json.loads(json.dumps(told.to_json()))["sentence"] == told.sentence
    return found.rows.num_rows, list(told.missing), told.sentence


def parquet(world: World, prefix: str) -> list[Path]:
    return sorted((world.objects_folder / prefix).rglob("*.parquet"))


def test_a_whole_answer_says_that_nothing_is_missing(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        tell(world, 2)
        rows, missing, sentence = cold(world)
        assert rows == len(counting(world))
        assert missing == []
        assert sentence.startswith(
            f"Searched COLD: 3 days, {DAYS[0]} to {DAYS[2]}, 2 of them sealed"
        )
        assert f"not closed: {DAYS[2]}" in sentence
        assert sentence.endswith("; nothing missing.")


def test_events_that_wait_in_the_log_are_counted_with_their_age(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        story = tell(world, 1)
        world.ingest(TENANT, story.edge.heartbeats(2, 3, at(2, 2)), at_ms=at(2, 2))
        world.clock.advance(90_000)
        _, missing, _ = cold(world)
        assert missing == ["6 events not archived yet, oldest 90 s"]


def test_a_missing_landing_object_is_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        tell(world, 1)
        whole, _, _ = cold(world)
        gone = parquet(world, f"landing/v1/tenant={TENANT}/day={DAYS[2]}")
        gone[0].unlink()
        rows, missing, _ = cold(world)
        assert 0 < rows < whole
        assert missing == ["1 objects could not be read"]


def test_a_damaged_part_is_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        tell(world, 2)
        whole, _, _ = cold(world)
        (part,) = parquet(world, f"cold/v1/tenant={TENANT}/day={DAYS[0]}")
        part.chmod(0o644)
        part.write_bytes(b"PAR1 nothing of use PAR1")
        rows, missing, _ = cold(world)
        assert 0 < rows < whole
        assert missing == ["1 objects could not be read"]
        found = timeline(
            Reader(world.platform),
            TimelineQuery(TENANT, "pump-000", at(0, 0), at(2, 23)),
            tier=Tier.COLD,
        )
        assert found.events > 0
        assert "1 objects could not be read" in found.completeness.missing


def test_a_manifest_that_is_no_manifest_is_told(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        tell(world, 1)
        path = world.objects_folder / layout.manifest_key(TENANT, 1)
        path.chmod(0o644)
        path.write_bytes(b"{}")
        _, missing, _ = cold(world)
        assert any(layout.manifest_key(TENANT, 1) in m for m in missing)


def test_a_changed_manifest_makes_its_day_unverified(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        tell(world, 1)
        path = world.objects_folder / layout.manifest_key(TENANT, 1)
        data = path.read_bytes()
        changed = data.replace(b'"duplicates":', b'"duplicates":1')
        assert changed != data
        path.chmod(0o644)
        path.write_bytes(changed)
        found = search(Reader(world.platform), QUERY, tier=Tier.COLD)
        assert str(Standing.UNVERIFIED_DAY) in found.rows["standing"].to_pylist()
        assert str(Standing.SEALED) not in found.rows["standing"].to_pylist()
        assert f"the manifest of {DAYS[0]} does not verify" in found.completeness.missing


def test_hot_is_chosen_only_where_it_holds_what_cold_holds(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        tell(world, 2)
        first = EventQuery(TENANT, at(0, 0), at(1, 0), limit=1000)
        reader = Reader(world.platform)
        assert search(reader, first).tier is Tier.COLD
        forced = search(reader, first, tier=Tier.HOT)
        assert forced.completeness.missing == (f"HOT does not hold {DAYS[0]}",)
        assert search(reader, first).rows.num_rows > forced.rows.num_rows == 0
        index(world)
        second = EventQuery(TENANT, at(1, 0), at(2, 0), limit=1000)
        assert search(reader, second).tier is Tier.HOT
        assert search(reader, second).completeness.missing == ()


def test_hot_that_is_gone_is_answered_from_cold_unless_it_was_asked_for(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        tell(world, 2)
        index(world)
        second = EventQuery(TENANT, at(1, 0), at(2, 0), limit=1000)
        reader = Reader(world.platform)
        whole = search(reader, second).rows
        for path in world.settings.hot_folder.rglob("*"):
            if path.is_file() and path.suffix not in {".json", ".lock"}:
                path.write_bytes(b"not an index")
        with open_world_again(world) as again:
            found = search(Reader(again.platform), second)
            assert found.tier is Tier.COLD
            assert found.rows["event_hash"].equals(whole["event_hash"])
            with pytest.raises(HotUnavailable):
                search(Reader(again.platform), second, tier=Tier.HOT)


def test_the_same_timeline_comes_from_either_tier_when_the_other_is_moved_away(
    tmp_path: Path,
) -> None:
    with open_world(tmp_path) as world:
        tell(world, 2)
        index(world)
        query = TimelineQuery(TENANT, "pump-001", at(0, 0), at(2, 23))
        whole = timeline(Reader(world.platform), query, tier=Tier.COLD)
        away = tmp_path / "away"
        shutil.move(world.objects_folder, away)
        with open_world_again(world) as again:
            hot = timeline(Reader(again.platform), query)
            assert hot.tier is Tier.HOT
            assert hot.rows["event_hash"].equals(whole.rows["event_hash"])
            assert any("COLD holds nothing of" in m for m in hot.completeness.missing)
        shutil.rmtree(world.objects_folder)
        shutil.move(away, world.objects_folder)
        shutil.rmtree(world.settings.hot_folder)
        with open_world_again(world) as again:
            cold_again = timeline(Reader(again.platform), query)
            assert cold_again.tier is Tier.COLD
            assert cold_again.rows.equals(whole.rows)


class Down:
    """An object store that does not answer."""

    lock = "enforced"

    def __getattr__(self, name: str) -> Never:
        raise StoreUnavailable(f"{name}: the store does not answer")


def test_hot_answers_while_the_store_does_not_and_says_so(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        tell(world, 1)
        index(world)
        query = TimelineQuery(TENANT, "pump-001", at(0, 0), at(2, 23))
        whole = timeline(Reader(world.platform), query, tier=Tier.COLD)
        down = replace(world.platform, objects=cast("Objects", Down()))
        found = timeline(Reader(down), query)
        assert found.tier is Tier.HOT
        assert found.rows["event_hash"].equals(whole.rows["event_hash"])
        assert found.counts["fork"] == 1
        assert any("COLD does not answer" in m for m in found.completeness.missing)
        rows = search(Reader(down), QUERY)
        assert rows.rows.num_rows == len(counting(world))
        assert any("what waits in the log is not known" in m for m in rows.completeness.missing)
        with pytest.raises(StoreUnavailable):
            search(Reader(down), QUERY, tier=Tier.COLD)
        with pytest.raises(StoreUnavailable):
            event_by_id(Reader(down), TENANT, "0" * 64)


def test_the_log_may_be_gone(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        tell(world, 1)
        whole, _, _ = cold(world)
        shutil.rmtree(world.settings.log_folder)
        with open_world_again(world) as again:
            rows, missing, _ = cold(again)
            assert rows == whole
            assert missing == []
