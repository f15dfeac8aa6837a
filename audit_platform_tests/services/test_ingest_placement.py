"""Ingest acknowledges nothing while the log is not the one that the open generation means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from audit_platform.errors import LogUnavailable
from audit_platform.operations.claims import claim
from audit_platform.operations.generations import ensure_generation
from audit_platform.ports import Log, TopicInfo
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC, generation_key
from audit_platform.record.ranges import Generation, TopicStart
from audit_platform.services.ingest_archived import LOOK_SECONDS
from audit_platform.services.ingest_placement import FRESH_SECONDS, Placement
from audit_platform.services.ingest_problems import Problem
from audit_platform_tests.services.ingest_world import World, body_of, event, open_world
from audit_platform_tests.services.uplink_world import Seconds


class Topics:
    """The one thing of a log that is asked here; set by hand."""

    def __init__(self, events: int = 2, topic_id: str = "first") -> None:
        self.events, self.topic_id = events, topic_id
        self.asked = 0
        self.is_away = False

    def describe(self, topic: str) -> TopicInfo:
        """See `ports.Log`."""
        self.asked += 1
        if self.is_away:
            raise LogUnavailable("no broker answers", remedy="wait")
        return TopicInfo(topic, self.topic_id, self.events if topic == EVENTS_TOPIC else 1)


def generation(topics: Topics, number: int = 1) -> Generation:
    return Generation(
        number,
        (
            TopicStart(EVENTS_TOPIC, topics.topic_id, (0,) * topics.events),
            TopicStart(DLQ_TOPIC, topics.topic_id, (0,)),
        ),
        "first",
        0,
    )


@pytest.fixture
def topics() -> Topics:
    return Topics()


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


def placed(topics: Topics, seconds: Seconds, opened: list[Generation]) -> Placement:
    log: Log = topics  # type: ignore[assignment] # nothing but `describe` is asked
    return Placement(log, lambda: opened[-1] if opened else None, monotonic=seconds)


def test_without_a_generation_the_log_is_believed(topics: Topics, seconds: Seconds) -> None:
    assert [t.partitions for t in placed(topics, seconds, []).topics()] == [2, 1]


def test_the_log_is_not_asked_for_each_body(topics: Topics, seconds: Seconds) -> None:
    placement = placed(topics, seconds, [generation(topics)])
    placement.topics()
    asked = topics.asked
    for _ in range(5):
        placement.topics()
    assert topics.asked == asked
    seconds.now += FRESH_SECONDS
    placement.topics()
    assert topics.asked > asked


@pytest.mark.parametrize("change", ["more partitions", "another id"])
def test_another_topic_is_refused_until_its_generation_is_known(
    topics: Topics, seconds: Seconds, change: str
) -> None:
    opened = [generation(topics)]
    placement = placed(topics, seconds, opened)
    placement.topics()
    if change == "more partitions":
        topics.events = 3
    else:
        topics.topic_id = "second"
    seconds.now += FRESH_SECONDS
    for _ in range(2):
        with pytest.raises(Problem) as refused:
            placement.topics()
        assert (refused.value.slug, refused.value.status) == ("log_generation", 503)
    opened.append(generation(topics, 2))
    assert placement.topics()[0].partitions == topics.events


def test_a_generation_that_is_opened_is_seen_though_the_topics_are_fresh(
    topics: Topics, seconds: Seconds
) -> None:
    opened = [generation(topics)]
    placement = placed(topics, seconds, opened)
    placement.topics()
    opened.append(generation(Topics(events=4), 2))
    with pytest.raises(Problem, match="names 4 partitions"):
        placement.topics()


def test_a_log_that_does_not_answer_is_another_problem(topics: Topics, seconds: Seconds) -> None:
    topics.is_away = True
    with pytest.raises(Problem) as refused:
        placed(topics, seconds, []).topics()
    assert refused.value.slug == "log_unavailable"


@pytest.fixture
def world(tmp_path: Path, seconds: Seconds) -> Iterator[World]:
    with open_world(tmp_path / "home", monotonic=seconds) as opened:
        yield opened


def test_the_gateway_stops_and_goes_on_by_itself(
    world: World, seconds: Seconds, tmp_path: Path
) -> None:
    first = ensure_generation(world.platform)
    assert world.post(body_of(event(0))).status == 202
    path = tmp_path / "home" / "log" / EVENTS_TOPIC / "topic.json"
    path.write_bytes(path.read_bytes().replace(b'"topicId":"', b'"topicId":"0'))
    seconds.now += FRESH_SECONDS
    answer = world.post(body_of(event(1)))
    assert (answer.status, answer.problem()) == (503, "log_generation")
    assert int(answer.headers["retry-after"]) > 0
    ready = world.request("GET", "/readyz")
    assert ready.status == 503
    assert "audit-platform generation open" in ready.json["trouble"]
    assert len(world.stored()) == 1
    events, dlq = first.topics
    renamed = replace(events, topic_id=world.platform.log.describe(EVENTS_TOPIC).topic_id)
    second = replace(first, number=2, topics=(renamed, dlq))
    claim(world.platform.objects, generation_key(2), second.to_bytes(), world.clock.now_ms())
    seconds.now += LOOK_SECONDS
    world.post(body_of(event(1)))  # starts the look
    world.app._archived._thread.submit(lambda: None).result(30)
    assert world.post(body_of(event(1))).status == 202


def test_a_gateway_that_starts_over_another_topic_takes_nothing(tmp_path: Path) -> None:
    with open_world(tmp_path / "home") as before:
        ensure_generation(before.platform)
    path = tmp_path / "home" / "log" / EVENTS_TOPIC / "topic.json"
    path.write_bytes(path.read_bytes().replace(b'"topicId":"', b'"topicId":"0'))
    with open_world(tmp_path / "home") as world:
        assert world.post(body_of(event(0))).problem() == "log_generation"
        assert world.stored() == []
