"""Log generations: which log the offsets in range records mean.

Belongs here: reading generations, opening the first one, refusing a log that is not the one it
names. Does not: comparing log records with their digests (`log_check.py`), opening a further one
(`open_generation.py`).
Source: design section 5 (log generation).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Final

from audit_platform.errors import GenerationMismatch, LogTrouble
from audit_platform.operations.claims import claim, read_claim
from audit_platform.ports import Log, Objects, Platform
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC, generation_key
from audit_platform.record.ranges import Generation, TopicStart

TOPICS: Final = (EVENTS_TOPIC, DLQ_TOPIC)


def generations(platform: Platform) -> Iterator[Generation]:
    """All generations that were opened, oldest first. One request each, and one more."""
    return stored_generations(platform.objects)


def stored_generations(objects: Objects) -> Iterator[Generation]:
    """As `generations`. Raises `RecordMalformed`, `StoreUnavailable`."""
    for number in count(1):
        record = read_claim(objects, generation_key(number))
        if record is None:
            return
        yield Generation.from_bytes(record.key, record.data)


def newest_generation(objects: Objects, known: Generation | None) -> Generation | None:
    """The newest generation, when it is `known` or younger; `known` itself while it still is."""
    while True:
        record = read_claim(objects, generation_key(known.number + 1 if known else 1))
        if record is None:
            return known
        known = Generation.from_bytes(record.key, record.data)


def current_generation(platform: Platform) -> Generation | None:
    """The generation with the highest number, or None before the first one is opened."""
    found = None
    for generation in generations(platform):
        found = generation
    return found


def ensure_generation(platform: Platform) -> Generation:
    """The current generation, after comparing it with the log; opens number 1 when there is none.

    Raises `GenerationMismatch` (nothing changed) when a topic is not the one that the generation
    names. Raises `UnknownTopic`, `LogUnavailable`, `StoreUnavailable`.
    """
    generation = current_generation(platform)
    if generation is None:
        topics = tuple(_start_of(platform.log, topic) for topic in TOPICS)
        now_ms = platform.clock.now_ms()
        offered = Generation(1, topics, "first", now_ms)
        won = claim(platform.objects, generation_key(1), offered.to_bytes(), now_ms)
        generation = Generation.from_bytes(won.key, won.data)
    for topic in TOPICS:
        check_topic(platform.log, generation, topic)
    return generation


def _start_of(log: Log, topic: str) -> TopicStart:
    info = log.describe(topic)
    starts = tuple(log.bounds(topic, partition)[0] for partition in range(info.partitions))
    return TopicStart(topic, info.topic_id, starts)


def check_topic(log: Log, generation: Generation, topic: str) -> TopicStart:
    """The topic's entry in the generation, when the log still holds that very topic.

    Raises `GenerationMismatch`.
    """
    info = log.describe(topic)
    start = generation.topic(topic)
    if start is None:
        raise _mismatch(generation, f"does not name topic {topic}", LogTrouble.TOPIC)
    if info.topic_id != start.topic_id:
        what = f"names {topic} {start.topic_id}, the log has {info.topic_id}"
        raise _mismatch(generation, what, LogTrouble.TOPIC)
    if info.partitions != len(start.start_offsets):
        wanted = len(start.start_offsets)
        what = f"names {wanted} partitions of {topic}, the log has {info.partitions}"
        raise _mismatch(generation, what, LogTrouble.PARTITIONS)
    return start


def _mismatch(generation: Generation, what: str, trouble: LogTrouble) -> GenerationMismatch:
    return GenerationMismatch(
        f"log generation {generation.number} {what}",
        remedy="never reset offsets; connect the log that the generation names, or run"
        " `audit-platform generation open`",
        trouble=trouble,
    )
