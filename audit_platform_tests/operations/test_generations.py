"""The first log generation is opened once, and a log that is not the one it names is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.objects import EmbeddedObjects
from audit_platform.errors import GenerationMismatch
from audit_platform.operations.claims import claim
from audit_platform.operations.generations import current_generation, ensure_generation
from audit_platform.ports import ObjectVersion
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC, MS_PER_DAY, generation_key
from audit_platform.record.ranges import Generation, TopicStart
from audit_platform_tests.services.archive_world import PARTITIONS, World, stored


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fresh world."""
    made = World(tmp_path)
    yield made
    made.close()


def test_the_first_generation_names_both_topics_and_where_they_start(world: World) -> None:
    assert current_generation(world.platform) is None
    for n in range(3):
        world.send(stored(1, first=n).lines, partition=1)
    world.log.drop_before(EVENTS_TOPIC, 1, 2)
    opened = ensure_generation(world.platform)
    assert opened.number == 1
    events, dlq = opened.topics
    assert events.topic_id == world.log.describe(EVENTS_TOPIC).topic_id
    assert events.start_offsets == (0, 2)
    assert (dlq.topic, dlq.start_offsets) == (DLQ_TOPIC, (0,) * PARTITIONS)
    assert current_generation(world.platform) == opened


def test_it_is_opened_once_and_kept_as_it_is(world: World) -> None:
    opened = ensure_generation(world.platform)
    world.clock.advance(MS_PER_DAY)
    world.send(stored(1).lines)
    assert ensure_generation(world.platform) == opened
    assert len(list(world.objects.versions("landing/v1/generations/"))) == 1


def test_of_two_that_open_it_at_once_the_second_adopts_the_firsts(world: World) -> None:
    events, dlq = ensure_generation(world.platform).topics
    offered = Generation(1, (dlq, events), "second", 7)
    won = claim(world.objects, generation_key(1), offered.to_bytes(), world.clock.ms)
    assert not won.ours
    assert Generation.from_bytes(won.key, won.data).reason == "first"


def test_the_record_is_locked_for_two_years(world: World) -> None:
    ensure_generation(world.platform)
    (found,) = world.objects.versions("landing/v1/generations/")
    assert found.retain_until_ms >= world.clock.ms + 2 * 365 * MS_PER_DAY


def claim_next(world: World, topics: tuple[TopicStart, ...]) -> None:
    now = world.clock.ms
    second = Generation(2, topics, "test", now)
    claim(world.objects, generation_key(2), second.to_bytes(), now)


@pytest.mark.parametrize("topic", [0, 1])
def test_another_topic_id_is_refused_with_a_remedy(world: World, topic: int) -> None:
    topics = list(ensure_generation(world.platform).topics)
    topics[topic] = replace(topics[topic], topic_id="other")
    claim_next(world, tuple(topics))
    with pytest.raises(GenerationMismatch, match="the log has") as refused:
        ensure_generation(world.platform)
    assert "never reset offsets" in refused.value.remedy


def test_another_partition_count_is_refused(world: World) -> None:
    events, dlq = ensure_generation(world.platform).topics
    claim_next(world, (replace(events, start_offsets=(0, 0, 0)), dlq))
    with pytest.raises(GenerationMismatch, match="3 partitions"):
        ensure_generation(world.platform)


def test_a_topic_that_is_not_named_is_refused(world: World) -> None:
    claim_next(world, ensure_generation(world.platform).topics[:1])
    with pytest.raises(GenerationMismatch, match="does not name"):
        ensure_generation(world.platform)
    found = current_generation(world.platform)
    assert found is not None
    assert found.number == 2


def test_a_hidden_or_overwritten_record_still_counts(world: World) -> None:
    opened = ensure_generation(world.platform)
    world.objects.delete(generation_key(1))
    forged = replace(opened, reason="forged").to_bytes()
    world.objects.put(generation_key(1), forged, retain_until_ms=0, if_absent=False)
    assert current_generation(world.platform) == opened


class Lenient(EmbeddedObjects):
    """A store that takes a second version where it should have refused: two puts that raced."""

    def put(self, key: str, data: bytes, *, retain_until_ms: int, if_absent: bool) -> ObjectVersion:
        """See `ports.Objects`."""
        del if_absent
        return super().put(key, data, retain_until_ms=retain_until_ms, if_absent=False)


def test_a_claim_holds_only_once_ours_is_the_oldest(world: World) -> None:
    key = generation_key(1)
    first = claim(world.objects, key, b"first", world.clock.ms)
    lenient = Lenient(world.folder / "objects", RealFiles(), world.clock)
    second = claim(lenient, key, b"second", world.clock.ms)
    assert len(list(world.objects.versions(key))) == 2
    assert (second.version_id, second.data, second.ours) == (first.version_id, b"first", False)
